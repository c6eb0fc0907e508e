"""A user's route file: rates by hand, and what is refused."""

from __future__ import annotations

import gzip
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import ValidationError

from marl.errors import UserError
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.sumo.networks import find_network
from scenarios.cav_merging.sumo.routes import read_demand
from scenarios.cav_merging.world import CavMerging


class Road(NamedTuple):
    """A network's edges as demands see them."""

    entrances: Mapping[str, Collection[str]] = {"main": ("up", "main"), "ramp": ("street", "ramp")}
    exits: Collection[str] = ()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "demand.rou.xml"
    path.write_text(f"<routes>{text}</routes>")
    return path


@pytest.mark.parametrize(
    ("text", "main", "ramp"),
    [
        ('<flow id="a" from="main" to="after" vehsPerHour="1200"/>', 1200, 0),
        ('<flow id="a" from="main" period="4"/><flow id="b" from="ramp" period="exp(0.1)"/>', 900, 360),
        ('<flow id="a" from="ramp" probability="0.1"/>', 0, 360),
        ('<flow id="a" from="main" begin="0" end="600" number="100"/>', 600, 0),
        ('<route id="r" edges="ramp merge after"/><flow id="a" route="r" perHour="300"/>', 0, 300),
        ('<vehicle depart="0"><route edges="main merge"/></vehicle><trip from="ramp" depart="7.2"/>', 500, 500),
        # The same at seven in the morning.
        ('<trip from="main" depart="25200"/><trip from="ramp" depart="7:00:07.2"/>', 500, 500),
        ('<flow id="a" from="main" begin="25200" end="28800" number="1200"/>', 1200, 0),
    ],
)
def test_rates_by_hand(tmp_path: Path, text: str, main: float, ramp: float) -> None:
    assert read_demand([write(tmp_path, text)], Road()) == pytest.approx((main, ramp))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no flow"),
        ('<flow id="a" from="elsewhere" period="3"/>', "comes neither by the main road nor by the ramp"),
        ('<flow id="a" from="main"/>', "says no rate"),
        ('<flow id="a" from="main" period="0"/>', "positive"),
        ('<flow id="a" from="main" vehsPerHour="many"/>', "vehsPerHour='many'"),
        ('<flow id="a" from="main" period="3" end="60"/><flow id="b" from="ramp" period="3"/>', "different times"),
        ('<trip id="a" from="main" depart="0"/>', "at once"),
        ('<trip id="a" from="main" depart="triggered"/>', "depart='triggered'"),
        (
            '<flow from="main" period="3" end="9"/><trip from="ramp" depart="10"/><trip from="ramp" depart="20"/>',
            "over when its vehicles depart",
        ),
        ("<flow", "XML"),
    ],
)
def test_what_is_no_constant_demand_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        read_demand([write(tmp_path, text)], Road())
    assert "\n" not in str(caught.value)


def test_trips_that_leave_by_an_off_ramp_are_refused(tmp_path: Path) -> None:
    """They would be driven straight on without a word."""
    road = Road(exits=("exit",))
    for way in ('from="main" to="exit"', 'route="r"'):
        text = f'<route id="r" edges="ramp merge exit"/><flow id="a" {way} vehsPerHour="1200"/>'
        with pytest.raises(UserError, match=r"'a' of .* leaves the road by the off-ramp 'exit'"):
            read_demand([write(tmp_path, text)], road)
    for to in ("after", "city", "merge"):
        read_demand([write(tmp_path, f'<flow id="a" from="main" to="{to}" vehsPerHour="1200"/>')], road)


def test_rates_of_several_files_and_of_mixed_routes(tmp_path: Path) -> None:
    more = tmp_path / "more.rou.xml"
    more.write_text('<routes><flow id="b" from="street" to="after" vehsPerHour="100"/></routes>')
    mixed = '<routeDistribution id="d"><route id="x" edges="up main merge" probability="3"/>'
    mixed += '<route id="y" edges="ramp merge" probability="1"/></routeDistribution>'
    mixed += '<flow id="a" route="d" vehsPerHour="400"/>'
    assert read_demand([write(tmp_path, mixed), more], Road()) == pytest.approx((300, 200))
    named = '<route id="x" edges="main"/><route id="y" edges="ramp"/>'
    named += (
        '<routeDistribution id="d" routes="x y" probabilities="0.9 0.1"/><flow id="a" route="d" vehsPerHour="100"/>'
    )
    assert read_demand([write(tmp_path, named)], Road()) == pytest.approx((90, 10))


def test_compressed_demand_and_a_network_in_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, '<flow id="a" from="main" vehsPerHour="1200"/>')
    packed = tmp_path / "demand.rou.xml.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_demand([packed], Road()) == read_demand([path], Road())
    with pytest.raises(UserError, match="a network, not a route file"):
        read_demand([find_network("merge")], Road())


def test_an_episode_without_cars_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, '<flow id="a" from="main" vehsPerHour="20"/>')
    nobody = {"cavs": 0, "humans": 0, "net": "merge", "routes": str(path), "flow_veh_per_h": 1}
    with pytest.raises(UserError, match=r"nobody would drive: the demand .* brings 0\.11 cars in the 20 s"):
        CavMerging(CavConfig(**nobody), 1)
    with pytest.raises(UserError, match=r"world\.flow_veh_per_h brings"):
        CavMerging(CavConfig(cavs=0, humans=0, flow_veh_per_h=1), 1)
    CavMerging(CavConfig(**nobody | {"horizon": 2000}), 1)


def test_the_world_takes_the_demand(tmp_path: Path) -> None:
    path = write(tmp_path, '<flow id="a" from="main" vehsPerHour="1500"/><flow id="b" from="ramp" vehsPerHour="500"/>')
    env = CavMerging(CavConfig(net="merge", routes=str(path)), 2)
    assert env.config.flow_veh_per_h == (2000.0, 2000.0)
    assert env.config.ramp_share == 0.25
    env.reset(0)
    assert env.traffic.flow[:, 0].tolist() == [2000.0, 2000.0]


def test_routes_need_a_network() -> None:
    with pytest.raises(ValidationError, match="routes needs net"):
        CavConfig(routes="demand.rou.xml")
