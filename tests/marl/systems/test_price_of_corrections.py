"""``coordination.safety.penalty`` acts in every recipe, in last turns too, and counts once; so do illegal calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from marl.api import configure
from marl.config import AnyRunConfig
from marl.rollout.language.token_batch import TokenBatch, token_batch
from marl.rollout.language.turns import Episode, TurnPlayer
from marl.scenario import load_scenario
from marl.systems.language.options import Context
from marl.systems.language.rewards import row_reward, turn_reward
from marl.systems.registry import SYSTEMS

pytest.importorskip("tokenizers")
LANGUAGE_SYSTEMS = [name for name, system in SYSTEMS.items() if system.kind == "language"]


def config_of(system: str, **overrides: Any) -> AnyRunConfig:
    values = {
        "world.tasks.hops": [1],
        "world.max_turns": 12,
        "algorithm.group": 8,
        "algorithm.policy.transformer": "{width: 16, heads: 2, kv_heads: 1, hidden: 32}",
        **overrides,
    }
    return configure("agent_hierarchy", system=system, overrides=[f"{k}={v}" for k, v in values.items()])


def played(config: AnyRunConfig) -> tuple[Any, list[Episode], TokenBatch]:
    """Half of the turns are said by the demonstrator, half by a model that knows nothing."""
    world = load_scenario("agent_hierarchy").language(config.world)  # type: ignore[misc]
    learner = SYSTEMS[config.system].build(world, config.algorithm, 0, "cpu")

    class Mixed:
        trainable = True

        def complete(self, requests: Any, greedy: bool = False) -> list[str | None]:
            texts: list[str | None] = []
            for request in requests:
                wrong = ("asnwer e1", "nonsense e1")[request.key // 3 % 2]
                text = world.expert(request.turn, request.key) if request.key % 3 else wrong
                request.transcript.hear(learner.speakers.tokenizer.prompt(request.turn.messages[-1:]))
                ids = learner.speakers.tokenizer.said(text)
                request.transcript.say(ids, [-1.0] * len(ids))
                texts.append(text)
            return texts

        def forget(self) -> None:
            """Nothing is cached."""

    seeds = [n // 8 for n in range(32)]
    episodes = TurnPlayer(world.make, dict.fromkeys(world.roles, Mixed())).play(seeds, 1, seeds)
    roles = {role: number for number, role in enumerate(world.roles)}
    return learner, episodes, token_batch(episodes, roles, learner.speakers.trained)


def advantages(learner: Any, batch: TokenBatch) -> torch.Tensor:
    found = learner._recipe.advantages(batch, learner.config, Context(0.0, 0, learner._critic, models=learner._scores))
    return found.turn if found.token is None else torch.cat(list(found.token))


@pytest.mark.parametrize("system", LANGUAGE_SYSTEMS)
def test_a_correction_is_paid_for_once_by_whoever_was_corrected(system: str) -> None:
    tree = {"algorithm.tree": False} if system == "at_grpo" else {}
    price = {"coordination.safety.enabled": True, "coordination.safety.penalty": 0.5, **tree}
    learner, episodes, batch = played(config_of(system, **price))
    free, _, unpriced = played(config_of(system, **{**price, "coordination.safety.penalty": 0.0}))
    corrected = torch.tensor(
        [sum(m["content"].startswith("executed ") for m in row.messages) for row in batch.rows], dtype=torch.float32
    )
    assert corrected.sum() > 10 and not batch.turn_invalid.any()
    assert torch.allclose(batch.of_rows(batch.turn_reward), -0.5 * corrected)
    lower = row_reward(batch, learner.config, 0.0) - row_reward(unpriced, free.config, 0.0)
    assert torch.allclose(lower, -0.5 * corrected, atol=1e-6)
    assert not torch.allclose(advantages(learner, batch), advantages(free, unpriced), atol=1e-3)
    if "planner" in learner.speakers.trained and len(learner.speakers.trained) > 1:
        told = sum(e.outcome.metrics["corrections"] for e in episodes if e.outcome)
        assert float(corrected.sum()) == told


def test_a_correction_that_ends_the_episode_is_paid_for() -> None:
    overrides = {"coordination.safety.enabled": True, "coordination.safety.penalty": 0.5}
    _, episodes, _ = played(config_of("grpo", **overrides))
    last = [max((t for c in e.conversations for t in c.turns), key=lambda turn: turn.time) for e in episodes]
    assert any(turn.reward == -0.5 for turn in last) and any(turn.reward == 0.0 for turn in last)


def test_an_illegal_call_costs_once_and_at_its_turn() -> None:
    learner, _, batch = played(config_of("gigpo", **{"algorithm.reward.invalid": 0.2}))
    assert batch.turn_invalid.sum() > 5 and not batch.turn_reward.any()
    assert torch.equal(turn_reward(batch, learner.config), -0.2 * batch.turn_invalid)
    results = [row.result.invalid for row in batch.rows if row.result is not None]
    assert batch.invalid.tolist() == results
