"""The recorder: an episode of copy 0 as a page that plays it, seen from above."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from marl.envs.batched import TimeStep, Tree
from scenarios.cav_merging.drivers import P
from scenarios.cav_merging.intent import rollout
from scenarios.cav_merging.observation import lateral
from scenarios.cav_merging.sumo_backend import PATH_POINTS
from scenarios.cav_merging.traffic import R
from scenarios.cav_merging.world import CavMerging

_PLAYER = Path(__file__).parent / "player.html"


class CavRecorder:
    """Collects copy 0 of one episode; ``marl.scenario.Recorder``."""

    def __init__(self, env: CavMerging):
        self._env = env
        self._frames: list[list[list[Any]]] = []
        self._road: dict[str, float] = {}
        self._over = False

    def add(self, timestep: TimeStep, actions: Tree | None) -> None:
        """Call after ``reset`` and after each step, with the actions that the world executed."""
        if self._over or (actions is not None and bool(timestep.done[0])):
            self._over = True  # The present moment belongs to the next episode.
            return
        traffic = self._env.traffic
        if not self._frames:
            row = traffic.road[0]
            self._road = {column.name.lower(): float(row[column]) for column in R}
        y, _ = lateral(traffic)
        paths = rollout(traffic, None, PATH_POINTS)[0, :, :, 0]
        cars = []
        for slot in traffic.present[0].nonzero()[:, 0].tolist():
            automated = slot < self._env.agents
            cars.append(
                [
                    int(traffic.number[0, slot]),
                    round(float(traffic.x[0, slot]), 2),
                    round(float(y[0, slot]), 2),
                    round(float(traffic.v[0, slot]), 2),
                    _kind(automated, bool(traffic.drivers[0, slot, P.ASSERTIVE] > 1.0)),
                    int(actions[0, slot]) if automated and isinstance(actions, Tensor) else -1,
                    [round(float(x), 1) for x in paths[slot]] if automated else [],
                ]
            )
        self._frames.append(cars)

    def html(self) -> str:
        """A self-contained fragment; needs no network."""
        data = json.dumps({"road": self._road, "frames": self._frames}, separators=(",", ":")).replace("</", "<\\/")
        return _PLAYER.read_text(encoding="utf-8").replace("/*DATA*/null", data)


def _kind(automated: bool, assertive: bool) -> int:
    """0 automated, 1 timid human, 2 assertive human."""
    if automated:
        return 0
    return 2 if assertive else 1
