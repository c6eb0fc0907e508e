"""DAgger: an expert says what it would do in the states that the learner itself gets into.

S. Ross, G. Gordon, D. Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning", AISTATS 2011, arXiv 1011.0686. The learner acts from the first step on, and each batch is used once, by
online gradient descent, which is among the no-regret learners of their theorem: no data set grows with the run.
Cloning what the expert does in its own states is not enough, for nobody shows a learner how to get out of the states
that its own faults lead to (claim and check: ``tests/marl/systems/test_dagger.py``).

An expert's choices between moves that are as good as each other look like chance, and so would the learner's: it acts
more boldly than it learns, at the actor's ``temperature``. The critic learns the learner's own returns beside it, so
that MAPPO can go on from both (``--init``).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from marl.policies.heads import Categorical, Head
from marl.policies.joint import Unit
from marl.rollout.rows import Rows
from marl.systems.mappo import Mappo, MappoConfig
from marl.systems.system import System


class DaggerConfig(MappoConfig):
    """MAPPO's options, of which those of its own loss do not matter, and the expert."""

    expert: str
    """Name of a baseline of the scenario."""
    entropy: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the entropy bonus."""


class Dagger(Mappo):
    """Policy and critic as MAPPO has them; the policy learns the expert's actions by maximum likelihood."""

    def policy_loss(
        self, unit: Unit, head: Head, log_ratio: Tensor, rows: Rows, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert rows.expert is not None, "the batch has no column of the expert's actions"
        expert = unit.take(self.spec, rows.expert, 2)
        assert isinstance(expert, Tensor)
        with torch.no_grad():
            same = head.mode() == expert
            agreement = (same if same.ndim == mask.ndim else same.all(-1)) * mask
        temperature = self.config.actor.temperature
        if isinstance(head, Categorical) and temperature != 1.0:
            head = Categorical(head.log_probs * temperature)
        return -(head.log_prob(expert) * mask).sum(), {"agreement": agreement.sum()}


DAGGER = System(
    name="dagger",
    summary="imitation of an expert in the learner's own states",
    paper="arXiv 1011.0686",
    config=DaggerConfig,
    build=Dagger,
    claim="imitation in the learner's own states does not drift off as imitation of recorded ones does.",
    formula="loss = -mean log pi(a* | s) over states s that pi visits, a* the expert's",
)
