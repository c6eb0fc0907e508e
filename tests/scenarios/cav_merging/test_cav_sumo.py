"""The SUMO backend: same world, same episodes, and what happens when SUMO is not there, dies, or is asked too much."""

import os
import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from virtual_screen import virtual_screen

from marl.api import configure
from marl.envs.workers import WorkerPool
from marl.errors import UserError
from marl.training import checkpoint
from marl.training.checkpoint import CheckpointStore, broken_weight
from marl.training.run import train
from marl.training.tracking import read_metrics
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.sumo.backend import SumoBackend
from scenarios.cav_merging.sumo.networks import NETWORKS, build_network, find_network, read_network
from scenarios.cav_merging.sumo.simulator import Column, Command, Op, Status, SumoSimulator
from scenarios.cav_merging.world import CavMerging

pytestmark = pytest.mark.usefixtures("needs_sumo")

IDLE = 1


@pytest.fixture
def make():
    worlds = []

    def build(backend="sumo", copies=2, **options):
        worlds.append(CavMerging(CavConfig(backend=backend, **options), copies))
        return worlds[-1]

    yield build
    for world in worlds:
        world.close()


def random_actions(timestep, seed):
    mask = timestep.action_mask.float()
    random = torch.Generator().manual_seed(seed)
    return torch.multinomial(mask.flatten(0, 1), 1, generator=random).view(mask.shape[:2])


def test_both_backends_begin_alike_and_stay_alike_until_somebody_merges(make):
    sumo, twin = make(), make("twin")
    a, b = sumo.reset(3), twin.reset(3)
    assert torch.equal(a.observation, b.observation)
    for step in range(30):
        actions = random_actions(b, step)
        a, b = sumo.step(actions), twin.step(actions)
        present = twin.traffic.present
        if not torch.equal(sumo.traffic.lane[present], twin.traffic.lane[present]):
            break
        if bool((twin.traffic.x[present] > 290.0).any()):
            break
        assert torch.equal(sumo.traffic.present, present)
        assert float((sumo.traffic.x - twin.traffic.x)[present].abs().max()) < 1e-6
        assert float((a.reward - b.reward).abs().max()) < 1e-4
    assert step > 5


def test_replayed_episode_stays_within_half_a_metre(make):
    """SUMO's own drivers for 20 s: in 6 episodes no car deviates by 0.5 m, and all merge at the same time."""
    sumo, twin = make(copies=6, drivers="assertive"), make("twin", copies=6, drivers="assertive")
    for world in (sumo, twin):
        world.hand_over()
        world.reset(0)
    idle = torch.full((6, 6), IDLE)
    worst = torch.zeros(6, dtype=torch.float64)
    for _ in range(99):
        sumo.step(idle)
        twin.step(idle)
        both = sumo.traffic.present & twin.traffic.present
        worst = torch.maximum(worst, torch.where(both, (sumo.traffic.x - twin.traffic.x).abs(), 0.0).amax(1))
        assert torch.equal(sumo.traffic.lane[both], twin.traffic.lane[both])
    assert float(worst.max()) < 0.5


@pytest.mark.parametrize("ramp_limit", [20.0, 29.5])
@pytest.mark.parametrize("car_following", ["idm", "krauss"])
def test_a_slow_ramp_is_driven_as_in_sumo(make, tmp_path, ramp_limit, car_following):
    """Cars on the ramp, the first and those that arrive, keep its limit; the first are where SUMO has them."""
    net = tmp_path / "slow.net.xml"
    build_network(replace(NETWORKS["merge"], ramp_limit=ramp_limit), net)
    options = {"net": str(net), "flow_veh_per_h": 2000, "max_cavs": 20, "max_humans": 20, "drivers": "assertive"}
    sumo, twin = (make(name, car_following=car_following, **options) for name in ("sumo", "twin"))
    for world in (sumo, twin):
        world.hand_over()
        world.reset(3)
    first = int(twin.traffic.number[twin.traffic.present].max())
    seen = set()
    for _ in range(60):
        for world in (sumo, twin):
            world.step(torch.full((2, 20), IDLE))
        a, b = sumo.traffic, twin.traffic
        for t in (a, b):
            ramp = t.present & (t.lane == 0) & (t.x < 320.0)
            assert bool((t.v <= t.drivers[..., 0] * ramp_limit / 30.0 + 1e-9)[ramp].all())
            seen |= set(t.number[ramp].tolist())
        early = ramp & (b.x < 200.0) & (b.number <= first)
        assert torch.equal(a.number[early], b.number[early])
        assert float((a.x - b.x)[early].abs().sum()) < 1e-6
    assert sumo.backend.pool.restarts == 0
    assert len({number for number in seen if number <= first}) >= 4 and max(seen) > first


