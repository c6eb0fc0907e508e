import copy

import pytest
import torch
from pydantic import ValidationError

from marl.envs.batched import Snapshots
from marl.seeding import fold
from scenarios.cav_merging.actions import (
    Action,
    commands,
    commands_reference,
    drive,
    legal,
    legal_reference,
    next_target,
)
from scenarios.cav_merging.baselines import BASELINES
from scenarios.cav_merging.config import CavConfig, Reward
from scenarios.cav_merging.drivers import ASSERTIVE, TIMID, P
from scenarios.cav_merging.metrics import Events, Tally
from scenarios.cav_merging.observation import observe, observe_reference
from scenarios.cav_merging.reward import Neighbours, own_rewards, own_rewards_reference, shared_rewards
from scenarios.cav_merging.spawn import draw_roads, first_cars
from scenarios.cav_merging.world import CavMerging


def random_actions(timestep, seed: int):
    mask = timestep.action_mask.float()
    random = torch.Generator().manual_seed(seed)
    return torch.multinomial(mask.flatten(0, 1), 1, generator=random).view(mask.shape[:2])


def test_published_numbers_of_cars_and_places():
    config = CavConfig(cavs=(3, 6), humans=(1, 4), contrast=True, max_humans=6)
    key = fold(torch.arange(500), 3)
    traffic = first_cars(config, key, draw_roads(config, key))
    cavs, humans = traffic.present[:, :6].sum(1), traffic.present[:, 6:].sum(1)
    assert (cavs.min(), cavs.max()) == (3, 6)
    assert (humans.min(), humans.max()) == (3, 6)  # 1 to 4 and the contrasting pair
    assert bool(((traffic.v >= 25.0) & (traffic.v <= 27.0)).all())
    by_ramp = (traffic.from_ramp & traffic.present)[:, :6].sum(1)
    assert int((2 * by_ramp - cavs).abs().max()) <= 1
    gaps = torch.where(traffic.present, traffic.x + 1000.0 * traffic.lane, torch.nan).sort(1).values.diff(dim=1)
    assert float(gaps[~gaps.isnan()].min()) >= 40.0 - 3.0


def test_an_episode_depends_on_seed_and_number_alone():
    config = CavConfig()
    together, alone = CavMerging(config, 5), CavMerging(config, 1)
    a = together.reset(100)
    b = alone.reset(103)
    for step in range(230):
        actions = random_actions(a, step)
        a, b = together.step(actions), alone.step(actions[3:4])
        assert torch.equal(a.observation[3:4], b.observation)
        assert torch.equal(a.state[3:4], b.state)
        assert torch.equal(a.reward[3:4], b.reward)
        assert torch.equal(a.key[3:4], b.key)
        if bool(b.done):
            assert all(torch.equal(a.metrics[name][3:4], value) for name, value in b.metrics.items())


def test_reset_of_some_copies_leaves_the_others():
    env = CavMerging(CavConfig(), 4)
    before = env.reset(0)
    for step in range(7):
        before = env.step(random_actions(before, step))
    mask = torch.tensor([False, True, False, True])
    after = env.reset(50, mask)
    assert torch.equal(after.observation[~mask], before.observation[~mask])
    fresh = CavMerging(CavConfig(), 4).reset(50)
    assert torch.equal(after.observation[mask], fresh.observation[mask])


@pytest.mark.parametrize("flow", [0.0, 2400.0])
def test_snapshot_goes_on_exactly(flow):
    config = CavConfig(flow_veh_per_h=flow, max_cavs=10, max_humans=10)
    env = CavMerging(config, 3)
    assert isinstance(env, Snapshots)
    timestep = env.reset(9)
    for step in range(37):
        timestep = env.step(random_actions(timestep, step))
    saved = env.snapshot()
    other = CavMerging(config, 3)
    other.restore(saved)
    assert torch.equal(other.current().observation, timestep.observation)
    for step in range(100):
        actions = random_actions(timestep, 1000 + step)
        timestep, theirs = env.step(actions), other.step(actions)
        assert torch.equal(timestep.observation, theirs.observation)
        assert torch.equal(timestep.reward, theirs.reward)


