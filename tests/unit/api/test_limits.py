"""The shape of JSON, bounded before it is parsed."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.limits import check_shape, parse_json
from edged.errors import InvalidRequest

pytestmark = pytest.mark.unit


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


JSON = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(alphabet='[]{},"\\ab', max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(alphabet='[]{}"\\', max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, st.integers(1, 6))
def test_depth_is_refused_exactly_where_it_is_too_deep(value: Any, limit: int) -> None:
    body = json.dumps(value).encode()
    if depth(value) > limit:
        with pytest.raises(InvalidRequest):
            check_shape(body, limit)
    else:
        check_shape(body, limit)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_400(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(parse_json(body, 4), dict)


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_an_object_is_read_as_it_is(value: dict[str, Any]) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), 64) == value
