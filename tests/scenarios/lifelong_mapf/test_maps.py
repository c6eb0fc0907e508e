"""Grids, map files and where maps come from."""

from __future__ import annotations

import os
from pathlib import Path

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.errors import UserError
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps import sources as maps
from scenarios.lifelong_mapf.maps import tasks
from scenarios.lifelong_mapf.maps.formats import (
    load_movingai,
    load_pogema_set,
    parse_pogema,
    save_movingai,
    save_pogema,
)
from scenarios.lifelong_mapf.maps.grid import GridMap, check_capacity, components, largest_component
from scenarios.lifelong_mapf.world import LifelongMapf

GOLDEN = Path(__file__).parents[2] / "golden" / "pogema"


def grid_of(*rows: str) -> np.ndarray:
    return np.array([[char == "#" for char in row] for row in rows])


def error_of(action, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        action(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def movingai(tmp_path: Path, *rows: str, height: int | str | None = None, width: int | str | None = None) -> Path:
    path = tmp_path / "small.map"
    height = len(rows) if height is None else height
    width = len(rows[0]) if width is None else width
    path.write_text("\n".join(["type octile", f"height {height}", f"width {width}", "map", *rows]) + "\n")
    return path


def pogema(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "set.yaml"
    path.write_text(text)
    return path


def parse(path: Path, name: str = "one") -> GridMap:
    return parse_pogema(name, load_pogema_set(path)[name], path).grid


# --- grids


def test_components_are_numbered_in_reading_order():
    labels = components(grid_of(".#.", "##.", "..#"))
    assert labels.tolist() == [[0, -1, 1], [-1, -1, 1], [2, 2, -1]]
    assert labels.dtype == np.int32


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_components_equal_those_of_networkx(seed: int, height: int, width: int):
    blocked = np.random.default_rng(seed).random((height, width)) < 0.4
    graph = networkx.grid_2d_graph(height, width)
    graph.remove_nodes_from(map(tuple, np.argwhere(blocked)))
    labels = components(blocked)
    assert (labels == -1).tolist() == blocked.tolist()
    found = {frozenset(map(tuple, np.argwhere(labels == label).tolist())) for label in range(labels.max() + 1)}
    assert found == {frozenset(cells) for cells in networkx.connected_components(graph)}


def test_largest_component():
    assert largest_component(grid_of(".#..", ".#..")).tolist() == [[False, False, True, True]] * 2
    assert not largest_component(grid_of("##")).any()


def test_starts_keep_only_cells_that_can_be_served():
    blocked = grid_of("...#.", "##.#.", "..##.")
    goals = np.zeros_like(blocked)
    goals[0, 0] = goals[0, 1] = goals[0, 4] = goals[2, 3] = True
    grid = GridMap("g", blocked, ~blocked, goals)
    # The right column has one goal only and the lower left pair none; [2, 3] is a wall.
    assert np.argwhere(grid.starts).tolist() == [[0, 0], [0, 1], [0, 2], [1, 2]]
    assert np.argwhere(grid.goals).tolist() == [[0, 0], [0, 1], [0, 4]]
    assert (grid.height, grid.width) == (3, 5)


def test_a_grid_is_read_only_and_independent_of_its_source():
    blocked = grid_of("...")
    grid = GridMap.open_everywhere("g", blocked)
    blocked[0, 0] = True
    assert not grid.blocked.any()
    with pytest.raises(ValueError, match="read-only"):
        grid.starts[0, 0] = False


@pytest.mark.parametrize("rows", [("###",), (".#",), (".#.",)])
def test_a_grid_without_room_is_refused(rows):
    assert "no cell to start from" in error_of(GridMap.open_everywhere, "tight", grid_of(*rows))


def test_capacity():
    grid = GridMap.open_everywhere("small", grid_of("....", ".#.."))
    check_capacity(grid, 7)
    assert error_of(check_capacity, grid, 9) == "map 'small' has 7 free start cells, 9 agents asked: use at most 7"


# --- MovingAI


def test_movingai_symbols(tmp_path):
    grid = load_movingai(movingai(tmp_path, ".GS.", "@OTW"))
    assert grid.blocked.tolist() == [[False] * 4, [True] * 4]
    assert grid.starts.tolist() == grid.goals.tolist() == [[True] * 4, [False] * 4]
    assert grid.name == "small"


@pytest.mark.parametrize(
    ("rows", "size", "sentence"),
    [
        (("...", "..", "..."), {}, "line 6: the row has 2 cells, the rows above have 3"),
        (("...", "...."), {}, "line 6: the row has 4 cells"),
        (("...", "..."), {"height": 3}, "has 2 rows of cells, its header says height 3"),
        (("...", "..."), {"width": 4}, "line 5: the row has 3 cells, the header says width 4"),
        (("...", ".x."), {}, "line 6: 'x' in column 1 is not one of . G S E @ O T W"),
        (("...", ".é."), {}, "line 6: 'é' in column 1"),
        (("...",), {"height": -1}, "line 2: expected 'type octile'"),
        (("...",), {"height": 10**12}, "line 2: expected 'type octile'"),
        (("." * 5000,), {}, "at most 4096 a side"),
    ],
)
def test_movingai_faults_name_file_and_line(tmp_path, rows, size, sentence):
    path = movingai(tmp_path, *rows, **size)
    message = error_of(load_movingai, path)
    assert message.startswith(str(path))
    assert sentence in message


def test_movingai_needs_its_header(tmp_path):
    path = tmp_path / "a.map"
    path.write_text("height 2\nmap\n..\n..\n")
    assert "no MovingAI header" in error_of(load_movingai, path)
    path.write_text("type octile\nheight 0\nwidth 0\nmap\n")
    assert error_of(load_movingai, path).endswith("holds no cells")


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    path = movingai(tmp_path, "..", ".@")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_movingai(path).blocked.tolist() == [[False, False], [False, True]]


def test_movingai_round_trip(tmp_path):
    grid = maps.RandomMap(height=7, width=9).generate(3)
    save_movingai(grid, tmp_path / "r.map")
    assert np.array_equal(load_movingai(tmp_path / "r.map").blocked, grid.blocked)


# --- POGEMA sets


def test_pogema_without_marks_opens_every_free_cell(tmp_path):
    grid = parse(pogema(tmp_path, "one: |-\n  ..#\n  ...\n"))
    assert grid.blocked.tolist() == [[False, False, True], [False] * 3]
    assert np.array_equal(grid.starts, ~grid.blocked)
    assert np.array_equal(grid.goals, ~grid.blocked)


def test_pogema_marks(tmp_path):
    grid = parse(pogema(tmp_path, "one: |-\n  .@$!#\n"))
    assert grid.blocked.tolist() == [[False, False, False, False, True]]
    assert grid.starts.tolist() == [[True, True, False, False, False]]
    assert grid.goals.tolist() == [[True, False, True, False, False]]


def test_pogema_letters(tmp_path):
    path = pogema(tmp_path, "one: |-\n  a.B\n  b.A\n")
    parsed = parse_pogema("one", load_pogema_set(path)["one"], path)
    assert parsed.starts == {"a": (0, 0), "b": (1, 0)}
    assert parsed.goals == {"a": (1, 2), "b": (0, 2)}
    assert parsed.grid.starts.all()
    assert parsed.grid.goals.all()


def test_pogema_round_trip(tmp_path):
    grids = [maps.WarehouseMap(shelf_rows=2).generate(0), maps.MazeMap(size=9).generate(1)]
    save_pogema(grids, tmp_path / "s.yaml")
    for grid, again in zip(grids, maps.load_maps(str(tmp_path / "s.yaml")), strict=True):
        assert again.name == grid.name
        for field in ("blocked", "starts", "goals"):
            assert np.array_equal(getattr(again, field), getattr(grid, field))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("one: |-\n  ...\n  ..\n", "line 3: the row has 2 cells, the rows above have 3"),
        ("two: |-\n  ..\n\none: |-\n  ..\n  .%\n", "line 6: '%' in column 1"),
        ("one: |-\n  a.A\n  @..\n", "mixes letters with '@ $ !'"),
        ("one: |-\n  a..\n", "needs both 'a' (a start) and 'A' (its goal)"),
        ("one: |-\n  aaA\n", "line 2: the letter 'a' comes twice"),
        ("one: |-\n  @@@\n", "no cell to start from"),
        ("one: ''\n", "map 'one' is empty"),
        ("one: |-\n  ..\none: |-\n  ..\n", "line 3: map 'one' comes twice"),
        ("one: [1, 2]\n", "line 1: a map set holds only"),
        ("- ..\n", "line 1: a map set holds only"),
        ("..\n", "line 1: a map set holds only"),
        ("one:\n  two:\n    ..\n", "line 2: a map set holds only"),
        ("one: &a |-\n  ..\ntwo: *a\n", "line 3: a map set holds only"),
        ("one: |-\n  ..\n---\ntwo: |-\n  ..\n", "a map set holds only"),
        ("one: 'open\n", "the map set cannot be read"),
        ("\x01: a\n", "the map set cannot be read"),
        ("# nothing\n", "holds no map"),
        ("\n", "is empty"),
    ],
)
def test_pogema_faults_name_file_and_line(tmp_path, text, sentence):
    path = pogema(tmp_path, text)
    message = error_of(parse, path)
    assert sentence in message
    assert str(path) in message or "no cell to start from" in message


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert "line 1" in error_of(load_pogema_set, pogema(tmp_path, "\n".join(lines)))


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_junk_is_a_user_error(tmp_path_factory, data: bytes):
    folder = tmp_path_factory.getbasetemp()
    for name, header in (
        ("j.map", b"type octile\nheight 2\nwidth 2\nmap\n"),
        ("j.yaml", b"one: |-\n  "),
        ("k.map", b""),
    ):
        path = folder / name
        path.write_bytes(header + data)
        try:
            maps.load_maps(str(path))
        except UserError as error:
            assert str(path) in str(error) or "map '" in str(error)


# --- specifications


def test_a_map_of_a_set_is_named_after_a_colon(tmp_path):
    path = pogema(tmp_path, "one: |-\n  ..\ntwo: |-\n  ...\n")
    assert maps.load_map(f"{path}:two").width == 3
    assert [grid.name for grid in maps.load_maps(str(path))] == ["one", "two"]
    assert f"{path} holds 2 maps, name one of them" in error_of(maps.load_map, str(path))
    assert "has no map 'twoo'; did you mean 'two'?" in error_of(maps.load_map, f"{path}:twoo")


def test_an_unknown_map_gets_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "map 'mase' does not exist; did you mean 'maze'?" in error_of(maps.load_map, "mase")
    (tmp_path / "hall.map").write_text("")
    assert "did you mean 'hall.map'?" in error_of(maps.load_map, "hal.map")
    for spec in ("", " ", "a\0b", "x" * 5000, str(tmp_path / "no" / "such.map")):
        assert "does not exist" in error_of(maps.load_map, spec)


def test_what_is_no_map_file_is_refused(tmp_path):
    assert "is a folder" in error_of(maps.load_map, str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert "is no map file" in error_of(maps.load_map, str(tmp_path / "a.png"))
    (tmp_path / "b.map").write_bytes(b"\x89PNG")
    assert "byte 0 is not UTF-8" in error_of(maps.load_map, str(tmp_path / "b.map"))
    os.truncate(tmp_path / "b.map", 30_000_000)
    assert "is larger than 20,000,000 bytes" in error_of(maps.load_map, str(tmp_path / "b.map"))


def test_shipped_maps():
    assert maps.shipped_maps() == ["maze", "random", "rooms", "warehouse"]
    for name in maps.shipped_maps():
        assert maps.load_map(name).name == name
    shelves = maps.load_map("warehouse")
    assert not (shelves.starts & shelves.goals).any()


@pytest.mark.parametrize(
    ("name", "generator"),
    [
        ("random", maps.RandomMap(size=20, density=0.2)),
        ("maze", maps.MazeMap(size=21)),
        ("rooms", maps.RoomsMap(rows=4, columns=4, room=5)),
        ("warehouse", maps.WarehouseMap(shelf_rows=8, shelf_columns=3, shelf_length=10)),
    ],
)
def test_shipped_maps_are_what_the_generators_make(name, generator):
    assert np.array_equal(maps.load_map(name).blocked, generator.generate(1).blocked)


@pytest.mark.parametrize("name", ["random", "maze", "warehouse"])
def test_golden_maps_are_those_of_the_recordings(name):
    grid = maps.load_map(f"{GOLDEN / 'maps.yaml'}:{name}")
    recording = np.load(GOLDEN / f"restart-soft-{name}-10.npz")
    assert np.array_equal(recording["blocked"], grid.blocked)
    assert grid.starts.reshape(-1)[recording["positions"][0]].all()
    assert grid.goals.reshape(-1)[recording["goals"]].all()


def test_a_map_is_looked_for_once(tmp_path, monkeypatch):
    """Whatever is asked for: a map, one of a set, tasks that name one, letters."""
    asked = []
    find = maps.find_map

    def counting(spec, beside=None):
        asked.append(spec)
        return find(spec, beside)

    for module in (maps, tasks):
        monkeypatch.setattr(module, "find_map", counting)
    (tmp_path / "s.yaml").write_text("one: |-\n  aA.\n  ...\ntwo: |-\n  ...\n  ...\n")
    agents = '[{"start": [0, 0], "goals": [[0, 1]]}]'
    (tmp_path / "t.json").write_text(f'{{"schema_version": 1, "map": "s.yaml:two", "agents": {agents}}}')
    for options in (
        {"map": "random"},
        {"map": f"{tmp_path}/s.yaml:two", "agents": 2},
        {"tasks": f"{tmp_path}/t.json"},
        {"tasks": f"{tmp_path}/s.yaml:one"},
        {"tasks": f"{tmp_path}/t.json", "map": f"{tmp_path}/s.yaml:two"},
    ):
        asked.clear()
        LifelongMapf(MapfConfig(**options), 1)
        assert len(asked) == 1
