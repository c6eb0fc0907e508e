"""One role of a language world as an environment of its own: reset and step, the other roles played by policies.

The form that trainers of a single model ask for (OpenEnv and verifiers: ``reset() -> result``, ``step(text) -> result``
with observation, reward, done and metadata), and the base of the adapter for TRL (``marl.rollout.trl_tools``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from marl.envs.chat import LanguageEnv, Message, Turn
from marl.errors import UserError, nearest
from marl.policies.language.base import LanguagePolicy, Request, Transcript
from marl.seeding import fold_int


class StepResult(NamedTuple):
    """What the role sees and earned.

    observation: messages that are new to it, its own left out; empty when done. reward: since the last step; the
    team's reward comes with the end. metadata: ``conversation`` and ``tools`` (JSON schemas of the calls that it may
    make now); at the end ``success``, ``cost`` and ``calls`` of the episode, or ``dropped`` if another role was silent.
    """

    observation: list[Message]
    reward: float
    done: bool
    metadata: dict[str, Any]


class OneSpeaker:
    """Plays ``role`` of ``env``; ``others`` (role -> policy) speak for the rest, greedily unless told otherwise.

    Raises ``UserError`` if the role is unknown or another one has nobody to speak for it.
    """

    def __init__(self, env: LanguageEnv, role: str, others: Mapping[str, LanguagePolicy], greedy: bool = True):
        if role not in env.possible_agents:
            raise UserError(f"role '{role}' is none of this world's{nearest(role, env.possible_agents)}")
        silent = set(env.possible_agents) - {role} - set(others)
        if silent:
            raise UserError(f"nobody speaks for role '{min(silent)}': name a policy for it")
        self.env, self.role, self._others, self._greedy = env, role, others, greedy
        self._turn: Turn | None = None
        self._done = True

    def reset(self, seed: int = 0) -> StepResult:
        """Begin the episode of a seed; it goes on until the role is asked, or is done already if it never is."""
        self.env.reset(seed=seed)
        self._key, self._count, self._earned = fold_int(seed, 1), 0, 0.0
        self._transcripts: dict[int, Transcript] = {}
        self._read: dict[int, int] = {}
        self._done = False
        return self._advance()

    def step(self, text: str) -> StepResult:
        """Say a text. Raises ``RuntimeError`` when the episode is over."""
        if self._done:
            raise RuntimeError("the episode is over: call reset")
        assert self._turn is not None
        self._say(self._turn, text)
        self._read[self._turn.conversation] += 1  # its own message
        return self._advance()

    def _say(self, turn: Turn, text: str) -> None:
        self.env.step(text)
        # Rewards of the role's own turns, and of the end, which may come in another role's turn.
        if turn.agent == self.role or self.env.turn() is None:
            self._earned += float(self.env.rewards[self.role])

    def _advance(self) -> StepResult:
        """Let the others speak until it is the role's turn, or the episode is over."""
        while (turn := self.env.turn()) is not None and turn.agent != self.role:
            self._count += 1
            transcript = self._transcripts.setdefault(turn.conversation, Transcript())
            request = Request(turn, transcript, fold_int(self._key, self._count))
            text = self._others[turn.agent].complete([request], self._greedy)[0]
            if text is None:
                return self._end({"dropped": True})
            self._say(turn, text)
        if turn is None:
            outcome = self.env.outcome()
            return self._end({"success": outcome.success, "cost": outcome.cost, "calls": outcome.calls})
        self._turn = turn
        new = turn.messages[self._read.get(turn.conversation, 0) :]
        self._read[turn.conversation] = len(turn.messages)
        return StepResult(list(new), self._take(), False, {"conversation": turn.conversation, "tools": turn.tools})

    def _end(self, metadata: dict[str, Any]) -> StepResult:
        self._done, self._turn = True, None
        return StepResult([], self._take(), True, metadata)

    def _take(self) -> float:
        earned, self._earned = self._earned, 0.0
        return earned
