"""The abilities of foreign environments (``foreign_abilities``) as the protocols of the coordination modules.

A foreign world gets a class with exactly the abilities that its environment has. Plans come with every step; other
questions go to the workers, one round for all copies each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.abilities import Prediction, nearest
from marl.envs.batched import BatchedEnv, EnvSpec, Plan
from marl.envs.foreign_abilities import NO_ACTION, AbilitySpec
from marl.envs.pool_base import Pool


class _Ability:
    """What the classes below find in ``ForeignEnv``. ask: put a question to all copies."""

    pool: Pool
    spec: EnvSpec
    copies: int
    device: torch.device
    abilities: AbilitySpec
    ask: Callable[[str], None]
    any_ended: bool

    def _told(self, name: str) -> Tensor:
        return torch.from_numpy(self.pool.outputs[name].copy()).to(self.device)


class ForeignPlans(_Ability):
    """``Plans``."""

    def enable_plan(self, enabled: bool = True) -> dict[str, spaces.Space[Any]]:
        assert self.abilities.plan is not None
        return {"plan": self.abilities.plan} if enabled else {}

    def plan(self) -> Plan:
        final = {"plan": self._told("final_plan")} if self.any_ended else None
        return Plan({"plan": self._told("plan")}, self._told("reached"), final)


class ForeignPredicts(_Ability):
    """``Predicts``: agents listen to their nearest, by coordinates in units of the scale."""

    _shape: tuple[int, int] | None = None

    def enable_prediction(self, horizon: int, companions: int) -> tuple[float, ...]:
        assert self.abilities.scale is not None
        self._shape = (horizon, companions)
        self.pool.inputs["horizon"][:] = horizon
        return self.abilities.scale

    def predict(self, actions: Tensor | None) -> Prediction:
        self.pool.inputs["drafts"][:] = NO_ACTION if actions is None else actions.cpu().numpy()
        self.ask("predict")
        return self._prediction("")

    def predict_final(self) -> Prediction | None:
        return self._prediction("final_") if self.any_ended else None

    def _prediction(self, prefix: str) -> Prediction:
        if self._shape is None:
            raise RuntimeError("enable_prediction comes before predict")
        horizon, companions = self._shape
        origin = self._told(prefix + "origin")
        scale = torch.tensor(self.abilities.scale, dtype=origin.dtype, device=self.device)
        # An agent without coordinates is far from everybody.
        apart = torch.linalg.vector_norm((origin.unsqueeze(2) - origin.unsqueeze(1)) / scale, dim=-1)
        itself = torch.eye(origin.shape[1], dtype=torch.bool, device=self.device)
        distance = torch.where(itself | apart.isnan(), torch.inf, apart)
        reach = torch.finfo(origin.dtype).max
        trajectory = self._told(prefix + "trajectory")[:, :, :horizon]
        return Prediction(trajectory, nearest(distance, reach, companions), origin.nan_to_num())


class ForeignSupervised(_Ability):
    """``Supervised``."""

    def priority(self) -> Tensor:
        self.ask("priority")
        return self._told("priority")

    def candidates(self, agent: Tensor) -> Tensor:
        legal = self._told("candidates")
        own = legal[torch.arange(self.copies, device=self.device), agent]
        return torch.where(own, torch.arange(legal.shape[2], device=self.device), -1)

    def margin(self, candidates: Tensor, agent: Tensor, committed: Tensor) -> Tensor:
        self.pool.inputs["agent"][:] = agent.cpu().numpy()
        self.pool.inputs["committed"][:] = committed.cpu().numpy()
        self.ask("margin")
        return self._told("margin").gather(1, candidates.clamp(min=0))


def with_abilities(base: type[BatchedEnv], abilities: AbilitySpec) -> type[BatchedEnv]:
    """``base``, a class of foreign worlds, with the abilities that an environment has."""
    found: Mapping[type, bool] = {
        ForeignPlans: abilities.plan is not None,
        ForeignPredicts: abilities.scale is not None,
        ForeignSupervised: abilities.supervised,
    }
    kinds = tuple(kind for kind, has in found.items() if has)
    return type(base.__name__, (*kinds, base), {}) if kinds else base
