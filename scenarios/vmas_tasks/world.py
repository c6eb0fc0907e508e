"""``VmasWorld``: B copies of a VMAS task, stepped by VMAS itself, tensors throughout and no worker processes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import BatchedEnv, EnvSpec, Final, Metric, TimeStep, Tree
from marl.errors import UserError, nearest
from marl.seeding import Stream, fold, fold_int, seeds_of
from scenarios.vmas_tasks.alone import Alone
from scenarios.vmas_tasks.config import VmasConfig

METRICS: Mapping[str, Metric] = {
    "return": Metric("1", "higher", "sum of rewards over the episode, mean over agents"),
    "solved": Metric("share of episodes", "higher", "the task ended the episode before the time limit"),
    "length_steps": Metric("step", "neither", "length of the episode"),
}
_SEED_MASK = 0x7FFFFFFF
_QUOTED_KEY = re.compile(r"'(\w+)':")


class Simulator(Protocol):
    """The part of ``vmas.simulator.environment.Environment`` that is used."""

    agents: Sequence[Any]
    scenario: Any

    def seed(self, seed: int) -> Any:
        """Seed the simulator's own random numbers."""

    def reset(self, *, return_observations: bool) -> Any:
        """Start all copies afresh."""

    def reset_at(self, index: int, *, return_observations: bool) -> Any:
        """Start one copy afresh."""

    def step(self, actions: list[Tensor]) -> Any:
        """Observations, rewards, terminations, (truncations) and infos, by agent where there is one each."""

    def get_from_scenario(
        self, get_observations: bool, get_rewards: bool, get_infos: bool, get_dones: bool
    ) -> list[Any]:
        """What was asked for, at the present moment."""

    def get_agent_action_space(self, agent: Any) -> Any:
        """The space of an agent's actions, of the package ``gym``."""


def make_simulator(config: VmasConfig, copies: int, device: torch.device) -> Simulator:
    """VMAS's environment. Raises ``UserError`` if VMAS is not installed, or knows neither the task nor its options."""
    try:
        import vmas
    except ImportError:
        raise UserError("VMAS is not installed: pip install 'marl-platform[vmas]'") from None
    tasks = sorted({*vmas.scenarios, *vmas.mpe_scenarios, *vmas.debug_scenarios})
    if config.task not in tasks:
        raise UserError(f"world.task: VMAS has no scenario '{config.task}'{nearest(config.task, tasks)}")
    shared = getattr(vmas.simulator.environment.Environment, "vmas_random_state", None)
    make = partial(
        vmas.make_env,
        config.task,
        num_envs=copies,
        device=device,
        continuous_actions=config.continuous,
        max_steps=None,  # the time limit is kept here, where it is no termination
        seed=0,
        clamp_actions=True,
        **config.options,
    )
    try:
        with warnings.catch_warnings():
            # VMAS only warns of options that its scenario does not know.
            warnings.filterwarnings("error", message="Scenario kwargs")
            made = Alone(make, shared, device)
    except UserWarning as warning:
        unknown = ", ".join(_QUOTED_KEY.findall(str(warning)))
        raise UserError(f"VMAS's {config.task} does not know {unknown} of world.options: leave it out") from None
    except (ArithmeticError, TypeError, LookupError, ValueError, AssertionError, RuntimeError, StopIteration) as error:
        reason = " ".join(str(error).split())[:200] or f"it fails with {type(error).__name__}"
        raise UserError(f"VMAS refuses world.options {config.options} of {config.task}: {reason}") from None
    if not made.agents:
        raise UserError(f"VMAS's {config.task} has no agents with world.options {config.options}: give it some")
    return made


