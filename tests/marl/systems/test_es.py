"""Evolution strategies: one step by hand, what members play, exact resume, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import dying_after
from tiny_scenario import make_tiny, tiny_config
from torch import Tensor, nn

from marl import api
from marl.bench.worlds import WorldParts
from marl.config import AnyRunConfig
from marl.coordination.pipeline import Pipeline
from marl.envs.batched import Metric
from marl.errors import UserError
from marl.evaluation.runner import run_policy
from marl.policies.joint import JointPolicy
from marl.rollout.generations import Generation, Generations
from marl.scenario import load_scenario
from marl.systems.es import Es
from marl.testing.worlds import TinyWorld
from marl.training.checkpoint import CheckpointStore
from marl.training.checkpoint import load as load_checkpoint
from marl.training.policy import PipelinePolicy
from marl.training.run import resume, train
from marl.training.tensor_trainer import collector_of
from marl.training.tracking import read_metrics


def config_of(**sections: Any) -> AnyRunConfig:
    algorithm = {"population": 4, **sections.pop("algorithm", {})}
    return tiny_config("es", algorithm=algorithm, **sections)


def learner_of(config: AnyRunConfig, copies: int) -> tuple[Es, Generations, Pipeline]:
    env = load_scenario(config.scenario).make(config.world, copies, torch.device("cpu"))
    pipeline = Pipeline(env, config.coordination)
    learner = Es(env.spec, pipeline.observation_space, config.algorithm, 0, torch.device("cpu"))
    generations = collector_of(pipeline, learner)
    assert isinstance(generations, Generations)
    return learner, generations, pipeline


def weights_of(policy: JointPolicy) -> Tensor:
    return nn.utils.parameters_to_vector(policy.parameters()).detach()


def test_the_first_step_goes_towards_the_better_one_of_a_pair() -> None:
    """Adam's first step has the rate's length for each weight, and one pair has one direction."""
    config = config_of(algorithm={"population": 2, "rate": 0.25, "sigma": 0.5})
    learner, _, _ = learner_of(config, 2)
    before = weights_of(learner.policy)
    members = learner.members(7)
    first, second = (weights_of(member) for member in members._members)
    torch.testing.assert_close((first + second) / 2, before)
    figures = learner.update(Generation(torch.tensor([1.0, 4.0], dtype=torch.float64), 0.0), 7, 0.0)
    # Ranks -.5 and .5: (u+ - u-) / (2 sigma) = -1 times the noise, which the second member has taken half of.
    uphill = (second - before) / 0.5
    step = weights_of(learner.policy) - before
    torch.testing.assert_close(step, 0.25 * uphill / (uphill.abs() + 1e-5), atol=1e-4, rtol=0)
    assert figures["gradient_norm"] == pytest.approx(float(uphill.norm()))
    assert (figures["fitness_best"], figures["pair_difference"]) == (4.0, 3.0)


def test_another_generation_has_other_members_and_the_same_one_the_same() -> None:
    learner, _, _ = learner_of(config_of(), 4)
    seen = [torch.stack([weights_of(member) for member in learner.members(n)._members]) for n in (3, 4, 3)]
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


def test_members_meet_the_same_worlds_with_the_same_random_numbers() -> None:
    """Without a perturbation worth the name all do the same, sampled actions and slips included: nothing is learned."""
    config = config_of(world={"slip": 0.3}, algorithm={"sigma": 1e-12})
    learner, generations, _ = learner_of(config, 12)
    generation, _ = generations.collect(0, torch.arange(3))
    assert generation.fitness.unique().numel() == 1
    before = weights_of(learner.policy)
    assert learner.update(generation, 0, 0.0)["gradient_norm"] == 0.0
    assert torch.equal(before, weights_of(learner.policy))


@pytest.mark.parametrize(
    ("world", "greedy"),
    [
        ({"slip": 0.3}, False),
        ({}, True),
        ({"mortal": True, "slip": 0.3, "agents": 3}, False),
        ({"terminates": True, "length": 3, "slip": 0.3}, False),
    ],
)
def test_fitness_is_what_the_evaluator_finds(world: dict[str, Any], greedy: bool) -> None:
    config = config_of(world=world, algorithm={"sigma": 1.0, "greedy": greedy})
    learner, generations, _ = learner_of(config, 12)
    seeds = torch.tensor([5, 9, 2])
    generation, episodes = generations.collect(0, seeds)
    assert episodes.count == 12 and len(generation.fitness.unique()) > 1
    for member, fitness in zip(learner.members(0)._members, generation.fitness, strict=True):
        env = make_tiny(config.world, 3, torch.device("cpu"))
        played = run_policy(env, PipelinePolicy(Pipeline(env, config.coordination), member, greedy), seeds, 1)
        assert float(fitness) == pytest.approx(played.metrics["reached_share"].mean(), rel=1e-6)
    assert episodes.means()["reached_share"] == pytest.approx(float(generation.fitness.mean()))


ENDS = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
VALUES = [[1.0, 9.0, 9.0, 9.0], [5.0, 2.0, 9.0, 9.0], [9.0, 9.0, 3.0, 6.0], [7.0, 7.0, 7.0, 7.0]]


def scripted(ends: list[list[int]], lost: list[list[int]] | None = None) -> tuple[Generations, list[int]]:
    """Two members of two instances, whose step k ends episodes, is worth k to everybody and is as the row says.

    The last row goes on for ever. Returns the number of steps made, too, as they are made.
    """
    _, generations, pipeline = learner_of(config_of(algorithm={"population": 2}), 4)
    step, made = pipeline.env.step, []
    names = ("reached_share", *(() if lost is None else ("lost",)))
    told = {name: Metric("1", "higher" if name == "reached_share" else "lower") for name in names}
    pipeline.env.spec = dataclasses.replace(pipeline.env.spec, metrics=told)

    def play(actions: Any) -> Any:
        row = min(len(made), len(ends) - 1)
        made.append(row)
        after = step(actions)
        metrics = {"reached_share": torch.tensor(VALUES[row])}
        if lost is not None:
            metrics["lost"] = torch.tensor(lost[row]).float()
        reward = torch.full_like(after.reward, len(made))
        return after._replace(done=torch.tensor(ends[row]).bool(), metrics=metrics, reward=reward)

    pipeline.env.step = play  # type: ignore[method-assign]
    return generations, made


def test_the_first_episode_of_each_copy_counts_and_no_other() -> None:
    generations, made = scripted(ENDS)
    generation, episodes = generations.collect(0, torch.arange(2))
    assert generation.fitness.tolist() == [1.5, 4.5]
    assert (episodes.count, episodes.means()) == (4, {"reached_share": 3.0})
    assert len(made) == 3  # then all have finished
    # Copies that played for 1, 2, 3 and 3 steps.
    assert generation.mean_reward == pytest.approx((1 + 3 + 6 + 6) / 9)


@pytest.mark.parametrize(
    ("copies", "fitness"), [((1,), [1.0, 4.5]), ((0, 1), [4.5, 4.5]), ((1, 2), [1.0, 6.0]), ((2, 3), [1.5, 1.5])]
)
def test_lost_episodes_do_not_count(copies: tuple[int, ...], fitness: list[float]) -> None:
    """In step 4 all copies lose an episode that is not their first."""
    lost = [[int(end and copy in copies) for copy, end in enumerate(row)] for row in ENDS]
    generations, _ = scripted(ENDS, lost)
    generation, episodes = generations.collect(0, torch.arange(2))
    assert generation.fitness.tolist() == fitness
    assert episodes.count == 4 and episodes.means()["lost"] == len(copies) / 4


def test_a_generation_without_a_figure_is_refused() -> None:
    generations, _ = scripted(ENDS, ENDS)
    with pytest.raises(UserError, match="all episodes of generation 5 were lost with their simulators"):
        generations.collect(5, torch.arange(2))


@pytest.mark.parametrize("ends", [[[0, 0, 0, 0]], [[1, 1, 1, 0]]])
def test_a_world_longer_than_its_horizon_is_an_error(ends: list[list[int]]) -> None:
    generations, made = scripted(ends)
    with pytest.raises(RuntimeError, match="TinyWorld has not finished an episode of each copy in 16 steps"):
        generations.collect(0, torch.arange(2))
    assert len(made) == 16


def test_everything_but_bookkeeping_lies_in_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, _, pipeline = learner_of(config_of(), 4)
    within: list[str] = []
    seen = []

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        within.append(name)
        yield
        within.pop()

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any) -> Any:
            seen.append((name, *within))
            return call(*args)

        return noting

    monkeypatch.setattr(pipeline, "view", watched("view", pipeline.view))
    monkeypatch.setattr(pipeline, "act", watched("act", pipeline.act))
    Generations(pipeline, learner.members, learner.population, phase=phase).collect(0, torch.arange(1))
    assert set(seen) == {("view", "guidance"), ("act", "policy")} and seen[0][0] == "view"


GUARDED: dict[str, Any] = {
    "scenario": "tiny_scenario:GUARDED",
    "world": {"agents": 1, "terminates": True, "length": 3},
    "coordination": {"safety": {"enabled": True}},
}


def test_nothing_is_left_of_the_corrections_of_the_generation_before() -> None:
    """Copies that finish early are in the middle of another episode when the generation ends."""
    _, used, pipeline = learner_of(config_of(**GUARDED), 32)
    used.collect(0, torch.arange(8))
    assert bool(pipeline.state()["interventions"].any())
    _, fresh, _ = learner_of(config_of(**GUARDED), 32)
    shares = [own.collect(1, torch.arange(8, 16))[1].means()["interventions_per_step"] for own in (used, fresh)]
    assert shares[0] == shares[1] > 0.0


def with_metric(learner: Es, pipeline: Pipeline, better: Any) -> Generations:
    metric = {"reached_share": Metric("1", better)} if better else {}
    pipeline.env.spec = dataclasses.replace(pipeline.env.spec, metrics=metric)
    return Generations(pipeline, learner.members, learner.population)


def test_less_is_better_where_the_metric_says_so() -> None:
    learner, generations, pipeline = learner_of(config_of(algorithm={"sigma": 1.0}), 32)
    more, _ = generations.collect(0, torch.arange(8))
    less, _ = with_metric(learner, pipeline, "lower").collect(0, torch.arange(8))
    assert torch.equal(more.fitness, -less.fitness) and bool(more.fitness.all())


@pytest.mark.parametrize("better", ["neither", None])
def test_worlds_without_anything_to_go_by_are_refused(better: Any) -> None:
    learner, _, pipeline = learner_of(config_of(), 4)
    with pytest.raises(UserError, match="TinyWorld has no primary metric of which more or less is better"):
        with_metric(learner, pipeline, better)


def refuse_training(config: Callable[[], AnyRunConfig], tmp_path: Path) -> None:
    train(config(), tmp_path / "run", live=False)


def refuse_planning(config: Callable[[], AnyRunConfig], tmp_path: Path) -> None:
    api.plan(config())


@pytest.mark.parametrize("attempt", [refuse_training, refuse_planning])
@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"copies": 6}, "copies=6 is not a multiple of algorithm.population=4"),
        ({"algorithm": {"population": 5}}, "population=5 is not even"),
        ({"algorithm": {"rollout": 16}}, "unknown key 'algorithm.rollout'"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(
    tmp_path: Path, attempt: Callable[..., None], sections: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        attempt(lambda: config_of(**sections), tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_plan_counts_whole_episodes_and_has_no_critic() -> None:
    plan = api.plan(config_of())
    assert plan.agent_steps_per_iteration == 16 * 8 * 2 and plan.iterations == 6
    assert list(plan.parameters) == ["policy"]


def test_a_benchmark_of_rollouts_is_refused_and_closes_its_world() -> None:
    config = config_of()
    closed = []

    class Closing(TinyWorld):
        def close(self) -> None:
            closed.append(self)

    scenario = dataclasses.replace(
        load_scenario(config.scenario), make=lambda world, copies, device: Closing(copies, **world.model_dump())
    )
    with pytest.raises(UserError, match="'es' plays whole episodes"):
        list(WorldParts(scenario, config, 16).parts(("update",)))
    assert len(closed) == 1


VARIANTS: dict[str, dict[str, Any]] = {
    "feed-forward": {},
    "recurrent": {"algorithm": {"actor": {"recurrent": "gru"}}},
    "episodes end early": {"world": {"terminates": True, "length": 3}},
    "agents die, two groups": {"world": {"mortal": True, "refill": 3, "slip": 0.2, "unlike": True, "agents": 3}},
    "supervised": GUARDED,
    "continuous": {"world": {"continuous": True}, "algorithm": {"anneal": True}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_resume_is_exact(tmp_path: Path, name: str) -> None:
    config = config_of(**VARIANTS[name])
    whole = train(config, tmp_path / "whole", live=False)
    broken = tmp_path / "broken"
    with dying_after(3):
        train(config, broken, live=False)
    resume(broken, live=False)
    first, second = (read_metrics(folder / "metrics.csv") for folder in (whole, broken))
    for row in (*first, *second):
        row.pop("cpu_seconds")
    assert first == second and len(first) > 3
    one, other = (CheckpointStore(folder).latest(lambda _: None)[0]["algorithm"] for folder in (whole, broken))
    assert all(torch.equal(one["policy"][key], other["policy"][key]) for key in one["policy"])
    assert one["adam"].keys() == other["adam"].keys()


def test_it_learns_the_tiny_world(tmp_path: Path) -> None:
    config = config_of(
        world={"agents": 1, "length": 3, "horizon": 6},
        total_steps=6 * 256 * 40,
        copies=256,
        algorithm={"population": 64, "sigma": 0.3, "rate": 0.2, "anneal": True, "greedy": True},
        checkpoint={"every_iterations": 100},
    )
    rows = read_metrics(train(config, tmp_path / "run", live=False) / "metrics.csv")
    reached = [row["episode/reached_share"] for row in rows]
    assert sum(reached[-5:]) / 5 > 0.85 > 0.5 > reached[0]


def test_weights_go_from_gradients_to_evolution_and_back(tmp_path: Path) -> None:
    def policy_of(folder: Path, which: int) -> dict[str, Tensor]:
        store = CheckpointStore(folder)
        tree, _ = load_checkpoint(store.path(store.steps()[which]))
        return dict(tree["algorithm"]["policy"])

    keep = {"checkpoint": {"keep": 100}}
    first = train(tiny_config(), tmp_path / "first", live=False)
    second = train(config_of(**keep), tmp_path / "second", live=False, init=first)
    third = train(tiny_config(seed=3, **keep), tmp_path / "third", live=False, init=second)
    for given, taken in ((first, second), (second, third)):
        end, start = policy_of(given, -1), policy_of(taken, 0)
        assert all(torch.equal(end[key], start[key]) for key in end)
    assert any(not torch.equal(policy_of(second, 0)[k], policy_of(second, -1)[k]) for k in policy_of(second, 0))
