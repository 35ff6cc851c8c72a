"""Each family's answers fall into thoughts, words and calls, in the same way however they are cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.worker.formats.detect import FAMILIES
from edged.worker.formats.family import Family
from edged.worker.formats.harmony import HARMONY, Harmony
from edged.worker.formats.parts import Parser, Parts, joined
from edged.worker.formats.thinking import Tags, Thinking

pytestmark = pytest.mark.unit

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.json"))
BY_NAME = {family.name: family for family in FAMILIES}
NAMES = frozenset({"weather", "now", "f", "say"})
TAGS = {"mistral_named": Tags("[THINK]", "[/THINK]"), "gemma4": Tags("<|channel>thought\n", "<channel|>")}
THINK = Tags("<think>", "</think>", "\n", "\n\n")


def cases() -> list[Any]:
    found = []
    for path in SAMPLES:
        recorded = json.loads(path.read_text())
        found += [pytest.param(recorded["family"], case, id=f"{path.stem}: {case['what']}")
                  for case in recorded["cases"]]
    return found


def parser_of(family: Family, *, opened: bool = False) -> Parser:
    if family is HARMONY:
        return Harmony("reasoning" if opened else "head")
    return Thinking(TAGS.get(family.name, THINK), family.parser(NAMES), opened=opened)


def read(parser: Parser, pieces: Iterable[str]) -> Parts:
    parts = Parts()
    for piece in pieces:
        joined(parts, parser.push(piece))
    return joined(parts, parser.finish())


def told(parts: Parts) -> tuple[str, str, list[tuple[str, str]]]:
    """Calls whole: name and arguments."""
    calls: list[tuple[str, str]] = []
    ids = set()
    for piece in parts.calls:
        if piece.id:
            assert piece.call == len(calls)
            ids.add(piece.id)
            calls.append((piece.name, piece.arguments))
        else:
            name, arguments = calls[piece.call]
            calls[piece.call] = (name, arguments + piece.arguments)
    assert len(ids) == len(calls)
    return parts.reasoning, parts.content, calls


def test_every_family_has_samples() -> None:
    assert {path.stem for path in SAMPLES} == BY_NAME.keys()


@pytest.mark.parametrize(("name", "case"), cases())
def test_recorded_answers_fall_into_their_parts(name: str, case: dict[str, Any]) -> None:
    expected = case["reasoning"], case["content"], [tuple(call) for call in case["calls"]]
    family = BY_NAME[name]
    assert told(read(parser_of(family, opened=case["opened"]), [case["text"]])) == expected
    assert told(read(parser_of(family, opened=case["opened"]), case["text"])) == expected


MARKS = ["<tool_call>", "</tool_call>", "<think>", "</think>", '{"name": "f"', ', "arguments": ', "{}", "}", '"', "\\",
         "[TOOL_CALLS]", "[ARGS]", "f", "[", "]", ",", " ", "\n", "<|python_tag|>", "<|tool_call|>", "<|/tool_call|>",
         "call:f{", "a:", "<escape>", "<start_function_call>", "<end_function_call>", "<|channel|>", "analysis",
         "commentary", "final", " to=functions.f", "<|message|>", "<|end|>", "<|start|>assistant", "<|call|>",
         "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "function", "<｜tool▁sep｜>", "\n```json\n", "```",
         "<｜tool▁call▁end｜>", "{", "ü", "<", "word"]


@given(st.sampled_from(FAMILIES), st.lists(st.sampled_from(MARKS), max_size=25), st.booleans(), st.data())
def test_no_cutting_changes_what_an_answer_falls_into_and_nothing_raises(
    family: Family, marks: list[str], opened: bool, data: st.DataObject
) -> None:
    text = "".join(marks)
    whole = told(read(parser_of(family, opened=opened), [text]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert told(read(parser_of(family, opened=opened), pieces)) == whole
    assert told(read(parser_of(family, opened=opened), text)) == whole


@given(st.sampled_from([family for family in FAMILIES if family is not HARMONY]),
       st.text("ab<>[]{}|\n ", max_size=60))
def test_words_without_a_mark_come_out_as_they_are(family: Family, text: str) -> None:
    assert told(read(family.parser(NAMES), text)) == ("", text, [])


@given(st.sampled_from(FAMILIES), st.lists(st.sampled_from(MARKS), max_size=25))
def test_held_characters_are_never_more_than_those_that_came(family: Family, marks: list[str]) -> None:
    parser = parser_of(family)
    count = 0
    for mark in marks:
        parser.push(mark)
        count += len(mark)
        assert 0 <= parser.held <= count
