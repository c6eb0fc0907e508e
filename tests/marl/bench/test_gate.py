"""The throughput gate: its statistics on hand-made figures, and the gate itself on the platform's own loop."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from marl.api import configure
from marl.bench.clock import processor
from marl.bench.gate import interleaved, read_ratios, slower, store_ratios, upper_bound
from marl.bench.worlds import Part, WorldParts
from marl.coordination.pipeline import Pipeline
from marl.envs.batched import TimeStep
from marl.scenario import load_scenario
from scenarios.lifelong_mapf.raw_loop import RawLoop, loop_config

STORED = Path(__file__).parents[2] / "golden" / "throughput.json"
SMALL = {"copies": 32, "agents": 24, "size": 16, "rollout": 8, "minibatches": 2}


def measured_ratios(wanted: Sequence[str] = ("world", "guidance", "end")) -> dict[str, list[float]]:
    """World, guidance and training of lifelong MAPF over the plainest loop, all at one small size."""
    torch.set_num_threads(1)
    world = loop_config(SMALL["agents"], SMALL["size"]).model_dump(mode="json") | {"horizon": 32}
    settings = {
        "copies": SMALL["copies"],
        "algorithm.rollout": SMALL["rollout"],
        "algorithm.epochs": 1,
        "algorithm.minibatches": SMALL["minibatches"],
    }
    config = configure("lifelong_mapf", base=settings | {f"world.{key}": value for key, value in world.items()})
    parts = WorldParts(load_scenario("lifelong_mapf"), config, 32).parts(tuple(wanted))
    chosen = {part.name: part for part in parts if part.name != "world alone"}
    raw = RawLoop(**SMALL)
    return interleaved({name: partial(_rate, part) for name, part in chosen.items()}, raw.rate)


def _rate(part: Part) -> float:
    """Agent-steps per CPU-second over at least a fiftieth of one: a pass of the world alone takes milliseconds."""
    spent = steps = 0.0
    while spent < 0.02:
        spent += part.run()
        steps += part.steps()
    return steps / spent


@pytest.fixture(scope="module")
def measured() -> dict[str, list[float]]:
    return measured_ratios()


def test_the_bound_of_equal_ratios_is_that_ratio() -> None:
    assert upper_bound([2.0] * 9) == pytest.approx(2.0)


def test_the_bound_by_hand() -> None:
    """Logarithms 0 (five times) and 1 (four times): mean 4/9, variance (5 * 16/81 + 4 * 25/81) / 8 = 5/18."""
    ratios = [1.0] * 5 + [math.e] * 4
    assert upper_bound(ratios) == pytest.approx(math.exp(4 / 9 + 1.860 * math.sqrt(5 / 18) / 3))
    with pytest.raises(ValueError, match="9 ratios"):
        upper_bound([1.0] * 8)


def test_a_quarter_slower_beyond_doubt_is_named() -> None:
    stored = {"a": 4.0, "b": 4.0, "c": 4.0}
    measured = {"a": [2.9] * 9, "b": [3.1] * 9, "c": [1.0, 9.0] * 4 + [2.0]}
    (fault,) = slower(stored, measured)
    assert fault.startswith("a makes 2.9 times")


def test_turns_cancel_a_load_that_comes_and_goes() -> None:
    """Part and yardstick become slower together, a bit from one call to the next; the ratios stay what they are."""
    speed = iter([1.0] * 2 + [30.0 - call for call in range(19)])
    ratios = interleaved({"part": lambda: 3.0 * next(speed)}, lambda: next(speed))
    assert ratios == {"part": [pytest.approx(3.0)] * 9}


def test_ratios_are_kept_by_processor(tmp_path: Path) -> None:
    file = tmp_path / "ratios.json"
    store_ratios(file, "one", {"a": [1.0, 2.0, 9.0]})
    store_ratios(file, "two", {"a": [5.0] * 3})
    assert read_ratios(file, "one") == {"a": 2.0} and read_ratios(file, "two") == {"a": 5.0}
    assert read_ratios(file, "three") is None
    assert json.loads(file.read_text())["schema_version"] == 1


def test_it_is_as_fast_as_it_was(
    measured: dict[str, list[float]], record_property: Callable[[str, object], None]
) -> None:
    """Stored ratios are those of ``scripts/assets/record_throughput.py``; other processors only report theirs."""
    record_property("ratios", {name: statistics.median(ratios) for name, ratios in measured.items()})
    stored = read_ratios(STORED, processor())
    if stored is None:
        pytest.skip(f"no ratios are stored for {processor()}: scripts/assets/record_throughput.py stores them")
    assert not slower(stored, measured)


def test_an_artificial_slowdown_is_seen(measured: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking takes half as long again and two milliseconds more: the part that does so fails, the other does not."""
    view = Pipeline.view

    def dawdling(self: Pipeline, timestep: TimeStep) -> TimeStep:
        began = time.process_time()
        seen = view(self, timestep)
        until = time.process_time() + 0.5 * (time.process_time() - began) + 0.002
        while time.process_time() < until:
            pass
        return seen

    monkeypatch.setattr(Pipeline, "view", dawdling)
    stored = {name: statistics.median(ratios) for name, ratios in measured.items()}
    (fault,) = slower(stored, measured_ratios(("world", "guidance")))
    assert fault.startswith("world with guidance")
