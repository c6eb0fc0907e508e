"""The learner of all language systems: rows of tokens and their advantages in, better policies out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.envs.chat import LanguageEnv, LanguageWorld
from marl.errors import UserError
from marl.learning.language.token_trees import TokenRow, pack
from marl.learning.learner import ClippedAdam
from marl.learning.surrogates import ppo_clip
from marl.policies.language.base import LanguagePolicy
from marl.rollout.language.token_batch import TokenBatch, token_batch
from marl.rollout.language.turns import Conversation, Episode
from marl.rollout.traces import write_traces
from marl.seeding import Stream, fold_int
from marl.systems.language.critic import Critic, CriticConfig
from marl.systems.language.exchange import Exchange, Stored
from marl.systems.language.options import (
    AdvantageFunction,
    Advantages,
    Context,
    LanguageConfig,
    LanguageRecipe,
    Player,
    PlayerFactory,
    rollouts,
    row_reward,
)
from marl.systems.language.speakers import Speakers, Unit, build_speakers
from marl.systems.system import System


class LanguageLearner:
    """Policies by role and their update. All randomness comes from ``seed`` and the number of the update."""

    def __init__(
        self, world: LanguageWorld, config: LanguageConfig, recipe: LanguageRecipe, seed: int, device: str = "cpu"
    ):
        self.config, self._recipe, self._seed = config, recipe, seed
        self.speakers: Speakers = build_speakers(world, config, seed, device, recipe.entry_only)
        self._roles = {role: number for number, role in enumerate(world.roles)}
        self._adams = {unit.name: self._adam(unit, config.rate) for unit in self.speakers.units}
        self._teachers: dict[str, ClippedAdam] = {}
        self._critic: Critic | None = None
        if isinstance(config, CriticConfig):
            if self.speakers.tokenizer is None:
                raise UserError("a critic of tokens needs policies of kind tiny, whose tokens it shares")
            self._critic = Critic(config, self.speakers.tokenizer.size, seed)

        self.exchange: Exchange | None = None
        self._joined = False
        if config.store is not None:
            self.exchange = Exchange(config.store, self.speakers.units, world.roles[0])

    @property
    def policies(self) -> Mapping[str, LanguagePolicy]:
        return self.speakers.policies

    def player(self, make: Callable[[], LanguageEnv]) -> Player:
        """Plays what ``update`` learns from."""
        return self._recipe.player(make, self.policies, self.config)

    @property
    def _taught(self) -> tuple[Unit, ...]:
        """Whose weights a warm start changes, so that they belong to the state of a run."""
        return self.speakers.units + self.speakers.frozen

    def _adam(self, unit: Unit, rate: float) -> ClippedAdam:
        return ClippedAdam(unit.model.parameters_of(unit.key), rate, self.config.max_grad_norm)

    # Imitation

    def imitate(self, episodes: Sequence[Episode], number: int) -> dict[str, float]:
        """One gradient step towards what a demonstrator said; episodes hold the ids of its texts."""
        options = self.config.warm_start
        if not self._teachers:
            self._begin_imitation()
        share = min((number + 1) / max(options.warmup, 1), 1.0, 1.0 - number / options.steps)
        figures = {}
        for unit in self._taught:
            if not unit.taught:  # an adapter, whose body is shown how to speak
                continue
            adam = self._teachers[unit.name]
            _set_rate(adam, options.rate * share)
            loss, _ = self._step(unit, adam, self._replayed(episodes, unit, 1.0), 1.0)
            figures[f"imitation_loss_{unit.name}"] = loss
        return figures

    def _replayed(self, episodes: Sequence[Episode], unit: Unit, weight: float, least_level: int = 0) -> list[TokenRow]:
        """What a demonstrator said for the unit's roles, as rows whose tokens share ``weight``; none if it is 0.

        least_level: conversations above it in the hierarchy are left out.
        """
        written = [
            c
            for episode in episodes
            for c in episode.conversations
            if c.agent in unit.taught and c.level >= least_level
        ]
        tokens = sum(end - start for c in written for start, end in c.transcript.spans)
        return [_row(conversation, weight / tokens) for conversation in written] if weight and tokens else []

    def _begin_imitation(self) -> None:
        rate = self.config.warm_start.rate
        self._teachers = {unit.name: self._adam(unit, rate) for unit in self._taught}

    # Reinforcement

    def update(
        self,
        episodes: Sequence[Episode],
        number: int,
        fraction: float,
        trace: Path | None = None,
        shown: Sequence[Episode] = (),
    ) -> dict[str, float]:
        """Learn from finished episodes.

        number: of this update. fraction: the part of the run that is done, for schedules. trace: a file for what was
        learned. shown: demonstrations to imitate in the same gradient step. Returns named figures.
        """
        self._teachers = {}  # reinforcement begins with fresh moments
        if self.exchange is not None:
            self.exchange.open()
        batch = token_batch(episodes, self._roles, self.speakers.trained)
        if not batch.rows:
            return {"empty_batches": 1.0}
        key = fold_int(fold_int(fold_int(0, Stream.SHUFFLE), self._seed), number)
        found = self._recipe.advantages(batch, self.config, Context(fraction, key, self._critic))
        figures = dict(found.figures)
        if trace is not None:
            write_traces(trace, batch, row_reward(batch, self.config, fraction), _per_token(batch, found))
        rate = self.config.rate * min((number + 1) / max(self.config.warmup, 1), 1.0)
        rate *= 1.0 - fraction if self.config.anneal else 1.0
        for unit in self.speakers.units:
            adam = self._adams[unit.name]
            _set_rate(adam, rate)
            numbers, rows, normaliser = self._rows(batch, found, unit)
            if self.exchange is not None and self.exchange.carries(unit):
                stored = Stored(self.exchange.versions[unit.name], normaliser, rate, rows)
                if rows or self.exchange.side is None:
                    self.exchange.put(unit, batch, numbers, row_reward(batch, self.config, fraction), stored)
                continue
            weight = normaliser * self.config.warm_start.replayed(fraction)
            replayed = self._replayed(shown, unit, weight, 1)
            if not rows and not replayed:
                continue
            for epoch in range(self.config.epochs):
                both = rows if epoch else [*rows, *replayed]  # nobody sampled what was shown: it has no ratio
                if not both:
                    break
                norm_figures = self._step(unit, adam, both, normaliser, on_policy=epoch == 0)
                if epoch == 0:
                    figures[f"grad_norm_{unit.name}"] = norm_figures[1]
        if self.exchange is not None:
            figures |= self._exchanged(self.exchange, shown, self.config.warm_start.replayed(fraction))
        self._forget()
        return figures

    def _exchanged(self, exchange: Exchange, shown: Sequence[Episode], replayed: float) -> dict[str, float]:
        """Learn from a store of this process, or take over what the other process has learned. Returns figures."""
        figures: dict[str, float] = {}
        exchange.sign()
        for unit in exchange.units:
            if exchange.side is None:
                figures |= self.learn_stored(unit, shown, replayed)
            else:
                exchange.hold_back(unit)
                exchange.receive(unit)
                figures[f"weights_version_{unit.name}"] = float(exchange.versions[unit.name])
            figures |= exchange.figures(unit)
        return figures

    def learn_stored(self, unit: Unit, shown: Sequence[Episode] = (), replayed: float = 0.0) -> dict[str, float]:
        """One update from the unit's batches in the store; nothing if too few wait. Returns figures.

        shown: demonstrations to imitate in the same gradient step, with the weight ``replayed``.
        """
        assert self.exchange is not None
        taken = self.exchange.take(unit)
        if not taken:
            return {}
        rows = [row for stored in taken for row in stored.rows]
        version, adam = self.exchange.versions[unit.name], self._adams[unit.name]
        _set_rate(adam, taken[-1].rate)
        fresh = all(stored.version == version for stored in taken)
        normaliser = sum(stored.normaliser for stored in taken)
        figures = {f"lag_{unit.name}": float(version - min(stored.version for stored in taken))}
        figures[f"tokens_{unit.name}"] = float(sum(stored.tokens for stored in taken))
        for epoch in range(self.config.epochs):
            sampled_now = fresh and epoch == 0
            both = [*rows, *self._replayed(shown, unit, normaliser * replayed, 1)] if sampled_now else rows
            if not both:  # every group of it was of one mind
                return figures
            _, norm = self._step(unit, adam, both, normaliser, on_policy=sampled_now)
            figures.setdefault(f"grad_norm_{unit.name}", norm)
        self.exchange.versions[unit.name] += 1
        self.exchange.publish(unit)
        return figures

    def follow(self) -> dict[str, float]:
        """On the side ``sub`` of a shared store: learn from what waits there. Returns figures; none if nothing does."""
        exchange = self.exchange
        assert exchange is not None
        if not self._joined:
            for unit in exchange.units:
                version = exchange.versions[unit.name]
                if not exchange.receive(unit, version or -1) and version == 0:
                    return {}  # nobody has said yet what to start from
            self._joined = True
        figures: dict[str, float] = {}
        for unit in exchange.units:
            learned = self.learn_stored(unit)
            figures |= learned and learned | exchange.figures(unit)
        return figures

    def _forget(self) -> None:
        for policy in self.policies.values():
            policy.forget()

    def _rows(self, batch: TokenBatch, found: Advantages, unit: Unit) -> tuple[list[int], list[TokenRow], float]:
        """The numbers of the unit's rows, these with the weight of each token, and what their sum is divided by.

        Rows that give no gradient, because they do not count or all their advantages are 0, are left out.
        """
        numbers = {self._roles[role] for role in unit.roles}
        mine = torch.tensor([int(agent) in numbers for agent in batch.agent])
        weight = found.weight * mine
        share = weight[batch.turn_row]
        if self.config.loss == "turn":
            share = share / (batch.turns_of_row[batch.turn_row] * batch.turn_length.clamp(min=1))
            normaliser = float(weight.sum())
        else:
            normaliser = float((weight * batch.tokens_of_row).sum())
        lengths, ends = batch.turn_length, batch.turns_of_row.cumsum(0).tolist()
        rows, numbers_of_rows = [], []
        for number in weight.nonzero().squeeze(1).tolist():
            conversation = batch.rows[number]
            turns = slice(ends[number] - len(conversation.transcript.spans), ends[number])
            if found.token is None:
                own = (share[turns] * found.turn[turns]).repeat_interleave(lengths[turns])
            else:
                own = share[turns].repeat_interleave(lengths[turns]) * found.token[number]
            if bool(own.any()):
                rows.append(_row(conversation, own.numpy()))
                numbers_of_rows.append(number)
        return numbers_of_rows, rows, max(normaliser, 1.0)

    def _step(
        self, unit: Unit, adam: ClippedAdam, rows: Sequence[TokenRow], normaliser: float, on_policy: bool = True
    ) -> tuple[float, float]:
        """One gradient step. Returns the loss and the norm of the gradient before clipping.

        on_policy: the rows were sampled by these very weights, or are demonstrations: the ratio is 1.
        """
        adam.zero()
        on_policy = on_policy and not getattr(unit.model, "sampled_elsewhere", False)
        total = 0.0
        for trees in pack(rows, self.config.tree_tokens, self.config.pass_tokens):
            logits = unit.model.logits_at(unit.key, trees.token, trees.position, trees.mask, trees.at)
            log_prob = torch.log_softmax(logits / self.config.temperature, dim=-1)
            log_prob = log_prob.gather(1, trees.target.unsqueeze(1)).squeeze(1)
            if on_policy:
                loss = -(log_prob * (trees.positive + trees.negative)).sum()
            else:
                ratio = log_prob - trees.old
                clip = self.config.clip
                loss = (ppo_clip(ratio, trees.positive, clip) + ppo_clip(ratio, trees.negative, clip)).sum()
            torch.autograd.backward(loss / normaliser)
            total += float(loss.detach()) / normaliser
        return total, float(adam.step())

    # State

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        tokenizer = self.speakers.tokenizer
        return {
            "policy": {unit.name: unit.model.state_of(unit.key) for unit in self._taught},
            "adam": {name: adam.state() for name, adam in self._adams.items()},
            "teacher": {name: adam.state() for name, adam in self._teachers.items()},
            "critic": None if self._critic is None else self._critic.state(),
            "exchange": None if self.exchange is None else self.exchange.state(),
            "tokenizer": None if tokenizer is None else tokenizer.dumps(),
        }

    def take_weights(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from the policies of another run: the part ``policy`` of its state."""
        for unit in self._taught:
            unit.model.load_state_of(unit.key, weights[unit.name])

    def load_state(self, state: dict[str, Any]) -> None:
        self.take_weights(state["policy"])
        for unit in self.speakers.units:
            self._adams[unit.name].load_state(state["adam"][unit.name])
        if self._critic is not None:
            self._critic.load_state(state["critic"])
        if self.exchange is not None:
            self.exchange.load_state(state["exchange"])
        if state["teacher"]:
            self._begin_imitation()
            for name, adam in self._teachers.items():
                adam.load_state(state["teacher"][name])


