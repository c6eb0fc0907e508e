"""The compiled features of moves against their plain form, and a head-on by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from choices_oracle import Oracle
from mapf_play import random_actions
from stub_world import StubWorld, random_drawing

from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.guidance.shared import GoalFields
from scenarios.lifelong_mapf.maps.fields import UNREACHED
from scenarios.lifelong_mapf.views.choices import FEATURES, Choices
from scenarios.lifelong_mapf.world import LifelongMapf

NAMES = list(FEATURES)


def made(drawing: list[str], position: list, goal: list, **guidance: object) -> tuple[StubWorld, GoalFields, Choices]:
    world = StubWorld(drawing, position, goal)
    world.age = torch.zeros_like(world.position)
    fields = GoalFields(world, GuidanceConfig.model_validate(guidance))
    choices = Choices(world, fields)
    everywhere = np.array([True])
    fields.restart(everywhere)
    choices.restart(everywhere)
    return world, fields, choices


@pytest.mark.parametrize("vector", ["plain", "default", "warehouse"])
def test_equals_the_plain_form(vector: str) -> None:
    rng = np.random.default_rng(3)
    drawing = random_drawing(rng, 7, 8, 0.15)
    world, fields, choices = made(drawing, [0, 1], [0, 1], vector=vector, contest_weight=0.5, head_on_weight=1.0)
    reached = np.flatnonzero(fields.field[0, 0] < UNREACHED)
    cells = rng.permutation(reached)
    agents = min(14, cells.size - 2)
    start, goal = [int(c) for c in cells[:agents]], [int(c) for c in rng.choice(reached, agents)]
    world, fields, choices = made(drawing, start, goal, vector=vector, contest_weight=0.5, head_on_weight=1.0)
    oracle = Oracle(world)
    for step in range(6):
        rows = choices.features()["choices"][0].numpy()
        value, urgency = choices._scratch.value, choices._scratch.urgency
        expected = oracle.rows(fields.field[0], fields.units, value, urgency)
        for k, name in enumerate(NAMES):
            np.testing.assert_allclose(rows[:, :, k], expected[:, :, k], atol=1e-5, err_msg=f"{name}, step {step}")
        _one_moves(world, rng)
        world.age += 1
        world.age[0, rng.integers(agents)] = 0
        fields.advance()
        choices.advance()
        oracle.advance()


def _one_moves(world: StubWorld, rng: np.random.Generator) -> None:
    """Half of the agents try a random move each, one after the other, into cells that are free by then."""
    taken = set(world.position[0].tolist())
    for n in rng.permutation(len(taken))[: len(taken) // 2]:
        row, column = divmod(int(world.position[0, n]), world.width)
        r, c = [(-1, 0), (1, 0), (0, -1), (0, 1)][rng.integers(4)]
        cell = (row + r) * world.width + column + c
        inside = 0 <= row + r < world.height and 0 <= column + c < world.width
        if inside and not world.blocked[0, cell] and cell not in taken:
            taken.remove(int(world.position[0, n]))
            taken.add(cell)
            world.position[0, n] = cell
    world.steps += 1


def test_head_on_in_a_corridor_by_hand() -> None:
    """Agents on cells 1 and 3 of five want the middle; the second has been longer on its way."""
    world, _, choices = made(["....."], [(0, 1), (0, 3)], [(0, 4), (0, 0)], vector="plain")
    world.age[0] = torch.tensor([2, 6])
    row = dict(zip(NAMES, choices.features()["choices"][0, 0, 4].tolist(), strict=True))  # to the right
    assert row["best"] == 1 and row["excess"] == 0 and row["progress"] == pytest.approx(0.5)
    assert (row["rivals"], row["rival_first"], row["occupied"]) == (pytest.approx(1 / 3), 1, 0)
    assert (row["exits"], row["ways_out"]) == (0.5, 0.25)
    assert (row["path_agents"], row["path_head_on"]) == (0.25, 0.5)
    assert (row["rank"], row["age"], row["distance"]) == (0.5, pytest.approx(2 / 34), pytest.approx(3 / 19))


def test_snapshots_hold_the_memory() -> None:
    config = MapfConfig(agents=12, map_pool=2, horizon=9, guidance={"choices": True})
    world = LifelongMapf(config, 3)
    world.enable_plan()
    timestep = world.reset(5)
    for _ in range(4):
        timestep = world.step(random_actions(timestep))
    saved, seen = world.snapshot(), world.plan().features["choices"].clone()
    actions = random_actions(timestep)
    world.step(actions)
    expected = world.plan().features["choices"]
    world.restore(saved)
    assert torch.equal(world.plan().features["choices"], seen)
    world.step(actions)
    assert torch.equal(world.plan().features["choices"], expected)
