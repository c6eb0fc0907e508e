import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stub_world import StubWorld, random_drawing
from test_pibt import paper_pibt
from windowed_oracle import Oracle

from marl.api import policy_builder
from marl.errors import UserError
from marl.seeding import Stream, fold_int
from scenarios.lifelong_mapf.baselines import BASELINES
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.maps.fields import UNREACHED, Board, open_moves, step_field
from scenarios.lifelong_mapf.maps.generators import MazeMap, RandomMap, WarehouseMap
from scenarios.lifelong_mapf.pibt.swap import NO_SWAP, Swap
from scenarios.lifelong_mapf.scenario import SCENARIO
from scenarios.lifelong_mapf.search import windowed as module
from scenarios.lifelong_mapf.search.space_time import NO_PLAN, find_plan, plan_delay, search_scratch
from scenarios.lifelong_mapf.search.windowed import Windowed, WindowedConfig
from scenarios.lifelong_mapf.world import LifelongMapf

DIRECTED = {"occupancy_weight": 1, "waiting_weight": 2, "opposing_weight": 5, "lanes_weight": 1}


def world_of(copies, **options):
    options = {"generator": RandomMap(size=9, density=0.2), "map_pool": 3, "agents": 20, "horizon": 40} | options
    return LifelongMapf(MapfConfig(central_state=False, **options), copies)


def play(world, policy, steps, timestep=None, seed=0):
    """Actions [T, B, N]; every one of them has to be carried out."""
    timestep = world.reset(seed) if timestep is None else timestep
    offsets = torch.tensor([0, -world.width, world.width, -1, 1])
    actions = []
    for _ in range(steps):
        actions.append(policy.act(timestep))
        acting, wanted = timestep.alive, world.position + offsets[actions[-1]]
        timestep = world.step(actions[-1])
        assert (world.position == wanted)[acting & ~timestep.done.unsqueeze(1)].all()
        if timestep.done.any():
            assert timestep.metrics["collisions"].sum() == 0
            assert timestep.metrics["refused_share"].sum() == 0
    return torch.stack(actions)


def drawn_ground(rng, height, width):
    """Exits, costs of moves, a field of any agent's goal, and the cells that belong together."""
    grid = np.array([list(row) for row in random_drawing(rng, height, width, 0.2)])
    exits = open_moves((grid == "#").astype(np.uint8), height, width)
    field, queue = np.empty((2, exits.size), np.int32)
    step_field(Board(exits, width), 0, field, queue)
    cells = np.flatnonzero(field < UNREACHED)
    return exits, rng.integers(1, 4, (exits.size, 5)).astype(np.int32), cells


def walks(rng, exits, width, cells, count, window):
    """Plans that agree, by chance."""
    oracle = Oracle(exits, width, None, None, None)
    plans = []
    for start in rng.choice(cells, count, replace=False).tolist():
        plan = [start]
        for time in range(window):
            free = [cell for _, cell in oracle.moves(plan[-1]) if oracle.free(plans, time, plan[-1], cell)]
            if not free:
                break
            plan.append(int(rng.choice(free)))
        if len(plan) > window:
            plans.append(plan)
    return plans


@pytest.mark.parametrize("restart", [True, False])
def test_plans_are_those_of_the_oracle(restart):
    rng = np.random.default_rng(5)
    found = 0
    for window in (1, 3, 5):
        scratch = search_scratch(window)
        for _ in range(15):
            exits, cost, cells = drawn_ground(rng, 7, 6)
            others = walks(rng, exits, 6, cells, min(8, cells.size - 1), window)
            table = np.full((window + 1, exits.size), -1, np.int16)
            for n, plan in enumerate(others):
                table[range(window + 1), plan] = n
            start = int(rng.choice([cell for cell in cells if cell not in {plan[0] for plan in others}]))
            goal, limit = int(rng.choice(cells)), int(rng.choice([0, 3, 100]))
            field, queue = np.empty((2, exits.size), np.int32)
            step_field(Board(exits, 6), goal, field, queue)
            plan = np.empty(window + 1, np.int32)
            delay = find_plan(Board(exits, 6), cost, field, start, goal, restart, table, limit, scratch, plan)
            best = Oracle(exits, 6, cost, [field], [goal], restart).best_plan(0, start, window, others, limit)
            assert (delay, plan.tolist()) == best if best else delay == NO_PLAN
            if best:
                found += 1
                assert plan_delay(6, cost, field, goal, restart, plan) == delay
    assert 10 < found < 45


