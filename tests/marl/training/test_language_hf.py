"""The same recipe on a real model: a folder of weights with an adapter per role, trained, resumed and evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_language_trainer import equal, final_state, small

from marl import api
from marl.policies.language.tiny import TinyPolicy
from marl.policies.language.tokenizer import ChatTokenizer, word_tokenizer
from marl.policies.language.transformer import TransformerConfig
from marl.training import checkpoint
from marl.training.run import resume, train
from marl.training.run_folder import METRICS
from marl.training.tracking import read_metrics
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.hierarchy import Hierarchy

pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    words = Hierarchy(HierarchyConfig()).vocabulary()
    config = TransformerConfig(width=16, layers=1, heads=2, kv_heads=1, hidden=16)
    TinyPolicy(ChatTokenizer(word_tokenizer(words)), config, torch.Generator().manual_seed(0)).save_pretrained(path)
    return path


def test_adapters_per_role_train_and_resume(folder: Path, tmp_path: Path) -> None:
    overrides = [
        "copies=8",
        "total_steps=120",
        "algorithm.group=4",
        "algorithm.rate=0.01",
        f"algorithm.policy={{kind: hf, folder: {folder}, lora_rank: 2, max_tokens: 4}}",
        "algorithm.frozen=[south]",
        "world.max_turns=6",
        "evaluation.every_iterations=0",
        "checkpoint={every_iterations: 1, keep: 100}",
    ]
    config = api.configure("agent_hierarchy", overrides=overrides)
    run = train(config, tmp_path / "run", live=False)
    rows = read_metrics(run / METRICS)
    state = final_state(run)
    assert set(state["algorithm"]["policy"]) == {"planner", "north"}
    assert rows[-1]["agent_steps"] >= 120 and "learn/imitation_loss_planner" not in rows[-1]
    last = sorted((run / "checkpoints").iterdir())[-1]
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    resume(run, live=False)
    assert equal(state, final_state(run))
    results = api.evaluate("agent_hierarchy", [str(run)], seeds=range(3), overrides=["world.max_turns=6"])
    assert any(row.metric == "success" for row in results.rows)


def test_the_embedded_model_takes_adapters_too(tmp_path: Path) -> None:
    overrides = {
        "algorithm.policy": "{transformer: {width: 16, heads: 2, kv_heads: 1, hidden: 32}, lora_rank: 2}",
        "algorithm.warm_start.steps": 21,
        "algorithm.frozen": "[south]",
        "total_steps": 700,
        "world.max_turns": 8,
    }
    config = small(**overrides)
    run = train(config, tmp_path / "run", live=False)
    state = final_state(run)
    names = set(state["algorithm"]["policy"])
    assert names == {"planner", "north", "body_level_0", "body_level_1"}
    rows = read_metrics(run / METRICS)
    assert rows[0]["learn/imitation_loss_body_level_1"] > 0.0
    store = checkpoint.CheckpointStore(run)
    begun, _ = checkpoint.load(store.path(2))  # imitation has ended: bodies stay, adapters learn
    policies = [tree["algorithm"]["policy"] for tree in (begun, state)]
    assert all(equal(*(each[name] for each in policies)) for name in ("body_level_0", "body_level_1"))
    assert not equal(*(each["planner"] for each in policies))
    last = store.path(store.steps()[-1])
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    resume(run, live=False)
    assert equal(state, final_state(run))
