"""Roads as users have them, in SUMO: found, driven, and their trips and lights obeyed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from roads import ROADS, build_road

from marl.cli import main
from marl.errors import UserError
from scenarios.cav_merging.baselines import BASELINES
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.sumo.inputs import sumo_demand, sumo_inputs
from scenarios.cav_merging.sumo.networks import read_network
from scenarios.cav_merging.sumo.protocol import Column, Command, Op, Status
from scenarios.cav_merging.sumo.simulator import SumoSimulator
from scenarios.cav_merging.world import CavMerging

pytestmark = pytest.mark.usefixtures("needs_sumo")

#: kind of road -> (what the ramp becomes, its lowest limit, edges on the way from the ramp).
FOUND = {
    "slow_ramp": ("acceleration lane", 20.0, ("ramp", "merge", "after")),
    "zipper": ("zipper", 20.0, ("ramp", "merge", "after")),
    "added_lane": ("added lane", 20.0, ("ramp", "merge", "after")),
    "point": ("point merge", 20.0, ("ramp", "after")),
    "split": ("acceleration lane", 15.0, ("street", "ramp", "merge", "merge2", "after")),
    "wide_ramp": ("acceleration lane", 20.0, ("ramp", "merge", "after")),
    "weaving": ("weaving", 20.0, ("ramp", "merge", "after")),
    "meter": ("acceleration lane", 20.0, ("street", "ramp", "merge", "after")),
    "left_hand": ("acceleration lane", 20.0, ("ramp", "merge", "after")),
    "mph": ("acceleration lane", 20.12, ("ramp", "merge", "after")),
    "from_the_left": ("acceleration lane", 20.0, ("ramp", "merge", "after")),
}


@pytest.fixture(scope="module")
def roads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("roads")
    return {kind: build_road(kind, folder) for kind in ROADS}


def routes(folder: Path, text: str) -> str:
    path = folder / "demand.rou.xml"
    path.write_text(f"<routes>{text}</routes>")
    return str(path)


FLOWS = (
    '<flow id="m" from="main" to="after" begin="0" end="900" vehsPerHour="900" departLane="random" departSpeed="max"/>'
    '<flow id="r" from="ramp" to="after" begin="0" end="900" vehsPerHour="500" departSpeed="max"/>'
)


def test_every_kind_of_road_is_found_by_itself(roads: dict[str, Path]) -> None:
    for kind, (becomes, ramp_limit, way) in FOUND.items():
        network = read_network(roads[kind])
        assert (network.kind, network.ways["ramp"]) == (becomes, way), kind
        assert network.geometry.ramp_limit == pytest.approx(ramp_limit), kind
        again = read_network(roads[kind], network.edges)
        assert (again.geometry, again.lanes) == (network.geometry, network.lanes), kind
    assert read_network(roads["mph"]).geometry.speed_limit == pytest.approx(29.06, abs=0.01)
    assert read_network(roads["from_the_left"]).side == -1


def test_lanes_lie_where_sumo_has_them(roads: dict[str, Path]) -> None:
    wide = read_network(roads["wide_ramp"])
    assert [wide.lanes[f"merge_{i}"][0] for i in (1, 2, 3)] == [0, 1, 2]
    assert "merge_0" not in wide.lanes and "ramp_0" not in wide.lanes and wide.lanes["ramp_1"][0] == 0
    left = read_network(roads["from_the_left"])
    assert [left.lanes[f"merge_{i}"][0] for i in range(3)] == [2, 1, 0]
    assert left.beside("merge_2", 1) == 1 and left.beside("merge_2", -1) is None and left.beside("merge_0", 1) is None
    point = read_network(roads["point"])
    # From the stop line on, cars of the ramp are on the main lane.
    ramp_way = next(name for name, place in point.lanes.items() if place == (1, point.geometry.merge_end))
    assert ramp_way.startswith(":j") and point.geometry.merge_end - point.geometry.merge_start == 100.0
    added = read_network(roads["added_lane"])
    assert added.lanes["after_0"][0] == 0 and added.geometry.merge_end > added.geometry.road_end


@pytest.mark.parametrize("kind", sorted(FOUND.keys() - {"slow_ramp", "mph", "left_hand"}))
def test_every_kind_of_road_is_driven_to_its_end(roads: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """The rule merges without a fault, the demand being the file's."""
    text = FLOWS.replace('from="ramp"', 'from="street"') if kind == "meter" else FLOWS
    options = {"backend": "sumo", "net": str(roads[kind]), "routes": routes(tmp_path, text), "warm_up_s": 20.0}
    config = CavConfig.model_validate(options | {"max_cavs": 30, "max_humans": 30, "horizon": 120, "drivers": "mixed"})
    env = CavMerging(config, 1)
    try:
        driver = BASELINES["fifo_merge"](env)
        timestep = env.reset(3)
        assert int(env.traffic.present.sum()) > 0  # the warm-up filled the road
        while not bool(timestep.done[0]):
            timestep = env.step(driver.act(timestep))
            assert torch.isfinite(timestep.observation).all() and float(timestep.observation.abs().max()) <= 1.0
        figures = {name: float(value[0]) for name, value in timestep.metrics.items()}
    finally:
        env.close()
    assert figures["flow_veh_per_h"] > 300
    assert figures["mean_speed_mps"] > 8
    if kind != "point":  # SUMO's human drivers wait there, and the rule goes in front of them
        assert figures["collision_rate"] == 0
        assert figures["merged_share"] > 0.2


