"""The embedded policy with an adapter per role."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_tiny_language import CONFIG, WORDS, request

from marl.policies.language.tokenizer import ChatTokenizer, word_tokenizer

pytest.importorskip("peft")

from marl.policies.language.adapters import AdaptedPolicy
from marl.policies.language.tiny import TinyPolicy


def policy() -> AdaptedPolicy:
    tokenizer = ChatTokenizer(word_tokenizer(WORDS))
    return AdaptedPolicy(tokenizer, CONFIG, torch.Generator().manual_seed(0), ["a", "b"], 2, 6, context=200)


def test_adapters_begin_as_nothing_and_learn_apart_from_each_other_and_the_body(tmp_path: Path) -> None:
    adapted = policy()
    plain = TinyPolicy(adapted.tokenizer, CONFIG, torch.Generator().manual_seed(0), 6, context=200)
    token = torch.tensor([[3, 8, 9, 5, 10]])
    arguments = (token, torch.arange(5)[None], torch.ones(1, 5, 5, dtype=torch.bool).tril(), torch.arange(5))
    before = plain.logits_at("a", *arguments).detach()
    assert torch.equal(adapted.logits_at("b", *arguments), before)
    body = adapted.body.state_of("a")
    optimiser = torch.optim.SGD(adapted.parameters_of("a"), lr=30.0)
    for _ in range(3):
        optimiser.zero_grad()
        adapted.logits_at("a", *arguments).square().sum().backward()
        optimiser.step()
    assert torch.equal(adapted.logits_at("b", *arguments), before)
    learned = adapted.logits_at("a", *arguments)
    assert not torch.allclose(learned, before, atol=1e-4)
    assert all(torch.equal(value, body[name]) for name, value in adapted.body.state_of("a").items())
    # What is sampled is scored by the same adapter, and a folder holds the role's merged weights.
    one = request("w1 w2", 3)
    adapted.complete([one])
    ids = torch.tensor([one.transcript.ids])
    mask = torch.ones(1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    places = torch.arange(ids.shape[1] - 1)
    scored = torch.log_softmax(adapted.logits_at("a", ids, torch.arange(ids.shape[1])[None], mask, places), -1)
    ((start, end),) = one.transcript.spans
    found = scored.gather(1, ids[0, 1:, None])[start - 1 : end - 1, 0]
    assert torch.allclose(found, torch.tensor(one.transcript.log_probs[start:end]), atol=1e-4)
    plain.module.load_state_dict(adapted.merged())
    assert torch.allclose(plain.logits_at("a", *arguments), learned, atol=1e-5)
    adapted.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = policy()
    again.load_state_of("a", adapted.state_of("a"))
    assert torch.equal(again.logits_at("a", *arguments), learned)


def test_roles_may_bear_any_name() -> None:
    odd = ["default", "model", "layers", "mlp", "lora_A", "q_proj", "keys"]
    tokenizer = ChatTokenizer(word_tokenizer(WORDS))
    adapted = AdaptedPolicy(tokenizer, CONFIG, torch.Generator().manual_seed(0), odd, 2, 6, context=200)
    own = [{id(parameter) for parameter in adapted.parameters_of(role)} for role in odd]
    assert all(len(ids) == 2 * 7 * CONFIG.layers for ids in own)
    assert len(set().union(*own)) == sum(map(len, own))
    assert not set().union(*own) & {id(parameter) for parameter in adapted.body.parameters_of("model")}


def test_the_body_learns_alone() -> None:
    adapted = policy()
    adapters = {name: value.clone() for name, value in adapted.state_of("b").items()}
    token = torch.tensor([[3, 8, 9]])
    mask = torch.ones(1, 3, 3, dtype=torch.bool).tril()
    optimiser = torch.optim.SGD(adapted.body.parameters_of("a"), lr=0.1)
    loss = adapted.body.logits_at("a", token, torch.arange(3)[None], mask, torch.arange(3)).square().sum()
    loss.backward()
    optimiser.step()
    assert all(parameter.grad is None for parameter in adapted.parameters_of("a"))
    assert all(torch.equal(value, adapters[name]) for name, value in adapted.state_of("b").items())
