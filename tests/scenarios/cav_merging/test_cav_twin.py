"""The twin's dynamics: against SUMO itself, against plain tensor operations, and by hand."""

import copy
import math

import numpy as np
import pytest
import torch

from marl.seeding import fold
from scenarios.cav_merging.config import SIM_STEP_S, CavConfig
from scenarios.cav_merging.drivers import P
from scenarios.cav_merging.geometry import RoadGeometry
from scenarios.cav_merging.spawn import arrive, draw_roads, first_cars
from scenarios.cav_merging.sumo.networks import NETWORKS, build_network
from scenarios.cav_merging.sumo.simulator import type_name, vehicle_types
from scenarios.cav_merging.traffic import R, Traffic, road_row
from scenarios.cav_merging.twin import kernels, reference
from scenarios.cav_merging.twin.backend import TwinBackend
from scenarios.cav_merging.twin.lane_changing import change_lanes
from scenarios.cav_merging.twin.neighbours import neighbours


def cars(
    *rows: tuple[int, float, float], assertive: float = 1.0, geometry: RoadGeometry = NETWORKS["merge"]
) -> Traffic:
    """One copy with human drivers at (lane, x, v), who wish to drive 26 m/s; no agents."""
    slots = len(rows)
    traffic = Traffic.empty(1, 0, slots, torch.device("cpu"))
    for i, (lane, x, v) in enumerate(rows):
        traffic.lane[0, i], traffic.x[0, i], traffic.v[0, i] = lane, x, v
    traffic.present[:] = True
    traffic.road[0] = torch.tensor(road_row(geometry))
    row = {
        P.DESIRED: 26.0,
        P.TAU: 1.0,
        P.ACCEL: 2.6,
        P.DECEL: 4.5,
        P.MIN_GAP: 2.5,
        P.LENGTH: 5.0,
        P.ASSERTIVE: assertive,
    }
    for column, value in row.items():
        traffic.drivers[..., column] = value
    traffic.drivers[..., P.TWO_SQRT] = 2.0 * math.sqrt(2.6 * 4.5)
    return traffic


def advance(traffic: Traffic, decisions: int = 1, accel: float = 0.0, turn: int = 0):
    backend = TwinBackend(1, traffic.x.shape[1], torch.device("cpu"), int(traffic.road[:, R.MAIN_LANES].max()) + 1)
    outcome = None
    for _ in range(decisions):
        accels, turns = torch.full_like(traffic.v, accel), torch.full_like(traffic.lane, turn)
        outcome = backend.advance(traffic, accels, turns)
        traffic.step += 1
    return outcome


@pytest.mark.parametrize("car_following", ["idm", "krauss"])
def test_single_lane_car_following_equals_sumo(sumo, tmp_path, car_following):
    """12 cars behind a leader whose speed swings between 14 and 26 m/s, 60 s open loop: positions within 1e-6 m."""
    geometry = RoadGeometry(merge_start=3000.0, merge_end=3100.0, road_end=3200.0, speed_limit=30.0)
    net, types = tmp_path / "long.net.xml", tmp_path / "types.add.xml"
    build_network(geometry, net)
    types.write_text(vehicle_types(car_following))
    sumo.start(["sumo", f"--net-file={net}", f"--additional-files={types}", f"--step-length={SIM_STEP_S}",
                "--no-step-log=true", "--insertion-checks=none", "--no-warnings=true"])  # fmt: skip
    sumo.route.add("main", ["main", "merge", "after"])
    traffic = cars(*((1, 400.0 - 30.0 * i, 20.0) for i in range(12)), geometry=geometry)
    for i in range(12):
        x = float(traffic.x[0, i])
        sumo.vehicle.add(f"{i}", "main", typeID=type_name(0), departPos=repr(x), departSpeed="20")
        sumo.vehicle.setSpeedFactor(f"{i}", 26.0 / 30.0)
    sumo.vehicle.setSpeedMode("0", 0)
    sumo.simulationStep()
    traffic.controlled[0, 0] = True
    traffic.drivers[..., P.KRAUSS] = float(car_following == "krauss")
    order = np.arange(12)[None].copy()
    unused = np.zeros((1, 12), bool)
    worst = 0.0
    for step in range(600):
        goal = 20.0 + 6.0 * math.sin(0.05 * step)
        sumo.vehicle.setSpeed("0", goal)
        sumo.simulationStep()
        accel = np.full((1, 12), (goal - float(traffic.v[0, 0])) / SIM_STEP_S)
        kernels.advance(
            *(getattr(traffic, name).numpy() for name in ("x", "v", "gained", "look", "lane", "present", "controlled")),
            traffic.drivers.numpy(), traffic.road.numpy(), accel, np.zeros((1, 12), np.int64), traffic.step.numpy(),
            order, unused.copy(), unused.copy(), np.zeros(1, np.int64), 1, SIM_STEP_S,
        )  # fmt: skip
        worst = max(worst, *(abs(sumo.vehicle.getLanePosition(f"{i}") - float(traffic.x[0, i])) for i in range(12)))
    assert worst < 1e-6