def simulator(net: Path, folder: Path, text: str, **options: object) -> tuple[SumoSimulator, np.ndarray]:
    """A simulation of a demand in this process, with 10 + 10 slots, and its actions."""
    base = {"backend": "sumo", "net": str(net), "max_cavs": 10, "max_humans": 10, "cav_share": 1.0}
    config = CavConfig.model_validate(base | {"routes": routes(folder, text)} | options)
    demand = sumo_demand(config, sumo_inputs(config))
    one = SumoSimulator(read_network(net), 20, True, demand=demand)
    return one, np.zeros(one.layout.actions.shape)


def begin(one: SumoSimulator, actions: np.ndarray, share: float = 1.0) -> None:
    one.reset(7)
    actions[-1, [Command.OP, Command.X, Command.CONTROLLED]] = 1.0, share, 1.0
    one.step(actions, 0)
    actions[:] = 0.0


def drive(one: SumoSimulator, actions: np.ndarray, accel: float) -> Iterator[np.ndarray]:
    """Steer slots 0 to 9 with one acceleration; the cars after each decision."""
    actions[:10, Command.OP], actions[:10, Command.CONTROLLED], actions[:10, Command.ACCEL] = Op.CONTROL, 1.0, accel
    outputs = {name: np.zeros(block.shape, block.dtype) for name, block in one.layout.outputs.items()}
    while True:
        one.step(actions, 0)
        one.write(outputs)
        yield outputs["cars"]


def test_automated_cars_stop_at_red(roads: dict[str, Path], tmp_path: Path, sumo) -> None:
    one, actions = simulator(roads["meter"], tmp_path, '<trip id="c" from="street" to="after" depart="0"/>')
    try:
        begin(one, actions)
        network = read_network(roads["meter"])
        (light, _, line), lights = network.lights["street_0"], sumo.trafficlight
        lights.setRedYellowGreenState(light, "r")
        cars = drive(one, actions, 2.0)
        for _ in range(150):
            car = next(cars)[0]
            assert car[Column.X] < line or car[Column.STATUS] != Status.PRESENT
        assert car[Column.V] < 0.1 and car[Column.X] > line - 3.0
        lights.setRedYellowGreenState(light, "G")
        for _ in range(30):
            car = next(cars)[0]
        assert car[Column.X] > line + 20.0
    finally:
        one.close()


def test_trips_end_where_they_are_sent(roads: dict[str, Path], tmp_path: Path, sumo) -> None:
    """Cars to the off-ramp are SUMO's, automated or not, and leave our road there."""
    text = '<trip id="out" from="main" to="exit" depart="0" departLane="1"/>'
    text += '<trip id="on" from="main" to="after" depart="3"/>'
    one, actions = simulator(roads["weaving"], tmp_path, text)
    try:
        begin(one, actions)
        seen: set[str] = set()
        cars = drive(one, actions, 1.0)
        for _ in range(250):
            found = next(cars)
            seen |= {sumo.vehicle.getRoadID(name) for name in sumo.vehicle.getIDList() if name == "out"}
            left = found[:, Column.STATUS] == Status.LEFT
            if left[10]:
                assert sumo.vehicle.getSpeedMode("out") == 31
        assert "exit" in seen and "after" not in seen
    finally:
        one.close()


def test_a_car_commits_itself_at_a_point_merge(roads: dict[str, Path], tmp_path: Path, sumo) -> None:
    one, actions = simulator(roads["point"], tmp_path, '<trip id="c" from="ramp" to="after" depart="0"/>')
    try:
        begin(one, actions)
        network = read_network(roads["point"])
        cars = drive(one, actions, 0.5)
        while next(cars)[0, Column.X] < network.geometry.merge_start:
            pass
        actions[0, Command.TURN] = 1
        assert next(cars)[0, Column.LANE] == 1
        assert sumo.vehicle.getRoadID("c") == "ramp"
        actions[0, Command.TURN] = 0
        for _ in range(50):
            car = next(cars)[0].copy()
            assert car[Column.LANE] == 1
        assert car[Column.X] > network.geometry.merge_end + 20.0 and car[Column.STATUS] == Status.PRESENT
    finally:
        one.close()


