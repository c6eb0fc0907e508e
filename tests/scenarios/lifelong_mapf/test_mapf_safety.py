"""Grids under the supervisor: whatever agents propose, no two meet, none swap, and the rules refuse nobody."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_world import StubWorld, random_drawing

from marl.coordination.safety import Safety
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.fields import MOVES
from scenarios.lifelong_mapf.safety import Resolver
from scenarios.lifelong_mapf.world import LifelongMapf

RULES = ("soft", "priority", "block_both")
UP, DOWN, LEFT, RIGHT = 1, 2, 3, 4


def world(drawing, places, rules="soft", age=None):
    made = StubWorld(drawing, places, places)
    made.config = SimpleNamespace(collision=rules, on_target="restart", supervisor_swap=None)
    made.age = torch.zeros_like(made.position) if age is None else torch.tensor([age], dtype=torch.int32)
    return made


def resolve(made, proposed, scores=None):
    key = torch.zeros(made.copies, dtype=torch.int64)
    return Resolver(made).resolve(key, torch.tensor(proposed), scores).tolist()


def targets(env, actions):
    """Where actions lead if nobody is in the way: int ``[B, N]``; into a wall: nowhere."""
    blocked = env.blocked.reshape(-1, env.height, env.width)[env.map_index.numpy()]
    rows, columns = np.divmod(env.position.numpy(), env.width)
    offset = np.array(MOVES)[actions.numpy()]
    to_row, to_column = rows + offset[..., 0], columns + offset[..., 1]
    inside = (to_row >= 0) & (to_row < env.height) & (to_column >= 0) & (to_column < env.width)
    copy = np.arange(len(rows))[:, None]
    free = inside & (blocked[copy, to_row.clip(0, env.height - 1), to_column.clip(0, env.width - 1)] == 0)
    return np.where(free, to_row * env.width + to_column, env.position.numpy())


def into_the_neighbour(env, generator):
    """Every agent that has a neighbour moves into it, the others anywhere."""
    actions = torch.randint(0, 5, env.position.shape, generator=generator)
    for b, cells in enumerate(env.position.tolist()):
        for n, cell in enumerate(cells):
            for move, step in ((UP, -env.width), (DOWN, env.width), (LEFT, -1), (RIGHT, 1)):
                if cell + step in cells:
                    actions[b, n] = move
    return actions


POLICIES = {
    "random": lambda env, generator: torch.randint(0, 5, env.position.shape, generator=generator),
    "constant": lambda env, generator: torch.full(
        env.position.shape, int(torch.randint(0, 5, (), generator=generator))
    ),
    "into the neighbour": into_the_neighbour,
}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    rules=st.sampled_from(RULES),
    policy=st.sampled_from(sorted(POLICIES)),
    crowd=st.sampled_from((0.2, 0.6, 0.95)),
    liking=st.booleans(),
)
def test_nobody_collides_and_nobody_is_refused(seed, rules, policy, crowd, liking):
    generator = torch.Generator().manual_seed(seed)
    free = 40
    config = MapfConfig(
        generator={"kind": "random", "size": 8, "density": 0.2},
        agents=round(crowd * free),
        map_pool=4,
        map_seed=seed % 50,
        horizon=1000,
        collision=rules,
    )
    env = LifelongMapf(config, 3)
    supervisor = Safety(env)
    timestep = env.reset(seed)
    for _ in range(6):
        proposed = POLICIES[policy](env, generator)
        scores = torch.randn(*proposed.shape, 5, generator=generator) if liking else None
        before = env.position.numpy().copy()
        executed = supervisor.correct(timestep, proposed, scores).executed
        after = targets(env, executed)
        for here, there in zip(before, after, strict=True):
            assert len(set(there)) == len(there), "two agents on one cell"
            moved = {(a, b) for a, b in zip(here, there, strict=True) if a != b}
            assert not any((b, a) in moved for a, b in moved), "two agents swap"
        timestep = env.step(executed)
        assert np.array_equal(env.position.numpy(), after), "a move was refused"


@pytest.mark.parametrize("rules", RULES)
def test_what_does_not_conflict_stays_as_it_was_proposed(rules):
    made = world(["...", "...", ".#."], [(0, 0), (2, 0), (1, 2)], rules)
    assert resolve(made, [[RIGHT, RIGHT, DOWN]]) == [[RIGHT, RIGHT, DOWN]]  # the second stands before a wall


def test_who_waited_longer_goes_first_and_pushes():
    corridor = ["....."]
    assert resolve(world(corridor, [(0, 1), (0, 2)], age=[5, 3]), [[RIGHT, LEFT]]) == [[RIGHT, RIGHT]]
    assert resolve(world(corridor, [(0, 1), (0, 2)], age=[3, 5]), [[RIGHT, LEFT]]) == [[LEFT, LEFT]]


def test_what_cannot_be_pushed_sends_the_lender_to_its_next_choice():
    made = world(["..", ".#"], [(0, 0), (0, 1)], age=[9, 0])
    scores = torch.tensor([[[0.0, -9.0, 1.0, -9.0, 2.0], [0.0] * 5]])
    assert resolve(made, [[RIGHT, 0]], scores) == [[DOWN, 0]]


def test_agents_may_turn_in_a_circle_and_follow_each_other_where_the_rules_allow():
    square, places = ["..", ".."], [(0, 0), (0, 1), (1, 1), (1, 0)]
    circle = [[RIGHT, DOWN, LEFT, UP]]
    assert resolve(world(square, places), circle) == circle
    assert resolve(world(square, places, "priority"), circle) == [[0, 0, 0, 0]]
    corridor = ["...."]
    # The first follows the second, or the second the first, who is moved before it.
    assert resolve(world(corridor, [(0, 0), (0, 1)]), [[RIGHT, RIGHT]]) == [[RIGHT, RIGHT]]
    assert resolve(world(corridor, [(0, 0), (0, 1)], "priority"), [[RIGHT, RIGHT]]) == [[0, RIGHT]]
    assert resolve(world(corridor, [(0, 1), (0, 0)], "priority"), [[RIGHT, RIGHT]]) == [[RIGHT, RIGHT]]
    assert resolve(world(corridor, [(0, 1), (0, 0)], "block_both"), [[RIGHT, RIGHT]]) == [[RIGHT, 0]]


def test_replacements_are_what_the_policy_would_rather_do():
    """Both want the middle; the later one likes going down best among what is left."""
    made = world(["...", "..."], [(0, 0), (0, 2)], age=[4, 1])
    scores = torch.tensor([[[0.0] * 5, [0.0, 0.0, 3.0, 5.0, 0.0]]])
    assert resolve(made, [[RIGHT, LEFT]], scores) == [[RIGHT, DOWN]]


def test_copies_do_not_depend_on_each_other():
    def play(copies):
        env = LifelongMapf(MapfConfig(agents=30, horizon=1000, map_pool=2), copies)
        supervisor, timestep, found = Safety(env), env.reset(0), []
        for step in range(5):
            proposed = torch.randint(0, 5, (3, 30), generator=torch.Generator().manual_seed(step))[:copies]
            found.append(supervisor.correct(timestep, proposed).executed)
            timestep = env.step(found[-1])
        return torch.stack(found)

    assert torch.equal(play(3)[:, :1], play(1))


def test_random_drawings_with_agents_on_every_free_cell():
    rng = np.random.default_rng(0)
    for _ in range(5):
        drawing = random_drawing(rng, 5, 6, 0.3)
        cells = [(r, c) for r, row in enumerate(drawing) for c, letter in enumerate(row) if letter == "."]
        made = world(drawing, cells)
        actions = torch.tensor(resolve(made, [rng.integers(0, 5, len(cells)).tolist()]))
        assert len(set(targets(made, actions)[0])) == len(cells)
