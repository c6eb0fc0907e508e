"""Action masks of a ``ParallelEnv``: of games in which all act at once, and of those in turns."""

from __future__ import annotations

from typing import Any

from marl.envs.native import flat_mask
from marl.errors import UserError
from marl.testing.probes import mask_of, probe_mask
from marl.testing.report import Report
from marl.testing.trace import Moment


class Turns:
    """Looks at the masks of all moments.

    In a game in turns, such as PettingZoo's ``turn_based_aec_to_parallel`` makes them, all agents are asked for an
    action and one is heard; the masks of the others are empty, which is no fault there. It is such a game if at every
    moment at most one agent has a legal action, and not always the same one.
    """

    def __init__(self, report: Report):
        self._report = report
        self._empty: list[tuple[str, Any, Any]] = []
        self._movers: set[Any] = set()
        self._at_once = False

    def inspect(self, moment: Moment, env: Any) -> None:
        """Check the masks of the living; empty ones are kept until it is known what game it is."""
        able = []
        for agent in moment.after:
            mask = mask_of(moment.named["observation"].get(agent), moment.named["info"].get(agent))
            if mask is not None and _is_empty(mask, env.action_space(agent)):
                self._empty.append((f"{moment.where}, {agent}", mask, env.action_space(agent)))
                continue
            able.append(agent)
            if mask is not None:
                probe_mask(self._report, f"{moment.where}, {agent}", mask, env.action_space(agent))
        self._movers.update(able)
        self._at_once |= len(able) > 1 or (bool(moment.after) and not able)

    def judge(self) -> None:
        """All moments were seen."""
        if self._at_once or len(self._movers) < 2:
            for where, mask, space in self._empty:
                probe_mask(self._report, where, mask, space)


def _is_empty(mask: Any, space: Any) -> bool:
    try:
        return not flat_mask(mask, space).any()
    except UserError:
        return False
