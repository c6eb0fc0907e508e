"""A recorded episode as pictures: agents glide from cell to cell, goals are rings, a goal that is reached glows."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

FLOOR, WALL = (244, 245, 248), (58, 66, 80)

#: Share of a full turn between the hues of consecutive agents, so that neighbours in number look unlike.
_GOLDEN_TURN = 0.381966

#: Pictures of a step, and how many times larger they are drawn before they are made smaller: edges come out smooth.
_SHARES, _FINE = 3, 2

#: Longest side of a picture in pixels, and steps for which a goal that was reached glows.
_SIDE, _GLOW = 400, 3


def colour(agent: int) -> tuple[int, int, int]:
    """The colour that the player in the browser gives the agent, too."""
    red, green, blue = colorsys.hls_to_rgb(agent * _GOLDEN_TURN % 1.0, 0.52, 0.65)
    return round(red * 255), round(green * 255), round(blue * 255)


def pictures(
    blocked: NDArray[np.uint8],
    width: int,
    positions: Sequence[NDArray[np.int64]],
    goals: Sequence[NDArray[np.int64]],
    alive: Sequence[NDArray[np.bool_]],
    headings: Sequence[NDArray[np.int8]] = (),
) -> Iterator[NDArray[np.uint8]]:
    """Pictures uint8 ``[height, width, 3]`` of one episode, lengths multiples of 16.

    Args:
        blocked: ``[cells]``, 1 for walls. Padding with walls on the right and below is left out.
        width: cells of a row.
        positions, goals, alive: ``[N]`` for each moment. headings: the same, of robots that turn: they have a nose.
    """
    empty, cell = _empty(blocked, width)
    shown = (empty.width // _FINE, empty.height // _FINE)

    def centre(place: float, other: float, share: float) -> tuple[float, float]:
        x = (place % width) * (1 - share) + (other % width) * share
        y = (place // width) * (1 - share) + (other // width) * share
        return (x + 0.5) * cell, (y + 0.5) * cell

    def circle(pen: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, **look: object) -> None:
        pen.ellipse([at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius], **look)  # type: ignore[arg-type]  # of PIL's many

    reached = [np.zeros(len(positions[0]), np.bool_)]
    reached += [(now == before) for now, before in zip(positions[1:], goals[:-1], strict=True)]
    for moment in range(len(positions)):
        after = min(moment + 1, len(positions) - 1)
        for part in range(_SHARES if after > moment else 1):
            picture, share = empty.copy(), part / _SHARES
            pen = ImageDraw.Draw(picture)
            for agent in np.flatnonzero(alive[moment]).tolist():
                ring = centre(int(goals[moment][agent]), int(goals[moment][agent]), 0.0)
                circle(pen, ring, 0.34 * cell, outline=colour(agent), width=max(1, cell // 8))
            for age in range(min(_GLOW, moment + 1)):
                for agent in np.flatnonzero(reached[moment - age]).tolist():
                    place = int(positions[moment - age][agent])
                    grown = 0.5 + 0.25 * (age + share)
                    circle(pen, centre(place, place, 0.0), grown * cell, outline=colour(agent), width=_FINE)
            for agent in np.flatnonzero(alive[moment]).tolist():
                at = centre(int(positions[moment][agent]), int(positions[after][agent]), share)
                circle(pen, at, 0.42 * cell, fill=colour(agent))
                if headings:
                    nose = _nose(int(headings[moment][agent]), int(headings[after][agent]), share, cell)
                    pen.line([at, (at[0] + nose[0], at[1] + nose[1])], fill=FLOOR, width=max(1, cell // 7))
            yield np.asarray(picture.resize(shown, Image.Resampling.BOX))


def _nose(heading: int, after: int, share: float, cell: int) -> tuple[float, float]:
    """From a robot's centre to its nose, turning from one heading to the next the shorter way."""
    turn = (after - heading + 1) % 4 - 1
    angle = (heading + share * turn) * np.pi / 2
    return 0.36 * cell * float(np.cos(angle)), 0.36 * cell * float(np.sin(angle))


def _empty(blocked: NDArray[np.uint8], width: int) -> tuple[Image.Image, int]:
    """The map without agents, ``_FINE`` times as large as shown, and the side of a cell in it."""
    free = np.flatnonzero(blocked.reshape(-1) == 0)
    rows, columns = int(free.max()) // width + 2, int((free % width).max()) + 2
    rows, columns = min(rows, blocked.size // width), min(columns, width)
    cell = max(2, _SIDE // max(rows, columns)) * _FINE
    across, down = (-(-length * cell // (_FINE * 16)) * 16 for length in (columns, rows))
    empty = Image.new("RGB", (across * _FINE, down * _FINE), FLOOR)
    pen = ImageDraw.Draw(empty)
    for wall in np.flatnonzero(blocked.reshape(-1)):
        row, column = divmod(int(wall), width)
        if row < rows and column < columns:
            pen.rectangle([column * cell, row * cell, (column + 1) * cell - 1, (row + 1) * cell - 1], WALL)
    return empty, cell


#: Pictures of a second: six steps.
FRAMES_PER_SECOND = 6.0 * _SHARES
