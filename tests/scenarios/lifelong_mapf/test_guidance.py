import heapq
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from field_oracles import reference_field
from pydantic import ValidationError
from stub_world import StubWorld, random_drawing

from marl.errors import UserError
from scenarios.lifelong_mapf.guidance import follower as follower_guidance
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig, agent_fields
from scenarios.lifelong_mapf.guidance.choose import make_guidance
from scenarios.lifelong_mapf.guidance.follower import SIGHT
from scenarios.lifelong_mapf.guidance.follower_search import Search, cheapest_path
from scenarios.lifelong_mapf.guidance.lanes import LaneWeights, lane_prices
from scenarios.lifelong_mapf.guidance.prices import UNITS, reverse
from scenarios.lifelong_mapf.guidance.shared import GoalFields
from scenarios.lifelong_mapf.maps.fields import BUCKETS, MOVES, Board, centrality, directed_field, open_moves

ALL = torch.ones(1, dtype=torch.bool)
PLAIN = GuidanceConfig(static_weight=0, occupancy_weight=0)
BOTH = pytest.mark.parametrize("kind", ["shared", "follower"])


def started(world, config, radius=2):
    guidance = make_guidance(world, config, radius)
    guidance.restart(torch.ones(world.copies, dtype=torch.bool))
    return guidance


def drawn(guidance, agent=0, copy=0):
    """The path of an agent as drawing: the unpacked window."""
    rows = guidance.spaces["path"].unpack(guidance.features()["path"])[copy, agent, 0]
    return ["".join(".x"[bit] for bit in row) for row in rows.tolist()]


def random_world(seed, agents=6, copies=1, height=11, width=9):
    """Agents and goals in one component of a random drawing."""
    rng = np.random.default_rng(seed)
    drawing = random_drawing(rng, height, width, 0.25)
    probe = GoalFields(StubWorld(drawing, [0], [0]), PLAIN)
    probe.restart(np.ones(1, bool))
    cells = np.flatnonzero(probe.field[0, 0] < 1 << 30)
    start = rng.choice(cells, agents, replace=False).tolist()
    return rng, cells, StubWorld(drawing, start, rng.choice(cells, agents, replace=False).tolist(), copies)


def walk(rng, cells, world, guidance, steps):
    """Every agent steps to a random free neighbour, some goals are replaced; returns what guidance said."""
    seen = []
    for _ in range(steps):
        for n in range(world.position.shape[1]):
            free = sorted(set(cells.tolist()) - set(world.position[0].tolist()))
            near = [c for c in free if abs(c - int(world.position[0, n])) in (1, world.width)]
            if near:
                world.position[:, n] = int(rng.choice(near))
            if rng.random() < 0.2:
                world.goal[:, n] = int(rng.choice(cells))
        guidance.advance()
        seen.append({**guidance.features(), "reached": guidance.reached})
    return seen


@BOTH
def test_path_goes_from_the_agent_until_it_leaves_the_window(kind):
    world = StubWorld(["......", ".####.", ".####.", "......"], [(2, 0)], [(2, 5)])
    guidance = started(world, GuidanceConfig(kind=kind, static_weight=0))
    assert drawn(guidance) == [".....", ".....", "..x..", "..xxx", "....."]
    world.goal[0, 0] = 2 * 6 + 0
    world.position[0, 0] = 3 * 6 + 1
    guidance.advance()
    assert drawn(guidance) == [".....", ".x...", ".xx..", ".....", "....."]


@BOTH
def test_moves_show_the_change_of_the_cost_to_go(kind):
    world = StubWorld(["....", ".##.", "...."], [(0, 1)], [(0, 3)])
    guidance = started(world, GuidanceConfig(kind=kind, static_weight=0))
    stay, up, down, left, right = guidance.features()["moves"][0, 0].tolist()
    assert (stay, up, down, right) == (0, 1, 1, -1)  # walls and borders are as bad as the worst
    assert 0.9 < left <= 1  # one step back
    world.position[0, 0] = 3
    guidance.advance()
    assert guidance.features()["moves"][0, 0].tolist() == [0, 1, 1, 1, 1]  # on the goal


