"""Maps and crowds at the limits: isolated cells, one agent, an agent on every free cell."""

import numpy as np
import pytest

from marl.errors import UserError
from scenarios.lifelong_mapf.baselines import FieldPibt
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.guidance.costs import StaticCosts
from scenarios.lifelong_mapf.guidance.vectors import shipped_vectors
from scenarios.lifelong_mapf.world import LifelongMapf

ISOLATED = ["....@.", "....@@", "....@.", "@@@@@."]  # two pockets, one of a single cell
RING = ["...", ".@.", "..."]
EVERY = pytest.mark.parametrize("near", [False, True])
VECTORS = pytest.mark.parametrize("vector", shipped_vectors())


def world_of(rows, tmp_path, agents, horizon=30):
    file = tmp_path / "odd.map"
    file.write_text(f"type octile\nheight {len(rows)}\nwidth {len(rows[0])}\nmap\n" + "\n".join(rows) + "\n")
    return LifelongMapf(MapfConfig(map=str(file), agents=agents, horizon=horizon), 1)


def play(world, vector, near):
    timestep = world.reset(0)
    policy = FieldPibt(world, GuidanceConfig(vector=vector), near)
    while not timestep.done.all():
        timestep = world.step(policy.act(timestep))
    assert timestep.metrics["collisions"] == timestep.metrics["refused_share"] == 0
    return float(timestep.metrics["throughput"])


@EVERY
@VECTORS
def test_isolated_cells_do_no_harm(vector, near, tmp_path):
    world = world_of(ISOLATED, tmp_path, 5)
    assert play(world, vector, near) > 0.5
    static = StaticCosts(world, 3.0, 16).of(np.zeros(1, np.int32))[0]
    assert static.min() >= 16  # finite, and nothing is cheaper than a step


@EVERY
@VECTORS
def test_one_agent_alone_walks_to_its_goals(vector, near, tmp_path):
    assert play(world_of(RING, tmp_path, 1), vector, near) > 0.3


@EVERY
@VECTORS
def test_a_full_ring_turns(vector, near, tmp_path):
    """Eight agents on eight cells can only go round together."""
    assert play(world_of(RING, tmp_path, 8), vector, near) >= 0


@EVERY
def test_a_full_corridor_stands_still(near, tmp_path):
    world = world_of(["...."], tmp_path, 4)
    assert play(world, "warehouse", near) == 0


def test_more_agents_than_cells_are_refused(tmp_path):
    with pytest.raises(UserError, match="8 free start cells, 9 agents asked"):
        world_of(RING, tmp_path, 9)