@pytest.mark.parametrize("case", ["timid", "lanes", "flow", "krauss", "slow ramp"])
def test_compiled_form_equals_tensor_form(case):
    options = {
        "timid": {},
        "lanes": {"drivers": "mixed", "geometry": {"main_lanes": (1, 3), "merge": (60, 200)}},
        "krauss": {"car_following": "krauss"},
        "slow ramp": {"drivers": "mixed"},
        "flow": {"flow_veh_per_h": 2500, "max_cavs": 12, "max_humans": 12},
    }[case]
    config = CavConfig(**options)
    key = fold(torch.arange(12), 7)
    road = draw_roads(config, key)
    if case == "slow ramp":
        road[:, R.RAMP_LIMIT] = torch.linspace(12.0, 36.0, 12, dtype=torch.float64)
    compiled = first_cars(config, key, road)
    plain = copy.deepcopy(compiled)
    lanes = config.geometry.main_lanes[1] + 1
    backend = TwinBackend(12, config.vehicles, torch.device("cpu"), lanes)
    random = torch.Generator().manual_seed(0)
    for step in range(80):
        shape = compiled.x.shape
        accel = (torch.rand(shape, generator=random, dtype=torch.float64) - 0.6) * 4
        turn = torch.randint(-1, 2, shape, generator=random)
        if step == 40:
            compiled.controlled[:] = plain.controlled[:] = False
        outcome = backend.advance(compiled, accel, turn)
        for tensor, other in zip(outcome, reference.advance(plain, accel, turn, lanes), strict=False):
            assert torch.equal(tensor, other)
        for traffic in (compiled, plain):
            traffic.step += 1
            if case == "flow":
                arrive(config, key, traffic, ~traffic.present)
        for name, tensor in compiled.tensors().items():
            other = plain.tensors()[name]
            if tensor.dtype == torch.float64 and tensor.shape[:2] == shape:
                torch.testing.assert_close(tensor[plain.present], other[plain.present], rtol=1e-9, atol=1e-12)
            else:
                assert torch.equal(tensor, other), name


def test_neighbour_tables_by_hand():
    traffic = cars((1, 100.0, 20.0), (0, 90.0, 20.0), (1, 80.0, 20.0), (0, 110.0, 20.0))
    traffic.present[0, 2] = False
    lead, follow = reference.neighbours(traffic.x, traffic.lane, traffic.present, 2)
    assert lead[0].tolist() == [[3, -1], [3, 0], [-1, -1], [-1, -1]]
    assert follow[0].tolist() == [[1, -1], [-1, -1], [-1, -1], [1, 0]]
    order = np.arange(4)[None].copy()
    compiled = np.zeros((2, 1, 4, 2), np.int64)
    neighbours(traffic.x.numpy(), traffic.lane.numpy(), traffic.present.numpy(), order, *compiled)
    assert compiled[0, 0].tolist() == lead[0].tolist()
    assert compiled[1, 0].tolist() == follow[0].tolist()


