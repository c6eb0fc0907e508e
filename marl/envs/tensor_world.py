"""``TensorWorld``: a world on tensors of which only the rules have to be written."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from marl.envs.batched import BatchedEnv, EnvSpec, Final, TimeStep, Tree
from marl.errors import UserError
from marl.seeding import Stream, fold, seeds_of


class Moved(NamedTuple):
    """What a step brought.

    reward: float32 ``[B, N]``; what agents that did not act would earn is dropped.
    terminated: bool ``[B, N]``, or ``[B, 1]`` for all of a copy alike; None: nobody. Time limits are not for the world.
    """

    reward: Tensor
    terminated: Tensor | None = None


class TensorWorld(BatchedEnv):
    """Keeps seed, episode, clock, keys, restarts, snapshots and flags; a world gives ``begin``, ``move``, ``observe``.

    Args:
        spec: what a learner has to know; the time limit is its horizon.
        copies: B.
        device: where the tensors are.

    A world calls this first, names the tensors of its state with ``keep``, and reads:
    seed, episode, time: int64 ``[B]``, time counts the steps made in this episode (in ``move``: before this one).
    alive: bool ``[B, N]``, who acts in the coming step. In ``begin`` everybody is made alive; whoever terminates is
        not, until the copy's episode ends with the last agent or at the horizon.
    agent_id: int64 ``[B, N]``, the slots' numbers; a world that fills slots again (in ``after``) writes other ones.
    Random numbers come from ``draw``, so that a copy depends on its seed alone.
    """

    seed: Tensor
    episode: Tensor
    time: Tensor
    alive: Tensor
    agent_id: Tensor

    def __init__(self, spec: EnvSpec, copies: int, device: torch.device | str = "cpu"):
        self.spec, self.copies, self.device = spec, copies, torch.device(device)
        self._kept_names: list[str] = []
        none = torch.zeros(copies, dtype=torch.int64, device=self.device)
        self._slots = torch.arange(spec.n_agents, device=self.device)
        self.keep(seed=none, episode=none, time=none)
        self.keep(alive=torch.ones(copies, spec.n_agents, dtype=torch.bool, device=self.device))
        self.keep(agent_id=self._slots.expand(copies, -1))

    # What a world gives

    @abstractmethod
    def begin(self, mask: Tensor) -> None:
        """Start episodes in the copies of ``mask`` (bool ``[B]``) and leave the others alone; see ``renew``."""

    @abstractmethod
    def move(self, actions: Tree) -> Moved | Tensor:
        """Make a step of all copies; returns the reward ``[B, N]`` alone, or ``Moved`` where agents may terminate."""

    @abstractmethod
    def observe(self, who: Tensor) -> Tree:
        """The observation of all, valid for the agents of ``who`` (bool ``[B, N]``)."""

    def central_state(self, who: Tensor) -> Tree | None:
        """What the central critic sees, as ``spec.state_space`` says; the living are ``who``."""
        return None

    def action_mask(self) -> Tree | None:
        """What is legal in the coming step; None: everything."""
        return None

    def measure(self) -> dict[str, Tensor]:
        """The metrics of ``spec`` after a step, each ``[B]``; they count where the step ended the episode."""
        return {}

    def after(self, running: Tensor) -> None:
        """After the ends of a step, before restarts; running: bool ``[B]``, copies whose episode goes on."""

    # What a world uses

    def keep(self, **tensors: Tensor) -> None:
        """Make the attributes ``name=tensor`` and put them into snapshots; their first dimension is B."""
        for name, tensor in tensors.items():
            if tensor.shape[:1] != (self.copies,):
                raise UserError(
                    f"keep({name}=...) got a tensor of shape {tuple(tensor.shape)}: its first dimension has to be the "
                    f"{self.copies} copies"
                )
            self._kept_names.append(name)
            setattr(self, name, tensor.clone())

    def renew(self, mask: Tensor, **values: Tensor | float) -> None:
        """Set attributes where ``mask`` is true, bool ``[B]`` or of more leading dimensions; for ``begin``."""
        for name, value in values.items():
            old: Tensor = getattr(self, name)
            where = mask.reshape(*mask.shape, *[1] * (old.dim() - mask.dim()))
            setattr(self, name, torch.where(where, torch.as_tensor(value, dtype=old.dtype, device=old.device), old))

    def draw(self, stream: int, counter: Tensor | int = 0) -> Tensor:
        """Random keys of the present episodes, which ``marl.seeding.below`` and ``uniform`` make numbers of.

        Args:
            stream: what the numbers are for, ``Stream.WORLD`` or above.
            counter: tells numbers of one stream apart, such as agents or steps: a number (keys ``[B]``), the same ones
                for all copies ``[K]`` (keys ``[B, K]``), or own ones ``[B, *]`` of two dimensions or more.
        """
        key = fold(fold(fold(self.seed, Stream.EPISODE), self.episode), stream)
        dims = counter.dim() if isinstance(counter, Tensor) else 0
        return fold(key.reshape(-1, *[1] * (1 if dims == 1 else max(0, dims - 1))), counter)

    # The contract

    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        chosen = torch.ones(self.copies, dtype=torch.bool, device=self.device) if mask is None else mask
        self.seed = torch.where(chosen, seeds_of(seed, self.copies, self.device), self.seed)
        self.episode = torch.where(chosen, 0, self.episode)
        self._restart(chosen)
        return self.current()

    def step(self, actions: Tree) -> TimeStep:
        acted = self.alive
        moved = self.move(actions)
        reward, over = moved if isinstance(moved, tuple) else (moved, None)
        self._check(reward, over)
        self.time = self.time + 1
        late = self.time >= self.spec.horizon
        terminated = torch.zeros_like(acted) if over is None else acted & over
        truncated = acted & ~terminated & late.unsqueeze(1)
        self.alive = acted & ~(terminated | truncated)
        done = late | ~self.alive.any(1)
        measured = {name: torch.where(done, value.float(), 0.0) for name, value in self.measure().items()}
        final = Final(self.observe(acted), self.central_state(acted)) if bool((self.alive != acted).any()) else None
        self.after(~done)
        self.episode = self.episode + done
        self._restart(done)
        return self.current()._replace(
            reward=torch.where(acted, reward, 0.0),
            terminated=terminated,
            truncated=truncated,
            done=done,
            final=final,
            metrics=measured,
        )

    def current(self) -> TimeStep:
        """The view of the present moment, with reward 0 and no ends."""
        none = torch.zeros_like(self.alive)
        return TimeStep(
            observation=self.observe(self.alive),
            state=self.central_state(self.alive),
            reward=none.float(),
            terminated=none,
            truncated=none.clone(),
            done=torch.zeros(self.copies, dtype=torch.bool, device=self.device),
            alive=self.alive.clone(),
            agent_id=self.agent_id.clone(),
            action_mask=self.action_mask(),
            key=fold(fold(fold(self.seed, Stream.EPISODE), self.episode), self.time),
            final=None,
            metrics={name: torch.zeros(self.copies, device=self.device) for name in self.spec.metrics},
        )

    def snapshot(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).clone() for name in self._kept_names}

    def restore(self, snapshot: dict[str, Tensor], source: Tensor | None = None, target: Tensor | None = None) -> None:
        every = torch.arange(self.copies, device=self.device)
        source, target = every if source is None else source, every if target is None else target
        for name in self._kept_names:
            held: Tensor = getattr(self, name).clone()
            held[target] = snapshot[name].to(self.device)[source]
            setattr(self, name, held)

    # Helpers

    def _restart(self, mask: Tensor) -> None:
        if bool(mask.any()):
            self.renew(mask, time=0, alive=True, agent_id=self._slots)
            self.begin(mask)

    def _check(self, reward: Any, terminated: Any) -> None:
        """In one sentence, because broadcasting would hide a wrong shape or fail far from here."""
        n = self.spec.n_agents
        if not isinstance(reward, Tensor) or reward.shape != (self.copies, n) or reward.dtype != torch.float32:
            raise UserError(
                f"{type(self).__name__}.move returns a reward that is {_told(reward)}: give float32 "
                f"({self.copies}, {n}), one number for each agent of each copy"
            )
        shapes = ((self.copies, n), (self.copies, 1))
        if terminated is not None and (
            not isinstance(terminated, Tensor) or terminated.shape not in shapes or terminated.dtype != torch.bool
        ):
            raise UserError(
                f"{type(self).__name__}.move returns terminated that is {_told(terminated)}: give bool "
                f"({self.copies}, {n}), or ({self.copies}, 1) for all agents of a copy"
            )


def _told(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
