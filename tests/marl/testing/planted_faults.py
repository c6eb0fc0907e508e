"""A small correct PettingZoo environment, and faulty ones that differ from it in one thing each."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from black_death import BlackDeath
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

AGENTS = ("ann", "bob")


class Honest(ParallelEnv):
    """Two agents push a value each with 3 actions; action 2 is illegal in odd steps; 12 steps, then truncation."""

    metadata: ClassVar[dict[str, Any]] = {"name": "honest"}

    def __init__(self) -> None:
        self.max_cycles = 12
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        self._seen = {agent: spaces.Box(-50.0, 50.0, (3,), np.float32) for agent in AGENTS}
        self._acts = {agent: spaces.Discrete(3) for agent in AGENTS}
        self.state_space = spaces.Box(-50.0, 50.0, (2,), np.float32)
        self._rng = np.random.default_rng()
        self._values = np.zeros(2, np.float32)

    def observation_space(self, agent: str) -> spaces.Space:
        return self._seen[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self._acts[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents = list(AGENTS)
        self._time = 0
        self._values = self._rng.uniform(-1, 1, 2).astype(np.float32)
        return {agent: self._look(agent) for agent in AGENTS}, {agent: self._info() for agent in AGENTS}

    def step(self, actions: dict[str, Any]) -> Any:
        self._time += 1
        for index, agent in enumerate(AGENTS):
            if agent in actions:
                self._values[index] += 0.1 * actions[agent] + 0.01 * self._rng.normal()
        live, over = list(self.agents), self._time == self.max_cycles
        if over:
            self.agents = []
        return (
            {agent: self._look(agent) for agent in live},
            {agent: float(self._values.sum()) for agent in live},
            dict.fromkeys(live, False),
            dict.fromkeys(live, over),
            {agent: self._info() for agent in live},
        )

    def state(self) -> np.ndarray:
        return self._values.copy()

    def _look(self, agent: str) -> np.ndarray:
        return np.array([*self._values, self._time], np.float32)

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.array([1, 1, 1 - self._time % 2], np.int8)}


def _changed(part: int, change: Callable[[Honest, dict[str, Any]], Any]) -> Callable[[Honest, dict[str, Any]], Any]:
    """A ``step`` whose part (0 observations, ..., 4 infos) is changed."""

    def step(self: Honest, actions: dict[str, Any]) -> Any:
        parts = list(Honest.step(self, actions))
        parts[part] = change(self, parts[part])
        return tuple(parts)

    return step


def _all(function: Callable[[Any], Any]) -> Callable[[Honest, dict[str, Any]], Any]:
    return lambda self, values: {agent: function(value) for agent, value in values.items()}


class RandomLater(Honest):
    step = _changed(1, lambda self, r: r if self._time < 5 else dict.fromkeys(r, float(np.random.random())))


class TextReward(Honest):
    step = _changed(1, _all(lambda r: "lots"))


class NanReward(Honest):
    step = _changed(1, _all(lambda r: float("nan")))


class OutsideSpace(Honest):
    step = _changed(0, _all(lambda o: o + 100))


class WrongDtype(Honest):
    step = _changed(0, _all(lambda o: o.astype(np.float64)))


class WrongShape(Honest):
    step = _changed(0, _all(lambda o: o[:2]))


class ListObservation(Honest):
    step = _changed(0, _all(lambda o: o.tolist()))


class NanObservation(Honest):
    step = _changed(0, _all(lambda o: o * np.float32("nan")))


class MissingKey(Honest):
    step = _changed(1, lambda self, r: {"ann": r["ann"]})


class NumberFlag(Honest):
    step = _changed(2, _all(lambda flag: 0))


class BothFlags(Honest):
    step = _changed(2, lambda self, flags: dict.fromkeys(flags, self._time == 12))


class FourValues(Honest):
    def step(self, actions: dict[str, Any]) -> Any:
        return super().step(actions)[:4]


class OddInfo(Honest):
    step = _changed(4, _all(lambda info: {**info, 3: "x"}))


class EmptyMask(Honest):
    step = _changed(4, _all(lambda info: {"action_mask": np.zeros(3, np.int8)}))


class LongMask(Honest):
    step = _changed(4, _all(lambda info: {"action_mask": np.ones(4, np.int8)}))


class TimeLimitTerminated(Honest):
    def step(self, actions: dict[str, Any]) -> Any:
        seen, rewards, terminations, truncations, infos = super().step(actions)
        return seen, rewards, truncations, terminations, infos


class HiddenTimeLimit(TimeLimitTerminated):
    def __init__(self) -> None:
        super().__init__()
        self._hidden, self.max_cycles = 12, None  # type: ignore[assignment]

    def step(self, actions: dict[str, Any]) -> Any:
        self.max_cycles = self._hidden
        out = super().step(actions)
        self.max_cycles = None  # type: ignore[assignment]
        return out


class TooLong(Honest):
    """Says 12 steps and plays 15."""

    def step(self, actions: dict[str, Any]) -> Any:
        self.max_cycles = 15
        out = super().step(actions)
        self.max_cycles = 12
        return out


class Stays(Honest):
    def step(self, actions: dict[str, Any]) -> Any:
        out = super().step(actions)
        self.agents = list(AGENTS) if self._time <= 13 else []
        return out


class Vanishes(Honest):
    def step(self, actions: dict[str, Any]) -> Any:
        out = super().step(actions)
        if self._time == 4:
            self.agents = ["ann"]
        return out


class Revived(Honest):
    def step(self, actions: dict[str, Any]) -> Any:
        seen, rewards, terminations, truncations, infos = super().step(actions)
        if self._time == 4:
            self.agents, terminations["bob"] = ["ann"], True
        elif self._time == 6:
            self.agents = list(AGENTS)
        return seen, rewards, terminations, truncations, infos


class Stranger(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = ["ann"]


class Nobody(Honest):
    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed)
        self.agents = []
        return {}, {}


class OneBuffer(Honest):
    """Returns the same array at every step."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers = {agent: np.zeros(3, np.float32) for agent in AGENTS}

    def _look(self, agent: str) -> np.ndarray:
        self._buffers[agent][:] = super()._look(agent)
        return self._buffers[agent]


