"""Every field of every time step of a ``BatchedEnv`` against its spec."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.envs.forms import misfits
from marl.envs.native import choices
from marl.envs.random_play import mask_of_group, random_actions
from marl.testing.report import Report
from marl.testing.tensors import changed, clone


class Inspection:
    """Plays one world and looks at everything. ``newcomers``: a slot was seen to be filled again."""

    def __init__(self, report: Report, env: BatchedEnv):
        self._report, self._env, self._spec = report, env, env.spec
        self.newcomers = False
        self._length = torch.zeros(env.copies, dtype=torch.int64, device=env.device)
        self._limit_terminations = self._truncations = 0

    def run(self, seed: int, steps: int) -> None:
        """``steps`` steps of all copies with random legal actions."""
        self._check_spec()
        view = self._env.reset(seed)
        self._forms("reset", view)
        self._masks("reset", view)
        if not view.alive.any(1).all():
            self._report.add("flags-inconsistent", "reset", "a copy has no agent alive")
        keys = {(copy, key) for copy, key in enumerate(view.key.tolist())}
        for t in range(1, steps + 1):
            where = f"step {t}"
            kept = clone(view)
            after = self._env.step(random_actions(self._env, view))
            self._report.steps += self._env.copies
            name = changed(view, kept)
            if name:
                self._report.add("returned-data-reused", where, f"{name} of the step before has changed")
            self._forms(where, after)
            self._masks(where, after)
            self._flags(where, view, after)
            self._metrics(where, after)
            for entry in enumerate(after.key.tolist()):
                if entry in keys:
                    self._report.add("key-repeats", f"{where}, copy {entry[0]}", "policies would draw the same numbers")
                keys.add(entry)
            view = after
        if self._limit_terminations and not self._truncations:
            where = f"step {self._spec.horizon}, {self._limit_terminations} episodes"
            self._report.add("time-limit-terminated", where, "the horizon is flagged as termination")

    def _check_spec(self) -> None:
        spec, report = self._spec, self._report
        members = sorted(slot for slots in spec.groups.values() for slot in slots)
        if members != list(range(spec.n_agents)):
            report.add("spec", "groups", "they are not a partition of the agents")
        for name in ("observation_space", "action_space"):
            if set(getattr(spec, name)) != set(spec.groups):
                report.add("spec", name, "its keys are not those of groups")
        if len(set(spec.agents)) != spec.n_agents:
            report.add("spec", "agents", "a name is there twice")
        if spec.horizon < 1:
            report.add("spec", "horizon", "it has to be at least 1")
        if spec.primary_metric and spec.primary_metric not in spec.metrics:
            report.add("spec", "primary_metric", f"'{spec.primary_metric}' is not in metrics")

    def _forms(self, where: str, view: TimeStep) -> None:
        for name, sentence in misfits(self._env, view):
            fault = "mask-form" if name.startswith("action_mask") else "tensor-form"
            self._report.add(fault, f"{where}, {name}", sentence)
        if not torch.isfinite(view.reward).all():
            self._report.add("reward-not-finite", where, f"{int((~torch.isfinite(view.reward)).sum())} rewards")
        self._observations(f"{where}, observation", view.observation, view.alive)
        ended = view.terminated | view.truncated
        if view.final is not None:
            self._observations(f"{where}, final.observation", view.final.observation, ended)
            self._state(f"{where}, final.state", view.final.state, ended)
        self._state(f"{where}, state", view.state, view.alive)

    def _observations(self, where: str, tree: Tree, valid: Tensor) -> None:
        for group, slots in self._spec.groups.items():
            own = self._of_group(tree, group)
            lead = (self._env.copies, len(slots))
            self._probe(where, own, self._spec.observation_space[group], lead, valid[:, list(slots)], "observation")

    def _state(self, where: str, tree: Tree | None, valid: Tensor) -> None:
        space, spec = self._spec.state_space, self._spec
        if space is not None and tree is not None:
            lead = (self._env.copies, spec.n_agents) if spec.state_per_agent else (self._env.copies,)
            self._probe(where, tree, space, lead, valid if spec.state_per_agent else valid.any(1), "state")

    def _probe(
        self, where: str, tree: Tree, space: spaces.Space[object], lead: tuple[int, ...], valid: Tensor, kind: str
    ) -> None:
        """The values of a tensor against a space, where ``valid`` [*lead] and where the form is right."""
        if isinstance(space, spaces.Dict):
            for key, inner in space.spaces.items():
                if isinstance(tree, dict) and key in tree:
                    self._probe(f"{where}.{key}", tree[key], inner, lead, valid, kind)
            return
        if not isinstance(tree, Tensor) or tuple(tree.shape) != (*lead, *(space.shape or ())):
            return
        values = tree[valid]
        if tree.is_floating_point() and not torch.isfinite(values).all():
            fault = "state-outside-space" if kind == "state" else "observation-not-finite"
            self._report.add(fault, where, f"{int((~torch.isfinite(values)).sum())} values are not finite")
        outside = _outside(values, space)
        if outside:
            self._report.add(f"{kind}-outside-space", where, f"{outside} values are out of bounds")

    def _masks(self, where: str, view: TimeStep) -> None:
        for group, slots in self._spec.groups.items():
            space = self._spec.action_space[group]
            mask = mask_of_group(view, group)
            if mask is None:
                continue
            sizes = choices(space)
            shape = (self._env.copies, len(slots), sum(sizes))
            if tuple(mask.shape) == shape and not all(
                (m.any(-1) | ~view.alive[:, list(slots)]).all() for m in torch.split(mask, sizes, dim=-1)
            ):
                self._report.add("mask-empty", f"{where}, {group}", "no action is legal for a living agent")

    def _flags(self, where: str, before: TimeStep, after: TimeStep) -> None:
        was, now, done = before.alive, after.alive, after.done.unsqueeze(1)
        ended = after.terminated | after.truncated
        other = before.agent_id != after.agent_id
        self.newcomers |= bool((other & now & ~done).any())
        self._note("both-flags", where, after.terminated & after.truncated, "a time limit is a truncation only")
        for wrong, sentence in (
            (ended & ~was, "it ended, but was not alive before the step"),
            (done & was & ~ended, "its copy is done, but it has neither flag"),
            (~done & ended & now & ~other, "it ended, but is alive under the same agent_id"),
            (~done & was & ~ended & now & other, "its agent_id changed without an end"),
        ):
            self._note("flags-inconsistent", where, wrong, sentence)
        self._note("agent-vanished", where, ~done & was & ~ended & ~now, "it is not alive any more, without a flag")
        if bool(ended.any()) and after.final is None:
            self._report.add("final-missing", where, "an agent ended, but final is None")
        self._length += 1
        horizon = self._spec.horizon
        self._note("horizon-exceeded", where, (self._length > horizon) & was.any(1), f"the horizon is {horizon}")
        at_limit = after.done & (self._length == horizon)
        self._limit_terminations += int((at_limit & ~after.truncated.any(1)).sum())
        self._truncations += int(after.truncated.sum())
        self._length = torch.where(after.done, 0, self._length)

    def _metrics(self, where: str, view: TimeStep) -> None:
        if set(view.metrics) != set(self._spec.metrics):
            odd = sorted(set(view.metrics) ^ set(self._spec.metrics))
            self._report.add("metrics", where, f"{', '.join(odd)} only in the step or only in the spec")
        for name, value in view.metrics.items():
            if value.shape != (self._env.copies,) or value.dtype != torch.float32:
                self._report.add("metrics", f"{where}, {name}", f"{tuple(value.shape)} {value.dtype}, not [B] float32")
            elif not torch.isfinite(value[view.done]).all():
                self._report.add("metrics", f"{where}, {name}", "not finite where an episode ended")

    def _note(self, fault: str, where: str, wrong: Tensor, sentence: str) -> None:
        """A finding at the first place where ``wrong`` ([B, N] or [B]) is true."""
        places = torch.nonzero(wrong)
        if len(places):
            copy, *agent = places[0].tolist()
            name = f", {self._spec.agents[agent[0]]}" if agent else ""
            self._report.add(fault, f"{where}, copy {copy}{name}", sentence)

    def _of_group(self, tree: Tree, group: str) -> Tree:
        if len(self._spec.groups) == 1:
            return tree
        assert isinstance(tree, dict)
        return tree[group]


def _outside(values: Tensor, space: spaces.Space[object]) -> int:
    """How many of ``values`` ``[*, *shape]`` are out of the space's bounds."""
    if isinstance(space, spaces.Box):
        low, high = (torch.as_tensor(bound, device=values.device) for bound in (space.low, space.high))
        return int(((values < low) | (values > high)).sum())
    if isinstance(space, spaces.Discrete):
        return int(((values < int(space.start)) | (values >= int(space.start) + int(space.n))).sum())
    if isinstance(space, spaces.MultiDiscrete):
        return int(((values < 0) | (values >= torch.as_tensor(space.nvec, device=values.device))).sum())
    return 0
