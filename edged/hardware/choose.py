"""Which variant of a model to take on this machine, and where to run it: a pure function from facts and variants to
ranked rows, each with its reason, rejected ones too.

Where a row was measured here, the figure ranks it and its reason is the figure. Else it is a guess: memory first, then
bits, then the device that reads weights fastest. What is measured goes before what is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from edged.hardware import fit
from edged.hardware.facts import Facts
from edged.hardware.measured import NOTHING, Record, Speed
from edged.hardware.place import Place, places
from edged.hardware.providers import CPU
from edged.types import EngineName

#: A variant that needs more than this share of the usable memory fits, but leaves no room for a second model or a
#: longer context: a smaller precision goes first.
ROOMY_SHARE = 0.7
#: More bits than this cost memory and time, and no one can tell the answers apart.
ENOUGH_BITS = 8.5
#: Fewer bits than this harm small models so much that even a tight fit of more bits goes first.
LEAST_GOOD_BITS = 4.0
#: A device reads all weights for each token. Where it cannot do that so often in a second, fewer bits are worth more
#: than better ones.
BRISK_TOKENS_PER_S = 10
#: Of a graphics card's memory, for one model: the rest is the driver's, the screen's and the compute buffers'.
CARD_SHARE = 0.9

_ENGINE_ORDER = {"llama": 0, "ort": 1, "genai": 2, "fake": 3}


class Form(Protocol):
    """What is asked of a variant; `edged.store.entries.Variant` and `Manifest` are."""

    @property
    def engine(self) -> EngineName: ...
    @property
    def precision(self) -> str: ...
    @property
    def size(self) -> int | None: ...
    @property
    def target(self) -> str: ...


F = TypeVar("F", bound=Form)


@dataclass(frozen=True, slots=True)
class Row(Generic[F]):
    """place: where it would run. fits: it can, and has memory. memory_bytes: estimate with `context` tokens of one
    sequence, None where it cannot be estimated. weights_bytes: the part of it that each token reads. context: the usual
    one, or the model's, or what fits, whichever is least. reason: one clause for people."""

    variant: F
    place: Place
    fits: bool
    memory_bytes: int | None
    weights_bytes: int | None
    context: int
    reason: str
    speed: Speed | None = None

    @property
    def engine(self) -> EngineName:
        return self.place.engine

    @property
    def provider(self) -> str:
        return self.place.provider


def choose(
    facts: Facts,
    variants: Sequence[F],
    *,
    parameters: int | None = None,
    context: int | None = None,
    kv_bytes_per_token: int | None = None,
    budget_bytes: int | None = None,
    require: str | None = None,
    environment: str | None = None,
    known: Callable[[F, str], Record] = lambda variant, key: NOTHING,
    barred: Callable[[F], str | None] = lambda variant: None,
) -> list[Row[F]]:
    """Best first, then those that do not fit; the first row with `fits` is the choice. A variant has a row for each
    provider that comes into question. The order of variants does not matter.

    budget_bytes: memory for models, by default what the machine has (`fit.usable_bytes`). require: the only provider
    that may serve; environment: the engine environment that is to run it. known: what was measured here of a variant,
    by key of a place. barred: a reason of the caller's, why a variant may not be taken at all."""
    want = _Want(
        parameters=parameters,
        context=min(context or fit.USUAL_CONTEXT, fit.USUAL_CONTEXT),
        kv_bytes_per_token=kv_bytes_per_token or fit.assumed_kv_bytes_per_token(parameters),
        budget=fit.usable_bytes(facts.memory) if budget_bytes is None else budget_bytes,
    )
    rows = [
        _row(variant, place, want, known(variant, place.key), barred(variant))
        for variant in variants for place in places(
            facts, variant.engine, variant.target, require=require, environment=environment)
    ]
    return sorted(rows, key=lambda row: _rank(row, want))


def chosen(rows: Sequence[Row[F]]) -> F | None:
    return rows[0].variant if rows and rows[0].fits else None


def best_of_each(rows: Sequence[Row[F]]) -> list[Row[F]]:
    """The first row of each variant, in the order of `rows`."""
    seen: list[F] = []
    best = []
    for row in rows:
        if not any(row.variant is one for one in seen):
            seen.append(row.variant)
            best.append(row)
    return best