class OneDict(Honest):
    """Returns the same rewards dict at every step."""

    def __init__(self) -> None:
        super().__init__()
        self._rewards: dict[str, float] = {}

    def step(self, actions: dict[str, Any]) -> Any:
        seen, rewards, *rest = super().step(actions)
        self._rewards.update(rewards)
        return seen, self._rewards, *rest


class Aliased(Honest):
    """Its observation is its own state."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = {agent: spaces.Box(-50.0, 50.0, (2,), np.float32) for agent in AGENTS}

    def step(self, actions: dict[str, Any]) -> Any:
        self._values = self._values.copy()
        return super().step(actions)

    def _look(self, agent: str) -> np.ndarray:
        return self._values


class EatsActions(Honest):
    def step(self, actions: dict[str, Any]) -> Any:
        out = super().step(actions)
        actions.clear()
        return out


class HashOrder(Honest):
    """Depends on Python's hash of text, which is another one in each process."""

    def _look(self, agent: str) -> np.ndarray:
        return super()._look(agent) + np.float32(hash(agent) % 10_007 / 1000.0)


class ClassState(Honest):
    _shared: ClassVar[list[float]] = [0.0]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._shared[0] = 0.0
        return super().reset(seed)

    def step(self, actions: dict[str, Any]) -> Any:
        self._shared[0] += 1.0
        return super().step(actions)

    def _look(self, agent: str) -> np.ndarray:
        return np.array([*self._values, self._shared[0]], np.float32)


class DirtyReset(Honest):
    _played = 0

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._played = min(self._played + 1, 40)
        return super().reset(seed)

    def _look(self, agent: str) -> np.ndarray:
        return np.array([*self._values, self._played], np.float32)


