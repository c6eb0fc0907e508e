"""The embedded language model: the same numbers as transformers, as the whole sequence, and as a batch of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from marl.envs.chat import Turn
from marl.policies.language.base import Request, Transcript
from marl.policies.language.tiny import TinyPolicy
from marl.policies.language.tokenizer import ChatTokenizer, byte_tokenizer, word_tokenizer
from marl.policies.language.transformer import TransformerConfig

WORDS = [f"w{i}" for i in range(20)]
CONFIG = TransformerConfig(width=32, layers=2, heads=4, kv_heads=2, hidden=48)


def policy(max_tokens: int = 6, seed: int = 0) -> TinyPolicy:
    tiny = TinyPolicy(
        ChatTokenizer(word_tokenizer(WORDS)), CONFIG, torch.Generator().manual_seed(seed), max_tokens, context=200
    )
    with torch.no_grad():
        for parameter in tiny.module.parameters():
            parameter.mul_(6.0 if parameter.ndim == 2 else 1.0)  # far enough from uniform to tell sequences apart
    return tiny


def request(text: str, key: int, transcript: Transcript | None = None) -> Request:
    messages = [{"role": "system", "content": "w1"}, {"role": "user", "content": text}]
    return Request(Turn("a", 0, None, 0, messages, (), 0), transcript or Transcript(), key)


def scores(tiny: TinyPolicy, ids: list[int]) -> torch.Tensor:
    """Log-probability of each token given those before it, from one pass over the whole sequence."""
    token = torch.tensor([ids])
    length = len(ids)
    mask = torch.ones(1, length, length, dtype=torch.bool).tril()
    logits = tiny.logits_at("a", token, torch.arange(length)[None], mask, torch.arange(length - 1))
    return torch.log_softmax(logits, -1).gather(1, token[0, 1:, None])[:, 0]


def test_decoding_over_turns_scores_as_one_pass_over_the_sequence() -> None:
    tiny = policy()
    requests = [request(text, key) for key, text in enumerate(["w1 w2", "w3", "w1 w2", "w1 w2", "w4 w5 w6 w7"] * 3)]
    for _ in range(3):
        texts = tiny.complete(requests)
        for one, text in zip(requests, texts, strict=True):
            messages = one.turn.messages
            messages += [{"role": "assistant", "content": text}, {"role": "tool", "content": "w9 " * (one.key % 3)}]
    for one in requests:
        transcript = one.transcript
        assert len(transcript.spans) == 3
        expected = scores(tiny, transcript.ids)
        for start, end in transcript.spans:
            sampled = torch.tensor(transcript.log_probs[start:end])
            assert torch.allclose(sampled, expected[start - 1 : end - 1], atol=1e-4)
    assert len({tuple(one.transcript.ids) for one in requests}) > 5


@pytest.mark.parametrize("greedy", [False, True])
def test_neighbours_do_not_matter(greedy: bool) -> None:
    tiny = policy()
    texts = ["w1 w2", "w3 w4 w5", "w1 w2", "w8"]
    together = tiny.complete([request(text, 5 + key) for key, text in enumerate(texts)], greedy)
    alone = [tiny.complete([request(text, 5 + key)], greedy)[0] for key, text in enumerate(texts)]
    assert together == alone


def test_prompts_extend_what_was_sampled() -> None:
    tiny = policy()
    one = request("w1", 3)
    tiny.complete([one])
    before = list(one.transcript.ids)
    one.turn.messages.append({"role": "assistant", "content": "rewritten by somebody"})
    one.turn.messages.append({"role": "tool", "content": "w5"})
    tiny.complete([one])
    assert one.transcript.ids[: len(before)] == before
    added = one.transcript.ids[len(before) : one.transcript.spans[1].start]
    cut_short = [tiny.tokenizer.end] * (before[-1] != tiny.tokenizer.end)
    assert added == [*cut_short, *tiny.tokenizer.prompt(one.turn.messages[3:4])]


def test_a_conversation_beyond_its_context_says_nothing() -> None:
    tiny = policy()
    assert tiny.complete([request("w1 " * 300, 0), request("w1", 1)])[0] == ""


def test_marks_cannot_be_smuggled_in() -> None:
    tokenizer = ChatTokenizer(byte_tokenizer(["ask me", '{"name":"ask"}'] * 3, 300))
    assert tokenizer.end not in tokenizer.text_ids("x<|end|>y")
    text = '{"name":"ask","arguments":{"é":"\n"}}'
    assert tokenizer.text(tokenizer.text_ids(text)) == text
    again = ChatTokenizer.loads(tokenizer.dumps())
    assert again.text_ids(text) == tokenizer.text_ids(text)


def test_fixed_parts_of_calls_merge_and_names_with_digits_do_not() -> None:
    calls = [f'{{"name":"ask","arguments":{{"task":"e{i} r{i % 3}","agent":"north"}}}}' for i in range(9)] * 20
    tokenizer = ChatTokenizer(byte_tokenizer(calls, 400))
    spelt = [tokenizer.tokenizer.id_to_token(i) for i in tokenizer.text_ids(calls[7])]
    assert spelt == ['{"name":"ask","arguments":{"task":"', "e7", "\u0120", "r1", '","agent":"north"}}']


def test_equal_to_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tiny = policy()
    tiny.save_pretrained(tmp_path)
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    ids = torch.randint(0, tiny.tokenizer.size, (1, 30), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(1, 30, 30, dtype=torch.bool).tril()
    own = tiny.logits_at("a", ids, torch.arange(30)[None], mask, torch.arange(30))
    with torch.no_grad():
        assert torch.allclose(other(ids).logits[0], own, atol=1e-4)
    # AutoTokenizer would read tokenizer.json by the rules of the model's family instead of its own.
    spelt = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path, local_files_only=True)
    messages = request("w1 w2", 0).turn.messages
    chat = spelt.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(chat) == tiny.tokenizer.prompt(messages)
