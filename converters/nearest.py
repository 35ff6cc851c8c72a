"""Weights in few bits: for each block of a tensor the grid that comes nearest to it.

Plain rounding takes the grid that just holds the largest weight of a block. One that is a little finer and clips that
weight is nearer to the block as a whole, which the search below finds, as llama.cpp's k-quants do; there, larger
weights count for more, here all count alike: on models under 1B that left less loss (bench/LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Steps of the grid that are tried, in parts of the one that just holds the block; fewer for 8 bits, where it matters
#: less. Some models came from such a grid, which 1 finds again.
_PARTS = {
    4: (1.0, 0.97, 0.94, 0.91, 0.88, 0.84, 0.8, 0.75, 0.7, 1.03),
    8: (1.0, 0.98, 0.96, 0.94),
}
#: No scale may vanish in 16 bits.
_LEAST_SCALE = 2.0 ** -24
#: Blocks looked at in one go: what is between is some hundred megabytes.
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Grid:
    """Of weights [rows, blocks, block]: weight ≈ (value - zero) * scale. values: uint8, one in each byte; scales:
    float16 [rows, blocks]; zeros: uint8 [rows, blocks], None where all are the middle of the range, which is what
    MatMulNBits takes them for."""

    bits: int
    values: Tensor
    scales: Tensor
    zeros: Tensor | None


def nearest(weights: Tensor, bits: int) -> Grid:
    """weights: float32 [rows, blocks, block]. With zero points where they bring the tensor nearer, else without."""
    rows, blocks, block = weights.shape
    parts = [_search(chunk, bits) for chunk in weights.reshape(-1, block).split(_CHUNK)]
    even, uneven = ([torch.cat(column) for column in zip(*side, strict=True)] for side in zip(*parts, strict=True))
    error, values, scales, zeros = even if even[0].sum() <= uneven[0].sum() else uneven
    return Grid(
        bits, values.reshape(rows, blocks, block), scales.reshape(rows, blocks),
        None if error is even[0] else zeros.reshape(rows, blocks))


_Found = tuple[Tensor, Tensor, Tensor, Tensor]


def _search(weights: Tensor, bits: int) -> tuple[_Found, _Found]:
    """weights [blocks, block]. Errors, values, scales and zeros of the best grid with its zero in the middle, and of
    the best with its zero anywhere."""
    middle, top = 2.0 ** (bits - 1), 2.0 ** bits - 1
    largest = weights.gather(1, weights.abs().argmax(1, keepdim=True))
    centre = torch.full_like(largest, middle)
    low = weights.amin(1, keepdim=True).clamp(max=0)
    step = (weights.amax(1, keepdim=True).clamp(min=0) - low) / top
    nearest_zero = torch.round(-low / _whole(step))
    even = _best(weights, [
        *((part * largest / -middle, centre) for part in _PARTS[bits]),
        (largest.abs() / (middle - 1), centre),
    ], top)
    uneven = _best(weights, [
        (part * step, (nearest_zero + shift).clamp(0, top)) for part in _PARTS[bits] for shift in (0, -1, 1)
    ], top)
    return even, uneven


def _best(weights: Tensor, grids: list[tuple[Tensor, Tensor]], top: float) -> _Found:
    best: _Found | None = None
    for wanted, zero in grids:
        scale = _whole(wanted).half().float()
        values = torch.round(weights / scale).add_(zero).clamp_(0, top)
        error = ((values - zero).mul_(scale).sub_(weights)).square_().sum(1, keepdim=True)
        if best is None:
            best = (error, values, scale, zero.expand_as(scale))
        else:
            nearer = error < best[0]
            best = (
                torch.where(nearer, error, best[0]), torch.where(nearer, values, best[1]),
                torch.where(nearer, scale, best[2]), torch.where(nearer, zero, best[3]))
    assert best is not None
    return best[0], best[1].to(torch.uint8), best[2].half(), best[3].to(torch.uint8)


def _whole(scale: Tensor) -> Tensor:
    """No zeros, which only a block of zeros has; the sign stays."""
    return torch.where(scale.abs() < _LEAST_SCALE, torch.full_like(scale, _LEAST_SCALE), scale)
