"""How many tokens a row may hold, for engines that reserve the KV of every row whole. Pure."""

from __future__ import annotations

from edged.errors import InsufficientMemory, LoadFailed
from edged.types import LoadSpec

#: Without a memory bound the KV of all rows together stays below this.
KV_LIMIT_BYTES = 4 << 30
#: Weights and what computing takes, in sizes of the files.
WEIGHTS_OVERHEAD = 1.2
SMALLEST_CONTEXT = 512


def affordable_context(spec: LoadSpec, trained: int, bytes_per_token: int, weights_bytes: int) -> int:
    """What was asked for, else the trained context, as far as memory allows.

    bytes_per_token: KV of one token in each row. Raises LoadFailed where more is asked for than the model was trained
    for, InsufficientMemory where what was asked for, or the least that is of use, does not fit.
    """
    if spec.context is not None and spec.context > trained:
        raise LoadFailed(f"{spec.name} takes a context of {trained} tokens; `context` cannot be {spec.context}")
    wanted = spec.context or trained
    weights = int(weights_bytes * WEIGHTS_OVERHEAD)
    affordable = (spec.memory_bytes - weights if spec.memory_bytes else KV_LIMIT_BYTES) // bytes_per_token
    if affordable < (wanted if spec.context is not None else min(wanted, SMALLEST_CONTEXT)):
        need, allowed = weights + bytes_per_token * wanted, spec.memory_bytes or weights + KV_LIMIT_BYTES
        raise InsufficientMemory(
            f"{spec.name} with a context of {wanted} tokens needs about {need >> 20} MiB and may use "
            f"{allowed >> 20} MiB; lower `context` or `rows`")
    return min(wanted, affordable)