def test_reset_replays_exactly(make):
    world = make(copies=1)
    runs = []
    for _ in range(2):
        timestep = world.reset(11)
        track = []
        for step in range(60):
            timestep = world.step(random_actions(timestep, step))
            track.append(timestep.observation)
        runs.append(torch.cat(track))
    assert torch.equal(*runs)


def test_fast_reset_clears_the_road(make):
    world = make(copies=1, exact_reset=False)
    first = world.reset(4)
    for _ in range(20):
        world.step(torch.full((1, 6), IDLE))
    again = world.reset(4)
    assert torch.equal(first.observation, again.observation)
    timestep = world.step(torch.full((1, 6), IDLE))
    assert torch.equal(timestep.alive, first.alive)
    with pytest.raises(UserError, match="exact_reset=false"):
        world.snapshot()


def test_snapshot_is_replayed(make):
    world, other = make(copies=2), make(copies=2)
    timestep = world.reset(21)
    for step in range(45):
        timestep = world.step(random_actions(timestep, step))
    saved = world.snapshot()
    other.restore(saved)
    for step in range(30):
        actions = random_actions(timestep, 100 + step)
        timestep, theirs = world.step(actions), other.step(actions)
        assert torch.equal(timestep.observation, theirs.observation)


def test_faults_show_in_sumo(make):
    """A lane change onto another car and running off the acceleration lane are collisions."""
    world = make(copies=1, cavs=2, humans=0, contrast=False, max_cavs=2, max_humans=0)
    hits = 0
    for seed in range(4):
        timestep = world.reset(seed)
        for _ in range(99):
            action = torch.full((1, 2), IDLE)
            timestep = world.step(action)
            hits += int(timestep.terminated.any())
            if not bool(timestep.alive.any()):
                break
        lanes = world.current().metrics["collision_rate"]
        # One of the two cars came by the ramp, kept its speed and never changed lanes.
        assert float(lanes) == 1.0


def test_a_killed_process_costs_one_episode(make):
    world = make(copies=2)
    timestep = world.reset(0)
    for _ in range(5):
        timestep = world.step(torch.full((2, 6), IDLE))
    os.kill(world.backend.pool.pids[1], signal.SIGKILL)
    timestep = world.step(torch.full((2, 6), IDLE))
    assert timestep.done.tolist() == [False, True]
    assert timestep.metrics["lost"].tolist() == [0.0, 1.0]
    assert bool(timestep.truncated[1].any()) and not bool(timestep.terminated[1].any())
    assert world.backend.pool.restarts == 1
    for _ in range(5):
        timestep = world.step(torch.full((2, 6), IDLE))
    assert bool(timestep.alive.any(1).all())


def test_a_simulation_that_never_comes_back_is_an_error_with_seed_and_log(make, tmp_path):
    """The network vanishes while SUMO runs: every restart fails, and the last lines are SUMO's own."""
    net = tmp_path / "mine.net.xml"
    shutil.copy(find_network("merge"), net)
    world = make(copies=1, net=str(net))
    world.reset(0)
    net.unlink()
    with pytest.raises(UserError, match=r"failed \d+ times in a row.*next seeds \[\d+\].*mine\.net\.xml"):
        world.reset(1)


