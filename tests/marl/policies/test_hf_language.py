"""A real model from a folder: a small random one, saved and loaded back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_tiny_language import policy as tiny_policy
from test_tiny_language import request

from marl.errors import UserError
from marl.policies.language.hf import HfPolicy
from marl.policies.language.scripted import ScriptedPolicy

pytest.importorskip("transformers")
pytest.importorskip("peft")


SEQUENCE = (
    torch.tensor([[3, 8, 9, 5, 10]]),
    torch.arange(5)[None],
    torch.ones(1, 5, 5, dtype=torch.bool).tril(),
    torch.arange(5),
)


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


ODD = ["default", "model", "lora_A", "layers", "mlp", "keys", "type", "adapter_1", "a.b", "..", "self_attn"]


def test_roles_may_bear_any_name(folder: Path, tmp_path: Path) -> None:
    hf = HfPolicy(folder, ODD, lora_rank=2, max_tokens=4)
    layers = 2 * 7  # linear ones of the model
    own = {role: {id(p) for p in hf.parameters_of(role)} for role in ODD}
    assert all(len(ids) == 2 * layers for ids in own.values())
    assert len(set().union(*own.values())) == 2 * layers * len(ODD)
    for number, role in enumerate(ODD):
        for parameter in hf.parameters_of(role):
            torch.nn.init.constant_(parameter, 0.01 * (number + 1))
    logits = {role: hf.logits_at(role, *SEQUENCE).detach() for role in ODD}
    assert all(not torch.allclose(logits[one], logits[other]) for one in ODD for other in ODD if one < other)
    hf.save(tmp_path / "saved")
    folders = [hf.folder_of(tmp_path / "saved", role) for role in ODD]
    assert len(set(folders)) == len(ODD) and {path.parent for path in folders} == {tmp_path / "saved"}
    again = HfPolicy(folder, list(reversed(ODD)), lora_rank=2)
    peft = pytest.importorskip("peft")
    for role, path in zip(ODD, folders, strict=True):
        again.load_state_of(role, safetensors.torch.load_file(path / "adapter_model.safetensors"))
        assert torch.equal(again.logits_at(role, *SEQUENCE), logits[role])
        # And peft reads the folder as one of its own.
        plain = peft.PeftModel.from_pretrained(HfPolicy(folder, ["a"], lora_rank=None).module, path)
        assert torch.allclose(plain(input_ids=SEQUENCE[0]).logits[0], logits[role], atol=1e-5)


def test_weights_of_another_model_are_refused_whole(folder: Path) -> None:
    hf = HfPolicy(folder, ["a"], lora_rank=2)
    before = hf.state_of("a")
    name = next(iter(before))
    for state, says in [
        ({**before, name: torch.ones(3, 3)}, "is \\(3, 3\\), not"),
        ({**before, "other": torch.ones(1)}, "have the surplus 'other'"),
        ({key: value + 1.0 for key, value in before.items() if key != name}, "lack '"),
    ]:
        with pytest.raises(UserError, match=f"saved weights of role 'a' do not fit: .*{says}"):
            hf.load_state_of("a", state)
        assert all(torch.equal(value, before[key]) for key, value in hf.state_of("a").items())


def copied(folder: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    weights = safetensors.torch.load_file(to / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


def test_tensors_that_are_missing_surplus_or_of_another_shape_are_named(folder: Path, tmp_path: Path, capfd) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    other = "model.layers.1.mlp.up_proj.weight"

    def without(weights: dict[str, torch.Tensor]) -> None:
        del weights[name], weights[other]

    def more(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.7.extra"] = torch.ones(2)

    def narrower(weights: dict[str, torch.Tensor]) -> None:
        weights[name] = torch.ones(3, 3)

    for number, (change, says) in enumerate(
        [
            (without, rf"not those of the Qwen2ForCausalLM in its config.json: '{name}' is missing \(2 such tensors\)"),
            (more, "'model.layers.7.extra' is surplus"),
            (narrower, rf"'{name}' has the shape \(3, 3\), not \("),
        ]
    ):
        with pytest.raises(UserError, match=says):
            HfPolicy(copied(folder, tmp_path / str(number), change), ["a"])
    assert capfd.readouterr() == ("", "")
    HfPolicy(copied(folder, tmp_path / "same", lambda weights: None), ["a"])


def test_what_others_say_is_spelt_as_if_it_had_been_sampled(folder: Path) -> None:
    hf = HfPolicy(folder, ["a"], lora_rank=None, max_tokens=6)
    shown, sampled = request("w1 w2", 1), request("w1 w2", 1)
    (text,) = hf.complete([sampled])
    ScriptedPolicy(lambda turn, key: text or "", hf).complete([shown])
    assert sampled.transcript.ids[-1] in hf._ends  # else nothing is compared
    assert shown.transcript.ids == sampled.transcript.ids and shown.transcript.spans == sampled.transcript.spans
    for each in (shown, sampled):
        each.turn.messages.extend([{"role": "assistant", "content": text}, {"role": "tool", "content": "w9"}])
        hf.hear(each)
    assert shown.transcript.ids == sampled.transcript.ids and shown.transcript.read == sampled.transcript.read


def test_faults_of_the_folder_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        HfPolicy(tmp_path / "nowhere", ["a"])
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be loaded"):
        HfPolicy(tmp_path, ["a"])
