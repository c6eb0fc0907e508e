"""Spaces that gymnasium lacks."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor


class BitWindow(spaces.Box):
    """C binary planes of a ``height`` x ``width`` window, each row of a plane packed in one int16 (bit j = column j).

    Shape (C, height), dtype int16, width at most 15. One agent's 11x11 window takes 22 bytes a plane instead of 121.
    """

    def __init__(self, planes: int, height: int, width: int):
        if not 1 <= width <= 15:
            raise ValueError(f"a BitWindow is 1 to 15 cells wide, not {width}")
        self.planes, self.height, self.width = planes, height, width
        super().__init__(0, (1 << width) - 1, (planes, height), np.int16)

    def unpack(self, rows: Tensor) -> Tensor:
        """int16 ``[*, C, height]`` -> uint8 ``[*, C, height, width]``."""
        if torch.compiler.is_compiling():  # shifts of int16 are not among what ONNX runtimes have
            powers = 1 << torch.arange(self.width, dtype=torch.int32, device=rows.device)
            return (rows.to(torch.int32).unsqueeze(-1) // powers % 2).to(torch.uint8)
        bits = torch.arange(self.width, dtype=torch.int16, device=rows.device)
        return ((rows.unsqueeze(-1) >> bits) & 1).to(torch.uint8)

    def pack(self, planes: Tensor) -> Tensor:
        """0/1 ``[*, C, height, width]`` of any dtype -> int16 ``[*, C, height]``."""
        weights = (1 << torch.arange(self.width, device=planes.device)).to(torch.int32)
        return (planes.to(torch.int32) * weights).sum(dim=-1).to(torch.int16)

    def unpacked(self) -> spaces.Box:
        """The space of the unpacked planes, as the PettingZoo face shows them."""
        return spaces.Box(0, 1, (self.planes, self.height, self.width), np.uint8)

    def __repr__(self) -> str:
        return f"BitWindow({self.planes}, {self.height}, {self.width})"
