"""Traces: what was said and learned, one JSON object per row and line.

Keys: ``episode``, ``agent`` (role), ``caller``, ``level``, ``group``, ``messages`` (OpenAI chat dictionaries), ``ids``,
``log_probs`` (of own tokens, when sampled), ``loss_mask`` (1 for own tokens), ``advantage`` (of each token, 0 for those
of others), ``reward`` (of the row), ``success`` (of the episode). Other trainers read them without this platform.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from marl.errors import UserError
from marl.files import read_text
from marl.rollout.language.token_batch import TokenBatch

#: Of a file of traces.
MAX_BYTES = 1 << 30


def trace_rows(batch: TokenBatch, reward: Tensor, advantage: Sequence[Tensor]) -> Iterator[dict[str, Any]]:
    """The rows of a batch as JSON data.

    Args:
        reward: float ``[R]``.
        advantage: of each row's own tokens.
    """
    for number, row in enumerate(batch.rows):
        length = len(row.transcript.ids)
        mask, spread = [0] * length, [0.0] * length
        own = iter(advantage[number].tolist())
        for start, end in row.transcript.spans:
            for place in range(start, end):
                mask[place], spread[place] = 1, next(own)
        yield {
            "episode": int(batch.episode[number]),
            "agent": row.agent,
            "caller": row.caller,
            "level": row.level,
            "group": int(batch.group[number]),
            "messages": [{"role": m["role"], "content": m["content"]} for m in row.messages],
            "ids": row.transcript.ids,
            "log_probs": row.transcript.log_probs,
            "loss_mask": mask,
            "advantage": spread,
            "reward": float(reward[number]),
            "success": bool(batch.success[number]),
        }


def write_traces(path: Path, batch: TokenBatch, reward: Tensor, advantage: Sequence[Tensor]) -> None:
    """Write a batch as JSON lines; the file appears whole or not at all. Raises ``UserError``."""
    aside = path.with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in trace_rows(batch, reward, advantage))
        aside.replace(path)
    except OSError as error:
        raise UserError(f"traces cannot be written to {path}: {error.strerror or error}") from None


def read_traces(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of traces. Raises ``UserError``."""
    lines = read_text(path, MAX_BYTES).split("\n")
    try:
        rows = [json.loads(line) for line in lines if line]
    except (ValueError, RecursionError):
        raise UserError(f"{path} holds no traces: not every line is JSON") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds no traces: not every line is an object")
    return rows
