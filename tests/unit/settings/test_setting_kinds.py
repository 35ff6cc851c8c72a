from __future__ import annotations

import math
import re
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged import setting_kinds as kinds
from edged.setting_kinds import Kind, SecretStr, hash_key, number, one_of, or_off, whole
from edged.settings import InvalidSetting, Settings

pytestmark = pytest.mark.unit

KINDS = [
    kinds.TEXT, kinds.SECRET, kinds.BOOLEAN, kinds.PATH, kinds.WEB_ADDRESS, kinds.SIZE, kinds.SIZE_OR_NONE,
    kinds.NAMES, kinds.KEYS,
    whole(0), whole(0, 65535), number(least=-1), number(above=0), one_of(Literal["a", "b"]), or_off(kinds.PATH),
]
#: What TOML and the environment can hold, and more.
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, -(10**400), "off"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(KINDS), _values)
def test_whatever_is_given_is_read_or_refused_in_words_and_what_was_read_is_read_again(
    kind: Kind, value: object
) -> None:
    read, refused = value, None
    try:
        read = kind.read(value)
    except ValueError as error:
        refused = str(error)
    if refused is None:
        assert kind.read(read) == read
    else:
        assert re.fullmatch(r"[a-z][^\n]+", refused)


@pytest.mark.parametrize(
    ("written", "size"),
    [("1", 1), ("4GiB", 4 << 30), ("4 gib", 4 << 30), ("1.5 kb", 1500), ("64M", 64_000_000), ("0.5KiB", 512),
     (1 << 20, 1 << 20), (1024.0, 1024), ("7b", 7), ("2TiB", 2 << 40)],
)
def test_a_size_is_read_with_the_unit_one_would_write(written: object, size: int) -> None:
    assert kinds.SIZE.read(written) == size


@pytest.mark.parametrize("value", [0, -1, "0", "4 apples", "GiB", "-1GiB", True, 1.5, math.inf, "1e400", 10**400, None])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a size like 4GiB"):
        kinds.SIZE.read(value)


@given(st.integers(1, kinds.MOST))
def test_a_size_is_written_exactly(size: int) -> None:
    assert kinds.SIZE.read(kinds.SIZE.write(size)) == size


def test_a_size_is_written_in_its_largest_whole_unit() -> None:
    assert [kinds.SIZE.write(size) for size in (16 << 20, 1536 << 10, 1 << 40, 1000)] == [
        "16MiB", "1536KiB", "1TiB", "1000"]


@pytest.mark.parametrize("value", [0, "0", 0.0])
def test_a_size_may_be_nothing_where_that_turns_something_off(value: object) -> None:
    assert kinds.SIZE_OR_NONE.read(value) == 0
    assert kinds.SIZE_OR_NONE.read("1GiB") == 1 << 30
    assert kinds.SIZE_OR_NONE.write(0) == "0"
    for wrong in (-1, False, "off", None):
        with pytest.raises(ValueError, match="a size like 4GiB, or 0"):
            kinds.SIZE_OR_NONE.read(wrong)


def test_bounds_belong_to_the_range() -> None:
    port = whole(0, 65535)
    assert [port.read(value) for value in (0, "65535", 8.0)] == [0, 65535, 8]
    for value in (-1, 65536, 0.5, "x", "", math.nan):
        with pytest.raises(ValueError, match="a whole number from 0 to 65535"):
            port.read(value)
    assert number(least=-1).read(-1) == -1
    with pytest.raises(ValueError, match="a number above 0"):
        number(above=0).read(0)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("Yes", True), ("1", True), ("off", False), ("0", False)])
def test_true_and_false_have_the_usual_spellings(text: str, value: bool) -> None:
    assert kinds.BOOLEAN.read(text) is value


def test_a_secret_is_told_only_to_who_asks_for_it() -> None:
    secret = SecretStr("canary")
    assert "canary" not in f"{secret} {secret!r} {[secret]}"
    assert secret.get_secret_value() == "canary"
    assert secret == SecretStr("canary") != SecretStr("other")


def test_settings_made_in_code_are_read_and_checked_too() -> None:
    made = Settings(api_keys=("k1",), max_body_bytes="1MiB", socket=None)  # type: ignore[arg-type]
    assert (made.api_keys, made.max_body_bytes, made.socket) == ((hash_key("k1"),), 1 << 20, None)
    with pytest.raises(InvalidSetting, match="port must be a whole number from 0 to 65535"):
        Settings(port=-1)
