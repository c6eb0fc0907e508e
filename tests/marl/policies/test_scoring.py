"""Training scores tokens as sampling does, and as the model itself: tiny random models of many architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_tiny_language import policy as tiny_policy
from test_tiny_language import request

from marl.errors import UserError
from marl.learning.language.token_losses import tokens_of
from marl.learning.language.token_trees import TokenRow
from marl.policies.language.base import Transcript
from marl.policies.language.continuing import Continuation
from marl.policies.language.hf import HfPolicy
from marl.policies.language.scoring import Scorer, _additive
from marl.systems.language.likelihood import LogRatio, log_probs
from marl.systems.language.self_check import check_policy

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

#: Of the layers with a window.
WINDOW = 16
PLAIN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
#: Name -> (``model_type``, what its configuration has beside the sizes, whether it takes trees of sequences).
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama": ("llama", {}, True),
    "qwen2": ("qwen2", {"use_sliding_window": False}, True),
    "qwen2_window": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": WINDOW}, True),
    "qwen3": ("qwen3", {}, True),
    "gemma2": ("gemma2", {**MIXED, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}, True),
    "gemma3": ("gemma3_text", {**MIXED, "query_pre_attn_scalar": 8}, True),
    "mistral": ("mistral", {"sliding_window": WINDOW}, True),
    "phi3": ("phi3", {"sliding_window": WINDOW, "pad_token_id": 0}, True),
    "granite": ("granite", {"logits_scaling": 8.0, "attention_multiplier": 0.3, "embedding_multiplier": 3.0}, True),
    "cohere": ("cohere", {"logit_scale": 0.0625}, True),
    "cohere2": ("cohere2", {**MIXED, "logit_scale": 0.25}, True),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0], "pad_token_id": 0}, True),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3}, True),
    "llama4": ("llama4_text", {"attention_chunk_size": WINDOW, "num_local_experts": 2, "moe_layers": []}, True),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}, False),
    "gpt_neo": (
        "gpt_neo",
        {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
        False,
    ),
    "mamba2": ("mamba2", {"num_heads": 8, "n_groups": 2, "state_size": 8, "chunk_size": 8, "expand": 2}, False),
}


def make_folder(name: str, folder: Path, **more: Any) -> Path:
    """A tiny random model of an architecture, with the tokenizer of the tiny policy."""
    kind, extra, _ = MODELS[name]
    tiny_policy().save_pretrained(folder)
    sizes = {} if kind == "gpt2" else PLAIN
    ends = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, **{**sizes, "vocab_size": 23, **ends, **extra, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=MODELS)
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, HfPolicy]:
    folder = make_folder(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, HfPolicy(folder, ["a"], lora_rank=None, max_tokens=8)


def rows_of(policy: HfPolicy, lengths: list[int], steps: int = 8) -> list[TokenRow]:
    """Sampled turns after prompts of these lengths that begin alike, batched."""
    generator = torch.Generator().manual_seed(1)
    long = torch.randint(3, 20, (max(lengths),), generator=generator).tolist()
    prompts = [long[:length] for length in lengths]
    rows = []
    for prompt, (ids, scores) in zip(
        prompts, policy.sample_as("a", prompts, list(range(len(prompts))), steps), strict=True
    ):
        learned = np.arange(len(prompt) + len(ids)) >= len(prompt)
        weight = np.where(learned, np.linspace(-1.0, 2.0, len(learned)), 0.0)
        rows.append(TokenRow([*prompt, *ids], learned, weight, np.concatenate([np.zeros(len(prompt)), scores])))
    return rows


SHORT, LONG = [5, 5, 7], [3 * WINDOW, 3 * WINDOW, WINDOW + 3, 9]


@pytest.mark.parametrize("lengths", [SHORT, LONG], ids=["within", "beyond"])
def test_tokens_are_scored_as_they_were_sampled(named: tuple[str, HfPolicy], lengths: list[int]) -> None:
    name, policy = named
    assert policy.packs == MODELS[name][2]
    rows = rows_of(policy, lengths)
    for tree_tokens in (1, 400):  # each sequence for itself, and all in one tree
        found, old = LogRatio(), tokens_of(rows).old
        for trees, log_prob in log_probs(policy, "a", rows, 1.0, tree_tokens, 4096):
            found.add(log_prob[trees.learned], old[trees.entry])
        assert found.count >= 8 and found.largest < 1e-4, name


@pytest.mark.parametrize("lengths", [SHORT, LONG], ids=["within", "beyond"])
def test_the_first_gradient_is_that_of_the_plain_model(named: tuple[str, HfPolicy], lengths: list[int]) -> None:
    name, policy = named
    rows = rows_of(policy, lengths)
    parameters = policy.parameters_of("a")

    def gradient() -> torch.Tensor:
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
        policy.module.zero_grad()
        return flat

    policy.module.zero_grad()
    for trees, log_prob in log_probs(policy, "a", rows, 1.0, 112, 4096):
        (-(log_prob * trees.summed(tokens_of(rows).weight)).sum()).backward()
    ours = gradient()
    for row in rows:
        logits = policy.module(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, :-1]
        log_prob = torch.log_softmax(logits, -1).gather(1, torch.tensor(row.ids[1:])[:, None]).squeeze(1)
        (-(log_prob * torch.tensor(row.weight[1:], dtype=torch.float32)).sum()).backward()
    right = gradient()
    assert torch.nn.functional.cosine_similarity(ours, right, dim=0) > 0.999, name
    assert float(ours.norm() / right.norm()) == pytest.approx(1.0, abs=1e-3), name


def test_the_head_sees_the_asked_places_alone(named: tuple[str, HfPolicy]) -> None:
    name, policy = named
    rows, seen = rows_of(policy, SHORT), []
    head = policy.module.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_hook(lambda _, given, out: seen.append(out.shape[:-1].numel()))
    try:
        asked = [len(trees.at) for trees, _ in log_probs(policy, "a", rows, 1.0, 400, 4096)]
        scored, sampled = list(seen), policy.sample_as("a", [[5, 6, 7], [8, 9]], [1, 2], 3)
    finally:
        handle.remove()
    assert scored == asked, name
    assert seen[len(scored) :] == [2] * max(len(ids) for ids, _ in sampled), name


def test_every_architecture_passes_its_check(named: tuple[str, HfPolicy]) -> None:
    name, policy = named
    said = check_policy(policy, "a", request("w1 w2", 3).turn)
    assert policy.scorer.architecture in said and "within" in said
    assert policy.packs == MODELS[name][2] and "one sequence a row" not in said


@pytest.mark.parametrize("name", ["lfm2", "mamba2", "gpt_neo"])
def test_the_check_finds_what_cannot_be_given_trees(name: str, tmp_path: Path) -> None:
    policy = HfPolicy(make_folder(name, tmp_path), ["a"], lora_rank=None)
    policy.scorer.packs = True
    assert "one sequence a row" in check_policy(policy, "a", request(" ".join(["w1 w2 w3"] * 12), 3).turn)
    assert not policy.packs
    tree = torch.tensor([[5, 6, 7, 7]]), torch.tensor([[0, 1, 2, 2]])
    with pytest.raises(ValueError, match="one sequence a row"):
        policy.logits_at("a", *tree, torch.eye(4, dtype=torch.bool)[None], torch.tensor([3]))


def doubled(scorer: Scorer, *given: torch.Tensor) -> torch.Tensor:
    return 2.0 * ORIGINAL(scorer, *given)


def unfit(scorer: Scorer, *given: torch.Tensor) -> torch.Tensor:
    raise KeyError("relative positions")


def undefined(scorer: Scorer, *given: torch.Tensor) -> torch.Tensor:
    return torch.full_like(ORIGINAL(scorer, *given), float("nan"))


ORIGINAL = Scorer.logits


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (doubled, r"otherwise than it sampled it, by up to [\d.]+ in a token's .*\(0\.001 is allowed in float32\)"),
        (unfit, "scoring what it said fails .*KeyError: 'relative positions'"),
        (undefined, "otherwise than it sampled it, by up to inf"),
    ],
)
def test_what_is_scored_otherwise_is_refused(broken: Any, says: str, tmp_path: Path, monkeypatch: Any) -> None:
    policy = HfPolicy(make_folder("llama", tmp_path), ["a"], lora_rank=2)
    monkeypatch.setattr(Scorer, "logits", broken)
    with pytest.raises(UserError, match=f"^LlamaForCausalLM cannot be trained: .*{says}"):
        check_policy(policy, "a", request("w1 w2", 3).turn)


def test_a_window_that_training_forgets_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    policy = HfPolicy(make_folder("mistral", tmp_path, sliding_window=64), ["a"], lora_rank=None)
    monkeypatch.setattr(Scorer, "_masks", lambda self, position, mask: _additive(mask, torch.float32))
    assert "one sequence a row" in check_policy(policy, "a", request("w1", 3).turn)


def test_bfloat16_stays_within_its_own_tolerance(tmp_path: Path) -> None:
    policy = HfPolicy(make_folder("gemma3", tmp_path), ["a"], lora_rank=2, dtype="bfloat16")
    assert "0.5 is allowed in bfloat16" in check_policy(policy, "a", request("w1 w2", 3).turn)


def test_sampling_does_not_depend_on_neighbours(named: tuple[str, HfPolicy]) -> None:
    name, policy = named
    prompts = [[5, 6, 7, 8, 9] * 8, [10, 11, 12]]
    together = policy.sample_as("a", prompts, [1, 2], 6)
    apart = [policy.sample_as("a", [prompt], [key], 6)[0] for prompt, key in zip(prompts, [1, 2], strict=True)]
    for (ids, scores), (own, own_scores) in zip(together, apart, strict=True):
        assert ids == own and scores == pytest.approx(own_scores, abs=1e-4), name


def conversation(policy: HfPolicy, role: str = "a", turns: int = 4) -> list[Transcript]:
    """Five transcripts of several turns of different lengths; two begin alike and then say different things."""
    starts = [[5, 6, 7], [5, 6, 7], [8] * 30, [9, 10], [11] * 11]
    transcripts = [Transcript(list(start), [0.0] * len(start)) for start in starts]
    for turn in range(turns):
        for number, transcript in enumerate(transcripts):
            transcript.hear([4, *[12 + turn] * (2 * number * turn % 7)])
        policy.speak(role, transcripts, [10 * turn + number for number in range(5)], 6, ends=[2, 13])
    return transcripts


def test_what_was_read_is_kept_from_turn_to_turn(named: tuple[str, HfPolicy]) -> None:
    """The same words as by a policy that reads everything anew, from fewer tokens; and training scores them alike."""
    name, policy = named
    plain = Continuation(policy.module, policy.scorer, 0, 1.0, 0)
    read, whole = [0, 0], Continuation._forward

    def counted(self: Continuation, rows: Any, token: torch.Tensor) -> torch.Tensor:
        read[self is plain] += token.numel()
        return whole(self, rows, token)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Continuation, "_forward", counted)
        kept = conversation(policy)
        patch.setattr(policy, "_continuation", plain)
        anew = conversation(policy)
    assert [each.ids for each in kept] == [each.ids for each in anew], name
    apart = np.abs(np.concatenate([np.subtract(a.log_probs, b.log_probs) for a, b in zip(kept, anew, strict=True)]))
    assert apart.max() < 1e-4, name
    if policy.packs:
        assert read[0] < 0.75 * read[1] and all(each.cached == len(each.ids) - 1 for each in kept)
        # A copy of a conversation goes on with the same memory, which is only ever read.
        cached = kept[0].cache.layers[0][0].clone()
        fork = Transcript(list(kept[0].ids), list(kept[0].log_probs), [], 0, kept[0].cache, kept[0].cached)
        for each in (fork, kept[0]):
            each.hear([4, 5])
        memory = kept[0].cache
        policy.speak("a", [fork], [77], 5)
        policy.speak("a", [kept[0]], [77], 5)
        assert fork.ids == kept[0].ids and torch.equal(memory.layers[0][0], cached)
    else:
        assert all(each.cache is None and each.cached == 0 for each in kept)


def test_no_more_is_kept_than_may_be(tmp_path: Path) -> None:
    folder = make_folder("llama", tmp_path)
    policies = [HfPolicy(folder, ["a"], lora_rank=None, cache_gigabytes=size) for size in (1.0, 2e-5, 0.0)]
    said = [conversation(policy) for policy in policies]
    assert len({tuple(tuple(each.ids) for each in one) for one in said}) == 1
    kept = [policy._continuation.kept_bytes for policy in policies]
    assert kept[0] > 2e4 >= kept[1] > 0 == kept[2]
    assert [each.cached > 0 for each in said[1]].count(True) in range(1, 5)
    del said
    assert [policy._continuation.kept_bytes for policy in policies] == [0, 0, 0]


def test_equal_conversations_are_read_once(tmp_path: Path) -> None:
    policy = HfPolicy(make_folder("qwen3", tmp_path), ["a"], lora_rank=None)
    seen: list[int] = []
    handle = policy.module.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].shape[0]), with_kwargs=True
    )
    together = policy.sample_as("a", [[5, 6, 7]] * 6 + [[8]], list(range(7)), 5)
    handle.remove()
    assert seen[:2] == [2, 7]
    apart = [policy.sample_as("a", [[5, 6, 7]], [key], 5)[0][0] for key in range(6)]
    assert [ids for ids, _ in together[:6]] == apart
    assert len(set(map(tuple, apart))) > 1
