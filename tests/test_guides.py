"""The guides show what works: their files are written, and their commands run as they stand, made short."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from test_docs import BLOCK, COMMANDS, REPO

from marl.cli import main

pytest.importorskip("transformers")
pytest.importorskip("peft")

SHORT = (
    "copies=4 total_steps=1 algorithm.group=2 algorithm.warm_start.steps=2 algorithm.warm_start.batch=2 "
    "evaluation.every_iterations=0 world.max_turns=6"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a reader of a guide would be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def commands(page: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the commands of a guide say, after writing its files."""
    text = (REPO / "docs" / "guides" / page).read_text(encoding="utf-8")
    for name, code in BLOCK.findall(text):
        Path(name).write_text(code, encoding="utf-8")
    if Path("make_questions.py").exists():
        runpy.run_path("make_questions.py")
    said = []
    for line in "".join(COMMANDS.findall(text)).strip().splitlines():
        marl, *words = shlex.split(line)
        assert marl == "marl"
        shorter = [word for pair in SHORT.split() for word in ("--set", pair)] if words[0] == "train" else []
        capsys.readouterr()
        code = main([*words, *shorter])
        heard = capsys.readouterr()
        assert code == 0, heard.err
        said.append(heard.out + heard.err)
    return said


def test_own_task(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged, trained, evaluated = commands("own_task.md", capsys)
    assert re.search(r"^flawless +1(\.0+)? ", judged, re.MULTILINE)
    assert "runs/team" in trained and "success" in evaluated


def test_own_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    import transformers

    from scripts.benchmarks.agent_hierarchy.templates import tokenizer_of

    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = tokenizer_of(template)
    tokenizer.eos_token = "<|im_end|>"
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(here / "weights")
    tokenizer.save_pretrained(here / "weights")
    trained, evaluated = commands("own_model.md", capsys)
    assert "it shows no tools: they are written into the prompt" in trained
    assert "runs/model" in evaluated