def test_a_second_simulation_in_a_process_is_refused(sumo):
    network = read_network(find_network("merge"))
    first = SumoSimulator(network, 2, exact=True)
    first.reset(0)
    with pytest.raises(RuntimeError, match="runs a SUMO simulation already"):
        SumoSimulator(network, 2, exact=True)
    first.close()


def test_what_is_known_without_asking_is_what_sumo_would_answer(sumo):
    """Two cars under control, one of which merges and one stops on the way, and a human driver, over the whole road."""
    network = read_network(find_network("merge"))
    simulator = SumoSimulator(network, 3, exact=True)
    block = simulator.layout.outputs["cars"]
    outputs = {"cars": np.zeros(block.shape), "hits": np.zeros(1, dtype=np.int64)}
    cars = outputs["cars"]
    told = np.zeros(simulator.layout.actions.shape)
    simulator.reset(1)
    for slot, (lane, x, controlled) in enumerate([(0, 200.0, 1.0), (1, 150.0, 1.0), (1, 190.0, 0.0)]):
        told[slot, [Command.OP, Command.CONTROLLED]] = Op.INSERT, controlled
        told[slot, [Command.LANE, Command.X, Command.V, Command.DESIRED]] = lane, x, 25.0, 27.0
    told[-1, Command.OP] = 1.0
    simulator.step(told, 0)
    accelerations = np.random.default_rng(0).uniform(-2.0, 2.0, size=(150, 2))
    accelerations[20:60, 1], accelerations[60:, 1] = -4.5, 3.0  # to a standstill and on again
    lanes, steps = set(), 0
    for accel in accelerations:
        told[:] = 0.0
        told[:2, Command.CONTROLLED], told[:2, Command.ACCEL] = 1.0, accel
        told[0, Command.TURN] = 330.0 < cars[0, Column.X] < 360.0 and cars[0, Column.LANE] == 0.0
        simulator.step(told, 0)
        simulator.write(outputs)
        for car, name in zip(cars, ("0.1", "1.2", "2.3"), strict=True):
            if car[Column.STATUS] != Status.PRESENT:
                continue
            lane, offset = network.lanes[sumo.vehicle.getLaneID(name)]
            asked = offset + sumo.vehicle.getLanePosition(name), sumo.vehicle.getSpeed(name)
            assert (car[Column.X], car[Column.V], car[Column.LANE]) == (*asked, lane)
            assert car[Column.GAINED] == pytest.approx(sumo.vehicle.getAcceleration(name), abs=1e-9)
            lanes.add((name, lane))
            steps += 1
    simulator.close()
    assert lanes == {("0.1", 0), ("0.1", 1), ("1.2", 1), ("2.3", 1)} and steps > 200
    assert set(cars[:, Column.STATUS]) == {Status.ABSENT} and not outputs["hits"].any()


def test_a_geometry_of_spans_has_no_sumo_network():
    with pytest.raises(UserError, match="only the twin"):
        CavMerging(CavConfig(backend="sumo", geometry={"merge": (80, 120)}), 1)


def test_without_sumo_one_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"marl-platform\[sumo\]"):
        CavMerging(CavConfig(backend="sumo"), 1)


def test_a_network_of_ones_own_and_two_lanes(make):
    world = make(copies=1, net="merge_two_lanes", edges="ramp=ramp,main=main,merge=merge,after=after")
    world.hand_over()
    world.reset(0)
    for _ in range(99):
        world.step(torch.full((1, 6), IDLE))
    assert int(world.traffic.lane.max()) <= 2
    assert float(world.current().metrics["collision_rate"]) == 0.0


