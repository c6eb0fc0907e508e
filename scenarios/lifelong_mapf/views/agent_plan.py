"""All that a plan tells the agents of a grid: the planner's features and what is made of them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from marl.errors import UserError
from scenarios.lifelong_mapf.guidance.base import GridWorld, Guidance, GuidanceConfig, present
from scenarios.lifelong_mapf.guidance.choose import make_guidance
from scenarios.lifelong_mapf.guidance.shared import GoalFields, SharedGuidance
from scenarios.lifelong_mapf.maps.fields import open_moves_of
from scenarios.lifelong_mapf.pibt.preferences import scale_of, write_urgency
from scenarios.lifelong_mapf.views.choices import Choices
from scenarios.lifelong_mapf.views.contest import SPACE as CONTEST_SPACE
from scenarios.lifelong_mapf.views.contest import write_contest
from scenarios.lifelong_mapf.views.egocentric import Egocentric
from scenarios.lifelong_mapf.views.recent import Recent


class PlannedWorld(GridWorld, Protocol):
    """What the features read beyond ``GridWorld``: int32 and bool ``[B, N]``.

    age: steps since the goal was given. refused: the last move led to a free cell and other agents prevented it.
    """

    age: Tensor
    refused: Tensor


class Part(Protocol):
    """Features that keep a memory of their own beside the planner's."""

    spaces: dict[str, spaces.Space[Any]]

    def restart(self, restarted: NDArray[np.bool_]) -> None:
        """Copies of ``restarted`` (bool ``[B]``) began a new episode."""

    def advance(self) -> None:
        """All copies made a step."""

    def features(self) -> dict[str, Tensor]:
        """At the present moment; never changed later."""

    def state(self) -> dict[str, NDArray[Any]]:
        """The memory by name: arrays with leading dimension B that may be written to."""


class AgentPlan:
    """The planner of ``config`` with the features that it asks for; to be called like a ``Guidance``."""

    def __init__(self, world: PlannedWorld, config: GuidanceConfig, radius: int):
        self._world = world
        self._guidance: Guidance = make_guidance(world, config, radius)
        self._contest = config.contest
        self._exits = open_moves_of(world.blocked, world.height, world.width)
        self._parts: dict[str, Part] = {}
        if config.recent:
            self._parts["recent"] = Recent(world, radius)
        if config.egocentric:
            self._parts["egocentric"] = Egocentric(world, self._guidance, radius)
        if config.choices:
            if not isinstance(self._guidance, SharedGuidance):
                raise UserError(
                    "guidance.choices needs the distances of guidance.kind=shared: set one of them otherwise"
                )
            self._parts["choices"] = Choices(world, self._guidance.fields)
        self.spaces: dict[str, spaces.Space[Any]] = dict(self._guidance.spaces)
        if config.contest:
            self.spaces["contest"] = CONTEST_SPACE
        for part in self._parts.values():
            self.spaces |= part.spaces

    @property
    def fields(self) -> GoalFields | None:
        """The fields that planned paths descend, if they do."""
        return self._guidance.fields if isinstance(self._guidance, SharedGuidance) else None

    def urgency(self) -> NDArray[np.int64] | None:
        """int64 ``[B, N]``: who goes first on the guidance's numbers; None if they say nothing about it."""
        fields = self.fields
        if fields is None or fields.weights.closer_first == 0:
            return None
        world = self._world
        position, age = world.position.cpu().numpy(), world.age.cpu().numpy()
        urgency = np.empty(position.shape, np.int64)
        scale = scale_of(fields.weights, fields.units)
        for b in range(world.copies):
            write_urgency(position[b], age[b], fields.field[b], scale, urgency[b])
        return urgency

    @property
    def reached(self) -> Tensor:
        """``[B, N]``: the agent came to stand on the sub-goal set before the step (see ``Guidance``)."""
        return self._guidance.reached

    def restart(self, mask: Tensor) -> None:
        """Copies of ``mask`` (bool ``[B]``) began a new episode."""
        self._guidance.restart(mask)
        for part in self._parts.values():
            part.restart(mask.cpu().numpy())

    def advance(self) -> None:
        """All copies made a step."""
        self._guidance.advance()
        for part in self._parts.values():
            part.advance()

    def features(self) -> dict[str, Tensor]:
        """All features at the present moment; agents that are not alive see nothing. Never changed later."""
        features = self._guidance.features()
        if self._contest:
            features["contest"] = self._contested()
        for part in self._parts.values():
            features |= part.features()
        return features

    def snapshot(self) -> dict[str, Tensor]:
        """The state of all copies, tensors with leading dimension B that later steps do not change."""
        saved = self._guidance.snapshot()
        for part in self._parts.values():
            saved |= {name: torch.from_numpy(array.copy()) for name, array in part.state().items()}
        return saved

    def restore(self, snapshot: dict[str, Tensor], source: Tensor | None = None, target: Tensor | None = None) -> None:
        """Put copies ``source`` (int64 ``[K]``) of the snapshot into copies ``target``; None: all."""
        self._guidance.restore(snapshot, source, target)
        into = np.arange(self._world.copies) if target is None else target.cpu().numpy()
        for part in self._parts.values():
            for name, array in part.state().items():
                saved = snapshot[name] if source is None else snapshot[name][source.cpu()]
                array[into] = saved.cpu().numpy()

    def _contested(self) -> Tensor:
        world = self._world
        contest = np.empty((*world.position.shape, *CONTEST_SPACE.shape), np.float32)
        write_contest(present(world, self._exits), self._guidance.subgoal, world.age.cpu().numpy(), contest)
        return torch.from_numpy(contest).to(world.device)
