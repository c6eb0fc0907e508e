import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chains_oracle import Crew, conflict, costs_to_go, sequence_cost, sequences
from stub_world import random_drawing
from test_windowed import DIRECTED, play, world_of

from marl.api import policy_builder
from marl.errors import UserError
from scenarios.lifelong_mapf.chains import planner as module
from scenarios.lifelong_mapf.chains.fields import UNKNOWN, fields_of, make_field
from scenarios.lifelong_mapf.chains.graph import grid_graph, operations
from scenarios.lifelong_mapf.chains.planner import Effort, Planner
from scenarios.lifelong_mapf.chains.plans import KEY_BITS, begin_step, team_of, write_operation_costs
from scenarios.lifelong_mapf.chains.policy import Chains, ChainsConfig
from scenarios.lifelong_mapf.chains.push import chain_of, improve, push_chain
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.fields import MOVES
from scenarios.lifelong_mapf.maps.generators import RandomMap
from scenarios.lifelong_mapf.maps.headings import moves_of, turned
from scenarios.lifelong_mapf.scenario import SCENARIO
from scenarios.lifelong_mapf.world import LifelongMapf

BOTH = pytest.mark.parametrize("heading", [False, True])


def drawn(rng, height, width, density, heading):
    """A graph, and its states of the largest component."""
    grid = np.array([list(row) for row in random_drawing(rng, height, width, density)]) == "#"
    graph = grid_graph(grid.reshape(-1).astype(np.uint8), height, width, heading)
    reach = [costs_to_go(graph, np.ones(graph.next.shape), c) for c in range(graph.flat.size)]
    return graph, np.array(sorted(max(reach, key=len)))


def some_cost(rng, graph, most=60):
    return rng.integers(10, most, graph.next.shape).astype(np.int32)


def distinct(rng, graph, states, count):
    """States on different cells."""
    cells = rng.choice(np.unique(graph.cell[states]), count, replace=False)
    return np.array([rng.choice(states[graph.cell[states] == c]) for c in cells], np.int32)


def test_a_heading_is_what_the_world_makes_of_it():
    rng = np.random.default_rng(0)
    graph, _ = drawn(rng, 5, 6, 0.3, True)
    where = {(int(graph.row[c]), int(graph.column[c])): c for c in range(graph.flat.size)}
    for state, action in itertools.product(range(graph.cell.size), range(4)):
        at, now = torch.tensor([[state % 4]]), torch.tensor([[action]])
        down, right = MOVES[int(moves_of(at, now))]
        cell = graph.cell[state]
        there = where.get((graph.row[cell] + down, graph.column[cell] + right))
        assert graph.next[state, action] == (-1 if there is None else 4 * there + int(turned(at, now)))


@BOTH
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_operations_are_all_ways_once(heading, steps):
    graph, _ = drawn(np.random.default_rng(1), 4, 4, 0.25, heading)
    moves = operations(graph, steps)
    for state in range(graph.cell.size):
        expected = sequences(graph, state, steps)
        rows = range(moves.first[state], moves.first[state + 1])
        found = {
            (int(graph.cell[state]), *moves.cell[i].tolist(), int(moves.state[i, -1])): tuple(moves.action[i].tolist())
            for i in rows
        }
        assert found == expected and len(rows) == len(expected) <= moves.most


@BOTH
def test_fields_are_those_of_dijkstra_where_they_are_known(heading):
    rng = np.random.default_rng(2)
    unknown = 0
    for slack in (0, 40, 1 << 29):
        graph, states = drawn(rng, 7, 8, 0.2, heading)
        cost = some_cost(rng, graph)
        fields, scratch = fields_of(graph, 1)
        for _ in range(5):
            state, goal = int(rng.choice(states)), int(graph.cell[rng.choice(states)])
            make_field(graph, cost, 10, 0, state, goal, slack, fields, scratch)
            best = costs_to_go(graph, cost, goal)
            known = np.flatnonzero(fields.value[0] != UNKNOWN)
            assert state in known and (scratch.heads == -1).all()
            assert all(fields.value[0, s] == best[s] for s in known)
            there = {int(s) for s in known}
            row, column = graph.row[graph.cell], graph.column[graph.cell]
            for s, value in best.items():
                ahead = 10 * (abs(int(row[s]) - int(row[state])) + abs(int(column[s]) - int(column[state])))
                assert (s in there) == (value + ahead <= best[state] + slack)
            unknown += len(best) - len(there)
    assert unknown > 100


