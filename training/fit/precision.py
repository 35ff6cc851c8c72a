"""In what precision to compute: asked for, or what the device does well. Weights that are trained stay in 32 bits.

On a processor that is 32 bits. Where it multiplies bf16 (AVX512-BF16), matrix products take half the time and a LoRA
step of SmolLM2-135M three quarters of it, but what a new adapter adds is lost in rounding at first: eight steps of the
same data brought the loss from 1.49 to 0.72 in fp32, to 0.83 in bf16. Nothing is measured at the start: a training that
was killed must go on in the precision that it began with.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from edged.errors import DeviceUnavailable

Said = Literal["auto", "fp32", "bf16", "fp16"]
Precision = Literal["fp32", "bf16", "fp16"]

#: Instructions that multiply bf16. Without them torch converts each number, and a product was seen to take 87 times as
#: long as in fp32.
_BF16_PRODUCTS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def choose(said: Said, device: str, *, features: Collection[str], gpu_bf16: bool) -> Precision:
    """device: cuda, mps or cpu. features: of the processor, as `edged.hardware.facts.Cpu` names them. gpu_bf16: the GPU
    has arithmetic of bf16. Raises DeviceUnavailable for what the device cannot compute, or not in useful time."""
    if device == "cpu":
        if said == "fp16":
            raise DeviceUnavailable("precision = \"fp16\" needs a GPU; say precision = \"auto\"")
        if said == "bf16" and not _BF16_PRODUCTS & set(features):
            raise DeviceUnavailable("precision = \"bf16\" is many times slower than fp32 on this processor, which has "
                                    "no such instructions; say precision = \"auto\"")
        return said if said != "auto" else "fp32"
    if device != "cuda":
        if said in ("auto", "fp32"):
            return "fp32"
        raise DeviceUnavailable(f"precision = \"{said}\" is not proved on {device}; say precision = \"auto\"")
    if said == "bf16" and not gpu_bf16:
        raise DeviceUnavailable("this GPU has no bf16 arithmetic; say precision = \"fp16\" or \"auto\"")
    return said if said != "auto" else "bf16" if gpu_bf16 else "fp16"


def precision(said: Said) -> Precision:
    """Of this machine. Raises DeviceUnavailable."""
    import torch

    from edged.hardware.probe import probe

    where = device()
    return choose(said, where, features=probe().cpu.features,
                  gpu_bf16=where == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))


def device() -> Literal["cuda", "mps", "cpu"]:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