def oracle_of(policy, world):
    """An oracle on what the policy saw in copy 0 when it acted last."""
    m = int(world.map_index[0])
    exits, field = policy._fields.exits[m], policy._fields.field[0]
    return Oracle(exits, world.width, policy._cost, field, world.goal[0].tolist()), exits, field


@pytest.mark.parametrize("guidance", [{"vector": "plain"}, DIRECTED])
def test_a_step_is_that_of_the_oracle(guidance):
    options = WindowedConfig(window=4, iterations=12, neighbours=4)
    world = world_of(1, guidance=guidance, generator=RandomMap(size=7, density=0.15), agents=16)
    policy = Windowed(world, options)
    timestep = world.reset(3)
    plans, ages, known, replaced = None, [0] * 16, None, 0
    for _ in range(12):
        actions = policy.act(timestep)
        oracle, exits, field = oracle_of(policy, world)
        position, goal = world.position[0].tolist(), world.goal[0].tolist()
        key = fold_int(int(timestep.key[0]), Stream.POLICY)
        fresh = [n for n in range(16) if known is None or goal[n] != known[n]]
        ages = [0 if n in fresh else ages[n] + 1 for n in range(16)]
        order = sorted(range(16), key=lambda n: (-ages[n], n))
        plans = [[cell] for cell in position] if plans is None else [plan[1:] for plan in plans]
        while len(plans[0]) <= options.window:
            ends = paper_pibt(field, exits, goal, world.width, [plan[-1] for plan in plans], order, key, NO_SWAP)
            plans = [[*plan, end] for plan, end in zip(plans, ends, strict=True)]
        before = sum(oracle.delay(n, plan) for n, plan in enumerate(plans))
        anew = [[cell] for cell in position]
        while len(anew[0]) <= options.window:
            ends = paper_pibt(field, exits, goal, world.width, [p[-1] for p in anew], order, key, Swap(True, False))
            anew = [[*plan, end] for plan, end in zip(anew, ends, strict=True)]
        if sum(oracle.delay(n, plan) for n, plan in enumerate(anew)) < before:
            plans, replaced = anew, replaced + 1
        plans = oracle.improve(key, plans, fresh, options.iterations, options.neighbours)
        assert sum(oracle.delay(n, plan) for n, plan in enumerate(plans)) <= before
        assert policy._plan[0].tolist() == plans
        known = goal
        timestep = world.step(actions)
        assert world.position[0].tolist() == [plan[1] for plan in plans]
    assert replaced > 0


@pytest.mark.parametrize("agents", [1, 20, 45, None])
@pytest.mark.parametrize(("height", "width", "density"), [(8, 8, 0.0), (8, 8, 0.3), (12, 1, 0.0), (1, 9, 0.0)])
def test_never_a_collision_up_to_an_agent_on_every_cell(agents, height, width, density):
    rng = np.random.default_rng(8)
    drawing = random_drawing(rng, height, width, density) if height > 1 and width > 1 else ["." * width] * height
    world = StubWorld(drawing, [0], [0])
    field, queue = np.empty((2, height * width), np.int32)
    step_field(Board(open_moves(world.blocked[0], height, width), width), 0, field, queue)
    cells = np.flatnonzero(field < UNREACHED)
    count = min(agents or cells.size, cells.size)
    world = StubWorld(drawing, rng.choice(cells, count, False).tolist(), rng.choice(cells, count).tolist(), 2)
    world.config.on_target = "restart"
    policy = Windowed(world, WindowedConfig(window=5, iterations=20))
    for _ in range(12):
        actions = policy.act(world.timestep())
        before = world.position.clone()
        world.move(actions)
        for was, now in zip(before.tolist(), world.position.tolist(), strict=True):
            assert not world.blocked[0][now].any() and len(set(now)) == count
            steps = {(a, b) for a, b in zip(was, now, strict=True) if a != b}
            assert not any((b, a) in steps for a, b in steps)
        for n in np.flatnonzero((world.position == world.goal)[0].numpy()):
            world.goal[:, n] = int(rng.choice(cells))


@pytest.mark.parametrize("on_target", ["restart", "nothing", "finish"])
def test_the_same_in_any_batch_and_every_move_carried_out(on_target):
    options = {"on_target": on_target, "guidance": DIRECTED}
    alone, eight = (
        play(world, Windowed(world, WindowedConfig(iterations=20)), 50)
        for world in (world_of(1, **options), world_of(8, **options))
    )
    assert torch.equal(eight[:, :1], alone)
    assert not torch.equal(eight[:, 0], eight[:, 1])


