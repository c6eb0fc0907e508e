"""``Rows``: a batch cut into stretches of steps, with what a learner makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marl.rollout.batch import Batch, Decisions, columns, stretches


@dataclass(kw_only=True)
class Rows(Decisions):
    """Stretches of L steps of a batch, every column ``[L, R, N, *]``, and what they are to learn.

    actor_hidden, critic_hidden: at the stretch's beginning only, ``[1, R, N_u, H]``.
    advantage, target: float32; ``target``: of the critic, in its own units. old_value: what it said, in the same units.
    """

    advantage: Tensor
    target: Tensor
    old_value: Tensor

    @classmethod
    def of(
        cls, batch: Batch, advantage: Tensor, target: Tensor, old_value: Tensor, length: int, exchangeable: bool
    ) -> Rows:
        """Cut a batch into stretches of ``length`` steps.

        Args:
            exchangeable: agents may change places, so that the living can be moved together and the dead cost
                nothing.
        """
        living = None
        if exchangeable and bool(batch.mask.any()) and not bool(batch.mask.all()):
            living = _packed(batch.mask)

        def cut(x: Tensor) -> Tensor:
            return stretches(x, length) if living is None else x.flatten(0, 2)[living].unsqueeze(0)

        rows = cls(
            **columns(Decisions(**columns(batch, Decisions)).map(cut)),
            advantage=cut(advantage),
            target=cut(target),
            old_value=cut(old_value),
        )
        for hidden in (rows.actor_hidden, rows.critic_hidden):
            hidden |= {name: x[:1] for name, x in hidden.items()}
        if living is not None:
            rows.mask.view(-1)[int(batch.mask.sum()) :] = False
        return rows

    @property
    def count(self) -> int:
        return self.mask.shape[1]

    def take(self, index: Tensor) -> Rows:
        """The rows of these numbers, int64 ``[R']``."""
        index = index.to(self.mask.device)
        return self.map(lambda x: x.index_select(1, index))


def first_step(hidden: dict[str, Tensor]) -> dict[str, Tensor]:
    """Recurrent state at the beginning of stretches, by unit ``[R, N_u, H]``; hidden: a column of ``Rows``."""
    return {name: x[0] for name, x in hidden.items()}


def _packed(mask: Tensor) -> Tensor:
    """Where the living of bool ``[T, B, N]`` stand, int64 ``[ceil(K / N), N]``; the last row is filled up with some."""
    living = mask.flatten().nonzero()[:, 0]
    agents = mask.shape[2]
    return torch.cat((living, living[:1].expand(-len(living) % agents))).view(-1, agents)
