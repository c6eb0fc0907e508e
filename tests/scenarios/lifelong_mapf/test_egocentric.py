"""What agents see when it is turned along their path: by hand, and the same from all eight sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mapf_play import random_actions
from stub_world import StubWorld

from marl.envs.spaces import BitWindow
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.guidance.choose import make_guidance
from scenarios.lifelong_mapf.maps.fields import MOVES
from scenarios.lifelong_mapf.views.egocentric import PLANES, Egocentric
from scenarios.lifelong_mapf.world import LifelongMapf

RADIUS = 2
#: One way only, from (1, 1) by two turns to (3, 3).
HALL = ["#####", "#..##", "##.##", "##..#", "#####"]


def around(world: StubWorld, radius: int = RADIUS) -> Egocentric:
    world.refused = torch.zeros(world.position.shape, dtype=torch.bool)
    world.age = torch.zeros(world.position.shape, dtype=torch.int32)
    guidance = make_guidance(world, GuidanceConfig(kind="follower"), radius)
    guidance.restart(torch.ones(1, dtype=torch.bool))
    view = Egocentric(world, guidance, radius)
    view.restart(np.array([True]))
    return view


def drawn(view: Egocentric, plane: int, agent: int = 0) -> list[str]:
    rows = BitWindow(PLANES, 5, 5).unpack(view.features()["ahead"])[0, agent, plane]
    return ["".join(".x"[bit] for bit in row) for row in rows.tolist()]


def test_walls_agents_and_path_are_turned_by_hand() -> None:
    """Agent 0 walks right and then down, which is its right: nothing is mirrored, right is up."""
    world = StubWorld(HALL, [(1, 1), (3, 2)], [(3, 3), (2, 2)])
    view = around(world)
    walls, others, lower, path, before = (drawn(view, plane) for plane in range(PLANES))
    # Columns of the map, from right to left, are the rows of the picture; rows of the map its columns.
    assert walls == ["xxxx.", "xx...", "xx.xx", "xxxxx", "xxxxx"]
    assert others == ["....."] + ["....x"] + ["....."] * 3
    assert lower == ["....."] * 5
    assert path == ["....x", "..xxx", "..x..", ".....", "....."]
    assert before == ["....."] * 5
    features = view.features()
    # Stay, up, down, left, right of the map: up is to the left of an agent that faces right.
    assert features["turned"][0, 0].tolist() == [0, 3, 4, 2, 1]
    own = features["own"][0, 0].tolist()
    assert own[:5] == [0, -1, 1, 1, 1]  # staying, the planned move, walls
    assert own[5:12] == [0] * 7  # no last move, not refused, not waiting
    np.testing.assert_allclose(own[12:15], [2 / 4, 2 / 4, 4 / 12])  # two ahead, two to the right
    np.testing.assert_allclose(own[15:], [0, 1 / 5], rtol=1e-6)
    # Agent 1 faces up: nothing is turned. Agent 0, whose number is lower, is two rows above and one to the left.
    assert drawn(view, 2, agent=1) == drawn(view, 1, agent=1) == [".x..."] + ["....."] * 4


def turn(drawing: list[str], cells: list[tuple[int, int]], quarter_turns: int, mirrored: bool):
    """A square drawing and cells of it, turned and mirrored."""
    size = len(drawing)
    index = np.arange(size * size).reshape(size, size)
    index = np.rot90(index[:, ::-1] if mirrored else index, quarter_turns)
    letters = np.array([list(row) for row in drawing]).reshape(-1)[index]
    places = {int(old): divmod(new, size) for new, old in enumerate(index.reshape(-1))}
    return ["".join(row) for row in letters], [places[r * size + c] for r, c in cells]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarter_turns", range(4))
def test_the_same_situation_looks_the_same_from_all_sides(quarter_turns: int, mirrored: bool) -> None:
    cells = [(1, 1), (3, 2), (3, 3), (2, 2)]
    seen = around(StubWorld(HALL, cells[:2], cells[2:])).features()
    drawing, places = turn(HALL, cells, quarter_turns, mirrored)
    features = around(StubWorld(drawing, places[:2], places[2:])).features()
    assert torch.equal(features["ahead"][0, 0], seen["ahead"][0, 0])
    torch.testing.assert_close(features["own"][0, 0], seen["own"][0, 0])
    # The move that is up in the picture leads to where the path goes on.
    up = features["turned"][0, 0].tolist().index(1)
    (row, column), (_, second) = places[0], turn(HALL, [(1, 2)], quarter_turns, mirrored)
    assert (row + MOVES[up][0], column + MOVES[up][1]) == second[0]


def test_the_last_move_and_where_others_stood_are_turned_too() -> None:
    """Both walk along a row: agent 1 comes towards agent 0, which looks to the left."""
    world = StubWorld(["......"] * 2, [(0, 4), (0, 0)], [(0, 0), (0, 5)])
    view = around(world)
    world.move(torch.tensor([[3, 4]]))
    world.refused[0, 1] = True
    view._guidance.advance()
    view.advance()
    others, before = drawn(view, 1), drawn(view, 4)
    assert others[0] == "..x.." and before == ["....."] * 5  # two cells ahead; it was out of sight before
    own = view.features()["own"][0]
    assert own[0, 5:10].tolist() == [0, 1, 0, 0, 0]  # it walked on
    assert own[1, 10] == 1 and own[0, 10] == 0
    world.move(torch.tensor([[0, 0]]))
    view._guidance.advance()
    view.advance()
    assert drawn(view, 4)[0] == "..x.."
    assert view.features()["own"][0, 0, 11] == pytest.approx(1 / 5)


def test_features_lie_in_their_spaces_and_moves_are_permuted() -> None:
    guidance = {"kind": "follower", "egocentric": True, "forget": 0.1, "lane": 20.0, "open_lane": 2.0}
    world = LifelongMapf(MapfConfig(agents=20, map_pool=2, horizon=6, guidance=guidance), 3)
    spaces = world.enable_plan()
    timestep = world.reset(5)
    for _ in range(8):
        features = world.plan().features
        for name in ("ahead", "own", "turned"):
            for shown in features[name].flatten(0, 1):
                assert spaces[name].contains(shown.numpy()), name
        assert torch.equal(features["turned"].sort(-1).values.long(), torch.arange(5).expand(3, 20, 5))
        timestep = world.step(random_actions(timestep))
    saved, seen = world.snapshot(), world.plan().features
    world.step(random_actions(timestep))
    world.restore(saved)
    for name, feature in world.plan().features.items():
        assert torch.equal(feature, seen[name]), name


def test_who_has_left_sees_nothing_and_is_not_seen() -> None:
    world = StubWorld(HALL, [(1, 1), (2, 2)], [(3, 3), (1, 1)])
    view = around(world)
    assert drawn(view, 1) != ["....."] * 5
    world.alive[0, 1] = False
    view._guidance.advance()
    view.advance()
    features = view.features()
    assert drawn(view, 1) == ["....."] * 5
    assert not features["ahead"][0, 1].any() and not features["own"][0, 1].any()
    assert features["turned"][0, 1].tolist() == [0, 1, 2, 3, 4]
