from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.workloads import CONTEXT_TOKENS, CONTROL_TOKENS, FULL, QUICK, SENTENCES, Workload, body, digest, text, words

pytestmark = pytest.mark.unit

ALL = [*FULL, *QUICK]


def tokens(prompt: str) -> int:
    """Of SmolLM2, for the words that are used here: one for each word and each full stop."""
    return len(re.findall(r"[a-z]+|\.", prompt))


def test_the_workloads_are_still_the_frozen_ones() -> None:
    assert (digest(FULL), digest(QUICK)) == ("4178e496b888", "a7cb9e74269b")


@given(number=st.integers(min_value=-200, max_value=200_000), length=st.integers(min_value=8, max_value=1024))
def test_a_prompt_has_exactly_the_tokens_asked_for(number: int, length: int) -> None:
    assert tokens(text(words(number, length))) == length


def test_the_text_holds_nothing_but_words_and_full_stops() -> None:
    assert all(re.fullmatch(r"[a-z ]+\.", sentence) for sentence in SENTENCES)


def test_no_two_prompts_of_a_long_run_share_their_opening() -> None:
    openings = [tuple(words(number, 4)) for number in range(-110, 2000)]
    assert len(set(openings)) == len(openings)


def test_streams_of_one_burst_differ_from_the_first_word_on() -> None:
    for first in (0, 50, 977):
        assert len({words(first + stream, 8)[0] for stream in range(16)}) == 16


@pytest.mark.parametrize("workload", ALL, ids=lambda workload: f"{workload.name}-{workload.prompt_tokens}")
def test_every_request_is_greedy_streams_its_usage_and_cannot_end_early(workload: Workload) -> None:
    request = body(workload, 7, "a-model")
    assert request["temperature"] == 0
    assert request["stream_options"] == {"include_usage": True}
    assert request["max_tokens"] == workload.answer_tokens
    assert request["logit_bias"] == {str(token): -100 for token in CONTROL_TOKENS}
    assert request["model"] == "a-model"


@pytest.mark.parametrize("workload", ALL, ids=lambda workload: f"{workload.name}-{workload.prompt_tokens}")
def test_every_request_fits_the_context_with_its_template(workload: Workload) -> None:
    assert workload.prompt_tokens + workload.answer_tokens + 64 <= CONTEXT_TOKENS


def test_a_chat_prompt_has_all_its_tokens_and_no_default_system_message() -> None:
    workload = Workload("x", "chat", prompt_tokens=100, answer_tokens=1)
    messages = body(workload, 3, "")["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert sum(tokens(message["content"]) for message in messages) == 100


def test_other_sizes_give_another_digest() -> None:
    changed = (*FULL[:-1], Workload("streams-16", "chat", prompt_tokens=256, answer_tokens=127, streams=16))
    assert digest(changed) != digest(FULL)
