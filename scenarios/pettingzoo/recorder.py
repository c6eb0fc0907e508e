"""The recorder: an episode of copy 0 as the pictures that its environment draws."""

from __future__ import annotations

import io
import json
import math
from base64 import b64encode
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.envs.foreign import ForeignEnv

_PLAYER = Path(__file__).parent / "player.html"
#: Pictures on a page, spread evenly over longer episodes, and pixels of their longer side.
_ON_PAGE, _LONGEST = 300, 640


class FrameRecorder:
    """Collects copy 0 of one episode; ``marl.scenario.Recorder`` and ``marl.evaluation.film.Films``.

    env: made with ``render``.
    """

    frames_per_second = 10.0

    def __init__(self, env: BatchedEnv):
        assert isinstance(env, ForeignEnv)
        self._env = env
        self._clear()

    def _clear(self) -> None:
        self._frames: list[NDArray[np.uint8]] = []
        self._figures: dict[str, float] = {}
        self._over = False

    def add(self, timestep: TimeStep, actions: Tree | None) -> None:
        """Call after ``reset`` (actions None) and after each step, before the next one."""
        if actions is None:
            self._clear()
        elif self._over:
            return
        elif bool(timestep.done[0]):
            self._over = True
            self._figures = {name: float(values[0]) for name, values in timestep.metrics.items()}
        self._frames.append(self._env.frame(ended=self._over))

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The recording as pictures (``marl.evaluation.film.Films``)."""
        return iter(self._frames)

    def html(self) -> str:
        """A self-contained fragment; needs no network. Raises ``ValueError`` if nothing was recorded."""
        if not self._frames:
            raise ValueError("nothing recorded: call add after reset and after each step")
        last = len(self._frames) - 1
        chosen = sorted({round(k * last / (_ON_PAGE - 1)) for k in range(_ON_PAGE)})
        data = {"steps": chosen, "frames": [_packed(self._frames[step]) for step in chosen]}
        figures = " · ".join(f"{name} {value:.4g}" for name, value in self._figures.items() if math.isfinite(value))
        page = _PLAYER.read_text(encoding="utf-8").replace("{{figures}}", escape(figures))
        return page.replace("/*DATA*/null", json.dumps(data, separators=(",", ":")))


def _packed(frame: NDArray[np.uint8]) -> str:
    """A picture as text, small enough for a page."""
    image = Image.fromarray(frame)
    image.thumbnail((_LONGEST, _LONGEST))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=70)
    return b64encode(out.getvalue()).decode("ascii")
