from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edged.engines.base import EngineError
from edged.worker.logprobs import IMPOSSIBLE, token_logprobs

pytestmark = pytest.mark.unit

logits_of_any_size = hnp.arrays(
    np.float32, st.integers(1, 300), elements=st.floats(-60, 60, width=32, allow_nan=False)
)


def exact(logits: np.ndarray) -> list[float]:
    """math.fsum rounds once, at the end."""
    peak = float(logits.max())
    total = math.fsum(math.exp(float(value) - peak) for value in logits)
    return [float(value) - peak - math.log(total) for value in logits]


@given(logits_of_any_size, st.data())
def test_log_probabilities_are_exact(logits: np.ndarray, data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, len(logits) - 1))
    top = data.draw(st.integers(0, 20))
    wanted = exact(logits)
    value, likeliest = token_logprobs(logits, chosen, top)
    assert value == pytest.approx(wanted[chosen], abs=1e-12)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:top]
    assert [token for token, _ in likeliest] == order
    assert [logprob for _, logprob in likeliest] == pytest.approx([wanted[token] for token in order], abs=1e-12)


def test_a_large_vocabulary_is_as_exact() -> None:
    logits = np.random.default_rng(4).normal(0, 5, 100_003).astype(np.float32)
    value, likeliest = token_logprobs(logits, 7, 20)
    assert value == pytest.approx(exact(logits)[7], abs=1e-11)
    assert [token for token, _ in likeliest] == np.argsort(-logits, kind="stable")[:20].tolist()


def test_a_token_that_cannot_come_has_a_number_json_can_say_and_is_no_alternative() -> None:
    value, likeliest = token_logprobs(np.array([0, -np.inf], np.float32), 1, 2)
    assert value == IMPOSSIBLE
    assert likeliest == [(0, 0.0)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_logits_are_an_error(bad: float) -> None:
    with pytest.raises(EngineError):
        token_logprobs(np.array([0, bad, 1], np.float32), 0, 1)