def test_far_goals_fit_into_sixteen_bits():
    """A corridor of 150 cells at 1,000 units each: 149,000 is more than 65,535."""
    graph = grid_graph(np.zeros(150, np.uint8), 1, 150)
    cost = np.full(graph.next.shape, 1000, np.int32)
    fields, scratch = fields_of(graph, 1)
    make_field(graph, cost, 1000, 0, 149, 0, 1 << 29, fields, scratch)
    near = fields.value[0, 120:].astype(int)
    assert (np.diff(near) == 1000).all() and fields.offset[0] + near[-1] == 149_000
    planner = Planner(graph, operations(graph, 2), 1, Effort(), 1000)
    planner.restart()
    at = np.array([149], np.int32)
    for _ in range(149):
        action = planner.step(np.int64(0), at, np.zeros(1, np.int32), np.ones(1, bool), cost)
        at = graph.next[at, action]
    assert at[0] == 0


def prepared(rng, heading, robots, steps, stay, depth=6, push=1):
    """A team of robots on a drawn map whose plans wait, its costs, and the same as an oracle."""
    graph, states = drawn(rng, 4, 5, 0.15, heading)
    moves, cost = operations(graph, steps), some_cost(rng, graph)
    robots = min(robots, np.unique(graph.cell[states]).size)
    team, chain = team_of(graph, moves, robots), chain_of(robots, depth, push, 1 << 20, 10)
    fields, scratch = fields_of(graph, robots)
    team.state[:], team.alive[:], team.weight[:] = distinct(rng, graph, states, robots), True, 1
    team.goal[:] = graph.cell[rng.choice(states, robots)]
    for n in range(robots):
        make_field(graph, cost, 10, n, team.state[n], team.goal[n], 1 << 29, fields, scratch)
    write_operation_costs(graph, moves, cost, fields, team, stay)
    begin_step(graph, cost, fields, team, stay, True)
    options, spent = [], []
    for n in range(robots):
        begin, about = int(team.state[n]), (fields.value[n], int(team.goal[n]), stay, int(team.state[n]))
        rows = range(moves.first[begin], moves.first[begin + 1])
        priced = [
            (
                sequence_cost(graph, cost, *about, moves.action[i]),
                [int(team_cell(graph, begin)), *moves.cell[i].tolist()],
            )
            for i in rows
        ]
        assert [key >> KEY_BITS for key in team.keys[n, : len(rows)]] == [price for price, _ in priced]
        options.append(sorted(priced, key=lambda option: option[0]))
        spent.append(sequence_cost(graph, cost, *about, [graph.wait] * steps))
    assert spent == team.spent.tolist()
    plans = [[int(team_cell(graph, s))] * (steps + 1) for s in team.state]
    return graph, moves, team, chain, Crew(plans, spent, options)


def team_cell(graph, state):
    return graph.cell[state]