class Unpicklable(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.callback = lambda: None


class ClosesOnce(Honest):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class NewSpaces(Honest):
    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(3)


class StateOutside(Honest):
    def state(self) -> np.ndarray:
        return np.array([1000.0, 0.0], np.float32)


class SeedIgnored(Honest):
    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(None if seed is None else 5)


class UnseededReset(Honest):
    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._rng = np.random.default_rng(seed)
        return super().reset()


class GlobalRandom(Honest):
    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            np.random.seed(seed)
        out = super().reset(seed)
        self._values = np.random.uniform(-1, 1, 2).astype(np.float32)
        return {agent: self._look(agent) for agent in AGENTS}, out[1]


class Breaks(Honest):
    def step(self, actions: dict[str, Any]) -> Any:
        if self._time == 6:
            raise ValueError("out of luck")
        return super().step(actions)


class NoName(Honest):
    metadata: ClassVar[dict[str, Any]] = {}


class StateFalls(Honest):
    """Its state is gone once somebody has fallen, as multiwalker's is."""

    def state(self) -> np.ndarray:
        if self._time > 3:
            raise AttributeError("'NoneType' object has no attribute 'position'")
        return super().state()


class Late(BlackDeath):
    def __init__(self) -> None:
        super().__init__(Honest())


class InTurns(Honest):
    """Ann and Bob take turns; the mask of the other one is empty."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self._masked(super().reset(seed))

    def step(self, actions: dict[str, Any]) -> Any:
        return self._masked(super().step(actions))

    def _masked(self, returned: tuple[Any, ...]) -> tuple[Any, ...]:
        for number, agent in enumerate(returned[-1]):
            returned[-1][agent] = {"action_mask": np.full(3, self._time % 2 == number, np.int8)}
        return returned


class NeverBob(InTurns):
    """It is always Ann's turn."""

    def _masked(self, returned: tuple[Any, ...]) -> tuple[Any, ...]:
        for number, agent in enumerate(returned[-1]):
            returned[-1][agent] = {"action_mask": np.full(3, number == 0, np.int8)}
        return returned


#: Environment -> the fault that has to be found in it.
PLANTED: dict[type[ParallelEnv], str] = {
    RandomLater: "nondeterministic",
    TextReward: "reward-type",
    NanReward: "reward-not-finite",
    OutsideSpace: "observation-outside-space",
    WrongDtype: "observation-dtype",
    WrongShape: "observation-shape",
    ListObservation: "observation-type",
    NanObservation: "observation-not-finite",
    MissingKey: "keys",
    NumberFlag: "flag-type",
    BothFlags: "both-flags",
    FourValues: "return-form",
    OddInfo: "info-form",
    EmptyMask: "mask-empty",
    LongMask: "mask-form",
    TimeLimitTerminated: "time-limit-terminated",
    HiddenTimeLimit: "time-limit-suspected",
    TooLong: "horizon-exceeded",
    Stays: "agent-stays",
    Vanishes: "agent-vanished",
    Revived: "agent-revived",
    Stranger: "agents",
    Nobody: "agents",
    OneBuffer: "returned-data-reused",
    OneDict: "returned-data-reused",
    Aliased: "returned-data-aliased",
    EatsActions: "actions-changed",
    ClassState: "instances-share-state",
    DirtyReset: "reset-not-clean",
    Unpicklable: "not-picklable",
    ClosesOnce: "close-twice",
    NewSpaces: "space-changes",
    StateOutside: "state-outside-space",
    SeedIgnored: "seed-ignored",
    UnseededReset: "unseeded-reset",
    GlobalRandom: "global-randomness",
    Breaks: "raises",
    NoName: "metadata",
    StateFalls: "raises",
    Late: "end-late",
    NeverBob: "mask-empty",
}


class Turns(AECEnv):
    """Three agents in turn add their action to a sum; 30 turns, then truncation."""

    metadata: ClassVar[dict[str, Any]] = {"name": "turns"}

    def __init__(self) -> None:
        self.possible_agents = ["a", "b", "c"]
        self._seen = {agent: spaces.Box(0.0, 100.0, (1,), np.float32) for agent in self.possible_agents}
        self._acts = {agent: spaces.Discrete(2) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> spaces.Space:
        return self._seen[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self._acts[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self._sum = float(np.random.default_rng(seed).integers(5))
        self._turn, self._order = 0, itertools.cycle(self.agents)
        self.agent_selection = next(self._order)

    def observe(self, agent: str) -> np.ndarray:
        return np.array([self._sum], np.float32)

    def step(self, action: int | None) -> None:
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            self._was_dead_step(action)
            return
        self._sum += action or 0
        self._turn += 1
        if self._turn == 30:
            self.truncations = dict.fromkeys(self.agents, True)
        self.agent_selection = next(self._order)


class TurnsOutside(Turns):
    def observe(self, agent: str) -> np.ndarray:
        return np.array([-1.0], np.float32)


class TurnsRandom(Turns):
    def observe(self, agent: str) -> np.ndarray:
        return np.array([np.random.default_rng().uniform(0, 1)], np.float32)


class TurnsTextReward(Turns):
    def last(self, observe: bool = True) -> Any:
        seen, _, *rest = super().last(observe)
        return seen, "lots", *rest


PLANTED_TURNS: dict[type[Turns], str] = {
    TurnsOutside: "observation-outside-space",
    TurnsRandom: "nondeterministic",
    TurnsTextReward: "reward-type",
}
