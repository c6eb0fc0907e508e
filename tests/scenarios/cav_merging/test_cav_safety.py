"""The supervisor: margins by hand, the faults that supervisors of cars are known for, and random actions made safe."""

import torch

from marl.coordination.safety import UNDECIDED, Safety
from scenarios.cav_merging import safety
from scenarios.cav_merging.actions import Action, drive, lanes_turned, next_target
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.world import CavMerging

LEFT, IDLE, FASTER, SLOWER = (int(a) for a in (Action.LANE_LEFT, Action.IDLE, Action.FASTER, Action.SLOWER))
ALL = torch.arange(5).unsqueeze(0)


def placed(*rows: tuple[int, float, float], humans: int = 0) -> CavMerging:
    """Cars at (lane, x, v); the last ``humans`` of them are human-driven."""
    agents = len(rows) - humans
    config = CavConfig(cavs=agents, humans=humans, contrast=False, max_cavs=agents, max_humans=humans)
    env = CavMerging(config, 1)
    env.reset(0)
    for i, (lane, x, v) in enumerate(rows):
        env.traffic.lane[0, i], env.traffic.x[0, i], env.traffic.v[0, i] = lane, x, v
        if i < agents:
            env.traffic.target[0, i] = v
    env._look_around()
    return env


def margins(env: CavMerging, agent: int = 0, committed: list[int] | None = None) -> list[float]:
    decided = torch.tensor([committed or [UNDECIDED] * env.agents])
    return env.margin(ALL, torch.tensor([agent]), decided)[0].tolist()


def correct(env: CavMerging, proposed: list[int]) -> list[int]:
    return Safety(env).correct(env.current(), torch.tensor([proposed])).executed[0].tolist()


def test_margin_to_a_standing_car_by_hand():
    """20 m/s for 0.2 s, then 5.6 m/s^2: 4 m and 35.7 m, and 1.08 m more because braking softens below 3.6 m/s."""
    env = placed((1, 100.0, 20.0), (1, 165.0, 0.0))
    travel = 20.0 * 2.8 - 0.5 * 5.6 * 2.8**2 + 4.0  # what it drives in the horizon of 3 s
    expected = 60.0 - travel - (0.6 * 3.6 - 0.5 * 3.6**2 / 6.0) - 1.0
    assert abs(margins(env)[IDLE] - expected) < 1e-6


def test_margin_to_the_lane_end_decides_whether_to_go_on():
    env = placed((0, 394.5, 15.0))
    assert margins(env)[IDLE] > 0.0 > margins(env)[FASTER]
    assert correct(env, [IDLE]) == [IDLE]
    env = placed((0, 398.0, 15.0))
    assert margins(env)[SLOWER] > 0.0
    assert correct(placed((0, 411.0, 15.0), (1, 412.0, 15.0)), [IDLE, IDLE])[0] == SLOWER


def test_slower_is_relative_to_the_present_speed():
    """The target has run ahead to 30 m/s; SLOWER has to brake now, not aim at 25."""
    env = placed((1, 100.0, 12.0), (1, 140.0, 0.0))
    env.traffic.target[0, 0] = 30.0
    assert drive(torch.tensor(12.0), next_target(torch.tensor(12.0), torch.tensor(30.0), torch.tensor(SLOWER))) == -6.0
    assert margins(env)[SLOWER] > margins(env)[IDLE]


def test_an_undecided_lane_change_of_a_lower_priority_is_not_trusted():
    """Car 1 might leave the lane of car 0 by LEFT; until that is decided it stands in the way."""
    env = placed((1, 100.0, 25.0), (1, 125.0, 5.0))
    env.traffic.road[0, 4] = 2.0
    env._look_around()
    undecided = margins(env, 0, [UNDECIDED, UNDECIDED])
    leaving = margins(env, 0, [UNDECIDED, LEFT])
    assert undecided[IDLE] < 0.0
    assert leaving[IDLE] > undecided[IDLE] + 10.0


def test_a_decided_lane_change_of_a_higher_priority_is_seen():
    """The ramp car merges in front of the main car, which had meant to speed up."""
    env = placed((0, 345.0, 15.0), (1, 330.0, 22.0))
    free = margins(env, 1, [IDLE, UNDECIDED])[FASTER]
    seen = margins(env, 1, [LEFT, UNDECIDED])[FASTER]
    assert free > 0.0 > seen


def test_an_overlapping_lane_change_is_never_the_best():
    """Every margin is bad: nearly at the lane end at speed, with a car alongside."""
    env = placed((0, 412.0, 20.0), (1, 413.0, 20.0))
    values = margins(env)
    assert max(values[IDLE], values[FASTER], values[SLOWER]) < 0.0
    assert values[LEFT] == safety.OVERLAP == min(values)
    assert correct(env, [LEFT, IDLE])[0] == SLOWER


def test_a_lane_change_into_the_path_of_a_fast_follower_is_refused():
    env = placed((0, 350.0, 10.0), (1, 335.0, 26.0), humans=1)
    assert margins(env)[LEFT] < 0.0
    assert correct(env, [LEFT]) != [LEFT]
    alone = placed((0, 350.0, 10.0), (1, 250.0, 26.0), humans=1)
    assert correct(alone, [LEFT]) == [LEFT]


def test_priority_goes_to_the_acceleration_lane_and_its_end():
    env = placed((1, 390.0, 20.0), (0, 330.0, 20.0), (0, 410.0, 20.0), (0, 200.0, 20.0))
    order = env.priority()[0].argsort(descending=True).tolist()
    assert order[:2] == [2, 1]


def test_compiled_margins_equal_the_tensor_form():
    env = CavMerging(CavConfig(geometry={"main_lanes": (1, 2)}), 64)
    timestep = env.reset(0)
    random = torch.Generator().manual_seed(0)
    for _ in range(70):
        actions = torch.randint(0, 5, (64, 6), generator=random)
        agent = torch.randint(0, 6, (64,), generator=random)
        committed = torch.where(torch.rand(64, 6, generator=random) < 0.5, actions, UNDECIDED)
        t, place = env.traffic, agent[:, None]
        v, target = t.v.gather(1, place).expand(-1, 5), t.target.gather(1, place).expand(-1, 5)
        options = ALL.expand(64, -1)
        own = drive(v, next_target(v, target, options))
        goal = t.lane.gather(1, place) + lanes_turned(options)
        plain = safety.margin_reference(t, agent, own, goal, *safety.plans_of(t, committed))
        torch.testing.assert_close(env.margin(options, agent, committed), plain, rtol=1e-9, atol=1e-9)
        timestep = env.step(actions)
    assert bool(timestep.alive.any())


def test_random_actions_with_a_supervisor_hardly_ever_collide():
    env = CavMerging(CavConfig(), 128)
    supervisor = Safety(env)
    timestep = env.reset(500)
    random = torch.Generator().manual_seed(1)
    for _ in range(100):
        proposed = torch.multinomial(timestep.action_mask.float().flatten(0, 1), 1, generator=random).view(128, 6)
        timestep = supervisor.account(env.step(supervisor.correct(timestep, proposed).executed))
    assert float(timestep.metrics["collision_rate"].mean()) <= 0.03
    assert 0.0 < float(timestep.metrics["interventions_per_step"].mean()) < 0.1
