"""The recorder: an episode of copy 0 as a page that plays what was said, indented by the depth of the call."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marl.envs.batched import TimeStep, Tree
from scenarios.agent_hierarchy.conversations import Conversation
from scenarios.agent_hierarchy.film import FRAMES_PER_SECOND, pictures
from scenarios.agent_hierarchy.spoken import SpokenHierarchy

_PLAYER = Path(__file__).parent / "player.html"
_FIGURES = ("success", "calls", "optimal_calls", "cost", "optimal_cost", "invalid_actions")


class HierarchyRecorder:
    """Collects copy 0 of one episode; ``marl.scenario.Recorder`` and ``marl.evaluation.film.Films``."""

    frames_per_second = FRAMES_PER_SECOND

    def __init__(self, env: SpokenHierarchy):
        self._env = env
        self._clear()

    def _clear(self) -> None:
        self._said: list[Conversation] = []
        self._read: list[int] = []
        self._messages: list[dict[str, Any]] = []
        self._figures: dict[str, float] = {}
        self._frame = 0
        self._over = False

    def add(self, timestep: TimeStep, actions: Tree | None) -> None:
        """Call after ``reset`` (actions None) and after each step, before the next one."""
        if actions is None:
            self._clear()
            self._said = self._env.said(0)
        elif self._over:
            return
        elif bool(timestep.done[0]):
            self._over = True
            self._figures = {name: float(timestep.metrics[name][0]) for name in _FIGURES}
        self._collect()

    def _collect(self) -> None:
        """What is new since the last moment: what was said comes before what was heard."""
        new = []
        # The world goes on filling these lists until the episode is over, and begins others for the next one.
        for number, (agent, level, messages) in enumerate(self._said):
            if number == len(self._read):
                self._read.append(0)
            for message in messages[self._read[number] :]:
                if message["role"] != "system":
                    new.append({"agent": agent, "level": level, "speaker": message["role"], "text": message["content"]})
            self._read[number] = len(messages)
        if not new:  # a choice that does not complete a call says nothing
            return
        self._frame += bool(self._messages)
        self._messages += [
            {**message, "frame": self._frame} for message in sorted(new, key=lambda m: m["speaker"] != "assistant")
        ]

    def html(self) -> str:
        """A self-contained fragment; needs no network. Raises ``ValueError`` if nothing was recorded."""
        if not self._messages:
            raise ValueError("nothing recorded: call add after reset and after each step")
        data = {
            "messages": self._messages,
            "figures": self._shown(),
            "success": self._figures.get("success", 0.0) > 0.0,
        }
        # A script element ends at the first "</script", wherever it stands.
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        return _PLAYER.read_text(encoding="utf-8").replace("/*DATA*/null", text)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The conversation as pictures."""
        return pictures(self._messages, self._shown())

    def _shown(self) -> str:
        return " · ".join(f"{name} {value:.4g}" for name, value in self._figures.items() if math.isfinite(value))