def test_a_driver_with_no_gap_stops_at_the_lane_end():
    """A queue stands beside the whole acceleration lane: the ramp car stops before its end and waits."""
    queue = [(1, 515.0 - 7.5 * k, 0.0) for k in range(26)]
    traffic = cars((0, 300.0, 20.0), *queue)
    traffic.drivers[0, 1:, P.DESIRED] = 1e-6
    outcome = advance(traffic, 100)
    assert traffic.lane[0, 0] == 0
    assert 415.0 < float(traffic.x[0, 0]) < 420.0
    assert float(traffic.v[0, 0]) < 0.5
    assert not bool(outcome.crashed.any())


def test_an_assertive_driver_takes_a_gap_that_a_timid_one_refuses():
    """Follower 12 m behind at the same speed: 20 m (1 s) are secure, a third of that is enough for the assertive."""
    for assertive, lane in ((1.0, 0), (3.0, 1)):
        traffic = cars((0, 330.0, 20.0), (1, 313.0 - 2.5, 20.0), assertive=assertive)
        advance(traffic)
        assert int(traffic.lane[0, 0]) == lane


def test_the_follower_on_the_main_road_makes_room():
    alone, asked = cars((1, 290.0, 24.0)), cars((1, 290.0, 24.0), (0, 321.0, 21.0))
    advance(alone, 5)
    advance(asked, 5)
    assert float(asked.v[0, 0]) < float(alone.v[0, 0]) - 1.0


def test_overlap_is_a_collision_and_takes_both_cars_off():
    traffic = cars((1, 100.0, 10.0), (1, 94.0, 20.0), (1, 50.0, 10.0))
    traffic.controlled[0, :2] = True
    outcome = advance(traffic)
    assert outcome.crashed[0].tolist() == [True, True, False]
    assert outcome.hits.tolist() == [1]
    assert traffic.present[0].tolist() == [False, False, True]


def test_running_off_the_acceleration_lane_is_a_collision():
    traffic = cars((0, 418.0, 25.0))
    traffic.controlled[:] = True
    outcome = advance(traffic)
    assert outcome.crashed[0].tolist() == [True]
    assert outcome.hits.tolist() == [1]


def test_a_commanded_lane_change_onto_another_car_is_a_collision():
    traffic = cars((0, 350.0, 20.0), (1, 352.0, 20.0))
    traffic.controlled[0, 0] = True
    outcome = advance(traffic, turn=1)
    assert outcome.crashed[0].tolist() == [True, True]


def test_leaving_the_road_is_no_collision():
    traffic = cars((1, 519.0, 25.0))
    outcome = advance(traffic)
    assert outcome.left[0].tolist() == [True]
    assert not bool(outcome.crashed.any()) and not bool(traffic.present.any())


def test_two_drivers_do_not_take_the_same_place():
    """A car of the ramp and one of lane 2 would both change to lane 1, side by side: the ramp goes first."""
    for x, second in ((350.0, 2), (280.0, 1)):  # beside each other; far enough behind
        traffic = cars((0, 350.0, 20.0), (2, x, 20.0), (2, x + 15.0, 5.0), geometry=NETWORKS["merge_two_lanes"])
        plain = copy.deepcopy(traffic)
        reference._change_lanes(plain, None, torch.tensor([False]), 3)
        order = torch.argsort(-traffic.x[0]).numpy()
        tables = [table[0].numpy() for table in reference.neighbours(traffic.x, traffic.lane, traffic.present, 3)]
        arrays = (traffic.x, traffic.v, traffic.lane, traffic.controlled, traffic.drivers, traffic.road)
        turn, goals = np.zeros(3, np.int64), np.zeros(3, np.int64)
        change_lanes(order, 3, *(array[0].numpy() for array in arrays), turn, *tables, goals, False, False, 0.1)
        assert traffic.lane[0].tolist() == plain.lane[0].tolist() == [1, second, 2]


def test_a_faster_driver_overtakes_where_there_is_a_second_lane():
    traffic = cars((1, 100.0, 10.0), (1, 60.0, 25.0), geometry=NETWORKS["merge_two_lanes"])
    traffic.drivers[0, 0, P.DESIRED] = 10.0
    advance(traffic, 40)
    assert float(traffic.x[0, 1]) > float(traffic.x[0, 0])
