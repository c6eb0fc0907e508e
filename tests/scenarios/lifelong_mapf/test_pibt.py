import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_world import StubWorld, random_drawing

from marl.seeding import Stream, fold_int
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.guidance.shared import GoalFields
from scenarios.lifelong_mapf.maps.fields import MOVES
from scenarios.lifelong_mapf.pibt.reference import PlainPibt
from scenarios.lifelong_mapf.pibt.rule import Pibt, sort_by_urgency
from scenarios.lifelong_mapf.pibt.swap import NO_SWAP, Swap

PLAIN = GuidanceConfig(static_weight=0, occupancy_weight=0)


def rule(world, config=PLAIN, swap=NO_SWAP):
    fields = GoalFields(world, config)
    fields.restart(np.ones(world.copies, bool))
    pibt = Pibt(world, fields, swap)
    pibt.restart(np.ones(world.copies, bool))
    return fields, pibt


def paper_pibt(field, exits, goal, width, position, order, key, swap):
    """``PlainPibt`` with the kernel's candidates: by distance, then free cells, then by chance."""
    now = {int(cell) for cell in position}
    neigh = {
        cell: [
            cell + down * width + right
            for move, (down, right) in enumerate(MOVES)
            if move and exits[cell] >> move - 1 & 1
        ]
        for cell in range(len(exits))
    }

    def candidates(n):
        cell = int(position[n])
        chance = fold_int(key, n) & (2**64 - 1)
        ranked = []
        for move, (down, right) in enumerate(MOVES):
            option = cell + down * width + right
            if move == 0 or exits[cell] >> (move - 1) & 1:
                ranked.append((field[n][option], move > 0 and option in now, chance >> 8 * move & 255, move, option))
        return [option for *_, option in sorted(ranked)]

    return PlainPibt(neigh, lambda n, cell: field[n][cell], goal, swap).step(position, order, candidates)


def random_world(seed, height, width, density, share, copies=1):
    """A world whose agents fill ``share`` of one component, with random goals in it."""
    rng = np.random.default_rng(seed)
    drawing = random_drawing(rng, height, width, density)
    probe = StubWorld(drawing, [0], [0])
    fields, _ = rule(probe)
    cells = np.flatnonzero(fields.field[0, 0] < 1 << 30)
    agents = max(1, round(share * cells.size))
    start = rng.choice(cells, agents, replace=False).tolist()
    return rng, cells, StubWorld(drawing, start, rng.choice(cells, agents).tolist(), copies)


def check_moves(world, actions):
    before = world.position[0].numpy().copy()
    after = before + np.array([down * world.width + right for down, right in MOVES])[actions[0].numpy()]
    assert not world.blocked[0][after].any()
    assert len(set(after.tolist())) == after.size, "two agents on one cell"
    steps = {(a, b) for a, b in zip(before.tolist(), after.tolist(), strict=True) if a != b}
    assert not any((b, a) in steps for a, b in steps), "two agents swap"
    return after


@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([(7, 9, 0.0), (8, 8, 0.3), (9, 9, 0.45), (12, 1, 0.0), (1, 9, 0.0), (3, 8, 0.4)]),
    share=st.sampled_from([0.1, 0.3, 0.5, 0.9, 1.0]),
    swap=st.sampled_from([NO_SWAP, Swap(True, False), Swap(True, True)]),
)
@settings(max_examples=120, deadline=None)
def test_joint_moves_are_legal_and_those_of_the_paper(seed, size, share, swap):
    rng, cells, world = random_world(seed, *size, share)
    fields, pibt = rule(world, swap=swap)
    age = np.zeros(world.position.shape[1], int)
    for step in range(20):
        key = torch.tensor([1000 * seed + step])
        actions = pibt.act(key)
        age = np.where(world.position[0] == world.goal[0], 0, age + 1)
        order = sorted(range(age.size), key=lambda n: (-age[n], n))
        paper = paper_pibt(
            fields.field[0],
            fields.exits[0],
            world.goal[0].tolist(),
            world.width,
            world.position[0].tolist(),
            order,
            fold_int(int(key), Stream.POLICY),
            swap,
        )
        after = check_moves(world, actions)
        assert after.tolist() == paper
        world.position[0] = torch.from_numpy(after)
        arrived = np.flatnonzero(after == world.goal[0].numpy())
        for n in () if swap.stay or cells.size < 2 else arrived:
            world.goal[0, n] = int(rng.choice(cells[cells != after[n]]))
            age[n] = -1
        fields.advance()


def test_first_in_priority_always_gets_nearer_on_open_ground():
    for share in (0.3, 0.8, 1.0):
        _, _, world = random_world(5, 6, 6, 0.0, share)
        world.goal[0, 0] = 35 if int(world.position[0, 0]) != 35 else 0
        fields, pibt = rule(world)
        distance = fields.field[0, 0]
        own = int(world.position[0, 0])
        after = check_moves(world, pibt.act(torch.tensor([3])))
        assert distance[after[0]] == distance[own] - 1


def test_an_agent_in_the_way_is_pushed_along():
    world = StubWorld(["....", "###."], [(0, 0), (0, 1)], [(0, 3), (0, 1)])
    _, pibt = rule(world)
    assert pibt.act(torch.tensor([0])).tolist() == [[4, 4]]


def test_head_on_in_a_corridor_nobody_swaps():
    world = StubWorld(["...."], [(0, 1), (0, 2)], [(0, 3), (0, 0)])
    _, pibt = rule(world)
    assert pibt.act(torch.tensor([0])).tolist() == [[4, 4]]  # the first pushes the second back


def test_a_new_goal_lowers_priority():
    world = StubWorld(["....."], [(0, 1), (0, 2)], [(0, 4), (0, 0)])
    fields, pibt = rule(world)
    assert pibt.act(torch.tensor([0])).tolist() == [[4, 4]]
    world.goal[0, 0] = 3
    fields.advance()
    assert pibt.act(torch.tensor([1])).tolist() == [[3, 3]]  # the second has waited longer and pushes the first
    pibt.restart(np.ones(1, bool))
    assert pibt.act(torch.tensor([2])).tolist() == [[4, 4]]  # a new episode: all have waited as long


def test_agents_that_left_are_air():
    world = StubWorld(["..."], [(0, 0), (0, 1)], [(0, 2), (0, 1)])
    world.alive[0, 1] = False
    _, pibt = rule(world)
    assert pibt.act(torch.tensor([0])).tolist() == [[4, 0]]


def test_copies_do_not_depend_on_each_other():
    def play(copies):
        _, _, world = random_world(2, 9, 9, 0.2, 0.6, copies)
        _, pibt = rule(world, GuidanceConfig())
        actions = []
        for step in range(20):
            key = torch.arange(copies) * 100 + step
            actions.append(pibt.act(key))
            world.move(actions[-1])
        return torch.stack(actions)

    seven = play(7)
    assert torch.equal(seven[:, :1], play(1))
    assert not torch.equal(seven[:, 0], seven[:, 1])


def test_order_by_urgency_then_index():
    order = np.array([4, 3, 2, 1, 0], np.int32)
    sort_by_urgency(np.array([2, 7, 2, 0, 7]), order)
    assert order.tolist() == [1, 4, 0, 2, 3]
