"""Words: one question, one answer of some words, out of a table that nobody tells."""

from __future__ import annotations

from typing import Any

from marl.envs.chat import (
    ChatSpace,
    ConversationResult,
    ConversationSpace,
    LanguageEnv,
    Message,
    Messages,
    Outcome,
    Turn,
    TurnResult,
)
from marl.seeding import Stream, fold_int
from scenarios.miniatures.table import FILLERS, HIDDEN, INVALID, LOOK, Table, below

ROLE = "speaker"
MAX_TURNS, MAX_WORDS = 3, 17
_PRICE = 0.01
_QUESTION, _HIDDEN, _WAY = (Stream.WORLD + i for i in range(3, 6))


class WordsEnv(LanguageEnv):
    """One episode. The speaker answers, or looks first; other texts cost a little and are answered with ``invalid``.

    Success is the exact answer. ``shift`` and ``bait`` are paid in the turn that answers (``TurnResult.reward``).
    """

    metadata: dict[str, Any] = {"name": "words_v0", "render_modes": [], "is_parallelizable": False}  # noqa: RUF012

    def __init__(self, table: Table, held_out: bool = False):
        super().__init__()
        self.table, self.held_out = table, held_out
        self._domain = fold_int(0, Stream.EVALUATE if held_out else Stream.TRAIN)
        self.possible_agents = [ROLE]
        self.observation_spaces = {ROLE: ConversationSpace()}
        self.action_spaces = {ROLE: ChatSpace(256, (LOOK, *table.letters))}
        self.render_mode = None
        self._seed = self._episodes = 0

    def observation_space(self, agent: str) -> ConversationSpace:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> ChatSpace:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        if seed is not None:
            self._seed, self._episodes = int(seed), 0
        key = fold_int(fold_int(self._domain, self._seed), self._episodes)
        self._episodes += 1
        config, table = self.table.config, self.table
        self.question = below(config.questions, key, _QUESTION)
        self.letter = table.letters[below(config.letters, key, _HIDDEN)]
        self.truth = ([self.letter] if config.look else []) + table.answer(self.question)
        told = [] if not config.look else [HIDDEN if table.hidden(self.question) else self.letter]
        way = below(len(FILLERS) ** 2, key, _WAY) if config.reworded and not self.held_out else None
        polite = [] if way is None else [FILLERS[way % len(FILLERS)], FILLERS[way // len(FILLERS)]]
        self.messages: list[Message] = [{"role": "user", "content": " ".join([*polite, f"q{self.question}", *told])}]
        self.agents, self.agent_selection = [ROLE], ROLE
        self.rewards, self._cumulative_rewards = {ROLE: 0.0}, {ROLE: 0.0}
        self.terminations, self.truncations = {ROLE: False}, {ROLE: False}
        self.infos: dict[str, dict[str, Any]] = {ROLE: {}}
        self.result = ConversationResult(ROLE, None, 0)
        self.answer: list[str] | None = None
        self.looks, self._last = 0, TurnResult(0.0, False)

    def turn(self) -> Turn | None:
        if self.terminations[ROLE] or self.truncations[ROLE]:
            return None
        anchor = fold_int(self.question, 2 * self.looks + self.result.invalid)
        return Turn(ROLE, 0, None, 0, self.messages, (), anchor, " ".join(self.truth))

    def observe(self, agent: str) -> Messages:
        return Messages(self.messages)

    def step(self, action: str | None) -> None:
        if self.terminations[ROLE] or self.truncations[ROLE]:
            self._was_dead_step(action)
            return
        words = action.split() if isinstance(action, str) else []
        self._cumulative_rewards[ROLE] = 0.0
        self.messages.append({"role": "assistant", "content": " ".join(words)[:256]})
        self.result.turns += 1
        if words == [LOOK] and self.table.config.look and not self.looks:
            self.looks = 1
            self.messages.append({"role": "tool", "content": self.letter})
            self._last = TurnResult(0.0, False)
        elif words and len(words) <= MAX_WORDS and set(words) <= set(self.table.letters):
            self._close(words)
        else:
            self.result.invalid += 1
            self.messages.append({"role": "tool", "content": INVALID})
            self._last = TurnResult(0.0, True)
        self.rewards[ROLE] = self._last.reward - _PRICE * self._last.invalid + float(self.outcome().success)
        self.truncations[ROLE] = not self.terminations[ROLE] and self.result.turns >= MAX_TURNS
        self._accumulate_rewards()

    def _close(self, words: list[str]) -> None:
        self.answer, self.terminations[ROLE] = words, True
        bait = self.table.config.bait if words != self.truth and set(words) == {self.table.letters[0]} else 0.0
        self._last = TurnResult(self.table.shift(self.question) + bait, False)
        self.result.closed, self.result.correct = True, words == self.truth

    def turn_result(self) -> TurnResult:
        return self._last

    def outcome(self) -> Outcome:
        self.result.cost = float(self.looks)
        metrics = {
            "invalid_actions": float(self.result.invalid),
            "turns": float(self.result.turns),
            "words": float(len(self.truth)),
            "optimal_calls": float(bool(self.table.config.look) and self.table.hidden(self.question)),
        }
        return Outcome(self.answer == self.truth, float(self.looks), self.looks, [self.result], metrics)
