"""A trained hierarchy as a small folder: half the bytes, the same words."""

from __future__ import annotations

from pathlib import Path

import torch
from test_language_trainer import final_state, small

from marl import api
from marl.training.run import train
from marl.training.shipping import ship


def test_a_shipped_hierarchy_speaks_and_starts_other_runs(tmp_path: Path) -> None:
    run = train(small(), tmp_path / "run", live=False)
    shipped = ship(run, tmp_path / "shipped", half=True)
    weights = final_state(shipped.parent / "run")["algorithm"]["policy"]["level_0"]
    kept = api.load(str(shipped))._state["policy"]["level_0"]
    assert all(kept[name].dtype == torch.float16 for name in weights)
    assert all(torch.allclose(kept[name].float(), weights[name], rtol=1e-3, atol=1e-6) for name in weights)
    world = ["world.tasks.hops=[1]", "world.tasks.entities=4"]
    assert api.evaluate("agent_hierarchy", [str(shipped)], seeds=range(2), overrides=world).rows
    train(small(total_steps=1), tmp_path / "next", live=False, init=shipped)
