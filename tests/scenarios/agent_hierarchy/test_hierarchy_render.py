"""An episode as a page: everything that was said is in it, in order, and nothing can end the script early."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from marl.training.report import record_episode
from scenarios.agent_hierarchy.baselines import BASELINES
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.discrete import DiscreteHierarchy
from scenarios.agent_hierarchy.film import pictures
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.render import HierarchyRecorder
from scenarios.agent_hierarchy.scenario import SCENARIO

ONE_HOP = HierarchyConfig.model_validate({"tasks": {"hops": [1], "stale": []}})


def data_of(page: str) -> dict[str, object]:
    line = next(line for line in page.splitlines() if line.strip().startswith("const data = "))
    return json.loads(line.strip().removeprefix("const data = ").removesuffix(";"))  # type: ignore[no-any-return]


def test_an_episode_by_hand() -> None:
    page = record_episode(SCENARIO, ONE_HOP, BASELINES["flawless"], seed=3)
    assert page is not None
    data = data_of(page)
    told = [(m["frame"], m["agent"], m["level"], m["speaker"]) for m in data["messages"]]  # type: ignore[attr-defined]
    callee = told[2][1]
    assert told == [
        (0, "planner", 0, "user"),
        (1, "planner", 0, "assistant"),
        (1, callee, 1, "user"),
        (2, callee, 1, "assistant"),
        (2, callee, 1, "tool"),
        (3, callee, 1, "assistant"),
        (3, "planner", 0, "tool"),
        (4, "planner", 0, "assistant"),
    ]
    assert data["success"] is True and "calls 2 " in str(data["figures"])


def test_texts_cannot_leave_the_script() -> None:
    env = DiscreteHierarchy(Hierarchy(ONE_HOP), 1, torch.device("cpu"))
    recorder = HierarchyRecorder(env)
    with pytest.raises(ValueError, match="nothing recorded"):
        recorder.html()
    timestep = env.reset(0)
    recorder.add(timestep, None)
    env.say(["</script><script>alert(1)"])
    recorder.add(env.step(torch.zeros((1, 3), dtype=torch.int64)), torch.zeros((1, 3)))
    page = recorder.html()
    assert page.count("</script") == 1 and "alert(1)" in page


def test_a_film_shows_one_more_message_at_each_moment() -> None:
    said = [
        {"agent": "planner", "level": 0, "speaker": "user", "text": "how old is a", "frame": 0},
        {"agent": "north", "level": 1, "speaker": "assistant", "text": "r1 a", "frame": 1},
    ]
    frames = list(pictures(said, "success 1"))
    assert len(frames) == 2 + 2
    assert all(frame.shape[0] % 16 == frame.shape[1] % 16 == 0 for frame in frames)
    blue = [int((frame == (214, 228, 252)).all(-1).sum()) for frame in frames]
    assert blue[0] == 0 < blue[1] == blue[2]
    # The call is one level deeper: its bubble begins farther right than the question's.
    white = np.flatnonzero((frames[1] == 255).all(-1).any(0)).min()
    assert np.flatnonzero((frames[1] == (214, 228, 252)).all(-1).any(0)).min() - white == pytest.approx(44, abs=3)