@BOTH
@pytest.mark.parametrize("better", [False, True])
@pytest.mark.parametrize(("steps", "push", "stay"), [(1, 1, False), (2, 1, True), (2, 2, False), (3, 1, False)])
def test_chains_are_those_of_the_oracle(heading, better, steps, push, stay):
    rng = np.random.default_rng(3)
    made = 0
    for _ in range(4):
        graph, moves, team, chain, crew = prepared(rng, heading, 9, steps, stay, push=push)
        most = -push * min(map(crew.gain, range(len(crew.plans)))) if better else 0
        locked: set[int] = set()
        for robot in rng.permutation(len(crew.plans)).tolist():
            members = crew.chain(robot, better, locked, 6, push, 10)
            assert push_chain(graph, moves, team, chain, robot, better, most) == bool(members)
            assert graph.cell[team.plan].tolist() == crew.plans and team.spent.tolist() == crew.spent
            locked |= set(members) if not better else set()
            assert set(np.flatnonzero(chain.locked).tolist()) == locked
            made += len(members) > 1
            for a, b in itertools.combinations(crew.plans, 2):
                assert not conflict(a, b)
    assert made > 3 or (heading and steps == 1)  # nobody who has to turn first can make way


@BOTH
def test_the_search_lowers_the_weighted_costs_and_keeps_old_robots_going(heading):
    rng = np.random.default_rng(4)
    gains = []
    for heavy in (1, 10):
        graph, moves, team, chain, _ = prepared(np.random.default_rng(5), heading, 12, 2, False)
        team.weight[0] = heavy
        before = int((team.weight * team.spent).sum())
        for first in range(0, 200, 20):
            improve(np.int64(rng.integers(1 << 40)), first, 20, graph, moves, team, chain)
            after = int((team.weight * team.spent).sum())
            assert after <= before
            gains.append(before - after)
            before = after
    assert sum(gains) > 100


def agree(graph, before, after):
    """The independent judge: no two robots on one cell, and no two that exchanged theirs."""
    was, now = graph.cell[before], graph.cell[after]
    assert np.unique(now).size == now.size
    moved = {(a, b) for a, b in zip(was.tolist(), now.tolist(), strict=True) if a != b}
    assert not any((b, a) in moved for a, b in moved)


@BOTH
@pytest.mark.parametrize("share", [0.2, 0.7, 1.0])
def test_plans_of_any_crowd_are_carried_out(heading, share):
    rng = np.random.default_rng(6)
    graph, states = drawn(rng, 8, 8, 0.2, heading)
    cells = np.unique(graph.cell[states])
    robots = max(int(share * cells.size), 2)
    planner = Planner(graph, operations(graph, 3), robots, Effort(iterations=60), 10)
    planner.restart()
    at, goal = distinct(rng, graph, states, robots), rng.choice(cells, robots).astype(np.int32)
    alive, reached, later = np.ones(robots, bool), 0, None
    for step in range(40):
        action = planner.step(np.int64(step), at, goal, alive, some_cost(rng, graph, 40))
        after = graph.next[at, action]
        assert (after >= 0).all() and (planner.plans[:, :2] == np.stack([at, after], 1)).all()
        agree(graph, at, after)
        home = graph.cell[after] == goal
        reached += int(home.sum())
        goal[home] = rng.choice(cells, int(home.sum()))
        at, later = after.astype(np.int32), planner.plans[:, -1]
    assert np.unique(graph.cell[later]).size == robots
    assert reached > 20 or share == 1.0


def test_a_disturbed_robot_makes_all_plan_anew():
    rng = np.random.default_rng(7)
    graph, states = drawn(rng, 8, 8, 0.1, False)
    planner = Planner(graph, operations(graph, 3), 20, Effort(iterations=20), 10)
    planner.restart()
    at, goal = distinct(rng, graph, states, 20), graph.cell[rng.choice(states, 20)]
    cost, alive = np.full(graph.next.shape, 10, np.int32), np.ones(20, bool)
    for step in range(20):
        action = planner.step(np.int64(step), at, goal, alive, cost)
        if step % 3 == 0:
            action[:] = graph.wait
        after = graph.next[at, action].astype(np.int32)
        agree(graph, at, after)
        at = after
    assert (graph.cell[at] == goal).sum() > 3


