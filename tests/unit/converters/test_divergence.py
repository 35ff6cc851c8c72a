"""The gate's figures against the formulas as a book has them, and in pieces as in one."""

from __future__ import annotations

import json
import math
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from converters import divergence
from converters.divergence import NoDistribution, Sums, compare, likeliest, log_likelihood

pytestmark = pytest.mark.unit

Logits = NDArray[np.float32]
#: The widest that models give, and more: softmax over them underflows in 32 bits.
VALUES = st.floats(-300, 300, width=32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Logits, Logits, NDArray[np.int64]]:
    positions, vocabulary = draw(st.integers(1, 12)), draw(st.integers(2, 40))
    shape = (positions, vocabulary)
    return (draw(arrays(np.float32, shape, elements=VALUES)), draw(arrays(np.float32, shape, elements=VALUES)),
            draw(arrays(np.int64, positions, elements=st.integers(0, vocabulary - 1))))


def log_softmax(row: list[float]) -> list[float]:
    greatest = max(row)
    log_sum = math.log(math.fsum(math.exp(value - greatest) for value in row))
    return [value - greatest - log_sum for value in row]


@given(cases())
def test_the_figures_are_those_of_the_formulas(case: tuple[Logits, Logits, NDArray[np.int64]]) -> None:
    reference, result, targets = case
    p = [log_softmax(row) for row in reference.astype(float).tolist()]
    q = [log_softmax(row) for row in result.astype(float).tolist()]
    count = len(targets)
    sums = compare(reference, result, targets)
    divergence = math.fsum(math.exp(one) * (one - other) for row, other_row in zip(p, q, strict=True)
                           for one, other in zip(row, other_row, strict=True)) / count
    assert sums.positions == count
    assert sums.kl_divergence == pytest.approx(divergence, rel=1e-9, abs=1e-12)
    assert sums.top1_agreement == sum(
        row.index(max(row)) == other.index(max(other))
        for row, other in zip(reference.tolist(), result.tolist(), strict=True)) / count
    assert sums.perplexity == pytest.approx(
        math.exp(-math.fsum(q[index][target] for index, target in enumerate(targets)) / count), rel=1e-9)
    assert sums.reference_perplexity == pytest.approx(
        math.exp(-math.fsum(p[index][target] for index, target in enumerate(targets)) / count), rel=1e-9)
    assert log_likelihood(result, targets) == pytest.approx(
        math.fsum(q[index][target] for index, target in enumerate(targets)), rel=1e-9, abs=1e-12)


@given(cases(), st.lists(st.integers(0, 12), max_size=4), st.sampled_from([8, 800, 8 << 20]))
def test_pieces_add_up_to_the_whole(
    case: tuple[Logits, Logits, NDArray[np.int64]], cuts: list[int], block_bytes: int
) -> None:
    reference, result, targets = case
    borders = sorted({0, len(targets), *(cut for cut in cuts if cut < len(targets))})
    parts = [slice(first, last) for first, last in pairwise(borders)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(divergence, "BLOCK_BYTES", block_bytes)
        pieces = reduce(add, (compare(reference[part], result[part], targets[part]) for part in parts), Sums())
    whole = compare(reference, result, targets)
    assert (pieces.positions, pieces.agreements) == (whole.positions, whole.agreements)
    for name in ("divergence", "result_loss", "reference_loss"):
        assert getattr(pieces, name) == pytest.approx(getattr(whole, name), rel=1e-12, abs=1e-12)


@given(cases())
def test_a_model_against_itself_is_exactly_equal(case: tuple[Logits, Logits, NDArray[np.int64]]) -> None:
    reference, _, targets = case
    sums = compare(reference, reference.copy(), targets)
    assert (sums.kl_divergence, sums.top1_agreement) == (0.0, 1.0)
    assert sums.perplexity == sums.reference_perplexity


@given(cases(), VALUES)
def test_a_constant_added_to_all_logits_changes_nothing_but_rounding(
    case: tuple[Logits, Logits, NDArray[np.int64]], constant: float
) -> None:
    reference, _, targets = case
    whole = np.round(reference)
    assert compare(whole, whole + np.float32(round(constant)), targets).kl_divergence == 0.0


def test_tokens_that_a_graph_masks_out_leave_figures_that_json_can_hold() -> None:
    reference = np.array([[0, 1, 2, -np.inf]], np.float32)
    masked = np.array([[0, 1, -np.inf, -np.inf]], np.float32)
    same = compare(reference, reference, np.array([3]))
    assert same.kl_divergence == 0.0
    for sums in (compare(reference, masked, np.array([2])), same):
        json.dumps([sums.kl_divergence, sums.perplexity, sums.reference_perplexity], allow_nan=False)
    assert compare(reference, masked, np.array([2])).kl_divergence > 1000


@pytest.mark.parametrize("bad", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
@pytest.mark.parametrize("side", ["reference", "result"])
def test_what_is_no_distribution_is_told_with_its_side_and_position(bad: list[float], side: str) -> None:
    good = np.zeros((5, 2), np.float32)
    damaged = good.copy()
    damaged[3] = bad
    pair = (damaged, good) if side == "reference" else (good, damaged)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(divergence, "BLOCK_BYTES", 32)
        with pytest.raises(NoDistribution) as told:
            compare(*pair, np.zeros(5, np.int64))
    assert (told.value.side, told.value.position) == (side, 3)
    with pytest.raises(NoDistribution):
        likeliest(damaged[3])


def test_a_model_that_finds_a_text_impossible_has_a_finite_perplexity() -> None:
    logits = np.array([[0, -5000]], np.float32)
    assert math.isfinite(compare(logits, logits, np.array([1])).perplexity)
