"""The world as a whole: episodes, seeds, restarts, snapshots, plans and figures."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from mapf_play import episode_digest, leaves, random_actions

from marl.envs.batched import Plans, Snapshots, TimeStep
from marl.errors import UserError
from marl.testing import check_batched
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.generators import MazeMap, RandomMap, RoomsMap
from scenarios.lifelong_mapf.world import LifelongMapf

STAY, UP, DOWN, LEFT, RIGHT = range(5)

MIXED = MapfConfig(
    generator=[RandomMap(size=10), MazeMap(size=9), RoomsMap(rows=2, columns=3, room=3)],
    map_pool=6,
    agents=12,
    horizon=40,
)


def play(world: LifelongMapf, timestep: TimeStep, steps: int) -> list[dict[str, torch.Tensor]]:
    """Random moves; everything that was returned, plans included if they are enabled."""
    record = []
    for _ in range(steps):
        timestep = world.step(random_actions(timestep))
        record.append(leaves(timestep) | (leaves(world.plan(), "plan") if world._plan is not None else {}))
    return record


def corridor(folder: Path, width: int, agents: list[dict[str, object]], **options: object) -> LifelongMapf:
    """A corridor of ``width`` cells with given starts and goals, one copy."""
    (folder / "corridor.map").write_text(f"type octile\nheight 1\nwidth {width}\nmap\n{'.' * width}\n")
    tasks = folder / "tasks.json"
    tasks.write_text(json.dumps({"schema_version": 1, "map": "corridor.map", "agents": agents}))
    return LifelongMapf(MapfConfig(tasks=str(tasks), **options), 1)


def walk(world: LifelongMapf, *actions: list[int]) -> list[TimeStep]:
    return [world.step(torch.tensor([joint])) for joint in actions]


def test_it_passes_the_conformance_kit() -> None:
    config = MIXED.model_copy(update={"agents": 4, "horizon": 12, "central_state": False})
    report = check_batched(lambda copies: LifelongMapf(config, copies), steps=30, batches=(1, 3))
    assert report.ok, report


@pytest.mark.parametrize("on_target", ["restart", "finish"])
def test_copy_is_the_same_in_any_batch(on_target: str) -> None:
    config = MIXED.model_copy(update={"on_target": on_target})
    records = {}
    for copies in (1, 7, 64):
        world = LifelongMapf(config, copies)
        world.enable_plan()
        records[copies] = play(world, world.reset(5), 300)
    for one, seven, many in zip(*records.values(), strict=True):
        for name in many:
            if name in one:
                assert torch.equal(one[name], many[name][:1]), name
            if name in seven:
                assert torch.equal(seven[name], many[name][:7]), name


def test_partial_reset_touches_only_the_copies_asked_for() -> None:
    worlds = [LifelongMapf(MIXED, 5) for _ in range(2)]
    for world in worlds:
        world.enable_plan()
        play(world, world.reset(1), 13)
    mask = torch.tensor([False, True, False, False, True])
    before = worlds[0].current()
    now = worlds[0].reset(torch.tensor([0, 70, 0, 0, 90]), mask)
    for name, tensor in leaves(before).items():
        assert torch.equal(tensor[~mask], leaves(now)[name][~mask]), name
    fresh = LifelongMapf(MIXED, 5).reset(torch.tensor([0, 70, 0, 0, 90]))
    for name, tensor in leaves(fresh).items():
        assert torch.equal(tensor[mask], leaves(now)[name][mask]), name
    undisturbed = leaves(worlds[1].step(random_actions(worlds[1].current())))
    for name, tensor in leaves(worlds[0].step(random_actions(now))).items():
        if name in undisturbed:
            assert torch.equal(tensor[~mask], undisturbed[name][~mask]), name


def test_the_horizon_truncates_and_the_final_view_is_that_of_the_old_episode() -> None:
    short, long = (LifelongMapf(MIXED.model_copy(update={"horizon": horizon}), 3) for horizon in (6, 100))
    ended, going = short.reset(3), long.reset(3)
    for t in range(6):
        actions = random_actions(going)
        ended, going = short.step(actions), long.step(actions)
        assert ended.done.tolist() == [t == 5] * 3
        assert (ended.final is None) == (t < 5)
    assert ended.truncated.all() and not ended.terminated.any() and ended.alive.all()
    for name, tensor in ended.final.observation.items():
        assert torch.equal(tensor, going.observation[name])
    columns = [column for column in range(37) if column != 34]  # time is a share of the horizon
    assert torch.equal(ended.final.state[..., columns], going.state[..., columns])
    assert short.steps.tolist() == [0, 0, 0]
    assert not torch.equal(ended.observation["window"], going.observation["window"])


def test_episodes_do_not_depend_on_the_policy() -> None:
    config = MIXED.model_copy(update={"horizon": 25, "agents": 6})
    starts = []
    for policy in (random_actions, lambda timestep: torch.zeros(timestep.alive.shape, dtype=torch.int64)):
        world = LifelongMapf(config, 4)
        timestep = world.reset(0)
        for _ in range(50):
            timestep = world.step(policy(timestep))
        starts.append((world.position.clone(), world.goal.clone(), world.map_index.clone(), timestep.key))
    for one, other in zip(*starts, strict=True):
        assert torch.equal(one, other)


def test_starts_are_distinct_and_uniform_and_goals_differ_from_them() -> None:
    config = MapfConfig(generator=RandomMap(size=4, density=0.0), map_pool=1, agents=5)
    world = LifelongMapf(config, 2000)
    world.reset(0)
    assert all(len(set(row)) == 5 for row in world.position.tolist())
    assert not (world.position == world.goal).any()
    expected = 2000 * 5 / 16
    assert torch.bincount(world.position.flatten()).tolist() == pytest.approx([expected] * 16, rel=0.15)
    assert torch.bincount(world.goal.flatten()).tolist() == pytest.approx([expected] * 16, rel=0.15)


def test_new_goals_never_equal_the_present_cell() -> None:
    world = LifelongMapf(MapfConfig(generator=RandomMap(size=3, density=0.0), map_pool=1, agents=2, horizon=500), 50)
    timestep = world.reset(0)
    reached = 0.0
    for _ in range(100):
        timestep = world.step(random_actions(timestep))
        reached += timestep.reward.sum().item()
        assert not (world.position == world.goal).any()
    assert reached > 300


def test_goals_of_a_task_file_come_in_order_and_random_ones_after_them(tmp_path: Path) -> None:
    agents = [{"start": [0, 0], "goals": [[0, 2], [0, 1], [0, 3]]}, {"start": [0, 7], "goals": [[0, 6]]}]
    world = corridor(tmp_path, 8, agents)
    world.reset(0)
    assert world.goal.tolist() == [[2, 6]]
    steps = walk(world, [RIGHT, STAY], [RIGHT, STAY], [LEFT, STAY], [RIGHT, LEFT])
    assert [step.reward[0].tolist() for step in steps] == [[0, 0], [1, 0], [1, 0], [0, 1]]
    assert world.goal[0, 0] == 3 and world.goal[0, 1] != 6
    walk(world, [RIGHT, STAY])
    assert world.goal[0, 0] != 3 and world.age[0, 0] == 0


def test_throughput_latency_and_bound_by_hand(tmp_path: Path) -> None:
    agents = [{"start": [0, 0], "goals": [[0, 1], [0, 3], [0, 0], [0, 7]]}]
    world = corridor(tmp_path, 8, agents, horizon=7, bound_share=True)
    world.reset(0)
    *_, end = walk(world, [RIGHT], [STAY], [RIGHT], [RIGHT], [LEFT], [LEFT], [LEFT])  # goals after 1, 4 and 7 steps
    assert end.done.all()
    figures = {name: value.item() for name, value in end.metrics.items()}
    assert figures == {
        "throughput": pytest.approx(3 / 7),
        "latency_p50_steps": 3,
        "latency_p95_steps": 3,
        "oldest_goal_steps": 0,  # the third goal was reached in the last step
        "collisions": 0,
        "refused_share": 0,
        "bound_share": 1,  # unhindered: after 1, 3 and 6 steps, the fourth would take until 13
    }


def test_the_bound_is_that_of_agents_each_alone() -> None:
    config = MapfConfig(generator=RandomMap(size=8), map_pool=2, agents=1, horizon=60, bound_share=True)
    world = LifelongMapf(config, 6)
    world.enable_plan()
    timestep = world.reset(0)
    while not timestep.done.any():
        moves = world.plan().features["moves"]
        timestep = world.step(moves.argmin(-1))
    # A single agent on its guided path may make detours around the centre, never gain.
    assert (timestep.metrics["bound_share"] <= 1).all() and (timestep.metrics["bound_share"] > 0.7).all()


def test_finish_takes_agents_off_the_board(tmp_path: Path) -> None:
    agents = [{"start": [0, 0], "goals": [[0, 1]]}, {"start": [0, 3], "goals": [[0, 2], [0, 0]]}]
    world = corridor(tmp_path, 4, agents, on_target="finish")
    world.reset(0)
    first, second, third, fourth = walk(world, [RIGHT, LEFT], [-9, LEFT], [7, LEFT], [0, STAY])
    assert first.reward.tolist() == [[1, 1]]
    assert first.terminated.tolist() == [[True, False]] and not first.done.any()
    assert first.alive.tolist() == [[False, True]] and first.final is not None
    assert second.reward.tolist() == [[0, 0]] and second.final is None  # passes the cell of the one that has left
    assert second.observation["window"][0, 1, 1].tolist() == [0] * 5 + [1 << 5] + [0] * 5
    assert third.reward.tolist() == [[0, 1]] and third.terminated.tolist() == [[False, True]]
    assert third.done.all() and third.alive.all()
    assert {name: value.item() for name, value in third.metrics.items()} == {
        "success": 1,
        "arrived_share": 1,
        "makespan": 3,
        "sum_of_costs": 4,
        "collisions": 0,
        "refused_share": 0,
    }
    assert not fourth.done.any() and world.steps.item() == 1


def test_nothing_ends_when_all_are_on_their_goals_together(tmp_path: Path) -> None:
    agents = [{"start": [0, 0], "goals": [[0, 1]]}, {"start": [0, 4], "goals": [[0, 2]]}]
    world = corridor(tmp_path, 5, agents, on_target="nothing")
    world.reset(0)
    *steps, end = walk(world, [RIGHT, STAY], [LEFT, LEFT], [RIGHT, LEFT])
    assert [step.reward[0].tolist() for step in (*steps, end)] == [[1, 0], [0, 0], [0, 1]]  # each goal is paid once
    assert not any(step.done.any() or step.terminated.any() for step in steps)
    assert end.done.all() and end.terminated.all() and not end.truncated.any()
    assert end.metrics["sum_of_costs"].item() == 6 and end.metrics["makespan"].item() == 3


def test_an_unsolved_one_shot_episode_counts_its_full_length(tmp_path: Path) -> None:
    agents = [{"start": [0, 0], "goals": [[0, 1]]}, {"start": [0, 4], "goals": [[0, 2]]}]
    world = corridor(tmp_path, 5, agents, on_target="nothing", horizon=4)
    world.reset(0)
    *_, end = walk(world, [RIGHT, STAY], [STAY, STAY], [STAY, STAY], [STAY, STAY])
    assert end.truncated.all() and not end.terminated.any()
    figures = {name: value.item() for name, value in end.metrics.items()}
    assert figures["success"] == 0 and figures["arrived_share"] == 0.5
    assert figures["makespan"] == 4 and figures["sum_of_costs"] == 1 + 4


@pytest.mark.parametrize("on_target", ["restart", "finish"])
@pytest.mark.parametrize("kind", ["shared", "follower"])
def test_restored_copies_go_on_exactly(on_target: str, kind: str) -> None:
    config = MIXED.model_copy(
        update={"on_target": on_target, "guidance": MIXED.guidance.model_copy(update={"kind": kind})}
    )
    world, other = LifelongMapf(config, 4), LifelongMapf(config, 4)
    for each in (world, other):
        each.enable_plan()
    play(world, world.reset(2), 17)
    saved, view = world.snapshot(), leaves(world.current())
    expected = play(world, world.current(), 30)

    play(other, other.reset(8), 9)
    other.restore(saved)
    for name, tensor in leaves(other.current()).items():
        assert torch.equal(tensor, view[name]), name
    for one, two in zip(expected, play(other, other.current(), 30), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            assert torch.equal(one[name], two[name]), name


def test_snapshot_copies_can_be_put_elsewhere() -> None:
    world = LifelongMapf(MIXED, 4)
    play(world, world.reset(2), 17)
    saved = world.snapshot()
    play(world, world.current(), 5)
    apart = leaves(world.current())
    world.restore(saved, source=torch.tensor([3, 3]), target=torch.tensor([0, 2]))
    now = leaves(world.current())
    world.restore(saved)
    then = leaves(world.current())
    for name in now:
        assert torch.equal(now[name][[1, 3]], apart[name][[1, 3]]), name
        assert torch.equal(now[name][[0, 2]], then[name][[3, 3]]), name


def test_plans_follow_the_episodes() -> None:
    world = LifelongMapf(MIXED, 3)
    assert isinstance(world, Plans) and isinstance(world, Snapshots)
    spaces = world.enable_plan()
    assert set(spaces) == {"path", "moves", "contest"}
    timestep = world.reset(0)
    assert not world.plan().reached.any() and world.plan().final is None
    reached = 0
    for t in range(1, 81):
        moves = world.plan().features["moves"]
        timestep = world.step(moves.argmin(-1))
        plan = world.plan()
        reached += int(plan.reached.sum())
        assert (plan.final is not None) == (t % 40 == 0) == bool(timestep.done.all())
        if plan.final is not None:
            assert not torch.equal(plan.final["moves"], plan.features["moves"])
    assert reached > 80 * 3
    assert world.enable_plan(False) == {}


def test_a_plan_has_a_final_view_whenever_the_time_step_has_one() -> None:
    world = LifelongMapf(MIXED.model_copy(update={"on_target": "finish"}), 2)
    world.enable_plan()
    world.reset(0)
    ends = set()
    for _ in range(60):
        timestep = world.step(world.plan().features["moves"].argmin(-1))
        assert (world.plan().final is None) == (timestep.final is None)
        ends.add((bool(timestep.terminated.any()), bool(timestep.done.any())))
    assert (True, False) in ends and (False, False) in ends


def test_another_process_sees_the_same_episodes() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(episode_digest) == episode_digest()


def test_pools_of_different_seeds_have_other_maps() -> None:
    pools = [LifelongMapf(MapfConfig(map_pool=3, map_seed=seed), 1).blocked for seed in (0, 0, 1)]
    assert (pools[0] == pools[1]).all() and (pools[0] != pools[2]).any()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"agents": 400}, "free start cells, 400 agents asked"),
        ({"map": "nowhere.map"}, "nowhere.map"),
        ({"tasks": "nothing.json"}, "nothing.json"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LifelongMapf(MapfConfig(**options), 1)


def test_a_world_is_reset_before_it_is_used() -> None:
    world = LifelongMapf(MapfConfig(agents=2, map_pool=1), 2)
    with pytest.raises(RuntimeError, match="reset"):
        world.step(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="reset"):
        world.reset(0, torch.tensor([True, False]))
    world.reset(0)
    with pytest.raises(ValueError, match="shape"):
        world.step(torch.zeros(2, 3, dtype=torch.int64))
