"""Traffic lights: the same world as sumo-rl's own, its rules by hand, and what is refused."""

from __future__ import annotations

import gzip
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
from marl.envs.sumo.install import sumo_binary
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
        ({"net": "mine.net.xml"}, "mine.net.xml cannot be read"),
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


def cross(folder: Path, kind: str, demand: str) -> SignalConfig:
    """One light of a kind where two roads cross, made by netgenerate, and a demand on them; 60 s."""
    net, routes = folder / "cross.net.xml", folder / "cross.rou.xml"
    words = ["--grid", "--grid.x-number=1", "--grid.y-number=1", "--grid.attach-length=100", "--no-turnarounds"]
    words += ["--default-junction-type=traffic_light", f"--tls.default-type={kind}", f"--output-file={net}"]
    subprocess.run([str(sumo_binary("netgenerate")), *words], check=True, capture_output=True, timeout=60)
    routes.write_text(f"<routes>{demand}</routes>")
    return SignalConfig(net=str(net), routes=str(routes), seconds=60)


def play(config: SignalConfig, policy: str = "max_pressure") -> dict[str, float]:
    """The figures of one episode."""
    world = TrafficSignals(config, 1)
    try:
        rule = BASELINES[policy](world)
        timestep = world.reset(0)
        for _ in range(config.horizon):
            timestep = world.step(rule.act(timestep))
        return {name: float(value) for name, value in timestep.metrics.items()}
    finally:
        world.close()


FLOW = '<flow id="a" from="left0A0" to="A0right0" begin="{begin}" end="{end}" period="4"/>'


@pytest.mark.parametrize("kind", ["actuated", "delay_based"])
def test_lights_that_switch_by_themselves_obey(tmp_path: Path, kind: str) -> None:
    """SUMO's step never ends if an actuated light gets sumo-rl's program."""
    demand = FLOW.format(begin=0, end=100)
    switching = play(cross(tmp_path, kind, demand))
    assert switching == play(cross(tmp_path, "static", demand))
    assert switching["arrived_veh"] > 5.0


def test_files_may_be_compressed(tmp_path: Path) -> None:
    config = cross(tmp_path, "actuated", FLOW.format(begin=0, end=100))
    for name in (config.net, config.routes):
        Path(f"{name}.gz").write_bytes(gzip.compress(Path(name).read_bytes()))
    packed = config.model_copy(update={"net": f"{config.net}.gz", "routes": f"{config.routes}.gz"})
    assert play(packed) == play(config)


def test_an_episode_begins_with_its_demand(tmp_path: Path) -> None:
    """Cars that depart from 7:00 on, as in RESCO's Cologne: not a table of zeros."""
    early = play(cross(tmp_path, "static", FLOW.format(begin=0, end=100)))
    late = cross(tmp_path, "static", FLOW.format(begin=25_200, end=25_300))
    assert find_network(late).begin_s == 25_200
    assert play(late) == early
    assert find_network(cross(tmp_path, "static", FLOW.format(begin="7:00:00", end="7:01:00"))).begin_s == 25_200
    assert find_network(cross(tmp_path, "static", FLOW.format(begin=30, end=100))).begin_s == 0
    package = importlib.util.find_spec("sumo_rl")
    assert package is not None and package.origin is not None
    resco = Path(package.origin).parent / "nets" / "RESCO" / "cologne1"
    cologne = SignalConfig(net=str(resco / "cologne1.net.xml"), routes=str(resco / "cologne1.rou.xml"))
    assert find_network(cologne).begin_s == 25_205


@pytest.mark.parametrize(
    ("demand", "begin", "sentence"),
    [
        ("", None, "no flow, trip or vehicle"),
        (FLOW.format(begin=0, end=100), 200, "nobody in .* departs from 200 to 260 s"),
        (FLOW.format(begin=500, end=600), 0, "first car departs at 500 s"),
        ('<trip id="a" depart="70" from="left0A0" to="A0right0"/>', 0, "departs from 0 to 60 s"),
    ],
)
def test_an_episode_without_cars_is_refused(tmp_path: Path, demand: str, begin: int | None, sentence: str) -> None:
    config = cross(tmp_path, "static", demand).model_copy(update={"begin_s": begin})
    with pytest.raises(UserError, match=sentence):
        find_network(config)


def test_another_file_is_named_for_what_it_is(tmp_path: Path) -> None:
    config = cross(tmp_path, "static", FLOW.format(begin=0, end=100))
    setup = tmp_path / "my.sumocfg"
    files = '<net-file value="cross.net.xml"/><route-files value="cross.rou.xml"/>'
    setup.write_text(f"<configuration><input>{files}</input></configuration>")
    with pytest.raises(UserError, match=r"SUMO configuration.*give --net .*cross\.net\.xml --routes .*cross\.rou\.xml"):
        find_network(config.model_copy(update={"net": str(setup), "routes": None}))
    with pytest.raises(UserError, match="route file, not a network"):
        find_network(config.model_copy(update={"net": config.routes}))
    with pytest.raises(UserError, match="network, not a route file"):
        find_network(config.model_copy(update={"routes": config.net}))


def test_without_sumo_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"marl-platform\[sumo\]"):
        find_network(SignalConfig())


@pytest.mark.parametrize("options", [{"seconds": 1001}, {"yellow_s": 5}])
def test_impossible_times_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        SignalConfig(**options)
