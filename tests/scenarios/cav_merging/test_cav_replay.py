"""SUMO's merges replayed in the twin: the same cars, who change lanes when SUMO's drivers did."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scenarios.cav_merging.config import SIM_STEP_S, CavConfig
from scenarios.cav_merging.drivers import ASSERTIVE, STYLES, P
from scenarios.cav_merging.sumo.networks import find_network, read_network
from scenarios.cav_merging.sumo.simulator import type_name, vehicle_types
from scenarios.cav_merging.traffic import Traffic
from scenarios.cav_merging.twin import kernels
from scenarios.cav_merging.world import CavMerging

NETWORK = read_network(find_network("merge"))
TAUS = [style[0] for style in STYLES.values()]


def start(sumo, folder: Path, traffic: Traffic) -> list[int]:
    """The twin's cars in SUMO, driven by SUMO's drivers; returns their slots."""
    types = folder / "types.add.xml"
    types.write_text(vehicle_types())
    options = [f"--net-file={NETWORK.path}", f"--additional-files={types}", f"--step-length={SIM_STEP_S}"]
    options += ["--no-step-log=true", "--insertion-checks=none", "--no-warnings=true", "--time-to-teleport=-1"]
    sumo.start(["sumo", *options])
    for role in ("main", "ramp"):
        sumo.route.add(role, NETWORK.route(role))
    slots = traffic.present[0].nonzero()[:, 0].tolist()
    for i in slots:
        x, driver = float(traffic.x[0, i]), traffic.drivers[0, i]
        role, index, offset = NETWORK.place(int(traffic.lane[0, i]), x)
        style = int(np.abs(np.array(TAUS) - float(driver[P.TAU])).argmin())
        kind = type_name(2 * style + int(driver[P.ASSERTIVE] == ASSERTIVE))
        place = {"departLane": str(index), "departPos": repr(x - offset), "departSpeed": repr(float(traffic.v[0, i]))}
        sumo.vehicle.add(str(i), role, typeID=kind, **place)
        sumo.vehicle.setSpeedFactor(str(i), float(driver[P.DESIRED]) / NETWORK.geometry.speed_limit)
    sumo.simulationStep()
    return slots


def advance(traffic: Traffic, order: np.ndarray) -> None:
    """The twin's cars drive for 0.1 s."""
    slots = traffic.x.shape[1]
    names = ("x", "v", "gained", "look", "lane", "present", "controlled", "drivers", "road")
    flags = np.zeros((2, 1, slots), bool)
    kernels.advance(
        *(getattr(traffic, name).numpy() for name in names), np.zeros((1, slots)), np.zeros((1, slots), np.int64),
        traffic.step.numpy(), order, flags[0], flags[1], np.zeros(1, np.int64), 1, SIM_STEP_S,
    )  # fmt: skip


def replay(sumo, folder: Path, drivers: str, seed: int) -> tuple[list[float], int]:
    """The largest deviation of each car in 20 s, m, and how often a car of SUMO's merged."""
    world = CavMerging(CavConfig(drivers=drivers), 1)
    world.hand_over()
    world.reset(seed)
    traffic = world.traffic
    slots = start(sumo, folder, traffic)
    order = np.arange(traffic.x.shape[1])[None].copy()
    worst, lanes = dict.fromkeys(slots, 0.0), {i: int(traffic.lane[0, i]) for i in slots}
    merges = 0
    for _ in range(199):
        sumo.simulationStep()
        advance(traffic, order)
        on_road = set(sumo.vehicle.getIDList())
        for i in slots:
            place = NETWORK.lanes.get(sumo.vehicle.getLaneID(str(i))) if str(i) in on_road else None
            if place is None or not bool(traffic.present[0, i]):
                continue
            merges += place[0] > 0 and lanes[i] == 0
            traffic.lane[0, i] = lanes[i] = place[0]
            x = place[1] + sumo.vehicle.getLanePosition(str(i))
            worst[i] = max(worst[i], abs(x - float(traffic.x[0, i])))
    sumo.close()
    return list(worst.values()), merges


@pytest.mark.parametrize("drivers", ["assertive", "timid"])
def test_replayed_merges_keep_cars_within_half_a_metre(sumo, tmp_path, drivers):
    """20 s of 24 episodes: every car but one in fifty within 0.5 m, the median car within a centimetre.

    What is left: SUMO does not see cars beyond a braking distance, so a threshold may be met a step earlier or later.
    """
    torch.set_num_threads(1)
    worst, merges = [], 0
    for seed in range(100, 124):
        deviations, merged = replay(sumo, tmp_path, drivers, seed)
        worst += deviations
        merges += merged
    assert merges > 10
    assert float(np.median(worst)) < 0.01
    assert float(np.mean(np.array(worst) < 0.5)) > 0.98
    assert max(worst) < 2.0
