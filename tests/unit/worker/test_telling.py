"""What is told of an answer with marks, byte by byte: all of it, once, and nothing after a stop string."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.worker.formats.hermes import HERMES
from edged.worker.formats.parts import Parts, joined
from edged.worker.formats.thinking import Tags, Thinking
from edged.worker.telling import PLAIN, Speech, Telling
from tests.unit.worker.test_formats import read, told
from tests.unit.worker.vocabs import ByteVocab

pytestmark = pytest.mark.unit

NAMES = frozenset({"f"})
TAGS = Tags("<think>", "</think>", "\n", "\n\n")
THINKING = Speech(lambda: Thinking(TAGS, HERMES.parser(NAMES), opened=False))
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {}}', "stop", "st", "ü", " ",
         "\n", "word", "<"]
texts = st.lists(st.sampled_from(MARKS), max_size=14).map("".join)


def say(text: str, *stops: str, speech: Speech = THINKING) -> tuple[Telling, Parts, str | None]:
    telling = Telling(ByteVocab(), speech, stops, first=False)
    parts = Parts()
    for byte in text.encode():
        before = telling.settled_chars
        more, matched = telling.push(byte)
        joined(parts, more)
        assert before <= telling.settled_chars <= telling.produced_chars
        if matched is not None:
            return telling, parts, matched
    more, matched = telling.finish()
    return telling, joined(parts, more), matched


@given(texts)
def test_everything_is_told_and_settled_once(text: str) -> None:
    telling, parts, matched = say(text)
    assert matched is None
    assert told(parts) == told(read(THINKING.parser(), [text]))
    assert telling.settled_chars == telling.produced_chars == len(text)
    assert telling.called == bool(parts.calls)


@given(texts)
def test_a_stop_string_ends_the_text_and_is_not_looked_for_in_thoughts_and_calls(text: str) -> None:
    reasoning, content, _ = told(read(THINKING.parser(), [text]))
    _, parts, matched = say(text, "stop")
    if matched is None:
        assert told(parts)[:2] == (reasoning, content)
    else:
        assert (parts.reasoning, parts.content) == (reasoning, content.partition("stop")[0])


@given(texts)
def test_without_marks_to_read_the_text_is_the_text(text: str) -> None:
    assert told(say(text, speech=PLAIN)[1]) == ("", text, [])


def test_a_mark_that_is_a_control_token_is_read_and_any_other_is_no_text() -> None:
    vocab = ByteVocab([*(bytes([byte]) for byte in range(256)), b"", b""])
    speech = Speech(partial(HERMES.parser, NAMES), {256: "<tool_call>"})
    telling = Telling(vocab, speech, (), first=False)
    parts = Parts()
    for token in [*b"Hi.", 257, 256, *b'{"name": "f"}']:
        joined(parts, telling.push(token)[0])
    assert told(joined(parts, telling.finish()[0])) == ("", "Hi.", [("f", "{}")])
