"""What agents sense, hear and remember: by hand, and equal to the full view where nothing is hidden."""

from __future__ import annotations

import pytest
import torch

from marl import api
from scenarios.cav_merging.config import CavConfig, Messages, Sensing
from scenarios.cav_merging.observation import PUBLISHED
from scenarios.cav_merging.sensing import Belief, sensed
from scenarios.cav_merging.traffic import Traffic
from scenarios.cav_merging.twin import reference
from scenarios.cav_merging.world import CavMerging


def world(agents: int, *rows: tuple[int, float, float], humans: int = 4, **options: object) -> CavMerging:
    """A copy with these cars, (lane, x, v): the first ``agents`` are automated. Acceleration lane: 320 to 420 m."""
    config = CavConfig.model_validate({"max_cavs": agents, "cavs": (0, agents), "flow_veh_per_h": 1e-3} | options)
    env = CavMerging(config.model_copy(update={"max_humans": humans}), 1)
    env.reset(0)
    t = env.traffic
    t.present[:] = False
    for slot, (lane, x, v) in enumerate(rows):
        t.lane[0, slot], t.x[0, slot], t.v[0, slot], t.present[0, slot] = lane, x, v, True
    env._look_around()
    return env


def pairs(env: CavMerging, **sensing: object) -> list[list[int]]:
    seen = sensed(env.traffic, Sensing.model_validate(sensing), env.lead, env.follow)
    return [row.nonzero()[:, 0].tolist() for row in seen[0]]


def test_what_is_sensed_by_hand() -> None:
    cars = ((1, 300.0, 20.0), (0, 290.0, 20.0), (1, 350.0, 20.0), (0, 330.0, 20.0), (1, 450.0, 20.0))
    env = world(2, *cars)
    assert pairs(env) == [[1, 2, 3, 4], [0, 2, 3, 4]]
    assert pairs(env, range_m=60.0) == [[1, 2, 3], [0, 2, 3]]
    assert pairs(env, sight_m=0.0) == [[2, 4], [3]]  # both are before the acceleration lane
    assert pairs(env, sight_m=25.0) == [[2, 3, 4], [3]]
    assert pairs(env, sight_m=30.0) == [[1, 2, 3, 4], [0, 2, 3, 4]]
    assert pairs(env, line_of_sight=True) == [[1, 2, 3], [0, 3]]


@pytest.mark.parametrize("content", ["none", "awareness", "perception"])
def test_where_nothing_is_hidden_the_view_is_the_full_one(content: str) -> None:
    options = {"drivers": "mixed", "geometry": {"main_lanes": (1, 2)}, "flow_veh_per_h": 2400, "max_cavs": 10}
    plain = CavMerging(CavConfig.model_validate(options | {"max_humans": 10}), 8)
    told = {"sensing": {"range_m": 1e6}, "messages": {"content": content, "loss": 0.5, "track_s": 2.0}}
    other = CavMerging(CavConfig.model_validate(options | {"max_humans": 10} | told), 8)
    first, second = plain.reset(3), other.reset(3)
    for step in range(60):
        torch.testing.assert_close(first.observation, second.observation, rtol=1e-6, atol=1e-6)
        assert torch.equal(first.state, second.state)
        actions = (torch.arange(10) + step) % 5
        first, second = (env.step(actions.expand(8, 10)) for env in (plain, other))


def known(env: CavMerging, agent: int) -> set[float]:
    """Metres to the neighbours that an agent observes."""
    rows = env.current().observation[0, agent, 5:PUBLISHED].reshape(4, 5)
    return {round(float(row[1]) * 180.0) for row in rows if row[0] > 0}


