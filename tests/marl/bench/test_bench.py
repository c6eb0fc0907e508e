"""Rows, exponents, parts and the command of ``marl bench``; two programs side by side."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_scenario import TINY

from marl.bench import bench
from marl.bench.clock import PeakMemory, Stopwatch, memory_bandwidth
from marl.bench.rows import Row, exponent, readable, rounded, write_rows
from marl.bench.sides import Side, compare, environment, ratio_row
from marl.cli import main
from marl.errors import UserError
from marl.scenario import Axis, Benchmark

SIZES = Axis("cells", {4: {"world.length": 4}, 8: {"world.length": 8}})
MEASURED = replace(
    TINY,
    benchmark=Benchmark(
        settings={"copies": 3, "algorithm.rollout": 4, "coordination.guidance.enabled": False},
        steps=5,
        axes={"length": SIZES},
        alone=lambda env: lambda actions: env.step(actions),
        state_bytes=lambda env: 600,
    ),
)
NAME = "test_bench:MEASURED"


def test_exponents_by_hand() -> None:
    assert exponent([1, 10, 100], [5, 50, 500]) == pytest.approx(1.0)
    assert exponent([2, 4, 8], [7, 7, 7]) == pytest.approx(0.0)
    assert exponent([2, 4], [1, 4]) == pytest.approx(2.0)
    assert math.isnan(exponent([2], [1]))


def test_rows_as_they_are_written(tmp_path: Path) -> None:
    row = Row("world alone", "agent-steps per CPU-second", 1234567.0, "a processor", 1, {"repeats": [1.23456, 2]})
    write_rows(tmp_path / "rows.json", [row])
    assert json.loads((tmp_path / "rows.json").read_text()) == {
        "schema_version": 1,
        "rows": [
            {
                "name": "world alone",
                "unit": "agent-steps per CPU-second",
                "value": 1235000.0,
                "device": "a processor",
                "threads": 1,
                "work": {"repeats": [1.235, 2]},
            }
        ],
    }
    assert rounded({"a": [0.123456]}) == {"a": [0.1235]}
    assert [readable(x) for x in (1_460_613.0, 1403.0, 0.29)] == ["1.46 M", "1.4 k", "0.29"]


def test_the_parts_of_a_world_and_its_training() -> None:
    """Two agents, three copies: 5 steps of the world and 4 of a rollout; bytes are those of the tensors."""
    seen: list[tuple[str, int, int]] = []
    rows = bench(NAME, repeats=2, seconds=0.0, progress=lambda *moment: seen.append(moment))
    names = [row.name for row in rows]
    assert names == ["world alone", "world with observations", "policy and critic", "update", "end to end"]
    by_name = {row.name: row for row in rows}
    assert all(row.value > 0 and len(row.work["repeats"]) == 2 and row.threads == 1 for row in rows)
    # int64 actions of two agents in three copies, and the declared 600 bytes of state.
    assert by_name["world alone"].work["bytes_per_agent_step"] == (3 * 2 * 8 + 600) / 6
    assert set(by_name["end to end"].work["shares"]) >= {"world", "policy", "update"}
    assert sum(by_name["end to end"].work["shares"].values()) == pytest.approx(1.0)
    assert seen[-1][1] == seen[-1][2] == 10


def test_running_through_sizes() -> None:
    rows = bench(NAME, parts=("world",), vary="length", repeats=1, seconds=0.0)
    assert [row.work.get("vary") for row in rows] == [4, 4, 8, 8, None, None]
    assert [row.work["size"] for row in rows[::2]] == ["4 cells", "8 cells", "cells 4 to 8"]
    assert [row.unit for row in rows[4:]] == ["power of cells"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vary": "lenght"}, "tiny has no size 'lenght' to run through; did you mean 'length'?"),
        ({"parts": ("wrold",)}, "there is no part 'wrold'; did you mean 'world'?"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        bench(NAME, **options)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    words = ["bench", NAME, "--parts", "world,update", "--repeats", "1", "--seconds", "0", "--json", str(file)]
    assert main(words) == 0
    assert "world with observations" in capsys.readouterr().out
    assert [row["name"] for row in json.loads(file.read_text())["rows"]][-1] == "update"
    assert main(["bench", NAME, "--device", "cuda:99"]) == 2
    assert "torch sees no such GPU" in capsys.readouterr().err


def test_time_and_memory_are_measured() -> None:
    watch = Stopwatch(torch.device("cpu"))
    began = watch.now()
    sum(range(100_000))
    assert watch.now() > began and watch.unit == "CPU-second"
    assert 1e8 < memory_bandwidth(torch.device("cpu"), repeats=1) < 1e12


def test_the_peak_of_memory_is_seen_and_forgotten() -> None:
    peak = PeakMemory(torch.device("cpu"))
    peak.restart()
    held = torch.ones(128 << 20, dtype=torch.uint8)
    assert peak.bytes() > 100 << 20
    del held
    peak.restart()
    assert peak.bytes() < 64 << 20


def _program(figure: str) -> Side:
    return Side([sys.executable, "-c", f"print('chatter'); print('{figure}')"], lambda said: said["median"])


def test_two_programs_take_turns() -> None:
    turns: list[str] = []
    ours, theirs, _, said = compare(_program('{"median": 6}'), _program('{"median": 2}'), 2, turns.append)
    assert (ours, theirs, said["median"]) == ([6.0, 6.0], [2.0, 2.0], 2)
    assert [turn.split(": ")[1] for turn in turns] == ["ours 6", "theirs 2", "theirs 2", "ours 6"]
    row = ratio_row("x", "y", "z", [6.0, 9.0, 3.0], [2.0, 2.0, 4.0], target=2.0)
    assert row["ratio"] == 3.0 and row["ratios"] == [3.0, 4.5, 0.75] and row["target"] == 2.0


@pytest.mark.parametrize(("figure", "message"), [("{}", "did not print the figures"), ("[", "did not print")])
def test_a_program_that_says_something_else(figure: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _program(figure).measure()


def test_a_program_that_fails(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="failed: no luck"):
        Side([sys.executable, "-c", "raise SystemExit('no luck')"], lambda said: 1.0).measure()
    with pytest.raises(UserError, match="--anchors"):
        environment(tmp_path / "env", tmp_path / "requirements.txt")