def language_system(
    name: str,
    summary: str,
    paper: str,
    advantages: AdvantageFunction,
    config: type[LanguageConfig] = LanguageConfig,
    entry_only: bool = False,
    player: PlayerFactory = rollouts,
) -> System:
    """A ``System`` of language worlds from its advantages. entry_only: only the first role learns."""
    recipe = LanguageRecipe(advantages, entry_only, player)

    def build(world: LanguageWorld, options: LanguageConfig, seed: int, device: str) -> LanguageLearner:
        return LanguageLearner(world, options, recipe, seed, device)

    return System(name, summary, paper, config, build, kind="language")


def _set_rate(adam: ClippedAdam, rate: float) -> None:
    for group in adam.adam.param_groups:
        group["lr"] = rate


def _per_token(batch: TokenBatch, found: Advantages) -> list[Tensor]:
    """Advantages of each row's own tokens."""
    if found.token is not None:
        return list(found.token)
    everything = found.turn.repeat_interleave(batch.turn_length)
    ends = batch.tokens_of_row.to(torch.int64).cumsum(0)
    return list(torch.tensor_split(everything, ends[:-1].tolist()))


def _row(conversation: Conversation, weight: np.ndarray | float) -> TokenRow:
    """A conversation for the learner. weight: of its own tokens, one after the other, or of all of them."""
    transcript = conversation.transcript
    learned = np.zeros(len(transcript.ids), dtype=bool)
    for start, end in transcript.spans:
        learned[start:end] = True
    weights = np.zeros(len(transcript.ids))
    weights[learned] = weight
    return TokenRow(transcript.ids, learned, weights, np.asarray(transcript.log_probs))
