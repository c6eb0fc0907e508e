"""Fuel and emissions against SUMO's own figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.emissions import add_emissions, emissions_reference
from scenarios.cav_merging.sumo.networks import find_network
from scenarios.cav_merging.sumo.vehicle_types import type_name, vehicle_types
from scenarios.cav_merging.world import CavMerging


def test_fuel_and_emissions_are_sumos(sumo, tmp_path) -> None:
    """At speeds and accelerations of all kinds, coasting, creeping and standing among them."""
    types = tmp_path / "types.add.xml"
    types.write_text(vehicle_types())
    options = [f"--net-file={find_network('merge')}", f"--additional-files={types}", "--step-length=0.1"]
    sumo.start(["sumo", *options, "--no-warnings=true"])
    sumo.route.add("way", ["main", "merge", "after"])
    draw, vehicle = np.random.default_rng(0), sumo.vehicle
    compared = 0
    for k in range(400):
        name, speed, accel = f"car{k}", draw.choice([0.3, 1.0, 2.5, 5.0, 12.0, 20.0, 30.0]), draw.uniform(-3.0, 3.0)
        vehicle.add(name, "way", typeID=type_name(0), departSpeed=str(speed), departPos="10")
        vehicle.setSpeedMode(name, 0)
        sumo.simulation.step()
        vehicle.setSpeed(name, max(0.0, speed + 0.1 * accel))
        sumo.simulation.step()
        v, a = vehicle.getSpeed(name), vehicle.getAcceleration(name)
        asked = (vehicle.getFuelConsumption(name), vehicle.getCO2Emission(name), vehicle.getNOxEmission(name))
        vehicle.remove(name)
        sums = np.zeros(3)
        add_emissions(v, a, 2.0, sums)
        assert sums / 2.0 == pytest.approx(asked, rel=1e-9, abs=1e-9), (v, a)
        plain = emissions_reference(torch.tensor([v], dtype=torch.float64), torch.tensor([a], dtype=torch.float64))
        assert plain[:, 0].tolist() == pytest.approx(asked, rel=1e-9, abs=1e-9)
        compared += asked[0] > 0
    assert 150 < compared < 390


def test_a_steady_car_burns_what_its_polynomial_says() -> None:
    env = CavMerging(CavConfig(cavs=1, humans=0), 1)
    timestep = env.reset(0)
    env.traffic.v[0, 0] = env.traffic.target[0, 0] = 20.0
    for _ in range(20):
        timestep = env.step(torch.ones(1, 6, dtype=torch.int64))
    figures = {name: float(value[0]) for name, value in env.current().metrics.items()}
    # (837.22 - 41.39 * 20 + 2.504 * 400) mg/s over 20 m/s.
    assert figures["fuel_g_per_km"] == pytest.approx((3014 - 149 * 20 + 9.014 * 400) / 3.6 / 20, rel=1e-5)
    assert figures["nox_mg_per_km"] == pytest.approx((4.336 - 0.3204 * 20 + 0.01371 * 400) / 3.6 / 20 * 1000, rel=1e-5)
    assert timestep.metrics["co2_g_per_km"].shape == (1,)
