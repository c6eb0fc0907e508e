"""A real model from a folder: a small random one, saved and loaded back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_tiny_language import policy as tiny_policy
from test_tiny_language import request

from marl.errors import UserError
from marl.policies.language.hf import HfPolicy

pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    tiny_policy().save_pretrained(path)
    return path


def test_speaks_like_the_tiny_model_that_was_saved(folder: Path) -> None:
    hf = HfPolicy(folder, ["a"], lora_rank=None, max_tokens=6)
    requests = [[request(text, key) for key, text in enumerate(["w1 w2", "w3", "w4 w5 w6"])] for _ in range(2)]
    for _ in range(2):
        texts = [policy.complete(each) for policy, each in zip([hf, tiny_policy()], requests, strict=True)]
        for each in requests:
            for one, text in zip(each, texts[0], strict=True):
                one.turn.messages.extend([{"role": "assistant", "content": text}, {"role": "tool", "content": "w9"}])
    for ours, other in zip(*requests, strict=True):
        assert ours.transcript.ids == other.transcript.ids
        assert ours.transcript.spans == other.transcript.spans
        assert torch.allclose(
            torch.tensor(ours.transcript.log_probs), torch.tensor(other.transcript.log_probs), atol=1e-4
        )


def test_adapters_per_role_start_equal_and_learn_apart(folder: Path) -> None:
    hf = HfPolicy(folder, ["a", "b"], lora_rank=2, max_tokens=4)
    names = {id(p) for p in hf.parameters_of("a")} & {id(p) for p in hf.parameters_of("b")}
    assert not names and hf.parameters_of("a")
    token = torch.tensor([[3, 8, 9, 5, 10]])
    arguments = (token, torch.arange(5)[None], torch.ones(1, 5, 5, dtype=torch.bool).tril(), torch.arange(5))
    before = hf.logits_at("b", *arguments).detach()
    base = tiny_policy().logits_at("b", *arguments)
    assert torch.allclose(before, base, atol=1e-4)  # adapters begin as the identity
    optimiser = torch.optim.SGD(hf.parameters_of("a"), lr=1.0)
    for _ in range(2):
        optimiser.zero_grad()
        hf.logits_at("a", *arguments).square().mean().backward()
        optimiser.step()
    assert torch.equal(hf.logits_at("b", *arguments), before)
    assert not torch.allclose(hf.logits_at("a", *arguments), before, atol=1e-3)
    state = hf.state_of("a")
    again = HfPolicy(folder, ["a", "b"], lora_rank=2)
    again.load_state_of("a", state)
    assert torch.equal(again.logits_at("a", *arguments), hf.logits_at("a", *arguments))


def test_faults_of_the_folder_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        HfPolicy(tmp_path / "nowhere", ["a"])
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be loaded"):
        HfPolicy(tmp_path, ["a"])