@pytest.mark.parametrize("on_target", ["restart", "nothing", "finish"])
def test_the_same_in_any_batch_and_every_move_carried_out(on_target):
    options = {"on_target": on_target, "guidance": DIRECTED}
    alone, eight = (
        play(world, Chains(world, ChainsConfig(iterations=20)), 50)
        for world in (world_of(1, **options), world_of(8, **options))
    )
    assert torch.equal(eight[:, :1], alone)
    assert not torch.equal(eight[:, 0], eight[:, 1])


def test_every_move_of_robots_that_turn_is_carried_out():
    world = LifelongMapf(
        MapfConfig(generator=RandomMap(size=12, density=0.15), agents=40, horizon=40, motion="turning"), 1
    )
    policy, timestep, total = Chains(world, ChainsConfig(operations=3, iterations=100)), world.reset(0), 0.0
    for _ in range(40):
        timestep = world.step(policy.act(timestep))
        total += float(timestep.reward.sum())
    assert timestep.metrics["collisions"].sum() == 0 and timestep.metrics["refused_share"].sum() == 0
    assert total > 30


def test_a_full_board_moves():
    """25 robots on 5 x 5 cells: PIBT makes about 2.2 goals a step."""
    world = world_of(1, generator=RandomMap(size=5, density=0.0), agents=25, horizon=60)
    policy, timestep, total = Chains(world, ChainsConfig(operations=2, tries=3)), world.reset(0), 0.0
    for _ in range(30):
        timestep = world.step(policy.act(timestep))
        total += float(timestep.reward.sum())
    assert total / 30 > 2.6


def test_agents_stay_at_home_in_one_shot():
    world = world_of(2, on_target="nothing", agents=20, horizon=100)
    policy, timestep = Chains(world, ChainsConfig()), world.reset(1)
    while not timestep.done.all():
        timestep = world.step(policy.act(timestep))
    assert timestep.metrics["arrived_share"].min() > 0.9


def test_time_as_the_budget(monkeypatch):
    """On a clock that moves by .1 ms at each look, plans are those of as many rounds of iterations as fit."""
    ticks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(ticks) * 1e-4))
    timed, counted = (
        play(world, policy_builder(SCENARIO, f"chains:{budget}")(world), 5)
        for world, budget in ((world_of(2), "milliseconds=.55"), (world_of(2), f"iterations={5 * module._ROUND}"))
    )
    assert torch.equal(timed, counted)


def test_who_is_much_older_than_most_counts_more():
    graph = grid_graph(np.zeros(40, np.uint8), 1, 40)
    planner = Planner(graph, operations(graph, 1), 2, Effort(iterations=0), 10)
    planner.restart()
    at, goal = np.array([0, 20], np.int32), np.array([39, 21], np.int32)
    cost, weights = np.full(graph.next.shape, 10, np.int32), []
    for step in range(120):
        planner.step(np.int64(step), at, goal, np.ones(2, bool), cost)
        weights.append(planner.delays[1].tolist())
        goal[1] = 20 + (step + 1) % 2  # reached every step
        at[1] = 20 + step % 2
    assert weights[40] == [1, 1] and weights[-1] == [10, 1]


def test_plans_that_do_not_agree_are_never_executed(monkeypatch):
    world = world_of(1)
    policy = Chains(world, ChainsConfig())

    def spoil(key, first, count, graph, moves, team, chain):
        team.plan[0] = team.plan[1]

    monkeypatch.setattr(module, "improve", spoil)
    with pytest.raises(RuntimeError, match="collides"):
        policy.act(world.reset(0))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("chains:operations=5", "'operations' is 5"),
        ("chains:milliseconds=0", "'milliseconds' is 0"),
        ("chains:push=0", "'push' is 0"),
        ("chains:guidance=warehose", "guidance 'warehose' is neither a file nor a shipped vector"),
    ],
)
def test_options_that_make_no_sense(name, part):
    with pytest.raises(UserError, match=part):
        policy_builder(SCENARIO, name)(world_of(1))
