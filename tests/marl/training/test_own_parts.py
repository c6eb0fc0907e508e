"""Own networks and algorithms that return something else than they should are named, with what to return."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import marl
from marl.errors import UserError
from marl.policies.heads import Categorical
from marl.policies.joint import JointPolicy
from marl.systems.mappo import Mappo


class Net(torch.nn.Module):
    def __init__(self, fault: str, space: Any, actions: Any, generator: torch.Generator):
        super().__init__()
        self.fault, self.bias = fault, torch.nn.Parameter(torch.zeros(int(actions.n) - (fault == "narrow")))

    def forward(self, observation: Any, hidden: Any, mask: Any) -> Any:
        head = Categorical(self.bias)
        return head if self.fault == "single" else (head, None)


def test_updates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Mappo, "update", lambda *_: None)
    with pytest.raises(UserError, match=r"Mappo\.update returned a NoneType: return its figures"):
        marl.train("cli_scenario:SHOWN", out=str(tmp_path / "run"), overrides=["total_steps=1"])


@pytest.mark.parametrize(
    ("fault", "words"),
    [("single", "Net.forward returned a Categorical: return two"), ("narrow", "Net.forward scores . actions, and")],
)
def test_networks(fault: str, words: str) -> None:
    spec = marl.make("cli_scenario:SHOWN", copies=2).spec
    space = spec.observation_space
    policy = JointPolicy(spec, space, partial(Net, fault), generator=torch.Generator())
    observation = torch.zeros(3, 2, spec.n_agents, *next(iter(space.values())).shape)
    with pytest.raises(UserError, match=words):
        unit = policy.units[0]
        if fault == "single":
            policy._head(unit, observation[0], None, None)
        else:
            list(policy.heads(observation, None, {}, torch.zeros(3, 2, spec.n_agents, dtype=torch.bool)))
