"""A real model: a local folder of weights, whole or with low-rank adapters per role."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from marl.envs.chat import Message
from marl.errors import UserError
from marl.policies.language.base import Request, Transcript
from marl.policies.language.sampling import draw, up_to
from marl.seeding import fold

#: A conversation that every chat template can spell, to find out how it goes on after an assistant's turn.
_BEFORE: list[Message] = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "reply"}]


def _libraries(adapters: bool) -> tuple[Any, Any]:
    # Imported here: they belong to an extra, and take seconds.
    try:
        transformers = importlib.import_module("transformers")
        peft = importlib.import_module("peft") if adapters else None
    except ImportError:
        raise UserError("policies of kind 'hf' need the extra 'llm': pip install 'marl-platform[llm]'") from None
    return transformers, peft


class HfPolicy:
    """Speaks by a causal language model of ``transformers``.

    folder: local weights, configuration and tokenizer; nothing is ever downloaded. roles: who speaks through it.
    lora_rank: rank of an adapter per role, the rest stays as it is; None: all weights learn, shared by the roles.
    Raises ``UserError`` if the folder cannot be loaded.
    """

    trainable = True

    def __init__(
        self,
        folder: Path,
        roles: Sequence[str],
        lora_rank: int | None = 8,
        dtype: str = "float32",
        device: str = "cpu",
        max_tokens: int = 256,
        temperature: float = 1.0,
        seed: int = 0,
    ):
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} holds no model: it has no config.json; name a folder of downloaded weights")
        transformers, peft = _libraries(lora_rank is not None)
        self.max_tokens, self.temperature = max_tokens, temperature
        self._device = torch.device(device)
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=getattr(torch, dtype)
            )
            # A tokenizer.json says everything; the class that a model's kind suggests may read it differently.
            fast = (folder / "tokenizer.json").is_file()
            kind = transformers.PreTrainedTokenizerFast if fast else transformers.AutoTokenizer
            self._tokenizer = kind.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"the model in {folder} cannot be loaded: {str(error).splitlines()[0]}") from None
        if self._tokenizer.chat_template is None:
            raise UserError(f"the tokenizer in {folder} has no chat template: use a model that was made for chats")
        self._adapters = lora_rank is not None
        if lora_rank is not None:
            model = self._with_adapters(model, peft, roles, lora_rank, seed)
        self.module: torch.nn.Module = model.to(self._device).eval()
        self._causal: Any = model.get_base_model() if self._adapters else model
        ends = self._causal.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        self._ends: list[int] = list(ends) if isinstance(ends, list) else [int(ends)]
        self._spelt = lru_cache(maxsize=16_384)(self._spell)
        self._tail = self._find_tail()

    def _with_adapters(self, model: Any, peft: Any, roles: Sequence[str], rank: int, seed: int) -> Any:
        config = peft.LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules="all-linear"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = peft.get_peft_model(model, config, adapter_name=roles[0])
            for role in roles[1:]:
                model.add_adapter(role, config)
        return model

    # Learning (TokenModel)

    def parameters_of(self, role: str) -> list[torch.nn.Parameter]:
        if not self._adapters:
            return list(self.module.parameters())
        return [p for name, p in self.module.named_parameters() if f".{role}." in name]

    def state_of(self, role: str) -> dict[str, Tensor]:
        if not self._adapters:
            return {name: value.detach().clone() for name, value in self._causal.state_dict().items()}
        return {name: p.detach().clone() for name, p in self.module.named_parameters() if f".{role}." in name}

    @torch.no_grad()
    def load_state_of(self, role: str, state: Mapping[str, Tensor]) -> None:
        if not self._adapters:
            self._causal.load_state_dict(state)
            return
        named = dict(self.module.named_parameters())
        for name, value in state.items():
            named[name].copy_(value)

    def logits_at(self, role: str, token: Tensor, position: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        self._select(role)
        dtype = self._causal.get_input_embeddings().weight.dtype
        additive = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min).unsqueeze(1)
        body = self._causal.get_decoder()
        hidden = body(
            input_ids=token.to(self._device),
            position_ids=position.to(self._device),
            attention_mask=additive.to(self._device),
            use_cache=False,
        ).last_hidden_state
        chosen = hidden.reshape(-1, hidden.shape[-1])[at.to(self._device)]
        logits: Tensor = self._causal.get_output_embeddings()(chosen)
        return logits.float().cpu()

    def _select(self, role: str) -> None:
        if self._adapters:
            self.module.set_adapter(role)  # type: ignore[operator]
            # Selecting an adapter freezes the others; each role's own optimiser decides what is learned.
            for name, parameter in self.module.named_parameters():
                parameter.requires_grad_(".lora_" in name)

    def forget(self) -> None:
        """Nothing is kept between turns."""

    @property
    def adapters(self) -> bool:
        """Whether roles have adapters of their own."""
        return self._adapters

    def save(self, folder: Path) -> None:
        """Write the weights; with adapters each role's to a folder of its name. Raises ``UserError``."""
        try:
            self.module.save_pretrained(folder)  # type: ignore[operator]
        except OSError as error:
            raise UserError(f"weights cannot be written to {folder}: {error.strerror or error}") from None

    # Speaking

    @torch.no_grad()
    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        texts: dict[int, str] = {}
        by_role: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            self.hear(request)
            by_role.setdefault(request.turn.agent if self._adapters else "", []).append(number)
        for role, numbers in by_role.items():
            if role:
                self._select(role)
            said = self._generate(
                [requests[n].transcript.ids for n in numbers], [requests[n].key for n in numbers], greedy
            )
            for number, (ids, log_probs) in zip(numbers, said, strict=True):
                requests[number].transcript.say(ids, log_probs)
                texts[number] = self.text(ids)
        return [texts[number] for number in range(len(requests))]

    def text(self, ids: Sequence[int]) -> str:
        """What ids say; marks are left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def hear(self, request: Request) -> None:
        """Bring a transcript up to date: what is new is spelt as the chat template spells it, nothing is made anew."""
        transcript, messages = request.transcript, request.turn.messages
        new = [_plain(message) for message in messages[transcript.read :]]
        if transcript.read == 0:
            text = self._template(new, request.turn.tools, prompt=True)
        else:
            start = self._template(_BEFORE, (), prompt=False)
            whole = self._template([*_BEFORE, *new], (), prompt=True)
            if not whole.startswith(start):
                raise UserError("the model's chat template rewrites earlier turns: use one that only appends")
            text = self._rest_of_turn(transcript) + whole[len(start) :]
        transcript.hear(self._spelt(text))
        transcript.read = len(messages) + 1

    def _rest_of_turn(self, transcript: Transcript) -> str:
        """What the template puts behind an assistant's text, without the end mark if that was sampled."""
        ended = bool(transcript.ids) and transcript.ids[-1] in self._ends
        mark = self._tokenizer.decode([transcript.ids[-1]]) if ended else ""
        return self._tail.removeprefix(mark)

    def _find_tail(self) -> str:
        spelt = self._template(_BEFORE, (), prompt=False)
        return spelt[spelt.rindex("reply") + len("reply") :]

    def _template(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, add_generation_prompt=prompt, tokenize=False
        )
        return text

    def _spell(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _generate(self, prompts: list[list[int]], keys: list[int], greedy: bool) -> list[tuple[list[int], list[float]]]:
        """Tokens and log-probabilities of each row, sampled by counter: neighbours do not matter."""
        longest = max(map(len, prompts))
        pad = self._tokenizer.pad_token_id or 0
        token = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts], device=self._device)
        seen = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=self._device)
        position = (seen.cumsum(1) - 1).clamp(min=0)
        row_keys = torch.tensor(keys)
        ends = torch.tensor(self._ends)
        done = torch.zeros(len(prompts), dtype=torch.bool)
        tokens: list[Tensor] = []
        scores: list[Tensor] = []
        cache: Any = None
        for step in range(self.max_tokens):
            out = self._causal(
                input_ids=token, position_ids=position, attention_mask=seen, past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
            log_prob = torch.log_softmax(out.logits[:, -1].float().cpu() / self.temperature, dim=-1)
            chosen = log_prob.argmax(dim=-1) if greedy else draw(log_prob, fold(row_keys, step))
            tokens.append(chosen)
            scores.append(log_prob.gather(1, chosen.unsqueeze(1)).squeeze(1))
            done |= torch.isin(chosen, ends)
            if bool(done.all()):
                break
            token = chosen.unsqueeze(1).to(self._device)
            seen = torch.cat([seen, torch.ones_like(token)], dim=1)
            position = position[:, -1:] + 1
        ids, log_probs = torch.stack(tokens, 1).tolist(), torch.stack(scores, 1).tolist()
        counts = [up_to(row, self._ends) for row in ids]
        return [(ids[row][:count], log_probs[row][:count]) for row, count in enumerate(counts)]


def _plain(message: Message) -> Message:
    """A message as chat templates know it."""
    return {"role": message["role"], "content": message["content"]}
