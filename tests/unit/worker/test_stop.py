from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import InvalidRequest
from edged.worker.detokenize import Detokenizer
from edged.worker.stop import StopMatcher
from tests.unit.worker.vocabs import ByteVocab

pytestmark = pytest.mark.unit

# Few letters make overlaps, repeats and near-misses common.
letters = st.one_of(st.text(alphabet="ab", max_size=40), st.text(alphabet="ab好🦆\n", max_size=30))
stops = st.one_of(
    st.lists(st.text(alphabet="ab", min_size=3, max_size=8), min_size=1, max_size=2),
    st.lists(st.text(alphabet="ab好🦆\n", min_size=1, max_size=5), max_size=16),
)


def shown(matcher: StopMatcher, pieces: list[str]) -> tuple[str, str | None]:
    """All text that a client would have seen, and the stop string."""
    text = ""
    for piece in pieces:
        more, stop = matcher.push(piece)
        text += more
        if stop is not None:
            return text, stop
    return text + matcher.flush(), None


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """By definition: the first end at which a stop string is complete, the longest of those that end there."""
    for end in range(1, len(text) + 1):
        if complete := [stop for stop in stops if text[:end].endswith(stop)]:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


def cut(text: str, at: list[int]) -> list[str]:
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    return [text[start:end] for start, end in pairwise(borders)]


@given(letters, stops)
def test_the_string_that_is_complete_first_ends_the_text(text: str, stops: list[str]) -> None:
    assert shown(StopMatcher(stops), [text]) == expected(text, stops)


@given(letters, stops, st.lists(st.integers(min_value=0), max_size=30))
def test_cutting_the_text_anywhere_changes_nothing(text: str, stops: list[str], at: list[int]) -> None:
    assert shown(StopMatcher(stops), cut(text, at)) == expected(text, stops)


@given(letters, stops)
def test_text_that_cannot_become_a_stop_string_is_shown_at_once(text: str, stops: list[str]) -> None:
    matcher, given_out = StopMatcher(stops), ""
    for end, character in enumerate(text, start=1):
        more, stop = matcher.push(character)
        given_out += more
        if stop is not None:
            return
        held = text[len(given_out) : end]
        assert not held or any(name.startswith(held) for name in stops)


@pytest.mark.parametrize("stop", ["STOP", "停止", "👩‍🚀!", "é\n\n"])
def test_stop_strings_cut_at_every_byte(stop: str) -> None:
    vocab, text = ByteVocab(), f"før 日本 🦆 {stop} never this"
    detokenizer, matcher, out = Detokenizer(vocab), StopMatcher([stop]), ""
    for byte in text.encode():
        more, stopped = matcher.push(detokenizer.push(byte))
        out += more
        assert "\ufffd" not in out
        if stopped:
            break
    assert (out, stopped) == ("før 日本 🦆 ", stop)


@pytest.mark.parametrize(
    ("text", "stop", "before"),
    [
        ("aaab", "aab", "a"), ("abababac", "ababac", "ab"), ("aabaabaaab", "aabaaab", "aab"),
        ("aabaaabaaac", "aabaaac", "aaba"),
    ],
)
def test_a_stop_string_that_begins_inside_a_near_miss_is_found(text: str, stop: str, before: str) -> None:
    assert shown(StopMatcher([stop]), list(text)) == (before, stop)


def test_of_two_that_end_together_the_longer_is_cut_off() -> None:
    assert shown(StopMatcher(["b", "ab", "xab"]), ["xx", "ab", "c"]) == ("xx"[:1], "xab")


def test_nothing_is_shown_after_a_match() -> None:
    matcher = StopMatcher(["."])
    assert matcher.push("one. two") == ("one", ".")
    assert matcher.push(" three") == ("", ".")
    assert matcher.flush() == ""


def test_a_held_beginning_is_shown_when_the_answer_ends() -> None:
    matcher = StopMatcher(["<end>"])
    assert matcher.push("a <en") == ("a ", None)
    assert matcher.flush() == "<en"


def test_without_stop_strings_text_passes() -> None:
    assert StopMatcher([]).push("any") == ("any", None)


def test_an_empty_stop_string_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest) as caught:
        StopMatcher(["a", ""])
    assert caught.value.param == "stop"


def test_long_stop_strings_cost_no_more_for_each_character() -> None:
    # Quadratic matching would need 10^9 comparisons here and run into the test's time limit.
    matcher = StopMatcher(["a" * 10_000 + letter for letter in "bcdefgh"])
    for _ in range(100):
        assert matcher.push("a" * 90) == ("", None)
    assert matcher.flush() == "a" * 9000
