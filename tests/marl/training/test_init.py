"""``--init``: a run that starts from another one's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_scenario import tiny_config

from marl.errors import UserError
from marl.training.checkpoint import load
from marl.training.run import train


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    tree, _ = load(folder / "checkpoints" / name)
    return {**tree["algorithm"]["policy"], **tree["algorithm"]["critic"]}


def test_weights_are_taken_over(tmp_path: Path) -> None:
    first = train(tiny_config(), tmp_path / "first", live=False)
    second = train(tiny_config(seed=3, checkpoint={"keep": 100}), tmp_path / "second", live=False, init=first)
    last = max((first / "checkpoints").iterdir()).name
    start = min((second / "checkpoints").iterdir()).name
    taken, given = weights(second, start), weights(first, last)
    assert taken.keys() == given.keys()
    assert all(torch.equal(taken[name], given[name]) for name in taken)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    first = train(tiny_config(), tmp_path / "first", live=False)
    wider = tiny_config(algorithm={"actor": {"hidden": [24]}})
    with pytest.raises(UserError, match="do not fit"):
        train(wider, tmp_path / "second", live=False, init=first)
