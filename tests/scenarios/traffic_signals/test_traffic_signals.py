"""Traffic lights: the same world as sumo-rl's own, its rules by hand, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from marl.config import read_layer, resolve
from marl.errors import UserError
from marl.systems.registry import load_system
from scenarios.traffic_signals.baselines import BASELINES, FixedTime, MaxPressure
from scenarios.traffic_signals.config import SignalConfig
from scenarios.traffic_signals.networks import NETWORKS, find_network
from scenarios.traffic_signals.scenario import SCENARIO
from scenarios.traffic_signals.world import METRICS, TrafficSignals

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def needs_sumo_rl() -> None:
    if importlib.util.find_spec("sumo_rl") is None or importlib.util.find_spec("libsumo") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("sumo-rl is missing; install the extra 'sumo'")
        pytest.skip("sumo-rl is not installed")


@pytest.fixture
def grid() -> Iterator[TrafficSignals]:
    world = TrafficSignals(SignalConfig(seconds=100), 1)
    yield world
    world.close()


def alternate(world: TrafficSignals, step: int) -> torch.Tensor:
    return torch.full((world.copies, world.spec.n_agents), step // 3 % 2)


#: sumo-rl alone, told the same, prints what its first light sees and all rewards.
ALONE = """
import json, os, sys
import sumo
os.environ["SUMO_HOME"], os.environ["LIBSUMO_AS_TRACI"] = sumo.SUMO_HOME, "1"
import sumo_rl
net, routes, seed = sys.argv[1:]
env = sumo_rl.SumoEnvironment(net_file=net, route_file=routes, num_seconds=100, sumo_warnings=False)
env.reset(seed=int(seed))
rows = []
for step in range(19):
    seen, paid, _, _ = env.step({light: step // 3 % 2 for light in env.ts_ids})
    rows.append([seen[env.ts_ids[0]].tolist(), [paid[light] for light in env.ts_ids]])
print("ROWS" + json.dumps(rows))
"""


def test_it_is_sumo_rl_step_by_step(grid: TrafficSignals) -> None:
    network = find_network(grid_config := SignalConfig(seconds=100))
    assert grid_config.horizon == grid.spec.horizon == 20
    grid.reset(3)
    words = [sys.executable, "-c", ALONE, str(network.net), str(network.routes), str(grid.pool.seeds[0])]
    printed = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    for step, (seen, paid) in enumerate(json.loads(printed.rpartition("ROWS")[2])):
        timestep = grid.step(alternate(grid, step))
        assert torch.equal(timestep.observation[0, 0], torch.tensor(seen))
        assert torch.equal(timestep.reward[0], torch.tensor(paid))


def test_the_simulation_is_libsumo_inside_the_worker(grid: TrafficSignals) -> None:
    """With traci in its place, each worker would have a process of SUMO as its child."""
    pid = grid.pool.pids[0]
    children = [Path(f"/proc/{pid}/task/{task.name}/children") for task in Path(f"/proc/{pid}/task").iterdir()]
    assert not any(file.read_text().split() for file in children)


def test_shapes_metrics_and_the_end(grid: TrafficSignals) -> None:
    spec = grid.spec
    assert spec.groups == {"light": tuple(range(16))}
    assert spec.primary_metric == "mean_waiting_s" and set(METRICS) < set(spec.metrics)
    timestep = grid.reset(0)
    assert timestep.observation.shape == (1, 16, 11) and timestep.state.shape == (1, 16 * 11 + 32)
    for step in range(20):
        assert not bool(timestep.done.any())
        timestep = grid.step(alternate(grid, step))
    assert bool(timestep.truncated.all()) and not bool(timestep.terminated.any()) and bool(timestep.done.all())
    figures = {name: float(value) for name, value in timestep.metrics.items()}
    assert 0.0 < figures["arrived_veh"] < 8 * 34
    assert 0.0 < figures["mean_speed_mps"] < 14.0
    # 8 flows of a car every 3 s: the queue's car-seconds, shared by all cars there were.
    assert figures["mean_waiting_s"] == pytest.approx(figures["queue_veh"] * 100.0 / (8 * 34), rel=0.02)


def test_an_episode_is_replayed_from_a_snapshot(grid: TrafficSignals) -> None:
    grid.reset(1)
    for step in range(8):
        grid.step(alternate(grid, step))
    saved = grid.snapshot()
    expected = grid.step(alternate(grid, 8)).observation
    grid.restore(saved)
    assert torch.equal(grid.step(alternate(grid, 8)).observation, expected)


def test_fixed_time_is_the_networks_program(grid: TrafficSignals) -> None:
    """42 s of green and 2 s of yellow are 9 decisions of 5 s."""
    assert grid.programs == ((9, 9),) * 16
    rule = FixedTime(grid)
    still, over = (
        SimpleNamespace(key=torch.zeros(1, dtype=torch.int64), done=torch.tensor([x])) for x in (False, True)
    )
    chosen = [int(rule.act(still)[0, 5]) for _ in range(20)]
    assert chosen == [0] * 9 + [1] * 9 + [0] * 2
    assert int(rule.act(over)[0, 5]) == 0 and [int(rule.act(still)[0, 5]) for _ in range(9)] == [0] * 8 + [1]


def test_max_pressure_takes_the_larger_pressure(grid: TrafficSignals) -> None:
    state = torch.zeros(1, 16 * 11 + 32)
    state[0, 16 * 11 + 2 * 3 : 16 * 11 + 2 * 3 + 2] = torch.tensor([-1.0, 0.5])
    state[0, 16 * 11 + 2 * 7] = 2.0
    chosen = MaxPressure(grid).act(SimpleNamespace(state=state))
    assert chosen[0].tolist() == [int(light == 3) for light in range(16)]


def test_pressure_counts_cars_before_and_behind(grid: TrafficSignals) -> None:
    """At first cars enter at the rim only: nobody has passed a light, so that no pressure is negative."""
    timestep = grid.reset(0)
    assert not bool(timestep.state[0, 16 * 11 :].any())
    timestep = grid.step(torch.zeros(1, 16, dtype=torch.int64))
    pressures = timestep.state[0, 16 * 11 :]
    assert float(pressures.max()) > 0.0 and float(pressures.min()) >= 0.0


def test_presets_resolve() -> None:
    for preset in SCENARIO.preset_names():
        layer = read_layer(SCENARIO.presets / f"{preset}.yaml")
        head = {"scenario": SCENARIO.name, "preset": preset, "system": SCENARIO.system}
        assert resolve(SCENARIO.config, load_system("mappo").config, [head, layer], []).world.net in NETWORKS
    assert set(BASELINES) == {"random", "fixed_time", "max_pressure"}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_named_network_is_in_the_package(name: str) -> None:
    assert find_network(SignalConfig(net=name)).programs


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"net": "4x5"}, "did you mean '4x4'"),
        ({"net": "mine.net.xml"}, "--routes"),
        ({"routes": "nowhere.rou.xml"}, "nowhere.rou.xml"),
    ],
)
def test_files_that_cannot_be_used_are_one_sentence(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        TrafficSignals(SignalConfig(**options), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<net>", "XML"),
        ("<net/>", "no traffic lights"),
        ('<net><tlLogic id="a"><phase state="rr" duration="3"/></tlLogic></net>', "no green phase"),
        ('<net><tlLogic id="a"><phase state="Gr" duration="x"/></tlLogic></net>', "without a readable"),
    ],
)
def test_networks_that_cannot_be_used_are_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    net, routes = tmp_path / "a.net.xml", tmp_path / "a.rou.xml"
    net.write_text(text)
    routes.write_text("<routes/>")
    with pytest.raises(UserError, match=sentence):
        find_network(SignalConfig(net=str(net), routes=str(routes)))


def test_without_sumo_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"marl-platform\[sumo\]"):
        find_network(SignalConfig())


@pytest.mark.parametrize("options", [{"seconds": 1001}, {"yellow_s": 5}])
def test_impossible_times_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        SignalConfig(**options)