class VmasWorld(BatchedEnv):
    """B copies of a task with N agents.

    Agents of equal spaces form a group. Observation: VMAS's own, float32 ``[B, N_g, D_g]``. State ``[B, sum of D]``:
    the observations of all agents side by side. Actions: float32 ``[B, N_g, A]``, clipped to their range, or int64.
    An episode terminates for all agents when VMAS's scenario is done; at the horizon it is truncated.

    VMAS draws from one stream for all copies: the same seeds, batch and actions give the same episodes, but a copy is
    not the same in another batch, and no copy can be saved in mid-episode. Worlds of one process do not influence each
    other (``Alone``).
    """

    def __init__(self, config: VmasConfig, simulator: Simulator, copies: int, device: torch.device | str = "cpu"):
        self.config, self.copies, self.device = config, copies, torch.device(device)
        self._simulator = simulator
        self._names = [str(agent.name) for agent in simulator.agents]
        self._seeded(0)
        simulator.reset(return_observations=False)
        self.spec = self._make_spec()
        self._seed = torch.zeros(copies, dtype=torch.int64, device=self.device)
        self._episode = torch.zeros_like(self._seed)
        self._return = torch.zeros(copies, device=self.device)
        # Steps of each copy's episode, kept where no device has to be asked.
        self._clock = np.zeros(copies, np.int64)
        self._first_seed = self._resets = 0
        self._agent_id = torch.arange(len(self._names), device=self.device).expand(copies, -1)
        self._started = False

    def _make_spec(self) -> EnvSpec:
        agents = self._simulator.agents
        seen = self._look()
        groups: dict[str, list[int]] = {}
        like: dict[Any, str] = {}
        observation_space: dict[str, spaces.Space[Any]] = {}
        action_space: dict[str, spaces.Space[Any]] = {}
        for i, agent in enumerate(agents):
            if not isinstance(seen[i], Tensor) or seen[i].dim() != 2:
                raise UserError(f"{self.config.task} shows {self._names[i]} more than numbers: use another task")
            actions = _space(self._simulator.get_agent_action_space(agent))
            kind = (seen[i].shape[1], str(actions))
            if kind not in like:
                like[kind] = name = self._names[i].rstrip("0123456789_") or "agents"
                if name in groups:
                    like[kind] = name = self._names[i]
                groups[name] = []
                observation_space[name] = spaces.Box(-np.inf, np.inf, (seen[i].shape[1],), np.float32)
                action_space[name] = actions
            groups[like[kind]].append(i)
        return EnvSpec(
            agents=tuple(self._names),
            groups={name: tuple(members) for name, members in groups.items()},
            observation_space=observation_space,
            action_space=action_space,
            state_space=spaces.Box(-np.inf, np.inf, (sum(own.shape[1] for own in seen),), np.float32),
            horizon=self.config.horizon,
            state_per_agent=False,
            metrics=METRICS,
            primary_metric="return",
        )

    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        if mask is None:
            mask = torch.ones(self.copies, dtype=torch.bool, device=self.device)
        elif not self._started:
            raise RuntimeError("reset all copies before some of them")
        self._started = True
        seeds = seeds_of(seed, self.copies, self.device)
        self._seed = torch.where(mask, seeds, self._seed)
        self._episode = torch.where(mask, 0, self._episode)
        self._first_seed, self._resets = int(seeds[0]), 0
        self._begin(mask.cpu().numpy())
        self._return = torch.where(mask, 0.0, self._return)
        return self.current()

    def step(self, actions: Tree) -> TimeStep:
        if not self._started:
            raise RuntimeError("reset the world before its first step")
        result = self._simulator.step(self._per_agent(actions))
        seen, rewards, over = result[0], result[1], result[2]
        reward = torch.stack(list(rewards), 1).to(torch.float32)
        self._clock += 1
        self._return = self._return + reward.mean(1)
        late = self._clock >= self.config.horizon
        terminated = over.to(torch.bool)
        truncated = torch.from_numpy(late).to(self.device) & ~terminated
        done = terminated | truncated
        ending = done.cpu().numpy()
        observation, state = self._view(seen)
        final = None
        length = self._clock.copy()
        figures = {"return": self._return, "solved": terminated.float(), "length_steps": _floats(length, self.device)}
        if ending.any():
            final = Final(observation, state)
            self._episode = self._episode + done
            self._begin(ending)
            self._return = torch.where(done, 0.0, self._return)
            observation, state = self._view(self._look())
        return self._timestep(observation, state, reward, terminated, truncated, done, final, figures)

    def current(self) -> TimeStep:
        """The view of the present moment, with reward 0 and no ends."""
        observation, state = self._view(self._look())
        nothing = torch.zeros(self.copies, dtype=torch.bool, device=self.device)
        figures = {name: torch.zeros(self.copies, device=self.device) for name in METRICS}
        reward = torch.zeros(self.copies, len(self._names), device=self.device)
        return self._timestep(observation, state, reward, nothing, nothing.clone(), nothing.clone(), None, figures)

    def move(self, actions: Tensor) -> object:
        """VMAS's own step alone. For measurements, at most ``horizon`` times after a reset."""
        return self._simulator.step(self._per_agent(actions))

    def _seeded(self, key: int) -> None:
        self._simulator.seed(key & _SEED_MASK)

    def _begin(self, beginning: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Start episodes in the copies ``beginning``; all of them at once where that is so, which is far quicker."""
        self._clock[beginning] = 0
        self._seeded(fold_int(fold_int(fold_int(0, int(Stream.EPISODE)), self._first_seed), self._resets))
        self._resets += 1
        if beginning.all():
            self._simulator.reset(return_observations=False)
            return
        for copy in np.flatnonzero(beginning):
            self._simulator.reset_at(int(copy), return_observations=False)

    def _look(self) -> list[Tensor]:
        """What each agent sees now, ``[B, D]``."""
        (seen,) = self._simulator.get_from_scenario(
            get_observations=True, get_rewards=False, get_infos=False, get_dones=False
        )
        return list(seen)

    def _view(self, seen: Sequence[Tensor]) -> tuple[Tree, Tensor]:
        """By group, and all side by side."""
        groups: dict[str, Tree] = {
            name: torch.stack([seen[i] for i in members], 1).to(torch.float32)
            for name, members in self.spec.groups.items()
        }
        first = next(iter(groups.values()))
        if len(groups) == 1:
            assert isinstance(first, Tensor)
            return first, first.flatten(1)
        return groups, torch.cat([own.to(torch.float32) for own in seen], 1)

    def _per_agent(self, actions: Tree) -> list[Tensor]:
        """One tensor ``[B, A]`` for each agent, of the simulator's kind."""
        out: list[Tensor] = [torch.empty(0)] * len(self._names)
        for name, members in self.spec.groups.items():
            chosen = actions[name] if isinstance(actions, dict) else actions
            assert isinstance(chosen, Tensor)
            if isinstance(self.spec.action_space[name], spaces.Discrete):
                chosen = chosen.unsqueeze(-1)
            for place, own in zip(members, chosen.to(self.device).unbind(1), strict=True):
                out[place] = own
        return out

    def _timestep(
        self,
        observation: Tree,
        state: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        done: Tensor,
        final: Final | None,
        figures: dict[str, Tensor],
    ) -> TimeStep:
        agents, time = len(self._names), torch.from_numpy(self._clock).to(self.device)
        return TimeStep(
            observation=observation,
            state=state,
            reward=reward,
            terminated=terminated.unsqueeze(1).repeat(1, agents),
            truncated=truncated.unsqueeze(1).repeat(1, agents),
            done=done,
            alive=torch.ones(self.copies, agents, dtype=torch.bool, device=self.device),
            agent_id=self._agent_id.clone(),
            action_mask=None,
            key=fold(fold(fold(self._seed, Stream.EPISODE), self._episode), time),
            final=final,
            metrics=figures,
        )


def _floats(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device=device, dtype=torch.float32)


def _space(space: Any) -> spaces.Space[Any]:
    """A space of the package ``gym`` as one of gymnasium."""
    if hasattr(space, "n"):
        return spaces.Discrete(int(space.n))
    if hasattr(space, "nvec"):
        return spaces.MultiDiscrete(np.asarray(space.nvec))
    return spaces.Box(np.asarray(space.low, np.float32), np.asarray(space.high, np.float32), dtype=np.float32)