@BOTH
def test_reached_is_about_the_subgoal_set_before_the_step(kind):
    world = StubWorld(["....", "####"], [(0, 0), (0, 3)], [(0, 2), (0, 1)])
    guidance = started(world, GuidanceConfig(kind=kind))
    assert not guidance.reached.any()
    assert guidance.subgoal.tolist() == [[1, 2]]
    world.position[0] = torch.tensor([1, 3])
    world.goal[0, 0] = 0  # a new goal does not undo it
    guidance.advance()
    assert guidance.reached.tolist() == [[True, False]]
    assert guidance.subgoal.tolist() == [[0, 2]]


@BOTH
def test_on_its_goal_an_agent_is_to_stay(kind):
    world = StubWorld(["..."], [(0, 1)], [(0, 1)])
    guidance = started(world, GuidanceConfig(kind=kind))
    assert drawn(guidance) == [".....", ".....", "..x..", ".....", "....."]
    assert guidance.subgoal.tolist() == [[1]]
    guidance.advance()
    assert guidance.reached.tolist() == [[True]]


@pytest.mark.parametrize(("kind", "first", "other"), [("shared", (0, 0), (1, 1)), ("follower", (1, 1), (0, 0))])
def test_agents_that_left_have_no_plan_and_are_not_seen(kind, first, other):
    """Both ways to the goal cost the same: the agent takes the first unless it has seen somebody there."""

    def guided(alive):
        world = StubWorld(["....", "...."], [(1, 0), first], [(0, 2), (1, 2)])
        world.alive[0, 1] = alive
        guidance = started(world, GuidanceConfig(kind=kind, static_weight=0))
        for _ in range(5):
            guidance.advance()
        world.goal[0, 0] = 3
        guidance.advance()
        return guidance

    gone = guided(False)
    assert not gone.features()["path"][0, 1].any()
    assert not gone.features()["moves"][0, 1].any()
    assert not gone.reached.any()
    assert gone.subgoal.tolist() == [[4 * first[0] + first[1], -1]]
    assert guided(True).subgoal[0, 0] == 4 * other[0] + other[1]


@BOTH
def test_copies_do_not_depend_on_each_other(kind):
    def play(copies):
        rng, cells, world = random_world(3, copies=copies)
        return walk(rng, cells, world, started(world, GuidanceConfig(kind=kind)), 12)

    for one, seven in zip(play(1), play(7), strict=True):
        for name, value in one.items():
            assert torch.equal(seven[name], value.expand_as(seven[name]))


@BOTH
def test_restart_touches_only_its_copies_and_forgets_the_past(kind):
    rng, cells, world = random_world(4, copies=3)
    guidance = started(world, GuidanceConfig(kind=kind))
    walk(rng, cells, world, guidance, 6)
    before = guidance.features()
    kept = {name: value.clone() for name, value in before.items()}
    saved = guidance.snapshot()
    guidance.restart(torch.tensor([False, True, False]))
    after, now = guidance.features(), guidance.snapshot()
    fresh = started(world, GuidanceConfig(kind=kind)).features()
    for name in before:
        assert torch.equal(before[name], kept[name])  # what was handed out stays as it was
        assert torch.equal(after[name][[0, 2]], kept[name][[0, 2]])
        assert torch.equal(after[name][1], fresh[name][1])
    for name, value in now.items():
        assert torch.equal(value[[0, 2]], saved[name][[0, 2]]), name


