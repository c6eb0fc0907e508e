"""The real TRL trains in a language world: its loop finds our tools, calls them and reads our reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from datasets import Dataset
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from marl.policies.language.scripted import ScriptedPolicy
from marl.policies.language.tokenizer import byte_tokenizer
from marl.rollout.trl_tools import environment_factory
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

pytestmark = pytest.mark.anchors

HIERARCHY = Hierarchy(HierarchyConfig.model_validate({"tasks": {"hops": [1], "stale": []}}))
MARKS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def tokenizer() -> PreTrainedTokenizerFast:
    import trl

    core = byte_tokenizer(["ask answer check e1 r1"], 300)
    core.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    template = Path(trl.__file__).parent / "chat_templates" / "qwen3_instruct_2507.jinja"
    made.chat_template = template.read_text(encoding="utf-8")
    return made


def test_the_loop_of_trl_plays_an_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expert = ScriptedPolicy(Expert(HIERARCHY, flawless=True))
    factory = environment_factory(lambda: HierarchyEnv(HIERARCHY), {"north": expert, "south": expert})
    spelt = tokenizer()
    config = Qwen2Config(
        vocab_size=len(spelt),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
    )
    env = HierarchyEnv(HIERARCHY)
    env.reset(seed=5)
    relation = env.task.steps[0].name
    agent = "north" if int(relation[1:]) < 5 else "south"
    calls = [
        {"name": "ask", "arguments": {"task": env.task.question, "agent": agent}},
        {"name": "answer", "arguments": {"text": env.task.answer}},
    ]
    trainer = GRPOTrainer(
        model=Qwen2ForCausalLM(config),
        environment_factory=factory,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": ""}], "seed": 5}] * 2),
        processing_class=spelt,
        args=GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=512,
            max_steps=1,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
        ),
    )
    asked: list[int] = []

    def scripted(prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        """The first rollout makes the right calls, the others are silent."""
        turn = len(asked)
        asked.append(len(prompt_ids))
        texts = ["done<|im_end|>"] * len(prompt_ids)
        if turn < len(calls):
            texts[0] = f"<tool_call>\n{json.dumps(calls[turn])}\n</tool_call><|im_end|>"
        return [spelt(text, add_special_tokens=False)["input_ids"] for text in texts], None

    monkeypatch.setattr(trainer, "_generate_single_turn", scripted)
    assert {tool.__name__ for tool in trainer.tools} == {"ask", "check", "answer"}
    trainer.train()
    logged = [row for row in trainer.state.log_history if "reward" in row]
    assert asked[0] == 2 and len(asked) >= 2
    price = 1.0 - HIERARCHY.config.costs.weight * env.hierarchy.optimum(env.task)[0]  # type: ignore[index]
    assert logged[0]["reward"] == pytest.approx(price / 2)
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
