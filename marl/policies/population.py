"""A population: variants of one joint policy that act side by side, each in its share of a world's copies."""

from __future__ import annotations

import copy
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from marl.envs.batched import TimeStep, Tree
from marl.errors import UserError
from marl.policies.actor import Actor
from marl.policies.heads import Head
from marl.policies.joint import Drawn, JointPolicy, Unit, map_tree


class Population:
    """P members with weights of their own (what draws actions at the end of a pipeline).

    Copies 0 to S - 1 of S * P belong to the first member, the next S to the second, and so on. The members' networks
    are run one after the other, whatever they are; everything else is done for all at once. A batched product of the
    members' matrices (``torch.func.vmap``) is no quicker for networks of the usual kind.
    Raises ``UserError`` for networks that are no ``Actor``.
    """

    def __init__(self, policy: JointPolicy, members: int):
        if not all(isinstance(policy.actor(unit), Actor) for unit in policy.units):
            raise UserError("a population has networks of marl.policies.actor.Actor: derive the own one from it")
        self._policy = policy
        self._members = [copy.deepcopy(policy).requires_grad_(False) for _ in range(members)]

    def place(self, weights: Tensor) -> None:
        """Give each member its weights: ``[P, D]``, in the order of ``parameters_to_vector``."""
        for member, own in zip(self._members, weights, strict=True):
            nn.utils.vector_to_parameters(own, member.parameters())

    def initial_hidden(self, copies: int) -> dict[str, Tensor]:
        return self._policy.initial_hidden(copies)

    def draw(self, timestep: TimeStep, hidden: dict[str, Tensor], start: Tensor, greedy: bool) -> Drawn:
        """Every copy's decision by its member; B is a multiple of P."""
        share = start.shape[0] // len(self._members)
        return self._policy.draw(timestep, hidden, start, greedy, partial(self._head, share))

    def _head(
        self, share: int, unit: Unit, observation: Tree, hidden: Tensor | None, action_mask: Tensor | None
    ) -> tuple[Head, Tensor | None]:
        actors = [cast(Actor, member.actor(unit)) for member in self._members]
        outputs, after, deviations = [], [], []
        for number, actor in enumerate(actors):
            own = slice(number * share, (number + 1) * share)
            seen = map_tree(partial(_rows, own), observation)
            output, carried = actor.outputs(seen, None if hidden is None else hidden[own])
            outputs.append(output)
            after += [] if carried is None else [carried]
            if hasattr(actor, "log_std"):
                deviations.append(actor.log_std.expand(share, 1, -1))
        head = actors[0].head(torch.cat(outputs), action_mask, torch.cat(deviations) if deviations else None)
        return head, torch.cat(after) if after else None


def _rows(own: slice, x: Tensor) -> Tensor:
    return x[own]
