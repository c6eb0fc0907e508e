"""The same recipe on a real model: a folder of weights with an adapter per role, trained, resumed and evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_language_trainer import equal, final_state, small

from marl import api
from marl.cli import main
from marl.config import AnyRunConfig
from marl.errors import UserError
from marl.policies.language.scoring import Scorer
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


def config_of(folder: Path, *more: str, lora_rank: str = "2") -> AnyRunConfig:
    overrides = [
        "copies=8",
        "total_steps=120",
        "algorithm.group=4",
        "algorithm.rate=0.01",
        f"algorithm.policy={{kind: hf, folder: {folder}, lora_rank: {lora_rank}, max_tokens: 4}}",
        "algorithm.warm_start={steps: 25, batch: 2, pretrained_rate: 0.01}",
        "algorithm.frozen=[south]",
        "world.max_turns=6",
        "evaluation.every_iterations=0",
        "checkpoint={every_iterations: 1, keep: 100}",
    ]
    return api.configure("agent_hierarchy", overrides=[*overrides, *more])


def test_adapters_per_role_train_and_resume(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = train(config_of(folder), tmp_path / "run", said.append, live=False)
    rows = read_metrics(run / METRICS)
    state = final_state(run)
    assert set(state["algorithm"]["policy"]) == {"planner", "north"}
    # 25 steps of imitation, 20 an iteration: who learns is shown how to speak, and that is said.
    assert "warm start of planner, north: 25 steps of 2 episodes of the demonstrator" in said[1]
    losses = [row.get("learn/imitation_loss_planner") for row in rows]
    assert losses[0] is not None and losses[1] is not None and losses[2:] == [None] * len(rows[2:])
    store = checkpoint.CheckpointStore(run)
    weights = [checkpoint.load(store.path(step))[0]["algorithm"]["policy"] for step in (0, 1)]
    assert all(not equal(*(each[role] for each in weights)) for role in ("planner", "north"))
    # And whether training is about what was sampled is said before the run, and logged in it, with one epoch too.
    assert said[0].startswith("Qwen2ForCausalLM: turns after ") and "are scored as they were sampled" in said[0]
    ratios = [row["learn/log_ratio_max_planner"] for row in rows if "learn/log_ratio_max_planner" in row]
    assert ratios and all(0.0 <= ratio < 1e-4 for ratio in ratios)
    assert rows[-1]["agent_steps"] >= 120
    last = sorted((run / "checkpoints").iterdir())[-1]
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    resume(run, said.append, live=False)
    assert said[-2].startswith("resumed") and said[-1].startswith("Qwen2ForCausalLM: turns")
    assert equal(state, final_state(run))
    results = api.evaluate("agent_hierarchy", [str(run)], seeds=range(3), overrides=["world.max_turns=6"])
    assert any(row.metric == "success" for row in results.rows)


def test_imitation_teaches_real_weights(folder: Path, tmp_path: Path) -> None:
    warm = "algorithm.warm_start={steps: 60, batch: 8, pretrained_rate: 0.02}"
    for lora_rank, share in (("8", 0.98), ("null", 0.7)):  # little can be adapted in a body of random numbers
        config = config_of(folder, warm, "total_steps=1", lora_rank=lora_rank)
        rows = read_metrics(train(config, tmp_path / lora_rank, live=False) / METRICS)
        key = next(name for name in rows[0] if name.startswith("learn/imitation_loss_"))
        assert rows[2][key] < share * rows[0][key]


def test_runs_that_are_not_warm_started_say_so(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    none = ["algorithm.warm_start.steps=0", "total_steps=1"]
    first = train(config_of(folder, *none), tmp_path / "first", said.append, live=False)
    assert said[-1] == "no warm start of planner, north: algorithm.warm_start.steps=0"
    train(config_of(folder, "total_steps=1"), tmp_path / "second", said.append, live=False, init=first)
    assert said[-1] == "no warm start of planner, north: weights come from --init"
    assert "learn/imitation_loss_planner" not in read_metrics(tmp_path / "second" / METRICS)[0]


def test_where_nothing_can_be_shown_real_weights_begin_as_they_are(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    tasks = tmp_path / "tasks.json"
    questions = [{"question": "the r1 of e1?", "answer": "e2", "held_out": held} for held in (False, True)]
    tasks.write_text(json.dumps({"knowledge": [["e1", "r1", "e2"]], "tasks": questions}))
    config = config_of(folder, f"world.tasks.file={tasks}", "total_steps=1")
    assert api.plan(config).iterations == 1
    rows = read_metrics(train(config, tmp_path / "run", said.append, live=False) / METRICS)
    assert said[-1].startswith("no warm start of planner, north: the training tasks of")
    assert not any(name.startswith("learn/imitation_loss") for row in rows for name in row)


def test_a_model_that_is_scored_otherwise_starts_no_run(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    logits = Scorer.logits
    monkeypatch.setattr(Scorer, "logits", lambda *given: 1.5 * logits(*given))
    with pytest.raises(UserError, match=r"^Qwen2ForCausalLM cannot be trained: .*by up to [\d.]+ in a token's"):
        train(config_of(folder), tmp_path / "run", live=False)
    assert not (tmp_path / "run").exists()
    line = ["train", "agent_hierarchy", "--out", str(tmp_path / "run")]
    policy = f"algorithm.policy={{kind: hf, folder: {folder}, lora_rank: 2, max_tokens: 4}}"
    assert main([*line, "--set", policy]) == 2


def test_runs_of_a_model_with_convolutions(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = Hierarchy(HierarchyConfig()).vocabulary()
    tokenizer = ChatTokenizer(word_tokenizer(words))
    sizes = TransformerConfig(width=16, layers=1, heads=2, kv_heads=1, hidden=16)
    TinyPolicy(tokenizer, sizes, torch.Generator().manual_seed(0)).save_pretrained(tmp_path)
    config = transformers.Lfm2Config(
        vocab_size=tokenizer.size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        layer_types=["conv", "full_attention"],
        eos_token_id=tokenizer.end,
        pad_token_id=tokenizer.pad,
    )
    transformers.Lfm2ForCausalLM(config).save_pretrained(tmp_path)
    run = train(config_of(tmp_path, "algorithm.epochs=2"), tmp_path / "run", live=False)
    rows = read_metrics(run / METRICS)
    assert max(row.get("learn/log_ratio_max_planner", 0.0) for row in rows) < 1e-4
    assert any(row.get("learn/grad_norm_planner", 0.0) > 0.0 for row in rows)


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
