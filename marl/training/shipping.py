"""A trained policy as a small folder that comes with its scenario: weights, configuration, origin; nothing to resume.

Evaluation and ``--init`` read such a folder like the run it was made from.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from marl.config import dump
from marl.errors import UserError
from marl.training.checkpoint import CheckpointStore, Tree
from marl.training.run_folder import CONFIG, PROVENANCE, read_config, read_provenance

#: What of an algorithm's state a policy and its fine-tuning need; the rest are the moments of optimisers.
_WEIGHTS = ("policy", "critic")
#: What of a run's record says where its weights come from; the machine and its paths are nobody's business.
_ORIGIN = ("started", "config_sha256", "git", "versions")


def ship(run: Path, target: Path, half: bool = False, supervised: bool = False) -> Path:
    """Write ``target`` (replaced if it is there) from the newest whole checkpoint of a run, and return it.

    Args:
        supervised: with the world's supervisor on, whether the run was trained under it or not.
        half: keep floating-point weights in half precision, for folders half the size.

    Raises ``UserError`` if the run has no checkpoint or holds no weights.
    """
    tree, info, source = CheckpointStore(run).latest(lambda _: None)
    algorithm = tree["algorithm"]
    weights: Tree = {name: algorithm[name] for name in _WEIGHTS if name in algorithm}
    weights = _halved(weights) if half else weights
    if "policy" not in weights:
        raise UserError(f"{source} holds no weights of a policy, which is what is shipped")
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    config = read_config(run)
    if supervised:
        safety = config.coordination.safety.model_copy(update={"enabled": True})
        config = config.model_copy(update={"coordination": config.coordination.model_copy(update={"safety": safety})})
    (target / CONFIG).write_text(dump(config), encoding="utf-8")
    record = read_provenance(run)
    starts = [{name: start[name] for name in _ORIGIN if name in start} for start in record["starts"]]
    (target / PROVENANCE).write_text(json.dumps({**record, "starts": starts}, indent=2) + "\n", encoding="utf-8")
    predictors = {name: {"network": state["network"]} for name, state in tree.get("modules", {}).items()}
    CheckpointStore(target).save(int(source.name), {"algorithm": weights, "modules": predictors}, info)
    return target


def _halved(node: Tree) -> Tree:
    if isinstance(node, dict):
        return {name: _halved(value) for name, value in node.items()}
    return node.to(torch.float16) if isinstance(node, Tensor) and node.is_floating_point() else node
