"""Random numbers by counter: a number is a function of its key, never of what was drawn before.

Keys are chained 64-bit hashes (the finaliser of SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), so CPU, GPU, numba kernels and plain Python see the same integers, in any order and for any
batch size. Convention: ``fold(fold(seed, stream), counter)``.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from marl.compiled import njit

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MUL1 = 0xBF58476D1CE4E5B9
_MUL2 = 0x94D049BB133111EB


class Stream(IntEnum):
    """What a random number is for. Worlds number their own streams from ``WORLD`` on."""

    POLICY = 1
    SHUFFLE = 2
    INIT = 3
    EPISODE = 4
    TRAIN = 5
    EVALUATE = 6
    MESSAGES = 7
    SAFETY = 8
    PERTURBATION = 9
    WORLD = 1000


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= (1 << 63) else x


def fold_int(key: int, data: int) -> int:
    """``fold`` for plain Python integers; the oracle of the other two forms. Returns a signed 64-bit integer."""
    z = ((key & _MASK) + (((data & _MASK) + 1) * _GAMMA)) & _MASK
    z = ((z ^ (z >> 30)) * _MUL1) & _MASK
    z = ((z ^ (z >> 27)) * _MUL2) & _MASK
    return _signed(z ^ (z >> 31))


_T_GAMMA, _T_MUL1, _T_MUL2 = _signed(_GAMMA), _signed(_MUL1), _signed(_MUL2)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def fold(key: Tensor, data: Tensor | int) -> Tensor:
    """Mix ``data`` into ``key``; int64 tensors of any shapes that broadcast."""
    # The product of two plain integers has to wrap as that of tensors does.
    step = _signed(((data & _MASK) + 1) * _GAMMA & _MASK) if isinstance(data, int) else (data + 1) * _T_GAMMA
    z = key + step
    z = (z ^ _shift(z, 30)) * _T_MUL1
    z = (z ^ _shift(z, 27)) * _T_MUL2
    return z ^ _shift(z, 31)


_N30, _N27, _N31 = np.uint64(30), np.uint64(27), np.uint64(31)
_N_GAMMA, _N_MUL1, _N_MUL2 = np.uint64(_GAMMA), np.uint64(_MUL1), np.uint64(_MUL2)


@njit(inline="always")
def fold_numba(key: np.int64, data: np.int64) -> np.int64:
    """``fold`` inside kernels; both arguments int64."""
    z = np.uint64(key) + np.uint64(data + np.int64(1)) * _N_GAMMA
    z = (z ^ (z >> _N30)) * _N_MUL1
    z = (z ^ (z >> _N27)) * _N_MUL2
    return np.int64(z ^ (z >> _N31))


@njit(inline="always")
def below_numba(key: np.int64, n: np.int64) -> np.int64:
    """An integer in [0, n) from the key's upper 32 bits (n < 2**31)."""
    return np.int64(((np.uint64(key) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


def below(key: Tensor, n: Tensor | int) -> Tensor:
    """Integers in [0, n) from the upper 32 bits of the keys, int64 (n < 2**31); equal to ``below_numba``."""
    return _shift(_shift(key, 32) * n, 32)


def uniform(key: Tensor) -> Tensor:
    """Uniform float32 in [0, 1) from the upper 24 bits of the keys."""
    return _shift(key, 40).to(torch.float32) * (1.0 / (1 << 24))


def standard_normal(uniforms: Tensor) -> Tensor:
    """Normal numbers from ``uniform`` ones, at the middle of their grid cells: at most 5.3 deviations."""
    return math.sqrt(2.0) * torch.erfinv(2.0 * uniforms - 1.0 + 2.0**-24)


def seeds_of(seed: int | Tensor, copies: int, device: torch.device | str = "cpu") -> Tensor:
    """The seeds of B copies: int s gives s, s + 1, ...; a tensor ``[B]`` is taken as it is."""
    if isinstance(seed, int):
        return torch.arange(copies, dtype=torch.int64, device=device) + seed
    if seed.shape != (copies,):
        raise ValueError(f"seed has shape {tuple(seed.shape)}, expected ({copies},)")
    return seed.to(device=device, dtype=torch.int64)


def generator(*path: int) -> torch.Generator:
    """A fresh CPU generator keyed by a path of integers, for shuffles and initial weights."""
    key = 0
    for part in path:
        key = fold_int(key, part)
    return torch.Generator().manual_seed(key & ((1 << 63) - 1))
