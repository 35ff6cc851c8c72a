"""Sums of losses in 64 bits, on any device. Of tensors, but without torch itself.

Apple's MPS has no numbers of 64 bits: asking it for some is a TypeError. So sums are taken on the processor, and leave
it only where several processes add theirs up, which on MPS there never are.
"""

from __future__ import annotations

from typing import Any


def total(losses: Any) -> float:
    """losses: a tensor on whatever device."""
    return float(losses.cpu().double().sum())


def over_processes(own: Any, accelerator: Any) -> Any:
    """The sum of every process's `own`, a tensor of 64 bits on the processor; accelerator: of accelerate."""
    if accelerator.num_processes == 1:
        return own
    return accelerator.reduce(own.to(accelerator.device), reduction="sum")