@BOTH
def test_restored_guidance_goes_on_as_the_saved_one(kind):
    rng, cells, world = random_world(5, copies=2)
    guidance = started(world, GuidanceConfig(kind=kind))
    walk(rng, cells, world, guidance, 6)
    saved, position, goal = guidance.snapshot(), world.position.clone(), world.goal.clone()
    first = walk(np.random.default_rng(0), cells, world, guidance, 5)
    other = started(world, GuidanceConfig(kind=kind))
    world.position.copy_(position)
    world.goal.copy_(goal)
    other.restore(saved, torch.tensor([1, 0]), torch.tensor([0, 1]))
    assert torch.equal(other.features()["path"], saved["path"])
    assert torch.equal(other.reached, saved["reached"])
    assert other.reached.any()
    for one, two in zip(first, walk(np.random.default_rng(0), cells, world, other, 5), strict=True):
        for name in one:
            assert torch.equal(one[name], two[name])


@BOTH
def test_features_lie_in_their_spaces(kind):
    rng, cells, world = random_world(6)
    guidance = started(world, GuidanceConfig(kind=kind), radius=7)
    for seen in walk(rng, cells, world, guidance, 4):
        for name, space in guidance.spaces.items():
            assert space.contains(seen[name][0, 0].numpy())


def test_shared_costs_follow_the_formula():
    rng, cells, world = random_world(7)
    config = GuidanceConfig(static_weight=2, occupancy_weight=5, decay=0.5)
    fields = GoalFields(world, config)
    fields.restart(np.ones(1, bool))
    occupancy = np.zeros(world.height * world.width)
    for _ in range(3):
        world.position[0] = torch.from_numpy(rng.choice(cells, 6, replace=False))
        world.goal[0, :2] = torch.from_numpy(rng.choice(cells, 2, replace=False))
        stale = fields.field[0, 2:].copy()
        fields.advance()
        occupancy *= 0.5
        occupancy[world.position[0].numpy()] += 0.5
    assert np.allclose(fields.occupied[0], occupancy)
    ratio = centrality(Board(fields.exits[0], world.width))
    cost = (np.rint(UNITS * (1 + 2 * (ratio - 1))) + np.rint(UNITS * 5 * occupancy)).astype(np.int32)
    for n in range(2):
        expected = reference_field(fields.exits[0], world.width, cost, int(world.goal[0, n]))
        assert np.array_equal(fields.field[0, n], expected)
    assert np.array_equal(fields.field[0, 2:], stale)  # an old goal keeps its field


def test_without_weights_the_field_counts_steps():
    world = StubWorld(["...", "##.", "..."], [(0, 0)], [(2, 0)])
    fields = GoalFields(world, PLAIN)
    fields.restart(np.ones(1, bool))
    assert fields.field[0, 0, :3].tolist() == [6, 5, 4]


def test_follower_counts_whom_it_sees_until_its_goal_changes():
    far = SIGHT + 2
    world = StubWorld(["." * 12] * 2, [(0, 0), (0, 1), (1, far)], [(1, 0), (0, 11), (0, 11)])
    guidance = started(world, GuidanceConfig(kind="follower"))
    guidance.advance()
    guidance.advance()
    counts = guidance.snapshot()["seen"][0] / follower_guidance.UNITS
    assert counts[0].nonzero().tolist() == [[1]]  # the far one is out of sight, itself it does not count
    assert counts[0, 1] == 3
    assert counts[1].sum() == 3  # sees the first only: the third is one column too far
    assert counts[2].sum() == 0
    world.goal[0, 0] = 13
    guidance.advance()
    counts = guidance.snapshot()["seen"][0] / follower_guidance.UNITS
    assert counts[0, 1] == 1
    assert counts[1, 0] == 4


#: What leaving a cell may cost at most, in steps.
MOST = (BUCKETS - 1) / follower_guidance.UNITS


def cheapest(exits, width, static, counts, start, goal, lanes=None):
    """The cost of the cheapest path by Dijkstra in float64 on ``s(c) + d(c)``, and ``lanes`` ``[cells, 4]``."""
    price = static + counts
    best, heap = {start: 0.0}, [(0.0, start)]
    while heap:
        value, cell = heapq.heappop(heap)
        if cell == goal:
            break
        for move in range(1, 5):
            target = cell + MOVES[move][0] * width + MOVES[move][1]
            if not exits[cell] >> (move - 1) & 1:
                continue
            lane = 0 if lanes is None else min(lanes[target, reverse(move) - 1], MOST - static[cell])
            if value + price[target] + lane < best.get(target, np.inf):
                best[target] = value + price[target] + lane
                heapq.heappush(heap, (best[target], target))
    return best[goal]


