"""The fewest first tokens that hold a share of all probability, without sorting a vocabulary.

A sample says near which place of the order the share is reached, and one pass over all tokens gives the exact mass
before that place. What is missing or too much then is small, and so are the tokens between: they are looked at in the
same way, until so few are left that they are sorted. Where the sample was wrong, the side that holds the place is
looked at instead: the result never depends on it, only the time (selection by sampling, after Floyd and Rivest 1975,
with sums in place of ranks).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edged.worker.scratch import scratch

Floats = NDArray[np.float32]

#: So many are sorted.
_FEW = 1024
_SAMPLE = 1024
#: A place before so many of it is an early one.
_EARLY = 16
#: And no more than one of so many.
_SPARSE = 8
#: Standard errors on each side.
_MARGIN = 2.5
#: Deeper only by a chance of one in millions.
_DEPTH = 6
_BLOCK = 256
_LEAST = 1e-300


class Known(NamedTuple):
    """Of tokens whose weight a sample could miss: their order and weight, and the least of these weights."""

    order: Floats
    weights: Floats
    least: float

    def from_(self, last: np.float32) -> Known:
        there = self.order >= last
        return Known(self.order[there], self.weights[there], self.least)


def mass_of(weights: Floats) -> float:
    """Their sum: of blocks in 32 bits, of these in 64."""
    whole = len(weights) // _BLOCK * _BLOCK
    blocks = np.einsum("ij->i", weights[:whole].reshape(-1, _BLOCK))
    return float(blocks.sum(dtype=np.float64) + weights[whole:].sum(dtype=np.float64))


def first_holding(order: Floats, weights: Floats, mass: float, *, total: float,
                  known: Known | None = None) -> NDArray[np.bool_]:
    """True for the fewest first tokens by descending `order` whose weights sum to `mass`, of equal ones those with the
    lower index first; for all where they do not hold it. Shapes [size], no NaN; weights from 0, total is their sum."""
    # At least one token is left where no mass is asked for.
    return _first(order, weights, max(mass, _LEAST), total, known=known, depth=_DEPTH)


def _first(order: Floats, weights: Floats, mass: float, total: float, *, known: Known | None,
           depth: int) -> NDArray[np.bool_]:
    if len(order) <= _FEW or depth == 0:
        return _sorted(order, weights, mass)
    sample = _sample(order, weights, total, known)
    if (last := sample.early(mass)) is not None:
        ids = np.flatnonzero(order >= last)
        band = weights[ids]
        if len(ids) < len(order) // _SPARSE and (held := mass_of(band)) >= mass:
            chosen = np.zeros(len(order), np.bool_)
            chosen[ids] = _first(order[ids], band, mass, held, known=known and known.from_(last),
                                 depth=depth - 1)
            return chosen
    pivot = sample.order[sample.place(mass)]
    above = order > pivot
    held = _mass_where(weights, above)
    if held >= mass:
        # Too many: the last ones of them are looked at, or those before these.
        chosen, other = above, order > sample.beyond(pivot, held - mass, up=True)
        ids = np.flatnonzero(above ^ other)
        band = weights[ids]
        before = held - float(band.sum(dtype=np.float64))
        if before >= mass:
            ids = np.flatnonzero(other)
            band, before, chosen = weights[ids], 0.0, other
    else:
        chosen, other = above, order >= sample.beyond(pivot, mass - held, up=False)
        ids = np.flatnonzero(above ^ other)
        band, before = weights[ids], held
        within = float(band.sum(dtype=np.float64))
        if before + within < mass:
            ids = np.flatnonzero(~other)
            band, before, chosen = weights[ids], before + within, other
    # Where all are alike, nothing is left out, and sorting what is in order already takes no time.
    deeper = depth - 1 if len(ids) < len(order) else 0
    chosen[ids] = _first(order[ids], band, mass - before, float(band.sum(dtype=np.float64)), known=None, depth=deeper)
    return chosen


class _Sample(NamedTuple):
    """Descending by order. sums: of the mass that each and those before it stand for; squares: of these masses, 0 for
    known tokens, summed too; drawn: how many of them are not known."""

    order: Floats
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]
    drawn: NDArray[np.intp]

    def early(self, mass: float) -> np.float32 | None:
        """The order of one before and at which there is surely `mass`, if few come so early."""
        enough = self.sums - _MARGIN * np.sqrt(self.squares) >= mass
        place = int(enough.argmax())
        return self.order[place] if enough[place] and self.drawn[place] <= _EARLY else None

    def place(self, mass: float) -> int:
        return min(int(np.searchsorted(self.sums, mass)), len(self.sums) - 1)

    def beyond(self, pivot: np.float32, mass: float, *, up: bool) -> np.float32:
        """The order of one so far before (up) or after the pivot that between them is surely more than `mass`."""
        if up:
            end = int(np.searchsorted(-self.order, -pivot))
            sums, squares, order = (values[:end][::-1] for values in (self.sums, self.squares, self.order))
            between, spread = (sums[0] - sums, squares[0] - squares) if end else (sums, squares)
        else:
            # With the pivot's own mass: that is still to come.
            start = int(np.searchsorted(-self.order, -pivot))
            sums, squares, order = self.sums[start:], self.squares[start:], self.order[start:]
            before = (self.sums[start - 1], self.squares[start - 1]) if start else (0.0, 0.0)
            between, spread = sums - before[0], squares - before[1]
        enough = between - _MARGIN * np.sqrt(spread) > mass
        place = int(enough.argmax()) if len(enough) else 0
        return order[place] if len(enough) and enough[place] else np.float32(np.inf if up else -np.inf)


def _sample(order: Floats, weights: Floats, total: float, known: Known | None) -> _Sample:
    step = max(_SPARSE, len(order) // _SAMPLE)
    drawn, masses = order[::step], weights[::step].astype(np.float64)
    if known is not None:
        masses[masses >= known.least] = 0.0
    # The sample stands for all that is not known.
    sure = 0.0 if known is None else float(known.weights.sum(dtype=np.float64))
    if (likely := float(masses.sum())) > 0:
        masses *= max(0.0, total - sure) / likely
    squares, counted = masses * masses, 0
    if known is not None:
        counted = len(known.order)
        drawn = np.concatenate([known.order, drawn])
        masses = np.concatenate([known.weights, masses])
        squares = np.concatenate([np.zeros(counted), squares])
    places = np.argsort(-drawn)
    return _Sample(drawn[places], np.cumsum(masses[places]), np.cumsum(squares[places]), np.cumsum(places >= counted))


def _mass_where(weights: Floats, chosen: NDArray[np.bool_]) -> float:
    whole = len(weights) // _BLOCK * _BLOCK
    ones = scratch.chosen(whole)
    np.copyto(ones, chosen[:whole])
    blocks = np.vecdot(weights[:whole].reshape(-1, _BLOCK), ones.reshape(-1, _BLOCK))
    rest = weights[whole:][chosen[whole:]]
    return float(blocks.sum(dtype=np.float64) + rest.sum(dtype=np.float64))


def _sorted(order: Floats, weights: Floats, mass: float) -> NDArray[np.bool_]:
    places = np.argsort(-order, kind="stable")
    held = np.cumsum(weights[places], dtype=np.float64)
    chosen = np.zeros(len(order), np.bool_)
    chosen[places[: int(np.searchsorted(held, mass, side="left")) + 1]] = True
    return chosen
