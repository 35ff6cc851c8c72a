from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edged.worker.topk import top_ids
from edged.worker.truncate import Truncation

pytestmark = pytest.mark.unit


def scaled_logits(noise: int, vocab: int, spread: float) -> NDArray[np.float32]:
    logits = np.random.default_rng(noise).normal(0, spread, vocab).astype(np.float32)
    logits -= logits.max()
    return logits


def by_sorting_all(
    scaled: NDArray[np.float32], truncation: Truncation
) -> tuple[set[int], float]:
    """The same filters, naively, in float64; and how near the nearest decision was."""
    left = list(range(len(scaled)))
    nearest = 1.0

    def weights() -> NDArray[np.float64]:
        values = np.exp(scaled[left].astype(np.float64))
        values /= values.sum()
        return values

    def prefix(order: list[int], share: float) -> list[int]:
        nonlocal nearest, left
        left = order
        sums = np.cumsum(weights())
        nearest = min(nearest, float(np.abs(sums - share).min()))
        return order[: int((sums < share).sum()) + 1]

    if truncation.top_k > 0:
        left = sorted(left, key=lambda token: (-scaled[token], token))[: truncation.top_k]
    if truncation.typical_p < 1:
        shares = weights()
        surprise = -np.log(np.maximum(shares, 1e-300))
        entropy = float((shares * surprise).sum())
        distance = {token: abs(value - entropy) for token, value in zip(left, surprise, strict=True)}
        order = sorted(left, key=lambda token: (distance[token], token))
        gaps = np.diff(sorted(distance.values()))
        nearest = min(nearest, float(gaps.min()) if len(gaps) else 1.0)
        left = prefix(order, truncation.typical_p)
    if truncation.top_p < 1:
        left = prefix(sorted(left, key=lambda token: (-scaled[token], token)), truncation.top_p)
    if truncation.min_p > 0:
        ratios = np.exp(scaled[left].astype(np.float64) - float(scaled[left].max()))
        nearest = min(nearest, float(np.abs(ratios - truncation.min_p).min()))
        left = [token for token, ratio in zip(left, ratios, strict=True) if ratio >= truncation.min_p]
    return set(left), nearest


@settings(max_examples=150)
@given(
    noise=st.integers(0, 2**32),
    vocab=st.one_of(st.integers(1, 50), st.integers(1000, 9000)),
    spread=st.floats(0.01, 6),
    top_k=st.one_of(st.just(0), st.integers(1, 3000)),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 0.9)),
)
def test_the_tokens_left_are_those_of_a_full_sort(
    *, noise: int, vocab: int, spread: float, top_k: int, top_p: float, min_p: float
) -> None:
    scaled = scaled_logits(noise, vocab, spread)
    truncation = Truncation(top_k=top_k, top_p=top_p, min_p=min_p)
    wanted, nearest = by_sorting_all(scaled, truncation)
    kept = truncation.kept(scaled).tolist()
    assert kept == sorted(kept)
    if nearest > 1e-6:
        assert set(kept) == wanted
    else:  # so near a border float32 and float64 sums may fall to either side
        assert len(set(kept) ^ wanted) <= max(1, len(wanted) // 10)


@settings(max_examples=100)
@given(
    noise=st.integers(0, 2**32),
    vocab=st.integers(2, 300),
    spread=st.floats(0.5, 6),
    typical_p=st.floats(0.05, 0.99),
    top_p=st.one_of(st.just(1.0), st.floats(0.05, 0.99)),
)
def test_typical_tokens_are_those_of_a_full_sort(
    noise: int, vocab: int, spread: float, typical_p: float, top_p: float
) -> None:
    scaled = scaled_logits(noise, vocab, spread)
    truncation = Truncation(typical_p=typical_p, top_p=top_p)
    wanted, nearest = by_sorting_all(scaled, truncation)
    kept = set(truncation.kept(scaled).tolist())
    assert kept
    if nearest > 1e-5:
        assert kept == wanted


@pytest.mark.parametrize("vocab", [300, 5000, 20_000])
def test_a_flat_distribution_keeps_its_share_by_lowest_id(vocab: int) -> None:
    kept = Truncation(top_p=0.9).kept(np.zeros(vocab, np.float32))
    assert kept.tolist() == list(range(len(kept)))
    assert len(kept) == pytest.approx(0.9 * vocab, abs=2)


def test_typical_leaves_out_what_is_too_likely() -> None:
    # One token of 0.4 among many of 0.006: the likeliest is less typical than the many.
    shares = np.array([0.4, *[0.006] * 100])
    scaled = np.log(shares / shares.max()).astype(np.float32)
    assert 0 not in Truncation(typical_p=0.5).kept(scaled)


def test_off_is_said_of_no_filter_only() -> None:
    assert Truncation().off
    for one in (Truncation(top_k=5), Truncation(top_p=0.5), Truncation(min_p=0.1), Truncation(typical_p=0.5)):
        assert not one.off


@given(st.integers(0, 2**32), st.integers(1, 5000), st.integers(1, 600), st.booleans())
def test_top_ids_are_the_first_of_a_stable_sort(noise: int, size: int, count: int, coarse: bool) -> None:
    values = np.random.default_rng(noise).normal(0, 3, size).astype(np.float32)
    if coarse:  # many equal values
        values = np.round(values)
    assert top_ids(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


@settings(max_examples=40, deadline=None)
@given(noise=st.integers(0, 2**32), spread=st.floats(0.001, 60), top_p=st.floats(0.3, 0.9999), masked=st.booleans())
def test_a_flat_distribution_of_a_large_vocabulary_is_cut_as_by_a_full_sort(
    *, noise: int, spread: float, top_p: float, masked: bool
) -> None:
    """Too many tokens to be found among the first few thousand."""
    scaled = scaled_logits(noise, 40_000, spread)
    if masked:
        scaled[1::3] = -np.inf
    order = np.argsort(-scaled, kind="stable")
    held = np.cumsum(np.exp(scaled[order].astype(np.float64)))
    wanted = int(np.searchsorted(held, top_p * held[-1])) + 1
    kept = Truncation(top_p=top_p).kept(scaled)
    # Sums of 40,000 float32 weights differ in the last digits by the order in which they are added.
    assert len(kept) == pytest.approx(wanted, abs=2, rel=1e-5)
    assert kept.tolist() == sorted(order[: len(kept)].tolist())
