"""Somebody's environment as a ``BatchedEnv``: B copies of it in worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.envs.batched import BatchedEnv, EnvSpec, Final, Metric, TimeStep, Tree
from marl.envs.foreign_coordination import with_abilities
from marl.envs.foreign_simulator import ForeignSimulator, ForeignSpec
from marl.envs.pool_base import Pool, WorkerState
from marl.envs.pools import make_pool
from marl.envs.workers import Array
from marl.errors import UserError
from marl.seeding import Stream, fold, seeds_of

_SEED_MASK = 0x7FFFFFFF


def from_parallel(
    factory: Callable[[], Any] | str,
    copies: int,
    *,
    workers: int | None = None,
    where: str = "processes",
    horizon: int | None = None,
    deterministic: bool = False,
    metrics: Mapping[str, Metric] | None = None,
    state: bool = True,
    truncate_at_horizon: bool = False,
    by_name: bool = False,
    render: bool = False,
    device: torch.device | str = "cpu",
    timeout_s: float = 60.0,
) -> BatchedEnv:
    """B copies of a PettingZoo environment, or of a Gymnasium or marlenv one, as one batched world.

    factory: makes one environment (``marl.envs.adapters.kinds.as_parallel`` says of which kinds); with workers, a
        function of a module (or a ``partial`` of one), or its name as MODULE:FACTORY. The latter is the way for
        functions that cannot be pickled, as PettingZoo's ``parallel_env``.
    workers: processes; None: one per core, at most one per copy; 0: all in this process. The results are the same.
    where: the workers are, as for ``marl.envs.pools.make_pool``: processes, or Ray actors on other machines.
    horizon: steps after which the agents alive are truncated; None: the environment's own ``max_cycles`` or the like.
    deterministic: an episode is a function of its seed and the actions; the world then gives snapshots, which are
        restored by replay (``marl.testing.check_parallel`` tests the claim).
    metrics: figures that the environment gives with the end of an episode, as ``info["metrics"]`` of any agent; the
        first of them leads tables. Those of an episode that was lost are 0.
    state: take the environment's ``state()`` for the central critic; False where it raises later on. The critic then
        sees all observations.
    truncate_at_horizon: an end at the horizon is a truncation, whatever the environment calls it; for those that report
        their time limit as termination (``marl check`` names them).
    by_name: agents of unlike names, but for the number at the end, are in groups of their own although their spaces are
        equal, such as teams that play against each other.
    render: keep pictures of every step for ``frame``.
    device: where the tensors go; the environments stay on the CPU.
    timeout_s: the longest that one step may take before its worker is replaced.

    Agents with equal spaces form a group; a slot is an entry of ``possible_agents``. Action masks are taken from
    ``observation["action_mask"]`` or ``info["action_mask"]``, in the form that ``action_space.sample`` takes them. An
    episode that is lost with its worker ends truncated and has 1 in the metric ``lost``.
    The world can be guided, announce and be supervised as far as its environment has the methods for it
    (``marl.envs.foreign_abilities``).
    Raises ``UserError`` for environments without ``possible_agents``, horizon, or spaces of fixed shape.
    """
    count = min(copies, os.cpu_count() or 1) if workers is None else workers
    simulator = partial(
        ForeignSimulator, factory, horizon, tuple(metrics or ()), state, truncate_at_horizon, by_name, render
    )
    pool = make_pool(simulator, copies, count, where, timeout_s=timeout_s)
    foreign: ForeignSpec = pool.layout.info
    kind = with_abilities(ReplayableForeignEnv if deterministic else ForeignEnv, foreign.abilities)
    return kind(pool, foreign, torch.device(device), metrics)  # type: ignore[call-arg]  # mixed of two classes


class ForeignEnv(BatchedEnv):
    """The batched face of a pool of ``ForeignSimulator``; metrics: the figures that its simulators read."""

    def __init__(
        self,
        pool: Pool,
        foreign: ForeignSpec,
        device: torch.device,
        metrics: Mapping[str, Metric] | None = None,
    ):
        own = dict(metrics or {})
        self.pool, self.copies, self.device = pool, pool.copies, device
        self._foreign = foreign
        #: Groups with a return of their own; a lone group's is that of all.
        self._apart = tuple(foreign.groups) if len(foreign.groups) > 1 else ()
        self.spec = EnvSpec(
            agents=foreign.agents,
            groups=foreign.groups,
            observation_space=foreign.observation_space,
            action_space=foreign.action_space,
            state_space=foreign.state_space,
            horizon=foreign.horizon,
            state_per_agent=False,
            metrics=own
            | {
                "return": Metric("1", "higher", "sum of rewards over the episode, mean over agents"),
                **{f"return_{group}": Metric("1", "higher", f"the same of group {group}") for group in self._apart},
                "length_steps": Metric("step", "neither", "length of the episode"),
                "lost": Metric("1", "lower", "episode cut short by the loss of its worker"),
            },
            primary_metric=next(iter(own), "return"),
        )
        self._own_metrics = tuple(own)
        self._seed = torch.zeros(self.copies, dtype=torch.int64)
        self._episode = torch.zeros_like(self._seed)
        self._time = torch.zeros_like(self._seed)
        #: Of each agent, ``[B, N]``.
        self._return = torch.zeros(self.copies, self.spec.n_agents)
        self.abilities = foreign.abilities
        #: Some agent's episode ended in the last step, so that there are last views.
        self.any_ended = False
        self._before: TimeStep | None = None
        self._lost = torch.zeros(self.copies, dtype=torch.bool)

    @property
    def restarts(self) -> int:
        """Workers replaced so far."""
        return self.pool.restarts

    def workers(self) -> list[WorkerState]:
        return self.pool.states()

    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        chosen = torch.ones(self.copies, dtype=torch.bool) if mask is None else mask.cpu()
        self._seed = torch.where(chosen, seeds_of(seed, self.copies), self._seed)
        self._episode = torch.where(chosen, 0, self._episode + 1)
        self._seed_pool(self._episode)
        lost = torch.from_numpy(self.pool.reset(chosen.numpy()))
        self._episode = torch.where(chosen | lost, self._episode, self._episode - 1)
        self._time = torch.where(chosen | lost, 0, self._time)
        self._return = torch.where((chosen | lost).unsqueeze(1), 0.0, self._return)
        self._lost = torch.zeros_like(self._lost)
        self.any_ended = False
        self._before = self.current()
        return self._before._replace(done=lost.to(self.device))

    def step(self, actions: Tree) -> TimeStep:
        self._encode(actions)
        # The view that was decided upon; copies lost to a question since then have begun other episodes.
        before = self._before or self.current()
        self._seed_pool(self._episode + 1)
        lost = torch.from_numpy(self.pool.step((~self._lost).numpy())) | self._lost
        self._lost = torch.zeros_like(lost)
        out = {name: torch.from_numpy(self.pool.outputs[name].copy()) for name in ("reward", *_FLAGS)}
        cut = before.alive.cpu() & lost.unsqueeze(1)
        out["truncated"] |= cut
        done = out["done"] | lost
        self._time = self._time + 1
        self._return = self._return + out["reward"]
        metrics = {"return": self._return.mean(1), "length_steps": self._time.float(), "lost": lost.float()}
        for group in self._apart:
            metrics[f"return_{group}"] = self._return[:, list(self.spec.groups[group])].mean(1)
        for k, name in enumerate(self._own_metrics):
            metrics[name] = torch.from_numpy(self.pool.outputs["metrics"][:, k].copy())
        self.any_ended = bool((out["terminated"] | out["truncated"]).any())
        self._before = now = self._begin(done)
        return now._replace(
            reward=out["reward"].to(self.device),
            terminated=out["terminated"].to(self.device),
            truncated=out["truncated"].to(self.device),
            done=done.to(self.device),
            final=self._final(before, cut, lost) if self.any_ended else None,
            metrics={name: torch.where(done, value, 0.0).to(self.device) for name, value in metrics.items()},
        )

    def current(self) -> TimeStep:
        """The view of the present moment, with reward 0 and no ends."""
        none = torch.zeros(self.copies, self.spec.n_agents, dtype=torch.bool, device=self.device)
        return TimeStep(
            observation=self._observation("observation"),
            state=self._tensor("state") if self.spec.state_space is not None else None,
            reward=none.float(),
            terminated=none,
            truncated=none.clone(),
            done=none[:, 0].clone(),
            alive=self._tensor("alive"),
            agent_id=self._tensor("agent_id"),
            action_mask=self._action_mask(),
            key=fold(self._episode_key(self._episode), self._time).to(self.device),
            final=None,
            metrics={name: torch.zeros(self.copies, device=self.device) for name in self.spec.metrics},
        )

    def ask(self, question: str) -> None:
        """Put a question to the workers; the answers are in the pool's outputs."""
        self._seed_pool(self._episode + 1)
        self._lost |= torch.from_numpy(self.pool.ask(question))

    def frame(self, ended: bool = False) -> Array:
        """A picture of copy 0, uint8 ``[height, width, 3]``, of a world made with ``render``.

        Args:
            ended: the end of the episode that has just been finished; else the present moment.
        """
        frame: Array = self.pool.outputs["final_frame" if ended else "frame"][0].copy()
        return frame

    def close(self) -> None:
        self.pool.close()

    # Episodes

    def _episode_key(self, episode: Tensor) -> Tensor:
        return fold(fold(self._seed, Stream.EPISODE), episode)

    def _seed_pool(self, episode: Tensor) -> None:
        self.pool.seeds[:] = (self._episode_key(episode) & _SEED_MASK).numpy()

    def _begin(self, done: Tensor) -> TimeStep:
        self._episode = self._episode + done
        self._time = torch.where(done, 0, self._time)
        self._return = torch.where(done.unsqueeze(1), 0.0, self._return)
        return self.current()

    # Arrays

    def _tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.pool.outputs[name].copy()).to(self.device)

    def _observation(self, prefix: str) -> Tree:
        groups: dict[str, Tree] = {}
        for group in self.spec.groups:
            root = f"{prefix}/{group}"
            if root in self.pool.outputs:
                groups[group] = self._tensor(root)
                continue
            tree: dict[str, Tree] = {}
            for name in self.pool.outputs:
                if name.startswith(root + "/"):
                    *parents, leaf = name[len(root) + 1 :].split("/")
                    place = tree
                    for parent in parents:
                        inner = place.setdefault(parent, {})
                        assert isinstance(inner, dict)
                        place = inner
                    place[leaf] = self._tensor(name)
            groups[group] = tree
        return groups if len(groups) > 1 else next(iter(groups.values()))

    def _action_mask(self) -> Tree | None:
        masked = [group for group in self.spec.groups if group in self._foreign.masked]
        masks: dict[str, Tree] = {group: self._tensor(f"mask/{group}") for group in masked}
        if not masks or len(self.spec.groups) > 1:
            return masks or None
        return next(iter(masks.values()))

    def _final(self, before: TimeStep, cut: Tensor, lost: Tensor) -> Final:
        """The last views; those of a lost episode are the views of the step before."""
        final = Final(
            self._observation("final"), self._tensor("final_state") if self.spec.state_space is not None else None
        )
        if not bool(lost.any()):
            return final
        state = final.state
        if isinstance(state, Tensor) and isinstance(before.state, Tensor):
            state = _select(lost.to(self.device), before.state, state)
        return Final(_select(lost.to(self.device), before.observation, final.observation), state)

    def _encode(self, actions: Tree) -> None:
        for group, slots in self.spec.groups.items():
            chosen = actions[group] if isinstance(actions, dict) else actions
            assert isinstance(chosen, Tensor)
            rows: Array = chosen.detach().to("cpu", torch.float64).reshape(self.copies, len(slots), -1).numpy()
            self.pool.actions[:, np.array(slots), : rows.shape[-1]] = rows