def test_flow_enters_without_a_jolt(make):
    world = make(copies=1, flow_veh_per_h=2000, max_cavs=20, max_humans=20, horizon=200)
    world.hand_over()
    world.reset(0)
    seen = set(world.traffic.number[world.traffic.present].tolist())
    for _ in range(150):
        before, number = world.traffic.x.clone(), world.traffic.number.clone()
        world.step(torch.full((1, 20), IDLE))
        new = world.traffic.present & (number == world.traffic.number)
        moved = (world.traffic.x - before)[new]
        assert float(moved.max()) < 7.0 and float(moved.min()) >= 0.0
        seen |= set(world.traffic.number[world.traffic.present].tolist())
    assert len(seen) > 22


def test_a_window_needs_a_screen(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(UserError, match="DISPLAY"):
        CavMerging(CavConfig(backend="sumo", gui=True), 1)


@pytest.fixture
def screen(monkeypatch):
    """A virtual screen."""
    program = shutil.which("Xvfb")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Xvfb is missing; install the package xvfb")
        pytest.skip("Xvfb is not installed")
    with virtual_screen(program, monkeypatch):
        yield


def test_the_window_shows_an_episode_like_any_other(make, screen):
    """One whole episode and the beginning of the next."""
    world, plain = make(copies=1, gui=True, horizon=8), make(copies=1, horizon=8)
    a, b = world.reset(3), plain.reset(3)
    for step in range(10):
        actions = random_actions(a, step)
        world.post_decision(a.alive)
        a, b = world.step(actions), plain.step(actions)
        assert torch.equal(a.observation, b.observation)
    assert world.backend.pool.restarts == 0


def test_training_goes_on_when_a_process_is_killed(tmp_path, monkeypatch):
    """``kill -9`` in mid-training: the episode is given up and counted, and all steps are made."""
    config = configure(
        "cav_merging",
        preset="hard",
        options={"backend": "sumo", "horizon": 20},
        overrides=["copies=2", "total_steps=720", "algorithm.rollout=10", "algorithm.minibatches=1"],
    )
    advance, calls = SumoBackend.advance, []

    def killing(self, *arguments):
        calls.append(self)
        if len(calls) == 15:
            os.kill(self.pool.pids[1], signal.SIGKILL)
        return advance(self, *arguments)

    monkeypatch.setattr(SumoBackend, "advance", killing)
    rows = read_metrics(train(config, tmp_path / "run", live=False) / "metrics.csv")
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]
    # In the second iteration one copy ended an episode, and the other lost its own.
    assert next(row["episode/lost"] for row in rows if "episode/lost" in row) == 0.5
    assert len({id(backend) for backend in calls}) == 1 and calls[0].pool.restarts == 1


@pytest.mark.parametrize("part", ["reward", "speed"])
def test_a_number_that_is_none_stops_training(tmp_path, part, monkeypatch):
    """A car's speed as SUMO gives it, or a reward: named, and the checkpoints before it are kept."""
    steps = 0
    owner = CavMerging if part == "reward" else WorkerPool
    original = owner.step

    def spoiling(self, *arguments):
        nonlocal steps
        after = original(self, *arguments)
        steps += 1
        if part == "reward" and steps == 14:
            after.reward[1, 2] = np.nan
        if part == "speed" and steps == 90:
            self.outputs["cars"][1, 2, Column.V] = np.nan
        return after

    monkeypatch.setattr(owner, "step", spoiling)
    overrides = ["copies=2", "total_steps=10000", "algorithm.rollout=6", "checkpoint.every_iterations=1"]
    overrides += ["world.backend=sumo", "evaluation.every_iterations=0"]
    with pytest.raises(UserError) as caught:
        train(configure("cav_merging", overrides=overrides), tmp_path / "run", live=False)
    said = str(caught.value)
    what = {"reward": "the reward of agent '", "speed": "SUMO's V of car 2"}[part]
    assert re.search(f"iteration [1-9][0-9]*: {what}.* in copy 1 is (NaN|nan)", said) and "--resume" in said
    store = CheckpointStore(tmp_path / "run")
    assert len(store.steps()) > 1
    assert all(broken_weight(checkpoint.load(store.path(step))[0]) is None for step in store.steps())
