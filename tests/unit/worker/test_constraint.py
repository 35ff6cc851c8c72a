"""Constraints over the fake engine's vocabulary, written by a model that draws at random among what is allowed."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any

import numpy as np
import pytest

from edged.engines.fake import FakeVocab
from edged.errors import InvalidRequest, UnsupportedParameter
from edged.types import Constraint, Gbnf, JsonObject, JsonSchema, Lark, Regex
from edged.worker.constraint import MAX_TEXT_BYTES, WORN_MASKS, Compiled, Constraints
from tests.unit.worker.vocabs import ByteVocab

pytestmark = pytest.mark.unit

VOCAB = FakeVocab()
CONSTRAINTS = Constraints(VOCAB)


def write(compiled: Compiled, seed: int = 0, limit: int = 400) -> tuple[str, str]:
    """The text, control tokens by name, and how it ended: complete, end or limit."""
    matcher = compiled.matcher()
    draw = np.random.default_rng(seed)
    tokens: list[int] = []
    while len(tokens) < limit:
        chosen = matcher.forced()
        if not chosen:
            allowed = matcher.mask()
            ids = np.arange(VOCAB.size) if allowed is None else np.flatnonzero(allowed)
            chosen = [int(draw.choice(ids))]
            if matcher.refuses(chosen[0]):
                continue
            if chosen[0] in VOCAB.end:
                return text_of(tokens), "end"
        matcher.accept(chosen)
        tokens += chosen
        if matcher.finished:
            return text_of(tokens), "complete"
    return text_of(tokens), "limit"


def text_of(tokens: list[int]) -> str:
    return b"".join(map(VOCAB.written, tokens)).decode(errors="replace")


def schema(said: Any) -> JsonSchema:
    return JsonSchema(json.dumps(said))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("constraint", "pattern"), [
    (Regex(r"[a-c]{2,5}-\d"), r"[a-c]{2,5}-\d"),
    (Lark('start: A ("," A)*\nA: /[xy]+/'), r"[xy]+(,[xy]+)*"),
    (Gbnf('root ::= item+ "."\nitem ::= "a" | "b" [0-9]'), r"(a|b[0-9])+\."),
    (Gbnf(r'root ::= [\u0041-\u0043]+ "\x2e" "\u00e9"'), r"[A-C]+\.é"),
    ('start: "q" %json {"enum": ["r", 7]}', r'q("r"|7)'),
], ids=str)
def test_every_text_that_ends_matches(constraint: Constraint | str, pattern: str, seed: int) -> None:
    text, end = write(CONSTRAINTS.compile(constraint), seed)
    assert re.fullmatch(pattern, text) if end != "limit" else re.match(r"[xyab0-9A-C,]*\Z", text)


@pytest.mark.parametrize("seed", range(3))
def test_a_json_object_is_json(seed: int) -> None:
    text, end = write(CONSTRAINTS.compile(JsonObject()), seed, 4000)
    assert end == "limit" or isinstance(json.loads(text), dict)


def test_what_the_schema_forces_is_not_drawn() -> None:
    compiled = CONSTRAINTS.compile(schema({"const": "one word"}))
    matcher = compiled.matcher()
    forced = matcher.forced()
    assert text_of(forced) == '"one word"'
    matcher.accept(forced)
    assert matcher.finished


def test_matchers_of_one_grammar_go_their_own_ways() -> None:
    compiled = CONSTRAINTS.compile(Regex("ab|cd"))
    first, second = compiled.matcher(), compiled.matcher()
    first.accept(list(b"a"))
    second.accept(list(b"c"))
    assert (first.forced(), second.forced()) == (list(b"b"), list(b"d"))
    assert compiled.matcher().forced() == []


def test_an_answer_ends_only_where_it_may() -> None:
    matcher = CONSTRAINTS.compile(Regex("a+")).matcher()
    allowed = matcher.mask()
    assert allowed is not None
    assert not allowed[list(VOCAB.end)].any()
    matcher.accept(list(b"a"))
    allowed = matcher.mask()
    assert allowed is not None
    assert allowed[list(VOCAB.end)].all()
    assert not matcher.finished


def test_control_tokens_are_no_text_and_can_be_named() -> None:
    anything = CONSTRAINTS.compile(Regex(r"(?s:.*)x")).matcher().mask()
    assert anything is not None
    assert not anything[256:260].any()
    assert text_of(CONSTRAINTS.compile('start: <|im_start|> "a"').matcher().forced()) == "<|im_start|>a"


def test_json_is_written_in_one_way_so_that_no_blanks_run_on() -> None:
    value = {"a": [1, {"b": None}], "c": "d"}
    compiled = CONSTRAINTS.compile(schema({"const": value}))
    assert write(compiled) == (json.dumps(value), "complete")
    matcher = CONSTRAINTS.compile(schema({"type": "array", "items": {"type": "integer"}})).matcher()
    matcher.accept(list(b"[1"))
    allowed = matcher.mask()
    assert allowed is not None
    assert {VOCAB.piece(int(token)) for token in np.flatnonzero(allowed)} == {bytes([byte]) for byte in b",0123456789]"}


@pytest.mark.parametrize("after", ["</think>", "<|im_start|>"], ids=["text", "control token"])
@pytest.mark.parametrize("seed", range(3))
def test_the_constraint_begins_after_its_marker(after: str, seed: int) -> None:
    text, end = write(CONSTRAINTS.compile(Regex("[ab]{3}"), after=after, budget=20), seed)
    assert end == "complete"
    assert re.fullmatch(f"(?s:.*){re.escape(after)}[ab]{{3}}", text)


def test_the_marker_counts_only_once_it_is_whole_and_across_tokens() -> None:
    matcher = CONSTRAINTS.compile(Regex("b"), after="aab").matcher()
    for byte in b"aaa":
        matcher.accept([byte])
        assert matcher.free
    matcher.accept(list(b"b"))
    assert not matcher.free
    assert matcher.forced() == list(b"b")


def test_a_token_that_goes_beyond_the_marker_counts_for_the_constraint() -> None:
    vocab = ByteVocab([*(bytes([byte]) for byte in range(256)), b"d>x", b"d>\n\n", b"d>a"], end=frozenset({0}))
    compiled = Constraints(vocab).compile(Regex("ab"), after="end>")
    for token, rest in ((257, b"ab"), (258, b"b")):
        matcher = compiled.matcher()
        matcher.accept(list(b"..en"))
        assert matcher.refuses(256)
        assert not matcher.refuses(token)
        matcher.accept([token])
        assert matcher.forced() == list(rest)


def test_free_text_has_no_end_before_the_constraint_unless_it_is_optional() -> None:
    held = CONSTRAINTS.compile(Regex("a"), after="</think>").matcher().mask()
    assert held is not None
    assert sorted(np.flatnonzero(~held)) == sorted(VOCAB.end)
    assert CONSTRAINTS.compile(Regex("a"), after="</think>", optional=True).matcher().mask() is None


def test_a_budget_of_free_text_needs_no_constraint() -> None:
    matcher = CONSTRAINTS.compile(None, after="</think>", budget=2).matcher()
    matcher.accept(list(b"ab"))
    assert text_of(matcher.forced()) == "</think>"
    matcher.accept(matcher.forced())
    assert (matcher.forced(), matcher.mask(), matcher.finished) == ([], None, False)


@pytest.mark.parametrize(("constraint", "named"), [
    (schema({"oneOf": [{"type": "string"}, {"minLength": 1}]}), "`oneOf`"),
    (schema({"type": "string", "pattern": "(?=a)b"}), "`pattern`"),
    (schema({"type": "string", "pattern": r"\bword\b"}), "`pattern`"),
    (schema({"required": "a"}), "'required'"),
    (schema({"type": "string", "minLength": 3, "maxLength": 2}), "minLength"),
    (schema({"allOf": [{"type": "string"}, {"type": "null"}]}), "incompatible types"),
    (schema({"$ref": "#"}), "no text"),
    (schema({"$ref": "https://example.org/schema"}), "example.org"),
    (schema({"$ref": "#/$defs/none"}), "none"),
    (schema({"type": "text"}), "text"),
    (Regex("a("), "unclosed group"),
    (Regex("(" * 60_000 + ")" * 60_000), "nest"),
    (Lark("start: b"), "unknown name"),
    (Lark("start: a\na[lazy, temperature=0.5]: /x+/"), "`temperature`"),
    (Lark("start: " + "(" * 60_000), "too deeply nested"),
    (Lark('start: %json {"uniqueItems": true}'), "`uniqueItems`"),
    (Gbnf("root ::= x"), "'x' not found"),
    (Gbnf('root ::= "a'), "Unexpected end"),
    (Gbnf("root ::= " + "(" * 60_000), "brackets deeper"),
    (Gbnf("root ::= (" * 2), "GBNF"),
    (Regex("a" * (MAX_TEXT_BYTES + 1)), "KiB"),
], ids=lambda value: str(value)[:40])
def test_what_cannot_be_enforced_is_refused_and_says_why(constraint: Constraint, named: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(named)) as refused:
        CONSTRAINTS.compile(constraint)
    assert len(refused.value.message) < 700


@pytest.mark.parametrize("constraint", [
    Regex("(.*a.{50}|.*b.{60}){30}"),
    Regex("((a{1,100}){1,100}){1,100}"),
    schema({"enum": [f"value number {number}" for number in range(9_000)]}),
    schema({"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(1_900)}}),
    schema({"type": "integer", "multipleOf": 9_999}),
    schema({"$defs": {"d0": {"anyOf": [{"type": "string"}, {"type": "null"}]}} | {
        f"d{number}": {"allOf": [{"$ref": f"#/$defs/d{number - 1}"}, {"$ref": f"#/$defs/d{number - 1}"}]}
        for number in range(1, 30)}, "$ref": "#/$defs/d29"}),
], ids=["catastrophic", "repeated", "enum", "properties", "multiple", "intersections"])
def test_a_hostile_constraint_costs_bounded_time(constraint: Constraint) -> None:
    began_s = time.process_time()
    try:
        CONSTRAINTS.compile(constraint)
    except InvalidRequest as error:
        assert "too" in error.message  # noqa: PT017 (both ways are right)
    assert time.process_time() - began_s < 5


def test_a_model_without_an_end_token_has_no_constraints() -> None:
    with pytest.raises(UnsupportedParameter, match="no token that ends"):
        Constraints(ByteVocab()).compile(JsonObject())


def test_the_same_constraint_is_compiled_once_and_from_any_thread() -> None:
    constraints = Constraints(VOCAB)
    found: list[Compiled] = []
    threads = [threading.Thread(target=lambda: found.append(constraints.compile(Regex("a+")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert constraints.compile(Regex("a+")) is constraints.compile(Regex("a+"))
    assert constraints.compile(Regex("a+")) is not constraints.compile(Regex("a+"), after="x")


def test_what_a_grammar_has_learnt_is_not_kept_for_ever() -> None:
    constraints = Constraints(VOCAB)
    first = constraints.compile(Regex("a+"))
    matcher = first.matcher()
    for _ in range(WORN_MASKS + 1):
        matcher.mask()
    constraints.compile(Regex("b+"))
    assert constraints.compile(Regex("a+")) is not first
    assert matcher.mask() is not None
