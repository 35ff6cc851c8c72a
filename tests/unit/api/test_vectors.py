from __future__ import annotations

import base64

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.vectors import as_base64, as_numbers, vectors_of
from edged.types import Embedded

pytestmark = pytest.mark.unit


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_both_ways_of_writing_give_back_every_bit(values: list[float]) -> None:
    raw = np.array(values, "<f4").tobytes()
    read = np.array(msgspec.json.decode(as_numbers(raw)), "<f4")
    assert read.tobytes() == raw
    assert base64.b64decode(msgspec.json.decode(as_base64(raw))) == raw


def test_each_vector_goes_to_its_input() -> None:
    event = Embedded("r", [7, 2], np.array([1, 2, 3, 4], "<f4").tobytes())
    assert {index: np.frombuffer(vector, "<f4").tolist() for index, vector in vectors_of(event)} == {
        7: [1.0, 2.0], 2: [3.0, 4.0]}