@dataclass(frozen=True, slots=True)
class _Want:
    parameters: int | None
    context: int
    kv_bytes_per_token: int
    budget: int

    def budget_on(self, place: Place) -> int:
        """A graphics card has memory of its own, which the setting of the machine's does not bound."""
        own = place.own_bytes
        return self.budget if own is None else int(own * CARD_SHARE)

    def roomy_on(self, place: Place, memory: int) -> bool:
        """A card that is nearly full is no worse for that: the machine's memory is still there for others."""
        return memory <= self.budget_on(place) * (ROOMY_SHARE if place.own_bytes is None else 1)


def _row(variant: F, place: Place, want: _Want, record: Record, barred: str | None) -> Row[F]:
    weights = fit.weights_bytes(variant.size, want.parameters, variant.precision)
    fixed = None if weights is None else weights + fit.OVERHEAD_BYTES
    need = None if fixed is None else fixed + want.context * want.kv_bytes_per_token
    refused = place.refused or barred or _failed(record)
    if refused is None:
        fits, memory, reason, context = _fit(place, want, weights, fixed)
    else:
        fits, memory, reason, context = False, need, refused, want.context
    if fits and record.speed is not None:
        reason = f"measured here: {record.speed.words()}" + (f"; {reason}" if context < want.context else "")
    return Row(variant, place, fits, memory, weights, context, reason, record.speed)


def _failed(record: Record) -> str | None:
    return record.verdict.reason if record.verdict is not None and not record.verdict.passed else None


def _fit(place: Place, want: _Want, weights: int | None, fixed: int | None) -> tuple[bool, int | None, str, int]:
    """fits, memory, reason, context."""
    if weights is None or fixed is None:
        return True, None, "its size is not known, so it may not fit", want.context
    budget, per_token = want.budget_on(place), want.kv_bytes_per_token
    need = fixed + want.context * per_token
    usable = f"the {fit.readable(budget)} that can be used"
    if place.device is not None and place.own_bytes is not None:
        usable += f" on the {place.device.name}"
    least = min(want.context, fit.LEAST_CONTEXT)
    if (at_least := fixed + least * per_token) > budget:
        reason = f"needs {fit.readable(at_least)} with only {least} tokens of context, more than {usable}"
        return False, need, reason, want.context
    if need > budget:
        context = (budget - fixed) // per_token
        return True, fixed + context * per_token, f"fits with {context} tokens of context", context
    if not want.roomy_on(place, need):
        return True, need, f"fits, and takes most of {usable}", want.context
    if not _brisk(weights, place):
        where = "most processors" if place.provider == CPU else "such a device"
        slow = f"decodes below {BRISK_TOKENS_PER_S} tokens a second on {where}"
        return True, need, f"fits well in {usable}, and {slow}", want.context
    return True, need, f"fits well in {usable}", want.context


def _brisk(weights: int, place: Place) -> bool:
    return weights * BRISK_TOKENS_PER_S <= place.bytes_per_s


def _rank(row: Row[F], want: _Want) -> tuple[tuple[float, ...], str, str]:
    """Smaller is better. Measured: by its figure. Among those that have room and are brisk: more bits, up to enough;
    among the others: fewer. Bits are rounded, so that precisions of one class (Q4_K_M, int4) are parted by device, then
    by engine, then by memory."""
    bits = fit.bits_per_weight(row.variant.precision) or 0.0
    memory = row.memory_bytes
    roomy = memory is not None and want.roomy_on(row.place, memory)
    brisk = row.weights_bytes is not None and _brisk(row.weights_bytes, row.place)
    order = (
        not row.fits,
        row.speed.seconds if row.speed is not None else float("inf"),
        memory is None,
        bits < LEAST_GOOD_BITS,
        not roomy,
        not brisk,
        -round(min(bits, ENOUGH_BITS)) if roomy and brisk else round(bits),
        -row.place.bytes_per_s,
        _ENGINE_ORDER.get(row.engine, len(_ENGINE_ORDER)),
        memory or 0,
    )
    return order, row.variant.precision, row.provider