def test_ends_are_told_apart():
    env = CavMerging(CavConfig(), 64)
    timestep = env.reset(0)
    alive_before = timestep.alive
    seen_terminated = False
    for step in range(100):
        timestep = env.step(random_actions(timestep, step))
        assert not bool((timestep.terminated & timestep.truncated).any())
        assert not bool((timestep.terminated & ~alive_before).any())
        seen_terminated |= bool(timestep.terminated.any())
        assert bool(timestep.done.all()) == (step == 99)
        if step < 99:
            assert torch.equal(timestep.alive, alive_before & ~timestep.terminated)
        else:
            assert torch.equal(timestep.truncated, alive_before & ~timestep.terminated)
            assert timestep.final is not None
        alive_before = timestep.alive
        assert bool(timestep.action_mask.any(-1).all())
    assert seen_terminated


def test_observation_and_state_equal_the_tensor_form():
    config = CavConfig(drivers="mixed", geometry={"main_lanes": (1, 2)}, flow_veh_per_h=3000, max_cavs=9, max_humans=9)
    env = CavMerging(config, 16)
    timestep = env.reset(5)
    for step in range(60):
        timestep = env.step(random_actions(timestep, step))
        seen, state = observe_reference(env.traffic, config.horizon)
        torch.testing.assert_close(timestep.observation, seen, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(timestep.state, state, rtol=1e-6, atol=1e-6)
        assert float(timestep.observation.abs().max()) <= 1.0 and float(timestep.state.abs().max()) <= 1.0


def test_reward_and_figures_equal_the_tensor_form():
    env = CavMerging(CavConfig(drivers="mixed", geometry={"main_lanes": (1, 2)}), 32)
    timestep = env.reset(3)
    compiled, plain = Tally.empty(32, env.device), Tally.empty(32, env.device)
    random = torch.Generator().manual_seed(0)
    for step in range(90):
        timestep = env.step(random_actions(timestep, step))
        t = env.traffic
        crashed, left, merged = (torch.rand(t.x.shape, generator=random) < 0.1 for _ in range(3))
        own = own_rewards(Reward(), t, crashed, env.lead)
        torch.testing.assert_close(own, own_rewards_reference(Reward(), t, crashed, env.lead), rtol=1e-9, atol=1e-12)
        event = (t, Events(crashed, left, merged, crashed[:, :1].sum(1)), t.gained.roll(1), env.lead, env.follow)
        compiled.add(*event)
        plain.add_reference(*event)
    for name, tensor in compiled.tensors().items():
        torch.testing.assert_close(tensor, plain.tensors()[name], rtol=1e-9, atol=1e-9)


def placed(*rows: tuple[int, float, float]) -> CavMerging:
    """A world whose automated cars stand at (lane, x, v), nobody else."""
    env = CavMerging(CavConfig(cavs=len(rows), humans=0, contrast=False, max_cavs=len(rows), max_humans=0), 1)
    env.reset(0)
    for i, (lane, x, v) in enumerate(rows):
        env.traffic.lane[0, i], env.traffic.x[0, i], env.traffic.v[0, i] = lane, x, v
        env.traffic.target[0, i] = v
    env._look_around()
    return env


def test_observation_by_hand():
    env = placed((1, 240.0, 15.0), (1, 300.0, 30.0), (0, 350.0, 20.0), (1, 20.0, 20.0))
    seen, _ = observe(env.traffic, env._order, env.lead, env.follow, 100)
    own = seen[0, 0]
    assert own[:5].tolist() == pytest.approx([1.0, -1.0, 3.2 / 20.0, 0.5, 0.0])
    assert own[5:10].tolist() == pytest.approx([1.0, 60.0 / 180.0, 0.0, 0.5, 0.0])
    assert own[10:15].tolist() == pytest.approx([1.0, 110.0 / 180.0, -3.2 / 20.0, 5.0 / 30.0, 0.0])
    assert own[15:25].tolist() == [0.0] * 10  # the fourth car is 220 m away
    front, beside_front = own[29:31].tolist(), own[33:35].tolist()
    assert front == pytest.approx([55.0 / 180.0, 0.5])
    assert beside_front == pytest.approx([105.0 / 180.0, 5.0 / 30.0])
    assert own[37:].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_reward_by_hand():
    """Car 0: 20 m/s, 1 m headway for 24 wanted; car 1: 30 m/s, free; car 2: 10 m before the lane end at 10 m/s."""
    env = placed((1, 294.0, 20.0), (1, 311.0, 30.0), (0, 410.0, 10.0))
    crashed = torch.zeros(1, 3, dtype=torch.bool)
    own = own_rewards(Reward(), env.traffic, crashed, env.lead)
    expected = [
        0.5 + 4.0 * torch.log(torch.tensor(12.0 / 24.0)).item(),
        1.0,
        -4.0 * torch.exp(torch.tensor(-0.1)).item(),
    ]
    assert own[0].tolist() == pytest.approx(expected)
    crashed[0, 1] = True
    assert own_rewards(Reward(), env.traffic, crashed, env.lead)[0, 1].item() == pytest.approx(-199.0)
    acted = torch.tensor([[True, True, False]])
    values = torch.tensor([[1.0, 3.0, 8.0]], dtype=torch.float64)
    around = Neighbours(env.lead, env.follow, env.traffic.lane)
    assert shared_rewards(Reward(), values, acted, 3, around).tolist() == [[2.0, 2.0, 0.0]]
    assert shared_rewards(Reward(sharing="own"), values, acted, 3, around).tolist() == [[1.0, 3.0, 0.0]]
    everybody = torch.ones(1, 3, dtype=torch.bool)
    regional = shared_rewards(Reward(sharing="regional"), values, everybody, 3, around)
    # Car 0 sees car 1 in front and car 2 beside; car 1 sees car 0 behind and car 2 beside; car 2 sees car 1 behind.
    assert regional.tolist() == [[4.0, 4.0, 5.5]]
    # With the third car human-driven at half the weight.
    half = shared_rewards(Reward(humans=0.5), values, everybody, 2, around)
    assert half.tolist() == [[3.200000047683716] * 2]


def test_actions_by_hand():
    speed = torch.tensor([12.0, 12.0, 12.0, 29.0, 1.0])
    target = torch.full_like(speed, 7.0)
    actions = torch.tensor([Action.FASTER, Action.SLOWER, Action.IDLE, Action.FASTER, Action.SLOWER])
    assert next_target(speed, target, actions).tolist() == [15.0, 5.0, 7.0, 30.0, 0.0]
    assert drive(torch.tensor([10.0, 10.0, 10.0]), torch.tensor([10.6, 30.0, 0.0])).tolist() == pytest.approx(
        [1, 3, -6]
    )
    mask = legal(placed((0, 300.0, 20.0), (0, 330.0, 20.0), (1, 330.0, 30.0), (1, 100.0, 0.0)).traffic)[0]
    assert mask.tolist() == [
        [False, True, False, True, True],
        [True, True, False, True, True],
        [False, True, False, False, True],
        [False, True, False, True, False],
    ]


def test_compiled_actions_equal_the_tensor_form():
    env = CavMerging(CavConfig(geometry={"main_lanes": (1, 2)}), 32)
    env.reset(0)
    random = torch.Generator().manual_seed(0)
    for _ in range(60):
        chosen = torch.randint(0, 5, (32, 6), generator=random)
        mask = legal(env.traffic)
        assert torch.equal(mask, legal_reference(env.traffic))
        compiled, plain = copy.deepcopy(env.traffic), copy.deepcopy(env.traffic)
        pairs = zip(commands(compiled, chosen, mask), commands_reference(plain, chosen, mask), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert torch.equal(compiled.target, plain.target)
        env.step(chosen)


def test_a_crash_pays_the_price_and_counts_once():
    env = placed((1, 100.0, 10.0), (1, 94.9, 30.0), (1, 20.0, 20.0))
    timestep = env.step(torch.ones(1, 3, dtype=torch.int64))
    assert timestep.terminated[0].tolist() == [True, True, False]
    assert timestep.alive[0].tolist() == [False, False, True]
    # Both cars pay 200, the third earns 0.5 for its speed, shared by three.
    assert timestep.reward[0].tolist() == pytest.approx([(-400.0 + 0.5) / 3] * 3)
    figures = {name: value.item() for name, value in env.current().metrics.items()}
    assert figures["collision_rate"] == 1.0
    assert figures["collisions_per_km"] == pytest.approx(1.0 / 0.004)
    # One car drives 20 m/s, two wrecks stand.
    assert figures["mean_speed_mps"] == pytest.approx(20.0 / 3.0)
    assert figures["min_ttc_s"] == 0.0
    # Each of the three was on the road for the decision's 0.2 s, the wrecks as well.
    assert figures["travel_time_s"] == pytest.approx(0.2)


def test_times_to_collision_and_accepted_gaps_by_hand():
    """After 0.2 s the merged car has 16 m to the rear of one that drives as fast, and is 17 m before one at 10 m/s."""
    env = placed((0, 330.0, 20.0), (1, 351.0, 20.0), (1, 310.0, 10.0))
    env.traffic.from_ramp[0, 0] = True
    env.step(torch.tensor([[Action.LANE_LEFT, Action.IDLE, Action.IDLE]]))
    figures = {name: value.item() for name, value in env.current().metrics.items()}
    assert figures["min_accepted_gap_s"] == pytest.approx(16.0 / 20.0)
    assert figures["min_ttc_s"] == 10.0
    env = placed((0, 330.0, 20.0), (1, 351.0, 20.0), (1, 310.0, 25.0))
    env.traffic.from_ramp[0, 0] = True
    env.step(torch.tensor([[Action.LANE_LEFT, Action.IDLE, Action.IDLE]]))
    figures = {name: value.item() for name, value in env.current().metrics.items()}
    assert figures["min_accepted_gap_s"] == pytest.approx(14.0 / 25.0)
    assert figures["min_ttc_s"] == pytest.approx(14.0 / 5.0)


def test_a_merge_that_crashes_took_no_gap():
    env = placed((0, 350.0, 20.0), (1, 352.0, 20.0))
    env.traffic.from_ramp[0, 0] = True
    env.step(torch.tensor([[Action.LANE_LEFT, Action.IDLE]]))
    figures = {name: value.item() for name, value in env.current().metrics.items()}
    assert (figures["collision_rate"], figures["min_ttc_s"], figures["min_accepted_gap_s"]) == (1.0, 0.0, 0.0)


def test_drivers_at_the_wheel_of_every_car():
    env = CavMerging(CavConfig(drivers="assertive"), 64)
    env.hand_over()
    timestep = env.reset(0)
    for _ in range(100):
        timestep = env.step(torch.zeros(64, 6, dtype=torch.int64))
    assert float(timestep.metrics["collision_rate"].max()) == 0.0
    assert float(timestep.metrics["merged_share"].mean()) > 0.98


def test_assertive_drivers_take_the_wheel_with_a_wish_for_the_limit():
    env = CavMerging(CavConfig(flow_veh_per_h=2000, max_cavs=20, max_humans=20), 4)
    policy = BASELINES["sumo_assertive"](env)
    timestep = env.reset(0)
    humans = env.traffic.drivers[:, 20:].clone()
    for _ in range(60):
        there = env.traffic.present[:, :20]
        assert (env.traffic.drivers[:, :20, P.DESIRED][there] == 30.0).all()
        assert (env.traffic.drivers[:, :20, P.ASSERTIVE][there] == ASSERTIVE).all()
        timestep = env.step(policy.act(timestep))
    assert not bool(env.traffic.controlled.any())
    assert (humans[..., P.ASSERTIVE] == TIMID).all() and int(env.traffic.arrivals.sum()) > 10


def test_flow_keeps_coming_and_slots_get_new_agents():
    config = CavConfig(flow_veh_per_h=2000, horizon=300, max_cavs=24, max_humans=24, cav_share=0.5)
    env = CavMerging(config, 2)
    env.hand_over()
    timestep = env.reset(0)
    newcomers = 0
    for _ in range(299):
        before = timestep.agent_id
        timestep = env.step(torch.zeros(2, 24, dtype=torch.int64))
        newcomers += int((timestep.agent_id != before).sum())
    assert newcomers > 10
    figures = env.current().metrics
    assert float(figures["flow_veh_per_h"].min()) > 700.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cavs": (3, 7)}, "max_cavs"),
        ({"humans": 4, "contrast": True}, "contrasting pair"),
        ({"cavs": 0}, "flow of arriving cars"),
        ({"edges": {"ramp": "a"}}, "needs net"),
        ({"edges": "ramp"}, "ramp=A,main=B"),
        ({"geometry": {"before": (300, 200)}}, "lowest <= highest"),
        ({"geometry": {"main_lanes": 4}}, "1, 2 or 3"),
        ({"cav_share": 1.5}, "between 0 and 1"),
        ({"speed": 3}, "Extra inputs"),
    ],
)
def test_impossible_configurations_are_refused(options, sentence):
    with pytest.raises(ValidationError, match=sentence):
        CavConfig(**options)


def test_edges_as_the_command_line_gives_them():
    config = CavConfig(net="merge", edges="ramp=ramp, main=main,merge=merge,after=after")
    assert config.edges == {"ramp": "ramp", "main": "main", "merge": "merge", "after": "after"}
    assert CavMerging(config, 1).network.geometry.merge_start == 320.0
