"""The embedded policy: a small transformer from scratch, decoded in large batches on the CPU.

Rows whose ids are equal are read once and continued many times (the G members of a group ask the same question), the
keys and values of a conversation are kept from turn to turn, and each token costs one pass over all rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from marl.policies.language.base import Request, Transcript
from marl.policies.language.decoding import Decoder
from marl.policies.language.sampling import invert, up_to
from marl.policies.language.tokenizer import CHAT_TEMPLATE, END, PAD, UNKNOWN, ChatTokenizer
from marl.policies.language.transformer import Cache, Transformer, TransformerConfig
from marl.seeding import fold, uniform


class _Said(NamedTuple):
    """One turn as it was sampled, and the keys and values of the row ``[layers, 2, kv_heads, capacity, head]``."""

    ids: list[int]
    log_probs: list[float]
    keys_values: Tensor


class TinyPolicy:
    """Speaks by a ``Transformer``.

    max_tokens: of one turn, the end mark included. temperature: of sampling. context: tokens of a conversation; a turn
    that would exceed it says nothing.
    """

    trainable = True
    packs = True
    pretrained = False

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        config: TransformerConfig,
        generator: torch.Generator,
        max_tokens: int = 24,
        temperature: float = 1.0,
        context: int = 512,
    ):
        self.tokenizer, self.max_tokens, self.temperature, self.context = tokenizer, max_tokens, temperature, context
        self.module = Transformer(config, tokenizer.size, generator)

    # Learning (TokenModel)

    def parameters_of(self, role: str) -> list[torch.nn.Parameter]:
        return list(self.module.parameters())

    def state_of(self, role: str) -> dict[str, Tensor]:
        return dict(self.module.state_dict())

    def load_state_of(self, role: str, state: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(state)

    def logits_at(self, role: str, token: Tensor, position: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        return self.module.logits(self.module(token, position, mask, at))

    def forget(self) -> None:
        """Nothing is cached outside transcripts, which do not outlive the weights that wrote them."""

    # Speaking

    @torch.inference_mode()
    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        for request in requests:
            transcript = request.transcript
            if transcript.ids and transcript.ids[-1] != self.tokenizer.end:  # the turn before was cut short
                transcript.hear([self.tokenizer.end])
            self.tokenizer.hear(request)
        fits: list[Request] = []
        for request in requests:
            if len(request.transcript.ids) + self.max_tokens <= self.context:
                fits.append(request)
            else:
                request.transcript.say([], [])
        if fits:
            self._continue(fits, greedy)
        return [self._last_text(request.transcript) for request in requests]

    def _last_text(self, transcript: Transcript) -> str:
        start, end = transcript.spans[-1]
        return self.tokenizer.text(transcript.ids[start:end])

    def _continue(self, requests: list[Request], greedy: bool) -> None:
        """Sample one turn for each request."""
        first: dict[tuple[int, ...], int] = {}
        index = [first.setdefault(tuple(request.transcript.ids), len(first)) for request in requests]
        sources = {row: request for request, row in zip(reversed(requests), reversed(index), strict=True)}
        hidden, cache = self._read([sources[row].transcript for row in range(len(first))])
        rows = torch.tensor(index)
        if len(first) < len(requests):
            hidden, cache = hidden[rows], Cache(cache.keys_values[:, :, rows], cache.length[rows])
        keys = torch.tensor([request.key for request in requests])
        for row, said in enumerate(self._decode(hidden, cache, keys, greedy)):
            transcript = requests[row].transcript
            transcript.say(said.ids, said.log_probs)
            # The last token was never read: the next turn does.
            transcript.cached = len(transcript.ids) - 1
            transcript.cache = said.keys_values[:, :, :, : transcript.cached]

    def _read(self, transcripts: list[Transcript]) -> tuple[Tensor, Cache]:
        """Hidden states after the last token of each transcript, and a cache with room for one more turn."""
        fresh = [t.ids[t.cached :] for t in transcripts]
        longest = max(map(len, fresh))
        capacity = max(t.cached for t in transcripts) + longest + self.max_tokens
        cache = self.module.empty_cache(len(transcripts), capacity)
        for row, transcript in enumerate(transcripts):
            if transcript.cached:
                cache.keys_values[:, :, row, :, : transcript.cached] = transcript.cache
        cache = Cache(cache.keys_values, torch.tensor([t.cached for t in transcripts]))
        token = torch.tensor([ids + [self.tokenizer.pad] * (longest - len(ids)) for ids in fresh])
        return self.module.extend(token, torch.tensor([len(ids) for ids in fresh]), cache)

    def _decode(self, hidden: Tensor, cache: Cache, keys: Tensor, greedy: bool) -> list[_Said]:
        """Continue every row up to its end mark or the limit; rows that have ended are set aside as they go."""
        said: list[_Said | None] = [None] * len(keys)
        row = torch.arange(len(keys))
        tokens = torch.zeros((len(keys), self.max_tokens), dtype=torch.int64)
        scores = torch.zeros((len(keys), self.max_tokens))
        drawn = uniform(fold(keys.unsqueeze(1), torch.arange(self.max_tokens)))
        ended = torch.zeros(len(keys), dtype=torch.bool)
        decoder = Decoder(self.module, cache, self.max_tokens)
        for step in range(self.max_tokens):
            log_prob = torch.log_softmax(self.module.logits(hidden) / self.temperature, dim=-1)
            token = log_prob.argmax(dim=-1) if greedy else invert(log_prob, drawn[:, step])
            tokens[:, step] = token
            scores[:, step] = log_prob.gather(1, token.unsqueeze(1)).squeeze(1)
            ended = ended | (token == self.tokenizer.end)
            going = int((~ended).sum())
            last = step + 1 == self.max_tokens or going == 0
            # Setting rows aside copies the cache of the others, which pays once a quarter of them has ended.
            if last or going <= 0.75 * len(row):
                gone = row.tolist() if last else row[ended].tolist()
                places = range(len(row)) if last else ended.nonzero().squeeze(1).tolist()
                ids, log_probs = tokens[:, : step + 1].tolist(), scores[:, : step + 1].tolist()
                keys_values = decoder.cache.keys_values
                for number, place in zip(gone, places, strict=True):
                    count = up_to(ids[place], (self.tokenizer.end,))
                    said[number] = _Said(ids[place][:count], log_probs[place][:count], keys_values[:, :, place])
                if last:
                    break
                stay = ~ended
                row, token, tokens, scores = row[stay], token[stay], tokens[stay], scores[stay]
                drawn, ended = drawn[stay], ended[stay]
                decoder.keep(stay)
            hidden = decoder.step(token)
        return [each for each in said if each is not None]

    # Files

    def merged(self) -> dict[str, Tensor]:
        """The weights by name."""
        return {name: value.clone() for name, value in self.module.state_dict().items()}

    def save_pretrained(self, folder: Path) -> None:
        """Write model and tokenizer as a folder that ``transformers`` and the ``hf`` policy load."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.merged()
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        eos = {"bos_token_id": None, "eos_token_id": self.tokenizer.end, "pad_token_id": self.tokenizer.pad}
        config = self.module.hf_config(self.context) | eos
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        (folder / "tokenizer.json").write_text(self.tokenizer.dumps(), encoding="utf-8")
        described = {
            "tokenizer_class": "TokenizersBackend",
            "pad_token": PAD,
            "unk_token": UNKNOWN,
            "eos_token": END,
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": self.context,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2), encoding="utf-8")
