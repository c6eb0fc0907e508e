"""Numbers that are none stop a run: named by place, with the last good checkpoint kept, in every way of training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from spoiled_worlds import TRAP, Spoiled
from test_language_trainer import small
from test_trainer import assert_equal, final_tree
from tiny_scenario import tiny_config
from torch import Tensor

from marl import api
from marl.cli import main
from marl.config import AnyRunConfig
from marl.envs.batched import TimeStep, Tree
from marl.errors import UserError
from marl.learning.learner import ClippedAdam
from marl.policies.language.base import Transcript
from marl.policies.language.tiny import TinyPolicy
from marl.rollout.language import turns
from marl.rollout.language.turns import TurnRecord
from marl.systems.language.imitation import Imitation
from marl.systems.language.learner import LanguageLearner
from marl.systems.mappo import Mappo
from marl.testing.worlds import TinyWorld
from marl.training import checkpoint
from marl.training.checkpoint import CheckpointStore, broken_weight
from marl.training.run import resume, train
from marl.training.tensor_trainer import Trainer
from scenarios.agent_hierarchy.world import HierarchyEnv

SYSTEMS: dict[str, dict[str, Any]] = {
    "mappo": {},
    "ippo": {},
    "dagger": {"algorithm": {"expert": "rest"}},
    "es": {"algorithm": {"population": 4, "actor": {"hidden": [16]}}, "checkpoint": {"every_iterations": 2}},
}


def spoiled(system: str = "mappo", **sections: Any) -> AnyRunConfig:
    return tiny_config(system, **{"scenario": "spoiled_worlds:SPOILED", **SYSTEMS.get(system, {}), **sections})


def stopped(config: AnyRunConfig, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        train(config, folder, live=False)
    return str(caught.value)


def kept_good(folder: Path) -> list[int]:
    """The steps whose checkpoints are kept; all of them load and hold numbers only."""
    store = CheckpointStore(folder)
    for step in store.steps():
        tree, _ = checkpoint.load(store.path(step))
        assert broken_weight(tree) is None
    return store.steps()


# Tensor worlds


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["reward", "observation", "state"])
def test_a_world_is_named_and_the_run_goes_on_once_it_is_mended(
    tmp_path: Path, part: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(spoiled(), tmp_path / "whole", live=False)
    monkeypatch.setattr(Spoiled, "part", part)
    monkeypatch.setattr(Spoiled, "value", value)
    folder = tmp_path / "run"
    said = stopped(spoiled(), folder)
    words = "NaN" if math.isnan(value) else "infinite"
    number = Spoiled.number + (part != "reward")  # what is seen after a step is what the next one starts from
    assert f"iteration 6: the {part} of agent 'agent_1' in copy 3 is {words} in step {number} of the rollout" in said
    assert f"the last good checkpoint, {folder}/checkpoints/00000004, is kept" in said
    assert f"mend the world, then go on with 'marl train --resume {folder}'" in said
    assert kept_good(folder) == [0, 2, 4]

    heard: list[str] = []
    with pytest.raises(UserError, match="iteration 6"):
        resume(folder, heard.append, live=False)
    assert any("this run stopped in iteration 6" in line and "unless that was mended" in line for line in heard)
    monkeypatch.setattr(Spoiled, "part", None)
    assert_equal(final_tree(resume(folder, live=False)), final_tree(whole))
    heard.clear()
    resume(folder, heard.append, live=False)
    assert not any("stopped" in line for line in heard)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_for_tensor_worlds_stops(tmp_path: Path, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spoiled, "part", "reward")
    # A generation begins anew, so that the sixth episode never comes: the first is spoiled there.
    if system == "es":
        monkeypatch.setattr(Spoiled, "at_episode", 0)
    said = stopped(spoiled(system), tmp_path / "run")
    assert "the reward of agent 'agent_1' in copy 3" in said and "is NaN" in said and "--resume" in said
    assert ("of member 1," in said) == (system == "es")
    assert kept_good(tmp_path / "run")


def test_evolution_looks_at_what_its_members_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No member reads the central state, so that one that is none changes nothing."""
    whole = train(spoiled("es"), tmp_path / "whole", live=False)
    monkeypatch.setattr(Spoiled, "at_episode", 0)
    monkeypatch.setattr(Spoiled, "part", "state")
    assert_equal(final_tree(train(spoiled("es"), tmp_path / "state", live=False)), final_tree(whole))
    monkeypatch.setattr(Spoiled, "part", "observation")
    assert "the observation of agent 'agent_1' in copy 3, of member 1," in stopped(spoiled("es"), tmp_path / "run")