class ReplayableForeignEnv(ForeignEnv):
    """A deterministic foreign world: a snapshot is (seed, episode, actions since reset), restored by replay."""

    @cached_property
    def _log(self) -> Tensor:
        """Actions ``[B, horizon, ...]`` of each copy's episode, as simulators take them."""
        return torch.zeros(self.copies, self._foreign.horizon, *self.pool.layout.actions.shape, dtype=torch.float64)

    def snapshot(self) -> dict[str, Tensor]:
        """The recipe of the present moment of all copies."""
        return {
            "seed": self._seed.clone(),
            "episode": self._episode.clone(),
            "time": self._time.clone(),
            "return": self._return.clone(),
            "actions": self._log.clone(),
        }

    def restore(self, snapshot: dict[str, Tensor], source: Tensor | None = None, target: Tensor | None = None) -> None:
        """Play the episodes of copies ``source`` of the snapshot again in copies ``target``."""
        every = torch.arange(self.copies)
        source, target = every if source is None else source.cpu(), every if target is None else target.cpu()
        for name in ("seed", "episode", "time", "return"):
            getattr(self, "_" + name)[target] = snapshot[name].cpu()[source]
        self._log[target] = snapshot["actions"].cpu()[source]
        chosen = torch.zeros(self.copies, dtype=torch.bool)
        chosen[target] = True
        restarts = self.pool.restarts
        self._before, self.any_ended = None, False
        self._seed_pool(self._episode)
        self.pool.reset(chosen.numpy())
        for t in range(int(self._time[target].max()) if len(target) else 0):
            self.pool.actions[:] = self._log[:, t].numpy()
            self.pool.step((chosen & (t < self._time)).numpy())
        if self.pool.restarts != restarts:
            raise UserError(f"a worker of {self._foreign.name} failed while an episode was replayed; restore it again")

    def _encode(self, actions: Tree) -> None:
        super()._encode(actions)
        self._log[torch.arange(self.copies), self._time] = torch.from_numpy(self.pool.actions)


_FLAGS = ("terminated", "truncated", "done")


def _select(chosen: Tensor, a: Tree, b: Tree) -> Tree:
    """``a`` in the copies of ``chosen`` ``[B]``, else ``b``."""
    if isinstance(a, dict) and isinstance(b, dict):
        return {name: _select(chosen, a[name], b[name]) for name in a}
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    return torch.where(chosen.reshape(-1, *[1] * (a.dim() - 1)), a, b)
