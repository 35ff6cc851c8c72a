from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edged.engines.base import Vectors
from edged.engines.pooling import MODES, pool
from edged.engines.scores import sigmoid, unit_length

pytestmark = pytest.mark.unit

#: Two inputs, of three tokens and of one; what padding holds must not be seen.
HIDDEN = np.array([[[1, 2], [3, -4], [5, 6]], [[7, 8], [99, 99], [-99, 99]]], np.float32)
MASK = np.array([[1, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize(("mode", "first"), [
    ("cls", [1, 2]), ("max", [5, 6]), ("mean", [3, 4 / 3]), ("mean_sqrt_len", [9 / 3**0.5, 4 / 3**0.5]),
    ("weightedmean", [(1 + 6 + 15) / 6, (2 - 8 + 18) / 6]), ("lasttoken", [5, 6]),
])
def test_each_mode_takes_tokens_and_never_padding(mode: str, first: list[float]) -> None:
    found = pool(HIDDEN, MASK, (mode,))
    np.testing.assert_allclose(found[0], first, rtol=1e-6)
    np.testing.assert_allclose(found[1], [7, 8], rtol=1e-6)
    assert found.dtype == np.float32


def test_several_modes_are_put_side_by_side_in_one_order() -> None:
    both = pool(HIDDEN, MASK, ("mean", "cls"))
    np.testing.assert_allclose(both[0], [1, 2, 3, 4 / 3], rtol=1e-6)


@given(arrays.arrays(np.float32, (2, 3, 4), elements=st.floats(-10, 10, width=32)), st.integers(0, 5))
def test_more_padding_changes_nothing(hidden: Vectors, more: int) -> None:
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    wider = np.concatenate([hidden, np.full((2, more, 4), 7, np.float32)], axis=1)
    for mode in MODES:
        np.testing.assert_allclose(
            pool(wider, np.pad(mask, ((0, 0), (0, more))), (mode,)), pool(hidden, mask, (mode,)), rtol=1e-4, atol=1e-5)


def test_vectors_get_length_one_and_zeros_stay() -> None:
    found = unit_length(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(found, np.array([[0.6, 0.8], [0.0, 0.0]]), rtol=1e-6)


def test_a_score_is_a_probability_also_of_extreme_numbers() -> None:
    assert sigmoid(np.array([[0.0], [40.0], [-40.0]], np.float32)).ravel().tolist() == pytest.approx([0.5, 1.0, 0.0])
