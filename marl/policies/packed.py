"""A linear layer on packed windows, without unpacking them.

On a CPU most of a small network's time goes to its first layer, because a window has hundreds of inputs, and most of
them are 0. Here the packed rows are cut into chunks of at most 6 bits; a table holds, for every chunk, the sum of the
weights that each of its 64 bit patterns selects; an output is the sum of the table's rows at the chunks that are not
empty.
On 11x11 windows of three planes this is several times as fast as unpacking and multiplying.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from marl.compiled import njit
from marl.envs.spaces import BitWindow

#: Bits of a chunk. Its 64 sums of 64 floats take 16 KB, so that the table of a whole window stays in the caches.
CHUNK = 6


class PackedLayout:
    """Where the bits of some windows are, their packed rows laid side by side: ``[M, rows]`` int16.

    bits: how many inputs they are unpacked. Their order is that of ``unpack``.
    """

    def __init__(self, windows: Sequence[BitWindow]):
        self.windows = tuple(windows)
        self.sizes = [window.planes * window.height for window in windows]
        self.rows = sum(self.sizes)
        chunks: list[tuple[int, int, int, int]] = []
        bit = row = 0
        for window, size in zip(windows, self.sizes, strict=True):
            for _ in range(size):
                for shift in range(0, window.width, CHUNK):
                    chunks.append((row, shift, min(CHUNK, window.width - shift), bit + shift))
                bit, row = bit + window.width, row + 1
        self.bits = bit
        self.chunk_row = np.array([chunk[0] for chunk in chunks], np.int64)
        self.chunk_shift = np.array([chunk[1] for chunk in chunks], np.int16)
        self.chunk_mask = np.array([(1 << chunk[2]) - 1 for chunk in chunks], np.int16)
        # The input that bit j of chunk c is; a chunk of fewer bits points at an input of weight 0 behind the last one.
        inputs = [[first + j if j < length else bit for j in range(CHUNK)] for _, _, length, first in chunks]
        self.chunk_inputs = torch.tensor(inputs, dtype=torch.int64).reshape(-1, CHUNK)
        self.patterns = (torch.arange(1 << CHUNK).unsqueeze(-1) >> torch.arange(CHUNK) & 1).to(torch.float32)

    def unpack(self, rows: Tensor) -> Tensor:
        """int16 ``[M, rows]`` -> float32 ``[M, bits]``."""
        parts = zip(self.windows, torch.split(rows, self.sizes, dim=-1), strict=True)
        flat = [window.unpack(part.view(-1, window.planes, window.height)).flatten(1) for window, part in parts]
        return torch.cat(flat, dim=-1).to(torch.float32)

    def table(self, weight: Tensor) -> Tensor:
        """Weights ``[bits, F]`` -> the sums that the bit patterns select ``[chunks * 64, F]``."""
        padded = torch.cat((weight, weight.new_zeros(1, weight.shape[1])))
        return torch.matmul(self.patterns, padded[self.chunk_inputs]).flatten(0, 1)

    def table_gradient(self, gradient: Tensor) -> Tensor:
        """The transpose of ``table``: ``[chunks * 64, F]`` -> ``[bits, F]``."""
        selected = torch.matmul(self.patterns.t(), gradient.view(-1, 1 << CHUNK, gradient.shape[1]))
        weight = gradient.new_zeros(self.bits + 1, gradient.shape[1])
        weight[self.chunk_inputs.flatten()] = selected.flatten(0, 1)  # chunks share no input but the one left out here:
        return weight[:-1]


@njit(nogil=True)
def _filled_chunks(
    rows: NDArray[np.int16],
    chunk_row: NDArray[np.int64],
    chunk_shift: NDArray[np.int16],
    chunk_mask: NDArray[np.int16],
    index: NDArray[np.int32],
    offset: NDArray[np.int32],
) -> int:
    """Table rows of the chunks that are not empty, one input row after the other; returns how many there are.

    index: int32 ``[M * chunks]``, filled from its beginning. offset: int32 ``[M + 1]``, where each row's entries begin.
    """
    filled = 0
    offset[0] = 0
    for m in range(rows.shape[0]):
        for c in range(chunk_row.shape[0]):
            pattern = (rows[m, chunk_row[c]] >> chunk_shift[c]) & chunk_mask[c]
            index[filled] = (c << CHUNK) + pattern
            filled += pattern != 0  # an empty chunk is overwritten: a branch would be mispredicted
        offset[m + 1] = filled
    return filled


@njit(nogil=True)
def _scatter_add(
    index: NDArray[np.int32], offset: NDArray[np.int32], gradient: NDArray[np.float32], table: NDArray[np.float32]
) -> None:
    """Add row m of ``gradient`` to all rows of ``table`` that row m looked up."""
    for m in range(gradient.shape[0]):
        source = gradient[m]
        for k in range(offset[m], offset[m + 1]):
            target = table[index[k]]
            for f in range(source.shape[0]):
                target[f] += source[f]


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, layout: PackedLayout) -> Tensor:
        count = rows.shape[0]
        index = torch.empty(count * layout.chunk_row.size, dtype=torch.int32)
        offset = torch.empty(count + 1, dtype=torch.int32)
        filled = _filled_chunks(
            rows.numpy(), layout.chunk_row, layout.chunk_shift, layout.chunk_mask, index.numpy(), offset.numpy()
        )
        index = index[:filled]
        ctx.save_for_backward(index, offset)
        ctx.layout = layout
        return F.embedding_bag(index, layout.table(weight.t()), offset, mode="sum", include_last_offset=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        index, offset = ctx.saved_tensors
        layout: PackedLayout = ctx.layout
        table = gradient.new_zeros(layout.chunk_row.size << CHUNK, gradient.shape[1])
        _scatter_add(index.numpy(), offset.numpy(), gradient.contiguous().numpy(), table.numpy())
        return None, layout.table_gradient(table).t(), None


def packed_linear(rows: Tensor, weight: Tensor, layout: PackedLayout) -> Tensor:
    """``unpack(rows) @ weight.T``: rows int16 ``[M, rows]``, weight float32 ``[F, bits]`` -> float32 ``[M, F]``.

    On other devices, and while a graph is being exported, it is computed in just that way.
    """
    if rows.device.type != "cpu" or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        return F.linear(layout.unpack(rows), weight)
    out: Tensor = _PackedLinear.apply(rows.contiguous(), weight, layout)  # type: ignore[no-untyped-call]  # torch types it not
    return out
