"""A real model: a local folder of weights, whole or with low-rank adapters per role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import safetensors.torch
import torch
from torch import Tensor

from marl.errors import UserError
from marl.policies.language.base import Request, Transcript
from marl.policies.language.chat import ChatSpeller
from marl.policies.language.continuing import Continuation
from marl.policies.language.lora import adapter_names, adapter_parameters, load_parameters
from marl.policies.language.reading import Reader
from marl.policies.language.scoring import Scorer
from marl.policies.language.weights import load_folder, with_adapters


class HfPolicy:
    """Speaks by a causal language model of ``transformers``.

    Args:
        folder: local weights, configuration and tokenizer; nothing is ever downloaded.
        roles: who speaks through it, by any names.
        lora_rank: rank of an adapter per role, the rest stays as it is; None: all weights learn, shared by the roles.
        dtype: of the weights, by torch's name.
        device: where they lie.
        max_tokens: of one turn, the end mark included.
        temperature: of sampling.
        seed: of the adapters' first weights.
        cache_gigabytes: of keys and values that are kept between turns at most; what is beyond is read again.
        template: a file with the chat template to use in the place of the folder's, or ``plain`` for one of ours.
        template_options: further variables of the template, such as ``enable_thinking``.
        parser: ``module:function`` of somebody's own that reads calls (``reading.Reader``).

    Raises:
        UserError: the folder cannot be loaded, its tensors are not those of the model that it names, or its chat
            template loses what is said.
    """

    trainable = True
    pretrained = True

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
        cache_gigabytes: float = 2.0,
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        parser: str | None = None,
    ):
        self.max_tokens, self.temperature = max_tokens, temperature
        self._device = torch.device(device)
        self._causal, self._tokenizer = load_folder(folder, dtype, template)
        self._names = {} if lora_rank is None else adapter_names(roles)
        model: Any = self._causal
        if lora_rank is not None:
            model = with_adapters(self._causal, list(self._names.values()), lora_rank, seed)
        self.module: torch.nn.Module = model.to(self._device).eval()
        self._own = {role: adapter_parameters(self.module, name) for role, name in self._names.items()}
        self.scorer = Scorer(self._causal)
        #: Spells conversations.
        self.chat = ChatSpeller(self._tokenizer, folder, template_options)
        self._reader = Reader(parser, self._tokenizer)
        self._ends = self._find_ends(folder)
        pad, budget = self._tokenizer.pad_token_id or 0, int(cache_gigabytes * 1e9)
        self._continuation = Continuation(self._causal, self.scorer, pad, temperature, budget)

    # Learning (TokenModel)

    @property
    def packs(self) -> bool:
        """Whether ``logits_at`` takes trees of sequences; else one sequence a row, padded behind."""
        return self.scorer.packs

    def parameters_of(self, role: str) -> list[torch.nn.Parameter]:
        return list(self._own[role].values() if self._own else self.module.parameters())

    def state_of(self, role: str) -> dict[str, Tensor]:
        whole: Mapping[str, Tensor] = self._own[role] if self._own else self._causal.state_dict()
        return {name: value.detach().clone() for name, value in whole.items()}

    def load_state_of(self, role: str, state: Mapping[str, Tensor]) -> None:
        load_parameters(self._own[role] if self._own else self._causal.state_dict(), state, f"role '{role}'")

    def logits_at(self, role: str, token: Tensor, position: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        self._select(role)
        given = (each.to(self._device) for each in (token, position, mask, at))
        return self.scorer.logits(*given).float().cpu()

    def _select(self, role: str) -> None:
        if self._own:
            self.module.set_adapter(self._names[role])  # type: ignore[operator]  # of peft's models
            # Selecting an adapter freezes the others; each role's own optimiser decides what is learned.
            for parameters in self._own.values():
                for parameter in parameters.values():
                    parameter.requires_grad_(True)

    def forget(self) -> None:
        """Nothing is kept outside transcripts, which do not outlive the weights that wrote them."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self._causal.get_input_embeddings().weight.dtype
        return dtype

    @property
    def adapters(self) -> bool:
        """Whether roles have adapters of their own."""
        return bool(self._own)

    def folder_of(self, folder: Path, role: str) -> Path:
        """Where ``save`` puts what the role speaks by."""
        return folder / quote(role, safe="").replace(".", "%2E") if self._own else folder

    def save(self, folder: Path) -> None:
        """Write the weights; with adapters each role's to a folder of its own (``folder_of``). Raises ``UserError``."""
        try:
            if not self._own:
                self._causal.save_pretrained(folder)
            for role, adapter in self._names.items():
                path = self.folder_of(folder, role)
                config: Any = self.module.peft_config
                config[adapter].save_pretrained(path)
                state = {name: value.contiguous() for name, value in self.state_of(role).items()}
                safetensors.torch.save_file(state, path / "adapter_model.safetensors", metadata={"format": "pt"})
        except OSError as error:
            raise UserError(f"weights cannot be written to {folder}: {error.strerror or error}") from None

    # Speaking

    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        texts: dict[int, str] = {}
        by_role: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            self.hear(request)
            by_role.setdefault(request.turn.agent if self._own else "", []).append(number)
        for role, numbers in by_role.items():
            asked = [requests[n] for n in numbers]
            transcripts, keys = [each.transcript for each in asked], [each.key for each in asked]
            self.speak(role, transcripts, keys, self.max_tokens, greedy, self._ends)
            for number, transcript in zip(numbers, transcripts, strict=True):
                texts[number] = self._said_in(transcript, requests[number].turn.tools)
        return [texts[number] for number in range(len(requests))]

    def _said_in(self, transcript: Transcript, tools: Sequence[Mapping[str, Any]]) -> str:
        """What the last turn says, its calls in the form that every world reads."""
        start, end = transcript.spans[-1]
        ids = transcript.ids[start:end]
        text = self.text(ids)
        return self._reader.read(text, ids, transcript.ids[:start], tools)

    def text(self, ids: Sequence[int]) -> str:
        """What ids say; of the marks those are left in that belong to thoughts and calls."""
        return self.chat.text(ids)

    def said(self, text: str) -> list[int]:
        """The ids of a turn that somebody else has written, its end mark included, as if it had been sampled."""
        ids, end = self.chat.said(text)
        return [*ids, self._ends[0] if end is None else end]

    def hear(self, request: Request) -> None:
        """Bring a transcript up to date: what is new is spelt as the chat template spells it, nothing is made anew."""
        self.chat.hear(request)

    def _find_ends(self, folder: Path) -> list[int]:
        """Marks that end a turn: the template's own, and those that the model names."""
        found = list(self.chat.ends)
        for named in (self._causal.generation_config.eos_token_id, self._tokenizer.eos_token_id):
            found += named if isinstance(named, list) else [] if named is None else [int(named)]
        if not found:
            raise UserError(f"nothing ends a turn in {folder}: name an eos_token in its tokenizer_config.json")
        return list(dict.fromkeys(found))

    def sample_as(
        self,
        role: str,
        prompts: list[list[int]],
        keys: list[int],
        steps: int,
        greedy: bool = False,
        ends: Sequence[int] = (),
    ) -> list[tuple[list[int], list[float]]]:
        """Tokens and log-probabilities of each row, sampled by counter: neighbours do not matter.

        Args:
            role: whose adapter speaks, where there are any.
            prompts: ids so far, one list a row.
            keys: of each row's random numbers.
            steps: tokens of a row at most.
            greedy: take the most probable token.
            ends: ids that end a row.
        """
        transcripts = [Transcript(list(prompt), [0.0] * len(prompt)) for prompt in prompts]
        self.speak(role, transcripts, keys, steps, greedy, ends)
        said = [transcript.spans[0] for transcript in transcripts]
        return [
            (transcript.ids[start:end], transcript.log_probs[start:end])
            for transcript, (start, end) in zip(transcripts, said, strict=True)
        ]

    def speak(
        self,
        role: str,
        transcripts: Sequence[Transcript],
        keys: Sequence[int],
        steps: int,
        greedy: bool = False,
        ends: Sequence[int] = (),
    ) -> None:
        """Add a sampled turn to each transcript, which keeps what was read of it; arguments as of ``sample_as``."""
        self._select(role)
        self._continuation.speak(transcripts, keys, steps, greedy, ends)