def test_the_search_never_makes_the_plans_worse(monkeypatch):
    sums = []

    def watched(key, first, count, ground, plans, *scratch):
        before = int(plans.delay.sum())
        module_improve(key, first, count, ground, plans, *scratch)
        sums.append((before, int(plans.delay.sum())))

    module_improve = module.improve
    monkeypatch.setattr(module, "improve", watched)
    world = world_of(2, generator=MazeMap(size=11), agents=30)
    play(world, Windowed(world, WindowedConfig(guidance="plain")), 30)
    assert all(after <= before for before, after in sums)
    assert sum(before - after for before, after in sums) > 100


def test_more_iterations_and_the_search_itself_bring_more_goals():
    def goals(name):
        world = world_of(2, generator=WarehouseMap(), map_pool=1, agents=128, horizon=1000)
        policy = policy_builder(SCENARIO, name)(world)
        timestep = world.reset(0)
        total = 0.0
        for _ in range(100):
            timestep = world.step(policy.act(timestep))
            total += float(timestep.reward.sum())
        return total

    guided, little, much = map(
        goals, ("guided_pibt", "windowed:iterations=4:guidance=default", "windowed:iterations=60:guidance=default")
    )
    assert guided < 0.98 * much and little < 0.99 * much


def test_one_agent_alone_reaches_the_bound():
    world = world_of(4, agents=1, horizon=60, bound_share=True)
    policy = Windowed(world, WindowedConfig(guidance="plain"))
    timestep = world.reset(0)
    while not timestep.done.all():
        timestep = world.step(policy.act(timestep))
    assert timestep.metrics["bound_share"].tolist() == [1.0] * 4


def test_everybody_leaves_the_board_in_one_shot():
    world = world_of(2, on_target="finish", agents=30, horizon=100)
    policy = Windowed(world, WindowedConfig())
    timestep = world.reset(1)
    while not timestep.done.all():
        timestep = world.step(policy.act(timestep))
    assert timestep.metrics["success"].tolist() == [1.0, 1.0]


def test_who_is_at_home_makes_way_and_comes_back():
    world = StubWorld(["....", "#.##"], [(0, 0), (0, 1)], [(0, 3), (0, 1)])
    world.config.on_target = "nothing"
    policy = Windowed(world, WindowedConfig(guidance="plain"))
    for _ in range(6):
        world.move(policy.act(world.timestep()))
    assert torch.equal(world.position, world.goal)


def test_plans_that_the_world_did_not_carry_out_are_made_anew():
    """Under ``priority`` an agent may not follow one of a higher index: many moves are refused."""
    world = world_of(2, collision="priority", agents=30)
    policy = Windowed(world, WindowedConfig(iterations=10))
    timestep = world.reset(0)
    refused = 0
    for _ in range(39):
        timestep = world.step(policy.act(timestep))
        refused += int((world.position.numpy() != policy._plan[:, :, 1]).sum())
    assert refused > 0


@pytest.mark.parametrize(("milliseconds", "rounds"), [(0.55, 5), (1.05, 10)])
def test_time_as_the_budget(monkeypatch, milliseconds, rounds):
    """On a clock that moves by .1 ms at each look, plans are those of as many rounds of iterations as fit."""
    ticks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(ticks) * 1e-4))
    timed, counted = (
        play(world, policy_builder(SCENARIO, f"windowed:{budget}")(world), 5)
        for world, budget in (
            (world_of(2), f"milliseconds={milliseconds}"),
            (world_of(2), f"iterations={rounds * module._ROUND}"),
        )
    )
    assert torch.equal(timed, counted)
    looks = next(ticks)
    assert looks == 5 * 2 * (1 + rounds + 1)  # the begin, each round, and the end, of 2 copies in 5 steps


def test_plans_that_do_not_agree_are_never_executed(monkeypatch):
    world = world_of(1)
    policy = Windowed(world, WindowedConfig())

    def spoil(key, first, count, ground, plans, *scratch):
        plans.plan[0] = plans.plan[1]

    monkeypatch.setattr(module, "improve", spoil)
    with pytest.raises(RuntimeError, match="collides"):
        policy.act(world.reset(0))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("windowed:iterations=0", "'iterations' is 0"),
        ("windowed:milliseconds=0", "'milliseconds' is 0"),
        ("windowed:window=0", "'window' is 0"),
        ("windowed:guidance=warehose", "guidance 'warehose' is neither a file nor a shipped vector"),
    ],
)
def test_options_that_make_no_sense(name, part):
    with pytest.raises(UserError, match=part):
        policy_builder(SCENARIO, name)(world_of(1))


def test_it_is_a_baseline_like_the_others():
    assert BASELINES["windowed"].options is WindowedConfig
    assert GuidanceConfig(vector="plain").weights().priced is False
