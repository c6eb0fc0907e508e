"""The learner of all language systems: rows of tokens and their advantages in, better policies out.

Its parts: ``imitation`` (the warm start), ``gradient`` (steps on rows of tokens), ``decoupled`` (a store between
planner and sub-agents); this class keeps them together, and their state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl.envs.chat import LanguageEnv, LanguageWorld
from marl.errors import NotFiniteError, UserError
from marl.learning.language.token_losses import tokens_of
from marl.learning.surrogates import kl_estimate
from marl.policies.language.base import LanguagePolicy
from marl.rollout.language.token_batch import TokenBatch, token_batch
from marl.rollout.language.turns import Episode
from marl.rollout.traces import write_traces
from marl.seeding import Stream, fold_int
from marl.systems.language.critic import Critic, CriticConfig
from marl.systems.language.decoupled import Decoupled
from marl.systems.language.exchange import Exchange
from marl.systems.language.gradient import Reinforcement
from marl.systems.language.imitation import Imitation, demonstrated
from marl.systems.language.options import (
    AdvantageFunction,
    Advantages,
    Context,
    LanguageConfig,
    LanguageRecipe,
    Memory,
    Player,
    PlayerFactory,
    RecipeLoss,
    rollouts,
)
from marl.systems.language.reference import Reference
from marl.systems.language.rewards import row_reward
from marl.systems.language.rows import per_token, token_row, unit_rows
from marl.systems.language.scores import Scores
from marl.systems.language.speakers import Speakers, Unit, build_speakers
from marl.systems.system import Check, System


class LanguageLearner:
    """Policies by role and their update. All randomness comes from ``seed`` and the number of the update."""

    def __init__(
        self, world: LanguageWorld, config: LanguageConfig, recipe: LanguageRecipe, seed: int, device: str = "cpu"
    ):
        self.config, self._recipe, self._seed = config, recipe, seed
        self.speakers: Speakers = build_speakers(world, config, seed, device, recipe.entry_only)
        self._roles = {role: number for number, role in enumerate(world.roles)}
        #: Whose weights a warm start changes, so that they belong to the state of a run.
        self._taught = self.speakers.units + self.speakers.frozen
        self._imitation = Imitation(self._taught, config)
        self._reference = Reference(self.speakers.units, config, recipe.reference)
        self._reinforcement = Reinforcement(self.speakers.units, config, self._reference, recipe.loss)
        self._scores = Scores(self.speakers, config)
        self._memory: Memory = {}
        self._critic: Critic | None = None
        if isinstance(config, CriticConfig):
            if self.speakers.tokenizer is None:
                raise UserError("a critic of tokens needs policies of kind tiny, whose tokens it shares")
            self._critic = Critic(config, self.speakers.tokenizer, seed)

        self.exchange: Exchange | None = None
        self._decoupled: Decoupled | None = None
        if config.store is not None:
            self.exchange = Exchange(config.store, self.speakers.units, world.roles[0])
            self._decoupled = Decoupled(self.exchange, self._reinforcement)

    @property
    def policies(self) -> Mapping[str, LanguagePolicy]:
        return self.speakers.policies

    def player(self, make: Callable[[], LanguageEnv]) -> Player:
        """Plays what ``update`` learns from."""
        return self._recipe.player(make, self.policies, self.config)

    def imitate(self, episodes: Sequence[Episode], number: int) -> dict[str, float]:
        """One gradient step towards what a demonstrator said; episodes hold the ids of its texts."""
        return self._imitation.step(episodes, number)

    def update(
        self,
        episodes: Sequence[Episode],
        number: int,
        fraction: float,
        trace: Path | None = None,
        shown: Sequence[Episode] = (),
    ) -> dict[str, float]:
        """Learn from finished episodes. Returns named figures.

        Args:
            episodes: as ``player`` plays them; those that were dropped have no outcome and are left out.
            number: of this update, keys its random choices.
            fraction: the part of the run that is done, for schedules.
            trace: a file for what was learned.
            shown: demonstrations to imitate in the same gradient step.
        """
        self._imitation.end()
        self._reference.begin()
        if self.exchange is not None:
            self.exchange.open()
        batch = token_batch(episodes, self._roles, self.speakers.trained)
        if not batch.rows:
            return {"empty_batches": 1.0}
        drift: dict[str, float] = {}
        if self.config.kl_in("reward"):
            batch, drift = self._with_drift(batch)
        key = fold_int(fold_int(fold_int(0, Stream.SHUFFLE), self._seed), number)
        context = Context(fraction, key, self._critic, self._memory, self._scores)
        advantages = self._recipe.advantages(batch, self.config, context)
        _check_advantages(advantages, batch)
        figures = dict(advantages.figures) | drift
        reward = row_reward(batch, self.config, fraction)
        if trace is not None:
            write_traces(trace, batch, reward, per_token(batch, advantages))
        rate = self._reinforcement.rate(number, fraction)
        replayed = self.config.warm_start.replayed(fraction)
        for unit in self.speakers.units:
            figures |= self._entropy(unit, batch)
            own = unit_rows(batch, advantages, self._numbers(unit), self.config.loss, self._reinforcement.needs_all)
            if self._decoupled is not None and self.exchange is not None and self.exchange.carries(unit):
                self._decoupled.put(unit, batch, own, reward, rate)
                continue
            imitated = demonstrated(shown, unit, own.normaliser * replayed, 1)
            figures |= self._reinforcement.learn(unit, own.rows, own.normaliser, rate, shown=imitated)
        if self._decoupled is not None:
            figures |= self._decoupled.update(shown, replayed)
        self._forget()
        return figures

    def _numbers(self, unit: Unit) -> set[int]:
        """Numbers of the roles that learn in a unit."""
        return {self._roles[role] for role in unit.roles}

    def _entropy(self, unit: Unit, batch: TokenBatch) -> dict[str, float]:
        """What a unit said was this surprising to itself: minus the mean log-probability, an estimate of entropy."""
        total, count, mine = 0.0, 0, self._numbers(unit)
        for row, agent in zip(batch.rows, batch.agent.tolist(), strict=True):
            if agent in mine:
                total += sum(row.transcript.log_probs)
                count += sum(end - start for start, end in row.transcript.spans)
        return {f"entropy_{unit.name}": -total / count} if count else {}

    def _with_drift(self, batch: TokenBatch) -> tuple[TokenBatch, dict[str, float]]:
        """The batch with the divergence from the reference by turn, and its mean over the tokens of each unit."""
        found, figures = torch.zeros(len(batch.turn_row)), {}
        for unit in self.speakers.units:
            mine = [i for i, agent in enumerate(batch.agent.tolist()) if agent in self._numbers(unit)]
            rows = [token_row(batch.rows[i], 0.0) for i in mine]
            tokens = tokens_of(rows)._replace(reference=self._reference.score(unit, rows))
            assert tokens.reference is not None
            drift = kl_estimate(tokens.old, tokens.reference, self.config.kl.estimator)
            turns = torch.isin(batch.turn_row, torch.tensor(mine, dtype=torch.int64)).nonzero().squeeze(1)
            found.index_add_(0, turns.repeat_interleave(batch.turn_length[turns]), drift)
            figures[f"kl_{unit.name}"] = float(drift.mean()) if len(drift) else 0.0
        return replace(batch, turn_drift=found), figures

    def follow(self) -> dict[str, float]:
        """On the side ``sub`` of a shared store: learn from what waits there. Returns figures; none if nothing does."""
        assert self._decoupled is not None
        return self._decoupled.follow()

    def _forget(self) -> None:
        for policy in self.policies.values():
            policy.forget()

    def networks(self) -> Iterator[tuple[str, list[Tensor]]]:
        """What learns, by name: its parameters."""
        for unit in self._taught:
            yield f"policy of '{unit.name}'", list(unit.model.parameters_of(unit.key))
        if self._critic is not None:
            yield "critic", self._critic.parameters()

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        tokenizer = self.speakers.tokenizer
        return {
            "policy": {unit.name: unit.model.state_of(unit.key) for unit in self._taught},
            "adam": self._reinforcement.state(),
            "teacher": self._imitation.state(),
            "reference": self._reference.state(),
            "memory": {"recipe": self._memory, **self._reinforcement.memory},
            "critic": None if self._critic is None else self._critic.state(),
            "exchange": None if self.exchange is None else self.exchange.state(),
            "tokenizer": None if tokenizer is None else tokenizer.dumps(),
        }

    def take_weights(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from the policies of another run: the part ``policy`` of its state."""
        for unit in self._taught:
            unit.model.load_state_of(unit.key, weights[unit.name])

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state`` gave."""
        self.take_weights(state["policy"])
        self._reinforcement.load_state(state["adam"])
        self._imitation.load_state(state["teacher"])
        self._reference.load_state(state.get("reference", {}))  # runs begun before there were references have none
        memory = state.get("memory", {})  # likewise
        self._memory = dict(memory.get("recipe", {}))
        for unit in self.speakers.units:
            self._reinforcement.memory[unit.name] = dict(memory.get(unit.name, {}))
        if self._critic is not None:
            self._critic.load_state(state["critic"])
        if self.exchange is not None:
            self.exchange.load_state(state["exchange"])


def _check_advantages(advantages: Advantages, batch: TokenBatch) -> None:
    """Raise ``NotFiniteError`` for the first row whose advantages a recipe made into no numbers."""
    wrong = ~advantages.weight.isfinite()
    wrong[batch.turn_row[~advantages.turn.isfinite()]] = True
    for number, token in enumerate(advantages.token or ()):
        wrong[number] |= ~token.isfinite().all()
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise NotFiniteError(
            f"an advantage of agent '{batch.rows[row].agent}' in episode {int(batch.episode[row])} is not finite",
            "mend the recipe's advantages",
        )


def language_system(
    name: str,
    summary: str,
    paper: str,
    advantages: AdvantageFunction,
    config: type[LanguageConfig] = LanguageConfig,
    entry_only: bool = False,
    player: PlayerFactory = rollouts,
    loss: RecipeLoss | None = None,
    reference: bool = False,
    claim: str = "",
    formula: str = "",
    check: Check | None = None,
) -> System:
    """A ``System`` of language worlds from its advantages.

    Args:
        name: what ``--system`` calls it.
        summary: a line for ``marl list systems``.
        paper: where it comes from.
        advantages: of the rows of a batch.
        config: the class of its options.
        entry_only: only the first role learns.
        player: plays the episodes that it learns from.
        loss: of tokens; None: the clipped surrogate, and the price of leaving a reference where the options have one.
        reference: the loss needs the weights that reinforcement began with.
        claim: as of ``System``, and so are formula and check.
    """
    recipe = LanguageRecipe(advantages, entry_only, player, loss, reference)

    def build(world: LanguageWorld, options: LanguageConfig, seed: int, device: str) -> LanguageLearner:
        return LanguageLearner(world, options, recipe, seed, device)

    return System(name, summary, paper, config, build, kind="language", claim=claim, formula=formula, check=check)
