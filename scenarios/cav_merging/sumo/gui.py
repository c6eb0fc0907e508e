"""SUMO's window: cars in colours, corrected ones in red, and the paths that automated cars announce."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from marl.envs.sumo.install import sumo_binary
from marl.errors import UserError
from scenarios.cav_merging.sumo.inputs import Demand
from scenarios.cav_merging.sumo.protocol import Command
from scenarios.cav_merging.sumo.road import RoadNetwork
from scenarios.cav_merging.sumo.simulator import SumoSimulator
from scenarios.cav_merging.sumo.vehicle_types import TYPES

AUTOMATED, TIMID_HUMAN, ASSERTIVE_HUMAN = (22, 104, 199, 255), (138, 109, 59, 255), (194, 65, 12, 255)
CORRECTED, PATH = (220, 20, 40, 255), (22, 104, 199, 140)
#: Milliseconds that the window waits after a simulation step, so that eyes can follow: real time.
DELAY_MS = 100
#: Metres of road in view, around the acceleration lane.
BEFORE_M, AFTER_M, BESIDE_M = 90.0, 30.0, 15.0
VIEW = "View #0"


def screen() -> str:
    """The name of the display; ``UserError`` where no window can open."""
    sumo_binary("sumo-gui")
    display = os.environ.get("DISPLAY", "")
    if not display:
        raise UserError("sumo-gui needs a screen, but DISPLAY is not set; start one (Xvfb :1 & export DISPLAY=:1)")
    return display


class GuiSimulator(SumoSimulator):
    """``SumoSimulator`` in a window on a display.

    The first episode is a function of its seed. For the others the road is only cleared, because libsumo does not load
    into a window that is open.
    """

    def __init__(
        self,
        network: RoadNetwork,
        slots: int,
        car_following: str,
        display: str,
        demand: Demand | None = None,
        additional: Sequence[Path] = (),
    ):
        # A worker process may have been forked from one that began before the display was known.
        os.environ["DISPLAY"] = display
        start = ("sumo-gui", "--start=true", "--quit-on-end=true", f"--delay={DELAY_MS}", "--window-size=1200,320")
        super().__init__(network, slots, False, car_following, start, demand, additional)
        self._paths: dict[int, str] = {}

    def reset(self, seed: int) -> None:
        super().reset(seed)
        for path in self._paths.values():
            self._sumo.polygon.remove(path)
        self._paths.clear()
        self._sumo.gui.setSchema(VIEW, "real world")
        road_end = self._network.geometry.road_end
        (left, y), (right, _) = (self._point(1, x) for x in (self._merge_start, min(self._merge_end, road_end) - 1.0))
        self._sumo.gui.setBoundary(VIEW, left - BEFORE_M, y - BESIDE_M, right + AFTER_M, y + BESIDE_M)

    def _insert(self, slot: int, row: list[float]) -> None:
        super()._insert(slot, row)
        _, bold = TYPES[int(row[Command.TYPE])]
        human = ASSERTIVE_HUMAN if bold > 1.0 else TIMID_HUMAN
        self._sumo.vehicle.setColor(self._ids[slot], AUTOMATED if row[Command.CONTROLLED] > 0.0 else human)

    def step(self, actions: NDArray[Any], next_seed: int) -> None:
        for slot, name in self._ids.items():
            if actions[slot, Command.CONTROLLED] > 0.0:
                corrected = actions[slot, Command.MARK] > 0.0
                self._sumo.vehicle.setColor(name, CORRECTED if corrected else AUTOMATED)
                self._draw_path(slot, float(actions[slot, Command.REACH]))
        super().step(actions, next_seed)
        for slot in [slot for slot in self._paths if slot not in self._ids]:
            self._sumo.polygon.remove(self._paths.pop(slot))

    def _draw_path(self, slot: int, reach: float) -> None:
        """A thin polygon from a car's front to where it announces to be, ``reach`` metres further on."""
        if slot in self._paths:
            self._sumo.polygon.remove(self._paths.pop(slot))
        x, _, lane, _, _ = self._cars[slot]
        if reach <= 0.0:
            return
        steps = [x + reach * k / 8 for k in range(9)]
        shape = [self._point(int(lane), at) for at in steps if at < self._network.geometry.road_end]
        if len(shape) < 2:
            return
        outline = [(px, py + 0.3) for px, py in shape] + [(px, py - 0.3) for px, py in reversed(shape)]
        name = self._paths[slot] = f"path.{self._ids[slot]}"
        self._sumo.polygon.add(name, outline, PATH, fill=True, layer=20)

    def _point(self, lane: int, x: float) -> tuple[float, float]:
        if lane == 0 and x >= self._merge_end:
            lane = 1
        edge, index, offset = self._network.place(lane, x)
        px, py = self._sumo.simulation.convert2D(edge, x - offset, index)
        return float(px), float(py)