def test_messages_fill_the_agents_own_inputs() -> None:
    """0 on the main road and 1 on the ramp are automated, 2 is a human driver beside whom only 0 has in sight."""
    cars = ((1, 250.0, 20.0), (0, 240.0, 20.0), (1, 230.0, 20.0))
    hidden = {"sensing": {"range_m": 100.0, "sight_m": 0.0, "know_cavs": False}}
    for content, expected in (("none", set()), ("awareness", {10}), ("perception", {10, -10})):
        env = world(2, *cars, **hidden, messages={"content": content})
        assert known(env, 1) == expected, content
        kinds = env.current().observation[0, 1, 37:].tolist()
        assert kinds == [float(content != "none"), 0.0, 0.0, 0.0]
        # The gap to the leader on the lane beside: 5 m, which only a message tells.
        gap = float(env.current().observation[0, 1, 33])
        assert gap == pytest.approx(1.0 if content == "none" else 5.0 / 180.0)
    far = world(2, *cars, **hidden, messages={"content": "perception", "range_m": 5.0})
    assert known(far, 1) == set()
    deaf = world(2, *cars, **hidden, messages={"content": "perception", "loss": 1.0})
    assert known(deaf, 1) == set()


def test_losses_are_drawn_once_for_a_moment_and_by_their_share() -> None:
    hidden = {"sensing": {"sight_m": 0.0}, "messages": {"content": "awareness", "loss": 0.3}}
    env = CavMerging(CavConfig.model_validate(hidden), 256)
    env.reset(0)
    belief = env._belief
    assert isinstance(belief, Belief)
    key = torch.arange(256)
    first, again, later = (belief._heard(env.traffic, key + shift) for shift in (0, 0, 1000))
    assert torch.equal(first, again) and not torch.equal(first, later)
    n = env.agents
    there = env.traffic.present[:, :n]
    possible = (there[:, None] & there[:, :, None] & ~torch.eye(n, dtype=torch.bool)).sum()
    assert float(first.sum() / possible) == pytest.approx(0.7, abs=0.02)


def test_a_car_that_is_no_longer_known_drives_on_in_memory() -> None:
    cars = ((1, 100.0, 20.0), (1, 190.0, 20.0))
    env = world(1, *cars, sensing={"range_m": 100.0}, messages={"track_s": 1.0})
    assert known(env, 0) == {90}
    traffic: Traffic = env.traffic
    traffic.x[0, 1], traffic.step[0] = 250.0, 3  # it is out of range, .6 s later
    env._look_around()
    assert known(env, 0) == {90 + 12}
    traffic.x[0, 0] = 105.0  # where it should be by now it would be seen, and is not
    env._look_around()
    assert known(env, 0) == set()
    traffic.x[0, 0] = 100.0
    env._look_around()
    traffic.step[0] = 6
    assert known(env, 0) == set()
    env._belief.forget(torch.tensor([0]))  # type: ignore[union-attr]  # this world has one
    traffic.step[0] = 3
    assert known(env, 0) == set()


def test_snapshots_keep_what_is_remembered() -> None:
    messages = {"content": "perception", "loss": 0.5, "track_s": 2.0}
    hidden = {"sensing": {"sight_m": 0.0, "range_m": 80.0}, "messages": messages}
    env = CavMerging(CavConfig.model_validate(hidden), 4)
    env.reset(1)
    idle = torch.ones(4, env.agents, dtype=torch.int64)
    for _ in range(20):
        env.step(idle)
    saved = env.snapshot()
    expected = [env.step(idle).observation for _ in range(5)]
    env.restore(saved)
    for observation in expected:
        assert torch.equal(env.step(idle).observation, observation)


def test_presets_hide_the_roads_from_each_other() -> None:
    for preset, length in (("hard_occluded", 100.0), ("short_occluded", 40.0)):
        env = api.make("cav_merging", preset=preset, copies=2)
        assert isinstance(env, CavMerging)
        assert env.config.sensing == Sensing(range_m=100.0, sight_m=0.0, know_cavs=False)
        assert env.config.messages == Messages() and env.config.geometry.merge == (length, length)
        timestep = env.reset(0)
        assert float(timestep.observation[..., 37:].abs().max()) == 0.0  # nobody is known as automated
        assert reference.pick_lane(env.lead, env.traffic.lane).shape == env.traffic.x.shape