def test_which_cars_are_automated(roads: dict[str, Path], tmp_path: Path, sumo) -> None:
    """By vType where some are named, else by a share and the car's name, whatever the order."""
    types = (
        '<vTypeDistribution id="d"><vType id="robot" probability="0.5" tau="0.9"/><vType id="man" probability="0.5"/>'
    )
    types += '</vTypeDistribution><routeDistribution id="w"><route id="x" edges="main merge after" probability="0.5"/>'
    types += '<route id="y" edges="ramp merge after" probability="0.5"/></routeDistribution>'
    text = types + '<flow id="f" type="d" route="w" begin="7:00:00" end="8:00:00" vehsPerHour="1800"/>'
    one, actions = simulator(roads["slow_ramp"], tmp_path, text, cav_types="robot", warm_up_s=8.0)
    outputs = {name: np.zeros(block.shape, block.dtype) for name, block in one.layout.outputs.items()}
    try:
        begin(one, actions, share=0.0)
        assert sumo.simulation.getTime() > 25_200
        one.write(outputs)
        names = sumo.vehicle.getIDList()
        robots = sum(sumo.vehicle.getTypeID(name) == "robot" for name in names)
        new = outputs["arrivals"][:, 0] > 0
        assert 0 < robots < len(names) and new[:10].sum() == robots and new[10:].sum() == len(names) - robots
        assert (outputs["arrivals"][:10, 3][new[:10]] == 0.9).all()
    finally:
        one.close()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('<vType id="s" laneChangeModel="SL2015"/>' + FLOWS, r"vType 's' .* SL2015 \(sublanes\)"),
        ('<flow id="f" from="main" to="nowhere" vehsPerHour="9"/>', "SUMO does not run .* 'nowhere'"),
        ('<trip id="t" from="main" to="after" depart="900"/><trip id="u" from="main" to="after" depart="999"/>', None),
        ("", "nobody would drive"),
    ],
)
def test_what_sumo_refuses_is_said_before_anything_starts(roads, tmp_path, text, sentence) -> None:
    options = {"backend": "sumo", "net": str(roads["slow_ramp"]), "routes": routes(tmp_path, text)}
    config = CavConfig.model_validate(options)
    if sentence is None:  # Episodes begin with the demand.
        assert sumo_demand(config, sumo_inputs(config)).begin == 900.0
        return
    with pytest.raises(UserError, match=sentence):
        CavMerging(config, 1)


def test_too_few_slots_are_said(roads: dict[str, Path], tmp_path: Path) -> None:
    options = {"backend": "sumo", "net": str(roads["slow_ramp"]), "routes": routes(tmp_path, FLOWS), "warm_up_s": 30.0}
    env = CavMerging(CavConfig.model_validate(options | {"cav_share": 0.0, "max_humans": 2, "humans": 1}), 1)
    try:
        with pytest.raises(UserError, match=r"raise world\.max_humans \(2\)"):
            env.reset(0)
    finally:
        env.close()


def test_a_set_up_names_its_files(roads: dict[str, Path], tmp_path: Path, capsys) -> None:
    net = roads["slow_ramp"]
    routes(tmp_path, FLOWS)
    setup = tmp_path / "my.sumocfg"
    files = '<input><net-file value="{}"/><route-files value="demand.rou.xml"/></input>'
    text = f"<sumoConfiguration>{files}{{}}</sumoConfiguration>"
    setup.write_text(text.format(net, '<time><begin value="60"/><step-length value="0.5"/></time>'))
    inputs = sumo_inputs(CavConfig(net=str(setup)))
    assert (inputs.net, inputs.routes, inputs.begin) == (net, (tmp_path / "demand.rou.xml",), 60.0)
    assert inputs.ignored == ("step-length=0.5",)
    assert main(["inspect", "cav_merging", "--net", str(setup)]) == 0
    shown = capsys.readouterr().out
    assert "acceleration lane that ends" in shown and "2 flow" in shown and "step-length=0.5" in shown
    assert "--edges ramp=ramp,main=main,merge=merge,after=after" in shown
    setup.write_text(text.format(net, '<processing><lateral-resolution value="0.8"/></processing>'))
    with pytest.raises(UserError, match=r"sublanes \(lateral-resolution\): they cannot be run"):
        sumo_inputs(CavConfig(net=str(setup)))


def test_compare_says_how_far_the_twin_is(roads: dict[str, Path], tmp_path: Path, capsys) -> None:
    net = ["--net", str(roads["slow_ramp"]), "--routes", routes(tmp_path, FLOWS)]
    assert main(["compare", "cav_merging", *net, "--preset", "flow", "--horizon", "150", "--seeds", "0:2"]) == 0
    shown = capsys.readouterr().out
    assert "the twin" in shown and "mean_speed_mps" in shown and "is near SUMO" in shown
    assert main(["compare", "lifelong_mapf"]) == 2
    assert "has one world" in capsys.readouterr().err


def test_a_network_without_a_merge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.net.xml"
    path.write_text('<net><edge id="a"><lane id="a_0" index="0" length="9" speed="9"/></edge></net>')
    with pytest.raises(UserError, match="has no merge: nowhere do exactly two edges become one"):
        read_network(path)