@pytest.mark.parametrize("seed", range(12))
def test_follower_path_is_the_cheapest(seed):
    """Every second world has lanes, in whose prices the crowd is not a whole number."""
    rng, _, world = random_world(100 + seed, agents=2, height=14, width=13)
    size, start, goal = world.height * world.width, int(world.position[0, 0]), int(world.goal[0, 0])
    board = Board(open_moves(world.blocked, world.height, world.width), world.width)
    ratio = centrality(board)
    static = np.rint(follower_guidance.UNITS * ratio).astype(np.int32)
    counts = rng.integers(0, 4, size).astype(np.int32)
    share = 77 if seed % 2 else 0
    lanes = lane_prices(board, LaneWeights(0.5, 30.0, 30.0))
    lanes = np.rint(follower_guidance.UNITS * lanes).astype(np.int32).reshape(-1)
    extra = lanes * share // follower_guidance.CROWDS
    field = np.empty(size, np.int32)
    heads, links = np.full(BUCKETS, -1, np.int32), np.empty(4 * size, np.int32)
    directed_field(board, static, extra, goal, field, heads, links)
    cost, parent = np.empty(size, np.int32), np.empty(size, np.int32)
    heap = np.empty(4 * size + 1, np.int64), np.empty(4 * size + 1, np.int32)
    search = Search(cost, parent, np.empty(size, np.bool_), *heap)
    known = lanes if share else np.zeros(0, np.int32)
    scaled = follower_guidance.UNITS * counts
    cheapest_path(board, static, known, share, field, scaled, start, goal, search)
    path = [goal]
    while path[-1] != start:
        assert abs(path[-1] - parent[path[-1]]) in (1, world.width)
        path.append(int(parent[path[-1]]))
    units = follower_guidance.UNITS
    prices = extra.reshape(-1, 4) / units
    assert cost[goal] / units == pytest.approx(
        cheapest(board.exits, world.width, static / units, counts, start, goal, prices), rel=1e-9
    )
    if not share:
        exact = cheapest(board.exits, world.width, ratio, counts, start, goal)
        assert sum(ratio[c] + counts[c] for c in path[:-1]) == pytest.approx(exact, rel=0.5 / units)


def test_follower_goes_around_where_it_saw_others():
    world = StubWorld([".....", ".###.", "....."], [(1, 0), (0, 2)], [(1, 4), (0, 0)])
    guidance = started(world, GuidanceConfig(kind="follower"), radius=1)
    assert guidance.subgoal[0, 0] == 10  # below: the other stands above


def test_followers_forget_whom_they_saw():
    """Two cells away in every step but the last: 1, then .5 + 1, then half of that."""
    world = StubWorld(["." * 12], [(0, 0), (0, 2)], [(0, 1), (0, 11)])
    guidance = started(world, GuidanceConfig(kind="follower", forget=0.5))
    guidance.advance()
    world.position[0, 1] = 11
    guidance.advance()
    counts = guidance.snapshot()["seen"][0, 0] / follower_guidance.UNITS
    assert counts.tolist() == [0, 0, 0.75, *[0] * 9]


