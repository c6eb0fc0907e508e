from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from marl.envs.batched import TimeStep, Tree
from marl.envs.tensor_world import TensorWorld
from marl.testing import TinyWorld, check_batched, check_independence
from marl.testing.report import FAULTS

SIZES = (1, 2, 5)

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"masks": True},
    "unlike": {"unlike": True, "masks": True, "terminates": True},
    "continuous": {"unlike": True, "continuous": True, "observation": "dict", "state": "shared"},
    "refilled": {"mortal": True, "refill": 2, "slip": 0.2},
    "mortal": {"mortal": True, "terminates": True, "state": "none", "observation": "dict"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_form_of_the_tiny_world_conforms(name: str) -> None:
    report = check_batched(lambda copies: TinyWorld(copies, 3, horizon=8, **VARIANTS[name]), 20, batches=SIZES)
    assert not report.findings, str(report)


class Small(TinyWorld):
    """Three agents, ends by time after 6 steps, masks."""

    def __init__(self, copies: int, **options: Any):
        super().__init__(copies, 3, horizon=6, masks=True, **options)


class BatchMatters(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(reward=out.reward + self.copies)


class NeighbourMatters(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(reward=out.reward.mean(0, keepdim=True).expand_as(out.reward).clone())


class OneTensor(Small):
    def current(self) -> TimeStep:
        out = super().current()
        if not hasattr(self, "_kept"):
            self._kept = torch.zeros_like(out.key)
        self._kept.copy_(out.key)
        return out._replace(key=self._kept)


class Lent(Small):
    """Hands out its own state."""

    def current(self) -> TimeStep:
        return super().current()._replace(agent_id=self.agent_id)


class ResetsAll(Small):
    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        return super().reset(seed)


class ResetsSlightly(Small):
    """Forgets to put the clock of a masked copy back."""

    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        time = self.time.clone()
        super().reset(seed, mask)
        if mask is not None:
            self.time = time
        return self.current()


class NoFinal(Small):
    def step(self, actions: Tree) -> TimeStep:
        return super().step(actions)._replace(final=None)


class Terminates(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(terminated=out.truncated, truncated=out.terminated)


class Both(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(terminated=out.truncated)


class NoFlags(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(truncated=torch.zeros_like(out.truncated))


class Drops(Small):
    """An agent is gone without a word."""

    def current(self) -> TimeStep:
        out = super().current()
        out.alive[:, 1] &= self.time < 3
        return out


class ForgetsTime(Small):
    def snapshot(self) -> dict[str, Tensor]:
        return {**super().snapshot(), "time": torch.zeros_like(self.time)}


class LendsSnapshot(Small):
    def snapshot(self) -> dict[str, Tensor]:
        return {**super().snapshot(), "time": self.time}

    def step(self, actions: Tree) -> TimeStep:
        time = self.time
        out = super().step(actions)
        time.copy_(self.time)
        self.time = time
        return out


class OtherPresent(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(observation=out.observation * 0.5)


class OneKey(Small):
    def current(self) -> TimeStep:
        out = super().current()
        return out._replace(key=out.key // out.key)


class NoMetric(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(metrics={"return": out.metrics["return"]})


class NanMetric(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(metrics={name: value * torch.nan for name, value in out.metrics.items()})


class EmptyMask(Small):
    def current(self) -> TimeStep:
        out = super().current()
        return out._replace(action_mask=torch.zeros_like(out.action_mask))


class NanReward(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(reward=out.reward * torch.nan)


class DoubleReward(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(reward=out.reward.double())


class Outside(Small):
    def current(self) -> TimeStep:
        out = super().current()
        return out._replace(observation=out.observation + 1)


class StateOutside(Small):
    def current(self) -> TimeStep:
        out = super().current()
        return out._replace(state=out.state * 5)


class NanObservation(Small):
    def current(self) -> TimeStep:
        out = super().current()
        return out._replace(observation=out.observation * torch.nan)


class LateEnd(Small):
    def __init__(self, copies: int):
        super().__init__(copies)
        self.spec = dataclasses.replace(self.spec, horizon=4)

    def step(self, actions: Tree) -> TimeStep:
        told = self.spec
        self.spec = dataclasses.replace(told, horizon=6)
        out = super().step(actions)
        self.spec = told
        return out


class OddGroups(Small):
    def __init__(self, copies: int):
        super().__init__(copies)
        self.spec = dataclasses.replace(self.spec, groups={"walker": (0, 1, 1)})


class EatsActions(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        actions += 1  # type: ignore[operator]
        return out


class Breaks(Small):
    def step(self, actions: Tree) -> TimeStep:
        raise ValueError("out of luck")


class ClassState(Small):
    """All worlds of a process draw from one stream."""

    drawn = 0

    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        ClassState.drawn += 1
        return out._replace(reward=out.reward + ClassState.drawn % 97)


class GlobalTorch(Small):
    def step(self, actions: Tree) -> TimeStep:
        out = super().step(actions)
        return out._replace(reward=out.reward + torch.rand(()))


PLANTED: dict[type[Small], str] = {
    ClassState: "instances-share-state",
    GlobalTorch: "instances-share-state",
    BatchMatters: "copy-depends-on-batch",
    NeighbourMatters: "copy-depends-on-neighbour",
    OneTensor: "returned-data-reused",
    Lent: "returned-data-aliased",
    ResetsAll: "partial-reset",
    ResetsSlightly: "partial-reset",
    NoFinal: "final-missing",
    Terminates: "time-limit-terminated",
    Both: "both-flags",
    NoFlags: "flags-inconsistent",
    Drops: "agent-vanished",
    ForgetsTime: "restore-differs",
    LendsSnapshot: "snapshot-changes",
    OtherPresent: "current-differs",
    OneKey: "key-repeats",
    NoMetric: "metrics",
    NanMetric: "metrics",
    EmptyMask: "mask-empty",
    NanReward: "reward-not-finite",
    DoubleReward: "tensor-form",
    Outside: "observation-outside-space",
    StateOutside: "state-outside-space",
    NanObservation: "observation-not-finite",
    LateEnd: "horizon-exceeded",
    OddGroups: "spec",
    EatsActions: "actions-changed",
    Breaks: "raises",
}


@pytest.mark.parametrize("kind", PLANTED, ids=lambda kind: kind.__name__)
def test_planted_fault_is_found(kind: type[Small]) -> None:
    report = check_batched(lambda copies: kind(copies), steps=16, batches=(1, 2, 3))
    assert PLANTED[kind] in report.faults, str(report)
    assert not report.ok
    assert set(PLANTED.values()) <= set(FAULTS)


def test_global_generators_that_are_only_seeded_are_named() -> None:
    class Seeds(Small):
        def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
            torch.manual_seed(3)
            return super().reset(seed, mask)

    report = check_independence(lambda copies: Seeds(copies), steps=8)
    assert report.faults == {"global-randomness"} and report.ok and "torch drawn from or seeded" in str(report)


def test_a_world_that_breaks_beside_another_is_named() -> None:
    assert check_independence(lambda copies: Breaks(copies), steps=8).faults == {"raises"}


def test_worlds_without_snapshots_are_skipped_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(TensorWorld, "snapshot")
    report = check_batched(lambda copies: Small(copies), steps=8, batches=(1, 2))
    assert report.ok and "snapshots: the world has none" in report.skipped


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", VARIANTS)
def test_gpu_is_the_same_world(name: str) -> None:
    def make(copies: int, device: torch.device | str = "cpu") -> TinyWorld:
        return TinyWorld(copies, 3, horizon=8, device=device, **VARIANTS[name])

    assert not check_batched(make, 20, batches=SIZES, make_on=make).findings
    assert not check_batched(lambda copies: make(copies, "cuda"), 20, batches=SIZES).findings
