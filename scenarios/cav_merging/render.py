"""The recorder: an episode of copy 0 as a page that plays it, or as a film, seen from above."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from marl.envs.batched import TimeStep, Tree
from scenarios.cav_merging.config import DECISION_S
from scenarios.cav_merging.drivers import CAR_LENGTH, P
from scenarios.cav_merging.geometry import LANE_WIDTH, RAMP_ASIDE, RoadGeometry
from scenarios.cav_merging.intent import rollout
from scenarios.cav_merging.observation import lateral
from scenarios.cav_merging.sumo.backend import PATH_POINTS
from scenarios.cav_merging.traffic import R
from scenarios.cav_merging.world import CavMerging

_PLAYER = Path(__file__).parent / "player.html"


#: Film: pixels across, pixels of a car and a lane (wider than to scale), and colours.
_WIDTH, _LANE_PX, _CAR_PX = 1280, 20, 9
_GROUND, _TAR, _LINE, _PATH = (246, 247, 249), (201, 206, 214), (255, 255, 255), (150, 190, 235)
_COLOURS = ((22, 104, 199), (138, 109, 59), (194, 65, 12))


class CavRecorder:
    """Collects copy 0 of one episode; ``marl.scenario.Recorder`` and ``marl.evaluation.film.Films``."""

    frames_per_second = 1.0 / DECISION_S

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

    def tracks(self) -> list[tuple[tuple[list[float], list[float]], bool]]:
        """Of each car (its times in seconds, its places along the road in m), and whether it is automated."""
        cars: dict[int, tuple[tuple[list[float], list[float]], bool]] = {}
        for moment, frame in enumerate(self._frames):
            for number, x, _, _, kind, _, _ in frame:
                (times, places), _ = cars.setdefault(number, (([], []), kind == 0))
                times.append(moment / self.frames_per_second)
                places.append(x)
        return list(cars.values())

    def html(self) -> str:
        """A self-contained fragment; needs no network."""
        data = json.dumps({"road": self._road, "frames": self._frames}, separators=(",", ":")).replace("</", "<\\/")
        return _PLAYER.read_text(encoding="utf-8").replace("/*DATA*/null", data)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The film: the road from above, x to scale, the lanes wider."""
        road, scale = self._road, _WIDTH / self._road["road_end"]
        lanes = int(road["main_lanes"])
        rows = -(-int((lanes + 1 + RAMP_ASIDE / LANE_WIDTH) * _LANE_PX + 3 * _LANE_PX) // 16) * 16

        def at(x: float, y: float) -> tuple[float, float]:
            return x * scale, (lanes + 1.5 - y / LANE_WIDTH) * _LANE_PX

        empty = Image.new("RGB", (_WIDTH, rows), _GROUND)
        pen = ImageDraw.Draw(empty)
        for lane in range(1, lanes + 1):
            pen.line([at(0.0, lane * LANE_WIDTH), at(road["road_end"], lane * LANE_WIDTH)], _TAR, _LANE_PX)
        shape = RoadGeometry(road["merge_start"], road["merge_end"], road["road_end"], 1.0, converge=road["converge"])
        places = np.arange(max(0.0, road["ramp_start"]), road["merge_end"], 4.0)
        pen.line([at(float(x), shape.ramp_y(float(x))) for x in places], _TAR, _LANE_PX, joint="curve")
        for lane in range(lanes):
            y = (lane + 0.5) * LANE_WIDTH
            first, last = (0.0, road["road_end"]) if lane else (road["merge_start"], road["merge_end"])
            for x in np.arange(first, last, 12.0):
                pen.line([at(float(x), y), at(min(last, float(x) + 6.0), y)], _LINE, 1)
        for cars in self._frames:
            picture = empty.copy()
            pen = ImageDraw.Draw(picture)
            for _, x, y, _, _, _, path in cars:
                if path:
                    pen.line([at(x, y), at(min(path[-1], road["road_end"]), y)], _PATH, 3)
            for _, x, y, _, kind, _, _ in cars:
                (right, middle), left = at(x, y), at(x - CAR_LENGTH, y)[0]
                pen.rectangle([left, middle - _CAR_PX / 2, right, middle + _CAR_PX / 2], _COLOURS[kind])
            yield np.asarray(picture)


def _kind(automated: bool, assertive: bool) -> int:
    """0 automated, 1 timid human, 2 assertive human."""
    if automated:
        return 0
    return 2 if assertive else 1