def test_followers_keep_to_lanes_where_they_have_seen_a_crowd():
    """Of two ways down one is shorter, and its lane leads up: whoever sees nobody goes against it."""
    hall = [".....", ".....", ".###.", ".###.", ".....", "....."]
    exits = open_moves(StubWorld(hall, [0], [1]).blocked, 6, 5)
    into = lane_prices(Board(exits, 5), LaneWeights(0.0, 1.0, 1.0)).reshape(6, 5, 4)  # entry 0: from above
    assert {into[3, 0, 0], into[3, 4, 0]} == {0.0, 1.0}
    near, far = (0, 4) if into[3, 0, 0] else (4, 0)
    start, goal = (1, (near + 2) // 2), (5, near)
    config = GuidanceConfig(kind="follower", lane=40.0)
    guidance = started(StubWorld(hall, [start], [goal]), config)
    assert guidance.subgoal[0, 0] == 5 + near and guidance.snapshot()["share"].tolist() == [[0]]
    crowd = [(0, 0), (0, 2), (0, 4), (4, 1), (4, 3), (5, 2)]
    world = StubWorld(hall, [start, *crowd], [goal, *[(1, 2)] * 6])
    guidance = started(world, config)
    assert guidance.snapshot()["crowd"][0, 0] == pytest.approx(6 / 24)
    assert guidance.snapshot()["share"][0, 0] == 64
    assert abs(int(guidance.subgoal[0, 0]) - (5 + far)) < abs(start[1] - far)
    # What it sees from now on counts with its next goal only.
    world.alive[0, 1:] = False
    guidance.advance()
    assert guidance.snapshot()["share"][0, 0] == 64
    assert guidance.snapshot()["crowd"][0, 0] == pytest.approx(0.98 * 6 / 24)


def test_followers_share_what_reaching_sub_goals_earns_with_whoever_is_near():
    """Agents 0 and 1 stand two columns apart, agent 2 three from the second: it shares with nobody."""
    world = StubWorld(["........"] * 2, [(0, 0), (0, 2), (0, 6)], [(0, 7), (1, 2), (0, 0)])
    guidance = started(world, GuidanceConfig(kind="follower", fellows=0.5))
    world.move(torch.tensor([[4, 0, 3]]))
    guidance.advance()
    assert guidance.subgoal.tolist()[0][1] == 10  # nobody stood in its way
    assert guidance.reached.tolist() == [[0.75, 0.25, 1.0]]
    world.move(torch.tensor([[3, 2, 0]]))
    guidance.advance()
    assert guidance.reached.tolist() == [[0.25, 0.75, 0.0]]


def test_moves_of_followers_show_their_lanes():
    """Somewhere a lane makes another neighbour the best one; the best one is -1, and -1 only where the path may go."""
    drawing = ["......", ".####.", ".####.", "......", "......"]
    changed = 0
    for start in ((0, column) for column in range(6)):
        crowd = [(4, column) for column in range(6)] + [(3, column) for column in range(6)]
        plain, lanes = (
            started(StubWorld(drawing, [start, *crowd], [(3, 2)] * 13), GuidanceConfig(kind="follower", lane=lane))
            for lane in (0.0, 30.0)
        )
        without, with_lanes = (guidance.features()["moves"][0, 0] for guidance in (plain, lanes))
        assert without.min() == with_lanes.min() == -1.0 and with_lanes.max() <= 1.0
        changed += not torch.equal(without, with_lanes)
    assert changed > 0


def test_habits_of_followers_are_refused_elsewhere_in_one_sentence():
    for name in ("fellows", "forget", "lane", "open_lane"):
        with pytest.raises(UserError, match=f"guidance.{name} is for guidance.kind=follower"):
            GuidanceConfig.model_validate({name: 0.5})


def test_a_memory_of_another_form_is_refused_in_one_sentence():
    guidance = started(StubWorld(["..."], [0], [2]), GuidanceConfig(kind="follower"))
    saved = guidance.snapshot()
    del saved["crowd"]
    with pytest.raises(UserError, match="start a new one from its weights with --init"):
        guidance.restore(saved)


def test_too_large_a_batch_is_refused_in_one_sentence():
    world = SimpleNamespace(position=torch.zeros(1, 1).expand(1 << 20, 1 << 14), height=1 << 10, width=1 << 10)
    with pytest.raises(UserError, match="use fewer copies or agents"):
        agent_fields(world)


def test_unknown_or_impossible_options_are_refused():
    for wrong in ({"kind": "none"}, {"decay": 1.0}, {"static_weight": -1}, {"weight": 1}):
        with pytest.raises(ValidationError):
            GuidanceConfig(**wrong)
