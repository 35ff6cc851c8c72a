"""Which variant of a model to take on this machine: a pure function from facts and variants to ranked rows, each with
its reason, rejected ones too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from edged.hardware import fit
from edged.hardware.facts import Facts

#: A variant that needs more than this share of the usable memory fits, but leaves no room for a second model or a
#: longer context: a smaller precision goes first.
ROOMY_SHARE = 0.7
#: More bits than this cost memory and time, and no one can tell the answers apart.
ENOUGH_BITS = 8.5
#: Fewer bits than this harm small models so much that even a tight fit of more bits goes first.
LEAST_GOOD_BITS = 4.0
#: A processor reads all weights for each token, and the memory of an edge box gives some 20 GB a second: with more than
#: this a decode falls below ten tokens a second, and fewer bits are worth more than better ones.
BRISK_WEIGHTS_BYTES = 2_000_000_000

_ENGINE_ORDER = {"llama": 0, "ort": 1, "fake": 2}


class Form(Protocol):
    """What is asked of a variant; `edged.store.entries.Variant` is one."""

    @property
    def engine(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def size(self) -> int | None: ...


F = TypeVar("F", bound=Form)


@dataclass(frozen=True, slots=True)
class Row(Generic[F]):
    """memory_bytes: estimate with `context` tokens of one sequence, None where it cannot be estimated. weights_bytes:
    the part of it that each token reads. context: the usual one, or the model's, or what fits, whichever is least.
    reason: one clause for people."""

    variant: F
    engine: str
    fits: bool
    memory_bytes: int | None
    weights_bytes: int | None
    context: int
    threads: int
    reason: str


def choose(
    facts: Facts,
    variants: Sequence[F],
    *,
    parameters: int | None = None,
    context: int | None = None,
    kv_bytes_per_token: int | None = None,
    budget_bytes: int | None = None,
) -> list[Row[F]]:
    """Best first, then those that do not fit; the first row with `fits` is the choice. budget_bytes: memory for
    models, by default what the machine has (`fit.usable_bytes`). The order of variants does not matter."""
    want = _Want(
        facts=facts,
        parameters=parameters,
        context=min(context or fit.USUAL_CONTEXT, fit.USUAL_CONTEXT),
        kv_bytes_per_token=kv_bytes_per_token or fit.assumed_kv_bytes_per_token(parameters),
        budget=fit.usable_bytes(facts.memory) if budget_bytes is None else budget_bytes,
    )
    return sorted((_row(variant, want) for variant in variants), key=lambda row: _rank(row, want.budget))


def chosen(rows: Sequence[Row[F]]) -> F | None:
    return rows[0].variant if rows and rows[0].fits else None


@dataclass(frozen=True, slots=True)
class _Want:
    facts: Facts
    parameters: int | None
    context: int
    kv_bytes_per_token: int
    budget: int


def _row(variant: F, want: _Want) -> Row[F]:
    def row(fits: bool, memory: int | None, reason: str, context: int = want.context) -> Row[F]:
        return Row(variant, variant.engine, fits, memory, weights, context, want.facts.cpu.threads, reason)

    weights = fit.weights_bytes(variant.size, want.parameters, variant.precision)
    fixed = None if weights is None else weights + fit.OVERHEAD_BYTES
    need = None if fixed is None else fixed + want.context * want.kv_bytes_per_token
    if not want.facts.software.runs(variant.engine):
        return row(False, need, f"the {variant.engine} engine is not installed")
    if fixed is None or need is None:
        return row(True, None, "its size is not known, so it may not fit")
    usable = f"the {fit.readable(want.budget)} that can be used"
    least = min(want.context, fit.LEAST_CONTEXT)
    if (at_least := fixed + least * want.kv_bytes_per_token) > want.budget:
        reason = f"needs {fit.readable(at_least)} with only {least} tokens of context, more than {usable}"
        return row(False, need, reason)
    if need > want.budget:
        context = (want.budget - fixed) // want.kv_bytes_per_token
        return row(True, fixed + context * want.kv_bytes_per_token, f"fits with {context} tokens of context", context)
    if need > ROOMY_SHARE * want.budget:
        return row(True, need, f"fits, and takes most of {usable}")
    if weights is not None and weights > BRISK_WEIGHTS_BYTES:
        return row(True, need, f"fits well in {usable}, and decodes below ten tokens a second on most processors")
    return row(True, need, f"fits well in {usable}")


def _rank(row: Row[F], budget: int) -> tuple[tuple[float, ...], str]:
    """Smaller is better. Among those that have room and are brisk: more bits, up to enough; among the others: fewer.
    Bits are rounded, so that precisions of one class (Q4_K_M, int4) are parted by engine, then by memory."""
    bits = fit.bits_per_weight(row.variant.precision) or 0.0
    memory = row.memory_bytes
    roomy = memory is not None and memory <= ROOMY_SHARE * budget
    brisk = row.weights_bytes is not None and row.weights_bytes <= BRISK_WEIGHTS_BYTES
    order = (
        not row.fits,
        memory is None,
        bits < LEAST_GOOD_BITS,
        not roomy,
        not brisk,
        -round(min(bits, ENOUGH_BITS)) if roomy and brisk else round(bits),
        _ENGINE_ORDER.get(row.engine, len(_ENGINE_ORDER)),
        memory or 0,
    )
    return order, row.variant.precision
