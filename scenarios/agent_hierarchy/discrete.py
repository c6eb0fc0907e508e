"""The discrete face: the same hierarchy for learners of tensors, spelt by choices instead of texts.

A call is chosen in up to three steps: what to do (ask a sub-agent, use a tool, answer), then the step of the question,
then the value. Only what the acting agent has seen may be chosen, so that a choice is a number and not a word. Each
complete choice is said to ``HierarchyEnv`` as text: rules, costs and tasks are those of the language world.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from marl.envs.chat import LanguageEnv
from scenarios.agent_hierarchy.calls import Call, render
from scenarios.agent_hierarchy.conversations import answered
from scenarios.agent_hierarchy.hierarchy import Hierarchy, Role
from scenarios.agent_hierarchy.spoken import SpokenHierarchy
from scenarios.agent_hierarchy.tasks import NOTHING, SIZE, Step, spoken_task

_OPERATIONS = ("add", "sub", "mul")


class _Choice(NamedTuple):
    """What a first choice means: a tool, or a sub-agent with ``ask``."""

    tool: str
    agent: str = ""


class DiscreteHierarchy(SpokenHierarchy):
    """B episodes; every role is an agent, and those whose turn it is not have one legal action, to wait (0).

    observation: float32 ``[B, N, F]``: role, phase and choices so far, steps of the agent's own task (one-hot each),
    results so far, last value, whether it was nothing, whether a check was made. action: int64 ``[B, N]`` below A,
    masked. state: the observations of all agents. reward: that of the language world, for all agents alike. Its
    questions are generated ones: what is in words of its own has no numbers.
    """

    speech_only = ""

    def __init__(self, hierarchy: Hierarchy, copies: int, device: torch.device):
        super().__init__(hierarchy, copies, device)
        self._history = torch.zeros((copies, self.spec.horizon), dtype=torch.int64)
        self._pending: list[list[int]] = [[] for _ in range(copies)]
        self._replayable = True

    def _sizes(self) -> tuple[int, int]:
        config = self.hierarchy.config
        self._choices = {role.name: _choices(role) for role in self._roles}
        tasks = config.tasks
        self._slots = max(tasks.hops) + (max(tasks.operations) if tasks.arithmetic or 0 in tasks.hops else 0)
        names = [f"r{n}" for n in range(tasks.relations)] + [SIZE, *_OPERATIONS]
        self._step_index = {name: i for i, name in enumerate(names)}
        values = [f"e{n}" for n in range(tasks.entities)] + [str(n) for n in range(tasks.modulus)] + [NOTHING]
        self._value_index = {name: i for i, name in enumerate(values)}
        self._values = config.max_calls + 2
        self._first = max(map(len, self._choices.values()))
        steps = self._slots * (len(names) + 1) + (self._slots + 1)
        self._size = len(self._roles) + 3 + self._first + steps + len(values) + 2 + self._slots
        self._actions = max(self._first, self._slots, self._values)
        return self._size, self._actions

    # Spoken

    def say(self, texts: Sequence[str]) -> None:
        super().say(texts)
        self._replayable = False

    # Snapshots

    def snapshot(self) -> dict[str, Tensor]:
        """Seeds, episodes and the choices made since their beginning: the episode is played again to restore it.

        Raises ``RuntimeError`` if texts were said, which are no choices.
        """
        if not self._replayable:
            raise RuntimeError("a world that was spoken to cannot be restored from choices")
        return {
            "seed": self._seed.clone(),
            "episode": self._episode.clone(),
            "count": self._count.clone(),
            "history": self._history.clone(),
        }

    def restore(self, snapshot: dict[str, Tensor], source: Tensor | None = None, target: Tensor | None = None) -> None:
        source = torch.arange(len(snapshot["seed"])) if source is None else source
        target = torch.arange(self.copies) if target is None else target
        for there, here in zip(source.tolist(), target.tolist(), strict=True):
            self._seed[here], self._episode[here] = snapshot["seed"][there], snapshot["episode"][there]
            count, history = int(snapshot["count"][there]), snapshot["history"][there]
            self._begin(here)
            for step in range(count):
                self._act(here, int(history[step]))
            self._history[here], self._count[here] = history, count

    # Choices

    def _begin(self, copy: int) -> None:
        super()._begin(copy)
        self._pending[copy] = []

    def _acting(self, copy: int) -> int:
        return self.spec.agents.index(str(self._envs[copy].agent_selection))

    def chosen(self, copy: int, actions: Tensor) -> float:
        action = int(actions[copy, self._acting(copy)])
        self._history[copy, self._count[copy]] = action
        return self._act(copy, action)

    def _act(self, copy: int, action: int) -> float:
        """Take one choice in; say the call once it is complete. Returns the reward."""
        env, pending = self._envs[copy], self._pending[copy]
        seen = _seen(env, env.agent_selection)
        assert seen is not None
        pending.append(action)
        choice = self._choices[env.agent_selection][min(pending[0], len(self._choices[env.agent_selection]) - 1)]
        if len(pending) < _length(choice):
            return 0.0
        text = self._text(choice, seen, pending)
        return self._speak(copy, text)

    def _speak(self, copy: int, text: str) -> float:
        self._pending[copy] = []
        return super()._speak(copy, text)

    def _text(self, choice: _Choice, seen: _Seen, pending: list[int]) -> str:
        value = seen.values[min(pending[-1], len(seen.values) - 1)]
        if choice.tool in ("answer", "check"):
            return f"{choice.tool} {value}"
        step = seen.steps[min(pending[1], len(seen.steps) - 1)] if seen.steps else Step(NOTHING)
        if choice.tool == "ask":
            return render(Call("ask", {"task": f"{value} {step.words}", "agent": choice.agent}), "compact")
        return f"{choice.tool} {step.words} {value}"

    # Views

    def views(self) -> tuple[Tensor, Tensor]:
        """Observations ``[B, N, F]`` and masks ``[B, N, A]``."""
        agents = len(self._roles)
        observation = torch.zeros((self.copies, agents, self._size))
        mask = torch.zeros((self.copies, agents, self._actions), dtype=torch.bool)
        mask[:, :, 0] = True
        for copy, env in enumerate(self._envs):
            acting = self._acting(copy)
            for agent, name in enumerate(self.spec.agents):
                seen = _seen(env, name)
                if seen is None:
                    continue
                pending = self._pending[copy] if agent == acting else []
                observation[copy, agent] = torch.from_numpy(self._vector(agent, agent == acting, pending, seen))
                if agent == acting:
                    mask[copy, agent, : self._legal(copy, seen)] = True
        return observation, mask

    def _legal(self, copy: int, seen: _Seen) -> int:
        """How many actions may be taken now: they are numbered from 0."""
        pending = self._pending[copy]
        choices = self._choices[self._envs[copy].agent_selection]
        if not pending:
            return len(choices)
        choice = choices[min(pending[0], len(choices) - 1)]
        if len(pending) + 1 == _length(choice):
            return min(len(seen.values), self._values)
        return max(min(len(seen.steps), self._slots), 1)

    def _vector(self, agent: int, acts: bool, pending: list[int], seen: _Seen) -> np.ndarray:
        vector = np.zeros(self._size, np.float32)
        at = 0

        def mark(index: int, size: int) -> None:
            nonlocal at
            if 0 <= index < size:
                vector[at + index] = 1.0
            at += size

        mark(agent, len(self._roles))
        mark(len(pending) if acts else -1, 3)
        mark(pending[0] if pending else -1, self._first)
        for slot in range(self._slots):
            name = seen.steps[slot].name if slot < len(seen.steps) else ""
            mark(self._step_index.get(name, -1), len(self._step_index))
            mark(0 if name else -1, 1)
        mark(min(seen.calls, self._slots), self._slots + 1)
        mark(self._value_index.get(seen.values[-1], -1), len(self._value_index))
        mark(0 if seen.values[-1] == NOTHING else -1, 1)
        mark(0 if seen.checked else -1, 1)
        mark(pending[1] if len(pending) > 1 else -1, self._slots)
        return vector


class _Seen(NamedTuple):
    """What an agent has seen. values: its start, then the results of its calls, newest last."""

    steps: tuple[Step, ...]
    values: list[str]
    calls: int
    checked: bool


def _seen(env: LanguageEnv, agent: str) -> _Seen | None:
    """None for an agent that nobody has called."""
    messages = env.observe(agent)
    if not messages:
        return None
    start, steps = spoken_task(messages[1]["content"])
    values, calls, checked = [start], 0, False
    for call, result in answered(messages):
        if call.name == "check":
            checked = True
        else:
            values.append(result)
            calls += result != NOTHING
    return _Seen(steps, values, calls, checked)


def _choices(role: Role) -> list[_Choice]:
    found = [_Choice("ask", callee) for callee in role.options.calls]
    return [*found, *(_Choice(tool) for tool in role.tools if tool != "ask")]


def _length(choice: _Choice) -> int:
    """Number of choices that make a call."""
    return 2 if choice.tool in ("answer", "check") else 3