def test_one_reward_in_ten_thousand_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """From the command line: one sentence and code 2."""
    monkeypatch.setattr(Spoiled, "part", "reward")
    monkeypatch.setattr(Spoiled, "at_episode", 75)
    folder = tmp_path / "run"
    values = {
        "copies": 4,
        "total_steps": 10_240,
        "algorithm.rollout": 64,
        "coordination.guidance.enabled": "false",
        "checkpoint.every_iterations": 5,
    }
    sets = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    trust = ["--trust", "spoiled_worlds"]
    assert main(["train", "spoiled_worlds:SPOILED", "--system", "mappo", "--out", str(folder), *trust, *sets]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "iteration 19: the reward of agent 'agent_1' in copy 3 is NaN" in error
    assert kept_good(folder) == [5, 10, 15]
    assert main(["train", "--resume", str(folder), *trust]) == 2
    assert "iteration 19" in capsys.readouterr().err


def test_what_a_world_cannot_take_is_traced_to_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN that was seen becomes a NaN that is done; the world refuses the latter in the middle of a rollout."""
    monkeypatch.setattr(Spoiled, "part", "crash")
    said = stopped(spoiled(world={"continuous": True}), tmp_path / "run")
    assert "the observation of agent 'agent_1' in copy 3 is NaN" in said


def test_a_world_that_fails_for_another_reason_says_so_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: TinyWorld, actions: Tree) -> TimeStep:
        raise ValueError("another reason")

    monkeypatch.setattr(TinyWorld, "step", failing)
    with pytest.raises(ValueError, match="another reason"):
        train(spoiled(), tmp_path / "run", live=False)


def test_two_groups_and_named_parts_of_an_observation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second walker is the third agent."""
    original = TinyWorld.observe

    def seen(self: TinyWorld, who: Tensor) -> Tree:
        tree = original(self, who)
        tree["walker"]["place"][2, 1, 0] = math.inf  # type: ignore[index, call-overload]
        return tree

    monkeypatch.setattr(TinyWorld, "observe", seen)
    said = stopped(spoiled(world={"unlike": True, "agents": 3, "observation": "dict"}), tmp_path / "run")
    assert "iteration 1: the observation 'place' of agent 'agent_2' in copy 2 is infinite in step 0" in said


# Foreign worlds


def test_a_foreign_world_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "trap"
    trap.touch()
    monkeypatch.setenv(TRAP, str(trap))
    config = tiny_config(scenario="spoiled_worlds:FOREIGN")
    said = stopped(config, tmp_path / "run")
    assert "the reward of agent 'agent_1' in copy" in said and "is NaN" in said and "iteration 2" in said
    assert kept_good(tmp_path / "run") == [0]
    trap.unlink()
    resume(tmp_path / "run", live=False)
    assert kept_good(tmp_path / "run")[-1] == 6


# Learning


def test_a_gradient_that_is_none_blames_the_learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, steps = ClippedAdam.step, 0

    def exploding(self: ClippedAdam) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 40:
            next(iter(self._parameters)).grad.fill_(math.inf)  # type: ignore[union-attr]
        return original(self)

    monkeypatch.setattr(ClippedAdam, "step", exploding)
    folder = tmp_path / "run"
    said = stopped(spoiled(), folder)
    assert "iteration 5: the figure learn/critic_grad_norm of the update is inf" in said
    assert "learn in smaller steps, with a lower learning rate" in said and f"--init {folder}" in said
    assert kept_good(folder) == [0, 2, 4]


def test_a_loss_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marl.systems.mappo.ppo_clip", lambda ratio, advantage, clip: ratio * math.nan)
    assert "iteration 1: the figure learn/policy_loss of the update is nan" in stopped(spoiled(), tmp_path / "run")


def test_weights_that_no_figure_tells_of_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An own system may log nothing."""

    def silent(self: Mappo, batch: Any, number: int, fraction: float) -> dict[str, float]:
        if number == 3:
            with torch.no_grad():
                next(self.critic.parameters()).view(-1)[0] = math.inf
        return {}

    monkeypatch.setattr(Mappo, "update", silent)
    said = stopped(spoiled(), tmp_path / "run")
    assert "iteration 4: the critic has weights that are not finite" in said
    assert kept_good(tmp_path / "run") == [0, 2]


def test_a_log_probability_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marl.policies.heads.Categorical.log_prob", lambda self, action: action * -math.inf)
    assert "the log-probability of agent 'agent_0' in copy 0 is" in stopped(spoiled(), tmp_path / "run")


def test_evaluation_during_training_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer.evaluate

    def spoiling(self: Trainer) -> dict[str, float]:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Spoiled, "part", "reward")
            inner.setattr(Spoiled, "at_episode", 0)
            return original(self)

    monkeypatch.setattr(Trainer, "evaluate", spoiling)
    said = stopped(spoiled(evaluation={"every_iterations": 3, "seeds": 5}), tmp_path / "run")
    assert "iteration 3: the reward of agent 'agent_1' in the instance of seed" in said and "is NaN" in said
    assert kept_good(tmp_path / "run") == [0, 2]


# Evolution


def test_a_score_that_is_none_stops_evolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spoiled, "part", "metric")
    monkeypatch.setattr(Spoiled, "at_episode", 0)
    monkeypatch.setattr(Spoiled, "number", 15)
    said = stopped(spoiled("es"), tmp_path / "run")
    assert "iteration 1: the score of member 0 is NaN" in said and "mend the metric" in said


def test_equal_scores_are_told_once_and_move_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spoiled, "part", "metric")
    monkeypatch.setattr(Spoiled, "value", 0.25)
    monkeypatch.setattr(Spoiled, "at_episode", 0)
    monkeypatch.setattr(Spoiled, "number", 15)
    heard: list[str] = []
    folder = train(spoiled("es"), tmp_path / "run", heard.append, live=False)
    (line,) = [line for line in heard if "members score" in line]
    assert line.startswith("generation 1: all 4 members score 0.25 in reached_share, so nothing is learned from it")
    store = CheckpointStore(folder)
    first, last = (checkpoint.load(store.path(step))[0] for step in (store.steps()[0], store.steps()[-1]))
    assert_equal(first["algorithm"]["policy"], last["algorithm"]["policy"])


# Language


@pytest.mark.parametrize("part", ["cost", "reward", "log_prob"])
def test_language(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first update after two iterations of imitation."""
    ends = 0
    original = HierarchyEnv.outcome

    def spoiling(self: HierarchyEnv) -> Any:
        nonlocal ends
        ends += 1
        outcome = original(self)
        return outcome._replace(cost=math.nan) if part == "cost" and ends == 25 * 8 + 6 else outcome

    monkeypatch.setattr(HierarchyEnv, "outcome", spoiling)
    if part == "log_prob":
        complete = TinyPolicy.complete

        def unsure(self: TinyPolicy, requests: Any, greedy: bool = False) -> Any:
            said = complete(self, requests, greedy)
            transcript: Transcript = requests[0].transcript
            transcript.log_probs[-1] = math.nan
            return said

        monkeypatch.setattr(TinyPolicy, "complete", unsure)
    if part == "reward":
        nan = math.nan
        monkeypatch.setattr(turns, "TurnRecord", lambda anchor, text, _, *rest: TurnRecord(anchor, text, nan, *rest))
    said = stopped(small(), tmp_path / "run")
    what = {
        "cost": "the cost of episode ",
        "reward": "the reward nan in turn 0 of agent 'planner' in episode 0 (task ",
        "log_prob": "a log-probability of what agent ",
    }
    assert f"iteration 3: {what[part]}" in said
    assert kept_good(tmp_path / "run") == [0, 1, 2]


@pytest.mark.parametrize(("after", "iteration"), [(0, 1), (1000, 3)])
def test_a_language_loss_that_is_none(
    tmp_path: Path, after: int, iteration: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In imitation and in reinforcement."""
    original = TinyPolicy.logits_at

    def spoiling(self: TinyPolicy, *arguments: Any) -> Tensor:
        logits = original(self, *arguments)
        return logits * math.nan if not after or reinforcing else logits

    reinforcing = False

    def end(self: Imitation) -> None:
        nonlocal reinforcing
        reinforcing = True

    monkeypatch.setattr(Imitation, "end", end)
    monkeypatch.setattr(TinyPolicy, "logits_at", spoiling)
    said = stopped(small(), tmp_path / "run")
    assert f"iteration {iteration}: the loss of '" in said and "--init" in said
    assert kept_good(tmp_path / "run")[-1] == iteration - 1


def test_advantages_of_an_own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LanguageLearner.__init__

    def begin(self: LanguageLearner, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        recipe = self._recipe

        def advantages(batch: Any, config: Any, context: Any) -> Any:
            made = recipe.advantages(batch, config, context)
            made.turn[4] = math.nan
            return made

        self._recipe = dataclasses.replace(recipe, advantages=advantages)

    monkeypatch.setattr(LanguageLearner, "__init__", begin)
    said = stopped(small(), tmp_path / "run")
    assert "an advantage of agent '" in said and "is not finite" in said and "mend the recipe" in said


# What such runs left behind


def test_weights_of_an_earlier_broken_run_are_refused(tmp_path: Path) -> None:
    folder = train(spoiled(), tmp_path / "run", live=False)
    store = CheckpointStore(folder)
    for step in store.steps():
        tree, info = checkpoint.load(store.path(step))
        name = sorted(tree["algorithm"]["policy"])[0]
        tree["algorithm"]["policy"][name].view(-1)[0] = math.nan
        checkpoint.save(store.path(step), tree, info)
    heard: list[str] = []
    for use in (lambda: resume(folder, heard.append, live=False), lambda: api.load(str(folder))):
        with pytest.raises(UserError, match="none of the 3 checkpoints"):
            use()
    assert heard[0].count("is broken: its weights 'policy.") == 1
