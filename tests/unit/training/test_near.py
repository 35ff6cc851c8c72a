"""Nearly the same prompts are found, all of them and no others."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training.jaccard import similarity
from training.data.near import Near, words_of
from training.examples import Example, Message, identity

pytestmark = pytest.mark.unit

SETS = st.lists(st.frozensets(st.tuples(st.sampled_from("abcdefgh")), min_size=1), min_size=2, max_size=12)


def prompt(*messages: Message) -> Example:
    return Example(id=identity(messages), prompt=messages)


@given(SETS, st.floats(0.01, 1.0))
def test_no_pair_above_the_threshold_is_missed_and_none_below_it_found(
    sets: list[frozenset[tuple[str, ...]]], threshold: float,
) -> None:
    near = Near(sets, threshold)
    for number in range(len(sets) - 1):
        near.add(number)
    last = len(sets) - 1
    brute = [number for number in range(last)
             if similarity(sets[last], sets[number]) >= Fraction(str(threshold))]
    assert near.like(last) == (brute[0] if brute else None)


def test_case_and_white_space_make_no_difference() -> None:
    one, other = (words_of(prompt(Message("user", text))) for text in ("Turn on\n THE lamp", "turn on the lamp"))
    assert one == other


def test_the_system_message_that_all_share_does_not_make_prompts_alike() -> None:
    system = Message("system", "You are a home assistant that answers in JSON and in nothing else, whatever is asked.")
    lamp, door = (prompt(system, Message("user", text)) for text in ("switch the lamp on", "is the door locked"))
    assert similarity(words_of(lamp), words_of(door)) == 0


def test_the_same_words_under_another_system_message_ask_for_something_else() -> None:
    one, other = (words_of(prompt(Message("system", system), Message("user", "the cat sat on the mat")))
                  for system in ("Translate.", "Summarize."))
    assert similarity(one, other) == 0


def test_a_prompt_of_one_word_is_like_itself_only() -> None:
    one, other = (words_of(prompt(Message("user", text))) for text in ("Hello", "Bye"))
    assert similarity(one, one) == 1
    assert similarity(one, other) == 0


def test_prompts_that_share_a_long_instruction_and_little_else_are_not_all_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instruction = " ".join(f"rule{number}" for number in range(200))
    sets = [words_of(prompt(Message("user", f"{instruction} " + " ".join(f"own{number}.{word}" for word in range(40)))))
            for number in range(20)]
    assert similarity(sets[0], sets[1]) > 0.6
    near = Near(sets, 0.8)
    with monkeypatch.context() as without:
        without.delattr(np, "intersect1d")
        for number in range(20):
            assert near.like(number) is None
            near.add(number)
