"""The fewest first tokens that hold a mass are those of a plain stable sort, whatever a sample says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edged.worker import nucleus
from edged.worker.nucleus import Known, first_holding, mass_of

pytestmark = pytest.mark.unit

Floats = NDArray[np.float32]


def wanted(order: Floats, weights: Floats, mass: float) -> tuple[NDArray[np.bool_], float]:
    """And how near the nearest decision was, as a share of all."""
    places = np.argsort(-order, kind="stable")
    held = np.cumsum(weights[places].astype(np.float64))
    chosen = np.zeros(len(order), np.bool_)
    chosen[places[: int(np.searchsorted(held, mass)) + 1]] = True
    return chosen, float(np.abs(held - mass).min() / held[-1])


def tokens(noise: int, size: int, spread: float, *, digits: int | None, peaks: int, absent: bool) -> Floats:
    """digits: rounded to, so that many are alike."""
    random = np.random.default_rng(noise)
    scaled = random.normal(0, spread, size).astype(np.float32)
    scaled[random.choice(size, min(peaks, size), replace=False)] += np.float32(5 * spread)
    if digits is not None:
        scaled = np.round(scaled, digits)
    if absent:
        scaled[::3] = -np.inf
        scaled[-1] = 0
    scaled -= scaled.max()
    return scaled


@settings(max_examples=60, deadline=None)
@given(
    noise=st.integers(0, 2**32), size=st.integers(1, 60_000), spread=st.floats(0.01, 20),
    share=st.floats(0.001, 0.99999),
    digits=st.sampled_from([None, 0, 1, 2]), peaks=st.integers(0, 500), absent=st.booleans(), by_distance=st.booleans(),
    known=st.booleans(),
)
def test_it_is_what_a_sort_of_all_gives(
    *, noise: int, size: int, spread: float, share: float, digits: int | None, peaks: int, absent: bool,
    by_distance: bool, known: bool,
) -> None:
    scaled = tokens(noise, size, spread, digits=digits, peaks=peaks, absent=absent)
    weights = np.exp(scaled)
    order = -np.abs(np.maximum(scaled, np.float32(-200)) + np.float32(3 * spread)) if by_distance else scaled
    total = mass_of(weights)
    few = np.argsort(-weights)[:100]
    chosen = first_holding(order, weights, share * total, total=total, known=Known(
        order[few], weights[few], float(weights[few[-1]])) if known else None)
    expected, nearest = wanted(order, weights, share * total)
    if nearest > 1e-6:
        assert (chosen == expected).all()
    else:  # float32 and float64 sums may fall to either side, by tokens that weigh next to nothing
        assert abs(float(weights[chosen].sum(dtype=np.float64)) - share * total) <= total * 1e-5 + weights[chosen].min()


def test_among_equal_ones_the_lower_index_comes_first() -> None:
    weights = np.full(50_000, 1e-30, np.float32)
    chosen = first_holding(np.zeros(50_000, np.float32), weights, 0.5 * mass_of(weights), total=mass_of(weights))
    count = int(np.count_nonzero(chosen))
    assert chosen[:count].all()
    assert count == pytest.approx(25_000, abs=2)


@pytest.mark.parametrize("size", [5, 40_000])
def test_one_is_left_where_no_mass_is_asked_for(size: int) -> None:
    scaled = np.random.default_rng(1).normal(0, 2, size).astype(np.float32)
    chosen = first_holding(scaled, np.exp(scaled), 0.0, total=mass_of(np.exp(scaled)))
    assert np.flatnonzero(chosen).tolist() == [int(scaled.argmax())]


def test_a_sample_that_misses_all_that_matters_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token of each eighth is drawn; here those say the contrary of the others."""
    size = 40_000
    step = max(nucleus._SPARSE, size // nucleus._SAMPLE)
    scaled = np.random.default_rng(3).normal(0, 2, size).astype(np.float32)
    scaled[::step] -= 30
    weights = np.exp(scaled)
    sorted_whole: list[int] = []
    plain = nucleus._sorted

    def counted(order: Floats, weights: Floats, mass: float) -> NDArray[np.bool_]:
        sorted_whole.append(len(order))
        return plain(order, weights, mass)

    monkeypatch.setattr(nucleus, "_sorted", counted)
    for share in (0.1, 0.5, 0.9, 0.999):
        chosen = first_holding(scaled, weights, share * mass_of(weights), total=mass_of(weights))
        assert (chosen == wanted(scaled, weights, share * mass_of(weights))[0]).all()
    for share in (0.1, 0.5, 0.9):
        sorted_whole.clear()
        ordinary = np.random.default_rng(4).normal(0, 2, 262_144).astype(np.float32)
        first_holding(ordinary, np.exp(ordinary), share * mass_of(np.exp(ordinary)), total=mass_of(np.exp(ordinary)))
        assert max(sorted_whole) <= nucleus._FEW, "only a few are ever sorted"


@given(st.integers(0, 3000))
def test_a_mass_is_exact_to_float32(size: int) -> None:
    weights = np.random.default_rng(size).random(size).astype(np.float32)
    assert mass_of(weights) == pytest.approx(float(weights.sum(dtype=np.float64)), rel=1e-6)
