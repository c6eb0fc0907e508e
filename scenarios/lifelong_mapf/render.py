"""Shows a grid world: an episode that plays in the browser, a picture, and text."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from marl.envs.batched import TimeStep, Tree
from scenarios.lifelong_mapf.film import FLOOR, FRAMES_PER_SECOND, WALL, colour, pictures
from scenarios.lifelong_mapf.guidance.base import GridWorld

#: Bits of an event: the agent came to its goal in this step; the agent left the grid after this step.
REACHED, LEFT = 1, 2


class MapfRecorder:
    """Records one episode of copy 0 (``marl.scenario.Recorder``); what comes after its end is ignored.

    The state after the very last step is not shown: a world restarts a copy in the step that ends its episode.
    heading: the world's own int8 ``[B, N]``, of robots that turn.
    """

    frames_per_second = FRAMES_PER_SECOND

    def __init__(self, env: GridWorld, heading: Tensor | None = None):
        self._env, self._heading = env, heading
        self._clear()

    def _clear(self) -> None:
        self._blocked: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._positions: list[NDArray[np.int64]] = []
        self._goals: list[NDArray[np.int64]] = []
        self._alive: list[NDArray[np.bool_]] = []
        self._paid: list[NDArray[np.bool_]] = []
        self._headings: list[NDArray[np.int8]] = []
        self._metrics: dict[str, float] = {}
        self._over = False

    @property
    def moments(self) -> int:
        """Moments recorded, the start included."""
        return len(self._positions)

    @property
    def blocked(self) -> NDArray[np.bool_]:
        """The map, bool ``[height, width]``, True for walls."""
        return self._blocked.reshape(self._env.height, self._env.width) != 0

    @property
    def figures(self) -> dict[str, float]:
        """The metrics of the episode, once it is over."""
        return dict(self._metrics)

    def visits(self) -> NDArray[np.int64]:
        """How often an agent came to each cell from another one, ``[height, width]``."""
        positions = np.stack(self._positions)
        came = positions[1:][positions[1:] != positions[:-1]]
        return np.bincount(came, minlength=self._blocked.size).reshape(self._env.height, self._env.width)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The recording as pictures (``marl.evaluation.film.Films``)."""
        return pictures(self._blocked, self._env.width, self._positions, self._goals, self._alive, self._headings)

    def add(self, timestep: TimeStep, actions: Tree | None) -> None:
        """Call after ``reset`` (actions None) and after each step, before the next one."""
        if actions is None:
            self._clear()
            self._blocked = self._env.blocked[int(self._env.map_index[0])].astype(np.uint8)
        elif self._over:
            return
        elif bool(timestep.done[0]):
            self._over = True
            self._metrics = {name: float(values[0]) for name, values in timestep.metrics.items()}
            return
        self._positions.append(self._env.position[0].cpu().numpy().astype(np.int64))
        self._goals.append(self._env.goal[0].cpu().numpy().astype(np.int64))
        self._alive.append(timestep.alive[0].cpu().numpy().copy())
        self._paid.append(timestep.reward[0].cpu().numpy() > 0)
        if self._heading is not None:
            self._headings.append(self._heading[0].cpu().numpy().copy())

    def html(self) -> str:
        """An HTML fragment with its own script and style that plays the recording with no network.

        Its element carries ``data-frame``, the step shown. Raises ``ValueError`` if nothing was recorded.
        """
        if not self._positions:
            raise ValueError("nothing recorded: call add after reset and after each step")
        # A script element ends at the first "</script", wherever it stands.
        data = json.dumps(self._data(), separators=(",", ":")).replace("<", "\\u003c")
        figures = " · ".join(f"{name} {value:.4g}" for name, value in self._metrics.items() if np.isfinite(value))
        template = files("scenarios.lifelong_mapf").joinpath("player.html").read_text(encoding="utf-8")
        return template.replace("{{figures}}", escape(figures)).replace("{{data}}", data)

    def _data(self) -> dict[str, Any]:
        """The recording, compact.

        moves: one digit (an action) per agent and step. events: flat [step, agent, goal after it, bits, ...].
        headings: one digit per agent and moment, of robots that turn; empty for others.
        """
        positions = np.stack(self._positions)
        width = self._env.width
        moves = np.full(positions[1:].shape, -1, np.int64)
        for digit, delta in enumerate((0, -width, width, -1, 1)):
            moves[np.diff(positions, axis=0) == delta] = digit
        if (moves < 0).any():
            step, agent = np.argwhere(moves < 0)[0]
            raise ValueError(f"agent {agent} jumped in step {step + 1}: recordings hold single moves of one episode")
        return {
            "height": self._env.height,
            "width": width,
            "walls": b64encode(np.packbits(self._blocked).tobytes()).decode("ascii"),
            "start": positions[0].tolist(),
            "goals": self._goals[0].tolist(),
            "moves": "".join(map(str, moves.reshape(-1).tolist())),
            "events": self._events(positions),
            "headings": "".join(map(str, np.array(self._headings, np.int64).reshape(-1).tolist())),
        }

    def _events(self, positions: NDArray[np.int64]) -> list[int]:
        events: list[int] = []
        for step in range(1, len(positions)):
            before, after = self._goals[step - 1], self._goals[step]
            # A goal may lie where the one before it did: whoever stayed there is paid.
            reached = (positions[step] == before) & ((positions[step - 1] != before) | self._paid[step])
            left = self._alive[step - 1] & ~self._alive[step]
            for agent in np.flatnonzero(reached | left | (before != after)).tolist():
                events += [step, agent, int(after[agent]), REACHED * int(reached[agent]) + LEFT * int(left[agent])]
        return events


def frame(env: GridWorld, copy: int = 0, cell: int = 12) -> NDArray[np.uint8]:
    """A picture of one copy: uint8 ``[height * cell, width * cell, 3]``; agents are discs, their goals rings.

    Args:
        cell: side of a cell in pixels, at least 4.
    """
    blocked, positions, goals, alive = _read(env, copy)
    across = (np.arange(cell) - (cell - 1) / 2) / cell
    radius = np.hypot(across[:, None], across[None, :])
    disc, ring = radius <= 0.42, (radius <= 0.46) & (radius > 0.28)
    tiles = np.where(blocked[:, None], WALL, FLOOR).astype(np.uint8)
    picture = np.repeat(np.repeat(tiles.reshape(env.height, env.width, 3), cell, 0), cell, 1)
    for cells, shape in ((goals, ring), (positions, disc)):
        for agent in np.flatnonzero(alive):
            row, column = divmod(int(cells[agent]), env.width)
            tile = picture[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            tile[shape] = colour(int(agent))
    return picture


def ansi(env: GridWorld, copy: int = 0) -> str:
    """One copy as text: ``#`` walls, ``.`` free cells, agents as capitals over their goals in the same small letter.

    Letters begin anew after 26 agents.
    """
    blocked, positions, goals, alive = _read(env, copy)
    text = np.where(blocked, "#", ".")
    for cells, first in ((goals, "a"), (positions, "A")):
        for agent in np.flatnonzero(alive):
            text[cells[agent]] = chr(ord(first) + int(agent) % 26)
    return "\n".join("".join(row) for row in text.reshape(env.height, env.width))


def _read(
    env: GridWorld, copy: int
) -> tuple[NDArray[np.bool_], NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    blocked = np.asarray(env.blocked[int(env.map_index[copy])]) != 0
    return blocked, env.position[copy].cpu().numpy(), env.goal[copy].cpu().numpy(), env.alive[copy].cpu().numpy()
