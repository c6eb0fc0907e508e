"""Continues conversations by a causal language model of ``transformers``, with what it has read kept from turn to turn.

Rows whose ids are equal are read once and continued many times (the members of a group ask the same question). Of a
conversation that goes on only the new tokens are read, as far as its keys and values were kept. Masks are the model's
own: the rows of a batch stand flush right, so that a row that has fewer new tokens than another reads some again.
"""

from __future__ import annotations

import importlib
import inspect
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from marl.policies.language.base import Transcript
from marl.policies.language.sampling import draw, up_to
from marl.policies.language.scoring import Scorer
from marl.seeding import fold


class KeysValues:
    """Of one conversation, keys and values ``[heads, tokens, size]`` of each layer; None for layers that have none."""

    def __init__(self, layers: list[tuple[Tensor, Tensor] | None]):
        self.layers = layers
        self.bytes = sum(part.nbytes for layer in layers if layer is not None for part in layer)


class Continuation:
    """Samples turns.

    Args:
        model: of ``transformers``, in evaluation mode.
        scorer: of the same model; where it takes trees of sequences, keys and values can be kept.
        pad: an id that fills up short rows.
        temperature: of sampling.
        budget: bytes of keys and values that are kept between turns at most; what is beyond is read again.
    """

    def __init__(self, model: Any, scorer: Scorer, pad: int, temperature: float, budget: int):
        self._model, self._scorer, self._pad = model, scorer, pad
        self._temperature, self._budget = temperature, budget
        # State-space models keep what they remember under another name.
        accepted = inspect.signature(model.forward).parameters
        self._memory = "cache_params" if "cache_params" in accepted else "past_key_values"
        self._kept: weakref.WeakSet[KeysValues] = weakref.WeakSet()

    @property
    def _attends(self) -> bool:
        """Whether keys and values are all that the model remembers, so that rows can be chosen and kept."""
        return self._scorer.packs and self._memory == "past_key_values"

    @property
    def keeps(self) -> bool:
        """Whether keys and values are kept between turns."""
        return self._attends and self._budget > 0

    @property
    def kept_bytes(self) -> int:
        """Of all keys and values that are kept at present."""
        return sum(each.bytes for each in self._kept)

    @torch.no_grad()
    def speak(
        self, transcripts: Sequence[Transcript], keys: Sequence[int], steps: int, greedy: bool, ends: Sequence[int]
    ) -> None:
        """Add a turn to each transcript, sampled by counter: neighbours do not matter.

        Args:
            transcripts: with at least one token each.
            keys: of each one's random numbers.
            steps: tokens of a turn at most.
            greedy: take the most probable token.
            ends: ids that end a turn.
        """
        first: dict[tuple[int, ...], int] = {}
        index = list(range(len(transcripts)))
        if self._attends:
            index = [first.setdefault(tuple(transcript.ids), len(first)) for transcript in transcripts]
        # Of equal ones, that which has most to go on with.
        sources: dict[int, Transcript] = {}
        for row, transcript in zip(index, transcripts, strict=True):
            if row not in sources or transcript.cached > sources[row].cached:
                sources[row] = transcript
        logits, rows = self._read([sources[row] for row in range(len(sources))])
        if len(sources) < len(transcripts):
            chosen = torch.tensor(index, device=rows.seen.device)
            logits = logits[chosen.to(logits.device)]
            rows.select(chosen)
        self._decode(rows, logits, transcripts, keys, steps, greedy, ends)

    def _read(self, transcripts: Sequence[Transcript]) -> tuple[Tensor, _Rows]:
        """Logits after the last token of each transcript, and what the model remembers of them."""
        device = self._model.get_input_embeddings().weight.device
        kept = [transcript.cached if self.keeps else 0 for transcript in transcripts]
        fresh = max(len(transcript.ids) - cached for transcript, cached in zip(transcripts, kept, strict=True))
        kept = [max(len(transcript.ids) - fresh, 0) for transcript in transcripts]
        parts = [transcript.ids[-fresh:] for transcript in transcripts]
        token = torch.tensor([[self._pad] * (fresh - len(part)) + part for part in parts], device=device)
        place = torch.arange(max(kept) + fresh, device=device)
        lengths = torch.tensor([len(transcript.ids) for transcript in transcripts], device=device)
        position = place - (len(place) - lengths).unsqueeze(1)
        seen = (position >= 0).to(torch.int64)
        cache = self._cache_of(transcripts, kept) if self.keeps else None
        rows = _Rows(seen, position.clamp(min=0)[:, -fresh:], cache)
        return self._forward(rows, token), rows

    def _cache_of(self, transcripts: Sequence[Transcript], kept: Sequence[int]) -> Any:
        """The kept keys and values of all rows side by side, flush right; layers with a window keep everything."""
        cache = importlib.import_module("transformers").DynamicCache()
        longest = max(kept)
        if not longest:
            return cache
        one = next(transcript.cache for transcript, count in zip(transcripts, kept, strict=True) if count)
        for number, layer in enumerate(one.layers):
            if layer is None:
                continue
            both = []
            for part, example in enumerate(layer):
                heads, _, size = example.shape
                whole = example.new_zeros((len(transcripts), heads, longest, size))
                for row, (transcript, count) in enumerate(zip(transcripts, kept, strict=True)):
                    if count:
                        whole[row, :, longest - count :] = transcript.cache.layers[number][part][:, :count]
                both.append(whole)
            cache.update(*both, number)
        return cache

    def _forward(self, rows: _Rows, token: Tensor) -> Tensor:
        """Logits after the last token of each row, float32 ``[B, vocabulary]`` on the CPU; the memory goes on."""
        last = torch.arange(1, len(token) + 1, device=token.device) * token.shape[1] - 1
        with self._scorer.head_at(last) as shaped:
            out = self._model(
                input_ids=token,
                position_ids=rows.position,
                attention_mask=rows.seen,
                use_cache=True,
                **{self._memory: rows.memory},
            )
            rows.memory = out[self._memory]
            logits: Tensor = shaped(out.logits)
            return logits.float().cpu()

    def _decode(
        self,
        rows: _Rows,
        logits: Tensor,
        transcripts: Sequence[Transcript],
        keys: Sequence[int],
        steps: int,
        greedy: bool,
        ends: Sequence[int],
    ) -> None:
        """Continue every row up to its end mark or the limit; rows that have ended are set aside as they go."""
        going, row_keys, marks = list(transcripts), torch.tensor(list(keys)), torch.tensor(list(ends))
        tokens, scores = torch.zeros((len(going), 0), dtype=torch.int64), torch.zeros((len(going), 0))
        ended = torch.zeros(len(going), dtype=torch.bool)
        for step in range(steps):
            log_prob = torch.log_softmax(logits / self._temperature, dim=-1)
            chosen = log_prob.argmax(dim=-1) if greedy else draw(log_prob, fold(row_keys, step))
            tokens = torch.cat([tokens, chosen.unsqueeze(1)], dim=1)
            scores = torch.cat([scores, log_prob.gather(1, chosen.unsqueeze(1))], dim=1)
            ended = ended | torch.isin(chosen, marks)
            stay = ~ended
            last = step + 1 == steps or not bool(stay.any())
            # Setting rows aside copies the memory of the others, which pays once a quarter of them has ended.
            if last or (self._attends and int(stay.sum()) <= 0.75 * len(stay)):
                for place in range(len(going)) if last else ended.nonzero().squeeze(1).tolist():
                    count = up_to(tokens[place].tolist(), ends)
                    self._say(rows, place, going[place], tokens[place, :count], scores[place, :count])
                if last:
                    return
                left = stay.nonzero().squeeze(1)
                rows.select(left.to(rows.seen.device))
                going = [going[place] for place in left.tolist()]
                row_keys, tokens, scores, chosen, ended = (
                    each[left] for each in (row_keys, tokens, scores, chosen, ended)
                )
            rows.grow()
            logits = self._forward(rows, chosen.unsqueeze(1).to(rows.seen.device))

    def _say(self, rows: _Rows, place: int, transcript: Transcript, ids: Tensor, scores: Tensor) -> None:
        before = len(transcript.ids)
        transcript.say(ids.tolist(), scores.tolist())
        transcript.cache, transcript.cached = None, 0
        if self.keeps:
            # The last token was never read: the next turn does.
            kept = rows.keys_values(place, before + len(ids) - 1)
            if self.kept_bytes + kept.bytes <= self._budget:
                self._kept.add(kept)
                transcript.cache, transcript.cached = kept, before + len(ids) - 1


class _Rows:
    """A batch on its way. seen: int64 ``[B, places]``, 0 for padding, which stands in front. position: int64 of the
    tokens that are read next. memory: what the model has read."""

    def __init__(self, seen: Tensor, position: Tensor, memory: Any):
        self.seen, self.position, self.memory = seen, position, memory

    def grow(self) -> None:
        """Make room for one more token in each row."""
        self.seen = torch.cat([self.seen, torch.ones_like(self.seen[:, :1])], dim=1)
        self.position = self.position[:, -1:] + 1

    def select(self, rows: Tensor) -> None:
        """Go on with these rows (int64), in this order."""
        self.seen, self.position = self.seen[rows], self.position[rows]
        self.memory.batch_select_indices(rows)

    def keys_values(self, row: int, tokens: int) -> KeysValues:
        """Of the first tokens of a row."""
        begin = int((self.seen[row] == 0).sum())
        end = begin + tokens
        layers = [
            (layer.keys[row, :, begin:end].clone(), layer.values[row, :, begin:end].clone())
            if layer.is_initialized
            else None
            for layer in self.memory.layers
        ]
        return KeysValues(layers)
