"""The discrete face: the same hierarchy for learners of tensors, spelt by choices instead of texts.

A call is chosen in up to three steps: what to do (ask a sub-agent, use a tool, answer), then the step of the question,
then the value. Only what the acting agent has seen may be chosen, so that a choice is a number and not a word. Each
complete choice is said to ``HierarchyEnv`` as text: rules, costs and tasks are those of the language world.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import BatchedEnv, EnvSpec, Final, Metric, TimeStep, Tree
from marl.envs.chat import Turn
from marl.errors import UserError
from marl.seeding import fold, fold_int, seeds_of
from scenarios.agent_hierarchy.calls import Call, render
from scenarios.agent_hierarchy.hierarchy import Hierarchy, Role
from scenarios.agent_hierarchy.tasks import NOTHING, SIZE, Step, spoken_task
from scenarios.agent_hierarchy.world import Conversation, HierarchyEnv

_OPERATIONS = ("add", "sub", "mul")

METRICS = {
    "success": Metric("share", "higher", "the answer was right"),
    "calls": Metric("1", "lower", "delegations and tool calls of an episode"),
    "cost": Metric("1", "lower", "cost of all calls of an episode"),
    "invalid_actions": Metric("1", "lower", "actions that were no legal call"),
    "optimal_calls": Metric("1", "neither", "calls that the question takes"),
    "optimal_cost": Metric("1", "neither", "least cost of the question"),
    "turns": Metric("1", "lower", "turns of all agents"),
}


class _Choice(NamedTuple):
    """What a first choice means: a tool, or a sub-agent with ``ask``."""

    tool: str
    agent: str = ""


class DiscreteHierarchy(BatchedEnv):
    """B episodes; every role is an agent, and those whose turn it is not have one legal action, to wait (0).

    observation: float32 ``[B, N, F]``: role, phase and choices so far, steps of the agent's own task (one-hot each),
    results so far, last value, whether it was nothing, whether a check was made. action: int64 ``[B, N]`` below A,
    masked. state: the observations of all agents. reward: that of the language world, for all agents alike.
    Raises ``UserError`` for worlds whose questions are plain text.
    """

    def __init__(self, hierarchy: Hierarchy, copies: int, device: torch.device):
        config = hierarchy.config
        if config.tasks.file is not None:
            raise UserError("world.tasks.file holds questions in words: the discrete face needs generated tasks")
        self.copies, self.device = copies, device
        self.hierarchy = hierarchy
        self._envs = [HierarchyEnv(hierarchy) for _ in range(copies)]
        self._roles = list(hierarchy.roles.values())
        self._choices = {role.name: _choices(role) for role in self._roles}
        tasks = config.tasks
        self._slots = max(tasks.hops) + (max(tasks.operations) if tasks.arithmetic or 0 in tasks.hops else 0)
        names = [f"r{n}" for n in range(tasks.relations)] + [SIZE, *_OPERATIONS]
        self._step_index = {name: i for i, name in enumerate(names)}
        values = [f"e{n}" for n in range(tasks.entities)] + [str(n) for n in range(tasks.modulus)] + [NOTHING]
        self._value_index = {name: i for i, name in enumerate(values)}
        self._values = config.max_calls + 2
        first = max(map(len, self._choices.values()))
        self._actions = max(first, self._slots, self._values)
        self._first = first
        self._size = (
            len(self._roles)
            + 3
            + first
            + self._slots * (len(names) + 1)
            + (self._slots + 1)
            + len(values)
            + 2
            + self._slots
        )
        self.spec = EnvSpec(
            agents=tuple(role.name for role in self._roles),
            groups={"agents": tuple(range(len(self._roles)))},
            observation_space={"agents": spaces.Box(0.0, 1.0, (self._size,), np.float32)},
            action_space={"agents": spaces.Discrete(self._actions)},
            state_space=spaces.Box(0.0, 1.0, (len(self._roles) * self._size,), np.float32),
            horizon=3 * config.max_turns,
            state_per_agent=False,
            metrics=METRICS,
            primary_metric="success",
            shared_reward=True,
        )
        self._seed = torch.zeros(copies, dtype=torch.int64)
        self._episode = torch.zeros(copies, dtype=torch.int64)
        self._count = torch.zeros(copies, dtype=torch.int64)
        self._history = torch.zeros((copies, self.spec.horizon), dtype=torch.int64)
        self._pending: list[list[int]] = [[] for _ in range(copies)]
        self._said: list[str] | None = None
        self._replayable = True

    # BatchedEnv

    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        seeds = seeds_of(seed, self.copies)
        chosen = torch.ones(self.copies, dtype=torch.bool) if mask is None else mask.cpu()
        for copy in chosen.nonzero().squeeze(1).tolist():
            self._seed[copy], self._episode[copy] = seeds[copy], 0
            self._begin(copy)
        return self.current()

    def step(self, actions: Tree) -> TimeStep:
        assert isinstance(actions, Tensor)
        chosen = actions.cpu()
        agents = len(self._roles)
        reward = torch.zeros((self.copies, agents))
        ended = torch.zeros((self.copies, agents), dtype=torch.bool)
        truncated = torch.zeros_like(ended)
        metrics = {name: torch.zeros(self.copies) for name in METRICS}
        before = self._views()[0]
        said, self._said = self._said, None
        for copy, env in enumerate(self._envs):
            if said is None:
                action = int(chosen[copy, self._acting(copy)])
                self._history[copy, self._count[copy]] = action
                reward[copy] = self._act(copy, action)
            else:
                reward[copy] = self._speak(copy, said[copy])
            self._count[copy] += 1
            if env.turn() is None:
                (truncated if any(env.truncations.values()) else ended)[copy] = True
                outcome = env.outcome()
                figures = {"success": outcome.success, "calls": outcome.calls, "cost": outcome.cost, **outcome.metrics}
                for name, values in metrics.items():
                    values[copy] = float(figures[name])
                self._episode[copy] += 1
                self._begin(copy)
        done = (ended | truncated).any(dim=1)
        view = self.current()
        # Nothing can be seen once the last answer is given; the view before it stands for it.
        before = before.to(self.device)
        last = Final(before, before.flatten(1)) if bool(done.any()) else None
        return view._replace(
            reward=reward.to(self.device),
            terminated=ended.to(self.device),
            truncated=truncated.to(self.device),
            done=done.to(self.device),
            final=last,
            metrics={name: values.to(self.device) for name, values in metrics.items()},
        )

    # Spoken

    def turns(self) -> list[Turn]:
        turns = [env.turn() for env in self._envs]
        return [turn for turn in turns if turn is not None]

    def say(self, texts: Sequence[str]) -> None:
        self._said, self._replayable = list(texts), False

    def said(self, copy: int) -> list[Conversation]:
        """All conversations of a copy's episode; the list and its messages grow until the episode is over."""
        return self._envs[copy].said

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

    def current(self) -> TimeStep:
        observation, mask = self._views()
        agents = len(self._roles)
        none = torch.zeros((self.copies, agents), dtype=torch.bool, device=self.device)
        observation, mask = observation.to(self.device), mask.to(self.device)
        return TimeStep(
            observation=observation,
            state=observation.flatten(1),
            reward=torch.zeros((self.copies, agents), device=self.device),
            terminated=none,
            truncated=none.clone(),
            done=none.any(dim=1),
            alive=torch.ones_like(none),
            agent_id=torch.arange(agents, device=self.device).expand(self.copies, agents).clone(),
            action_mask=mask,
            key=fold(fold(self._seed, self._episode), self._count).to(self.device),
            final=None,
            metrics={name: torch.zeros(self.copies, device=self.device) for name in METRICS},
        )

    # Choices

    def _begin(self, copy: int) -> None:
        self._envs[copy].reset(seed=fold_int(int(self._seed[copy]), int(self._episode[copy])))
        self._count[copy] = 0
        self._pending[copy] = []

    def _acting(self, copy: int) -> int:
        return self.spec.agents.index(self._envs[copy].agent_selection)

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
        """Say a text as the acting agent; returns its reward."""
        env = self._envs[copy]
        self._pending[copy] = []
        speaker = env.agent_selection
        env.step(text)
        return env.rewards[speaker]

    def _text(self, choice: _Choice, seen: _Seen, pending: list[int]) -> str:
        value = seen.values[min(pending[-1], len(seen.values) - 1)]
        if choice.tool in ("answer", "check"):
            return f"{choice.tool} {value}"
        step = seen.steps[min(pending[1], len(seen.steps) - 1)] if seen.steps else Step(NOTHING)
        if choice.tool == "ask":
            return render(Call("ask", {"task": f"{value} {step.words}", "agent": choice.agent}), "compact")
        return f"{choice.tool} {step.words} {value}"

    # Views

    def _views(self) -> tuple[Tensor, Tensor]:
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


def _seen(env: HierarchyEnv, agent: str) -> _Seen | None:
    """None for an agent that nobody has called."""
    messages = env.observe(agent)
    if not messages:
        return None
    start, steps = spoken_task(messages[1]["content"])
    values, calls, checked = [start], 0, False
    for message, after in itertools.pairwise(messages[2:]):
        if "call" not in message or after["role"] != "tool":
            continue
        if message["call"]["name"] == "check":
            checked = True
        else:
            values.append(after["content"])
            calls += after["content"] != NOTHING
    return _Seen(steps, values, calls, checked)


def _choices(role: Role) -> list[_Choice]:
    found = [_Choice("ask", callee) for callee in role.options.calls]
    return [*found, *(_Choice(tool) for tool in role.tools if tool != "ask")]


def _length(choice: _Choice) -> int:
    """Number of choices that make a call."""
    return 2 if choice.tool in ("answer", "check") else 3
