"""How much memory a model needs, estimated, and how much a machine has for models.

    need = weights + KV + overhead

- weights: the files' size where it is known, else parameters × bits of the precision;
- KV: context × bytes per token and sequence, where the catalog knows them, else `assumed_kv_bytes_per_token`;
- overhead: what an engine process takes besides: interpreter, libraries, compute buffers, logits.

The estimate serves to choose before anything is there; what a loaded model really takes is measured.
"""

from __future__ import annotations

import re

from edged.hardware.facts import Memory

KIB, MIB, GIB = 1024, 1024**2, 1024**3

OVERHEAD_BYTES = 300 * MIB
#: Left to the rest of the machine: a tenth of it, and at least this much.
RESERVE_BYTES = 512 * MIB
#: A context shorter than this is of little use; a model that cannot have it does not fit.
LEAST_CONTEXT = 2048
#: What is estimated for where a model would have more: most requests are shorter.
USUAL_CONTEXT = 8192

#: Bits per weight of whole files, embeddings and scales included, as llama.cpp's quantization tables give them.
_BITS = {
    "F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q5_K_S": 5.5, "Q5_1": 6.0,
    "Q5_0": 5.5, "Q4_K_M": 4.9, "Q4_K_S": 4.6, "Q4_1": 5.0, "Q4_0": 4.6, "IQ4_XS": 4.3, "IQ4_NL": 4.5, "MXFP4": 4.3,
    "Q3_K_L": 4.3, "Q3_K_M": 3.9, "Q3_K_S": 3.5, "Q2_K": 3.0, "FP32": 32.0, "FP16": 16.0, "INT8": 8.5, "INT4": 5.0,
}


def bits_per_weight(precision: str) -> float | None:
    """None for a precision of unknown name: its quality and size cannot be told."""
    name = precision.upper().replace("-", "_")
    if (known := _BITS.get(name)) is not None:
        return known
    found = re.fullmatch(r"I?Q([1-8])_\w+|INT(\d+)\w*", name)
    return float(found[1] or found[2]) + 0.5 if found else None


def weights_bytes(size: int | None, parameters: int | None, precision: str) -> int | None:
    """None where neither the size nor parameters and precision are known."""
    if size is not None:
        return size
    bits = bits_per_weight(precision)
    return int(parameters * bits / 8) if parameters is not None and bits is not None else None


def assumed_kv_bytes_per_token(parameters: int | None) -> int:
    """An upper bound for most dense models of this size, at 16 bits: 32 KiB + 120 KiB a billion weights, to 160 KiB."""
    billions = (parameters or 8_000_000_000) / 1e9
    return int(min(160.0, 32 + 120 * billions) * KIB)


def usable_bytes(memory: Memory) -> int:
    """For all models together on a machine that does little else."""
    whole = memory.total if memory.limit is None else min(memory.total, memory.limit)
    return max(0, whole - max(RESERVE_BYTES, whole // 10))


def readable(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
