"""Calls that are enforced are calls, whoever writes them: here it is chance, among what is allowed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from edged.types import Constraint, JsonSchema, Regex
from edged.worker.constraint import Compiled, Constraints
from edged.worker.formats.detect import FAMILIES
from edged.worker.formats.enforce import Choice, Enforced, with_calls, without_calls
from edged.worker.formats.family import Family
from edged.worker.formats.harmony import HARMONY
from edged.worker.formats.hermes import HERMES
from edged.worker.formats.lark import Callee, Spelling
from edged.worker.formats.llama3 import LLAMA3
from edged.worker.formats.thinking import Tags
from tests.unit.worker.test_formats import parser_of, read, told
from tests.unit.worker.vocabs import ByteVocab

pytestmark = pytest.mark.unit

WEATHER = Callee("weather", {
    "type": "object", "properties": {
        "city": {"type": "string", "enum": ["Köln", "Bonn"]}, "days": {"type": "integer"},
        "hours": {"type": "array", "items": {"type": "boolean"}},
    }, "required": ["city"], "additionalProperties": False,
})
NOW = Callee("now", {"type": "object", "properties": {}, "additionalProperties": False})
SCHEMAS = {"weather": WEATHER.arguments, "now": NOW.arguments}


class MarkVocab(ByteVocab):
    """256 bytes, the end, and a control token for each of the family's marks, or none."""

    def __init__(self, family: Family, *, control: bool) -> None:
        self.marks = family.marks if control else ()
        super().__init__([*(bytes([byte]) for byte in range(256)), b"", *[b""] * len(self.marks)],
                         end=frozenset({256}))

    def written(self, token: int) -> bytes:
        return self.marks[token - 257].encode() if token > 256 else (b"<end>" if token == 256 else bytes([token]))

    @property
    def control(self) -> dict[str, int]:
        return {mark: 257 + number for number, mark in enumerate(self.marks)}

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        tokens: list[int] = []
        while text:
            mark = next((mark for mark in self.marks if special and text.startswith(mark)), text[0])
            tokens += [self.control[mark]] if mark in self.control else list(mark.encode())
            text = text[len(mark):]
        return tokens


def compiled(vocab: MarkVocab, enforced: Enforced) -> Compiled:
    return Constraints(vocab).compile(
        enforced.rule, after=enforced.after, optional=enforced.optional, budget=enforced.budget)


def held(
    family: Family, vocab: MarkVocab, choice: Choice, *, parallel: bool = False, content: Constraint | None = None,
    after: str | None = None,
) -> Compiled:
    spell = Spelling(vocab.control)
    calls = family.grammar([WEATHER, NOW], parallel=parallel and not family.single, spell=spell)
    enforced = with_calls(family, calls, choice, content, spell, after=after)
    assert enforced is not None
    return compiled(vocab, enforced)


def write(constraint: Compiled, vocab: MarkVocab, seed: int, *, limit: int = 1500) -> str | None:
    """What chance writes; None where it comes to no end."""
    matcher = constraint.matcher()
    draw = np.random.default_rng(seed)
    tokens: list[int] = []
    while len(tokens) < limit:
        chosen = matcher.forced()
        if not chosen:
            allowed = matcher.mask()
            assert allowed is not None
            ids = np.flatnonzero(allowed)
            chosen = [int(draw.choice(ids))]
            if 256 in ids and draw.random() < 0.3:
                chosen = [256]
            if chosen[0] == 256:
                break
        matcher.accept(chosen)
        tokens += chosen
        if matcher.finished:
            break
    else:
        return None
    return b"".join(map(vocab.written, tokens)).decode()


def takes(constraint: Compiled, vocab: MarkVocab, text: str) -> bool:
    """Whether a model may write this and end."""
    matcher = constraint.matcher()
    for token in [*vocab.tokenize(text, special=True, bos=False), 256]:
        if matcher.finished:
            return token == 256
        allowed = matcher.mask()
        if (allowed is not None and not allowed[token]) or matcher.refuses(token):
            return False
        matcher.accept([token])
    return True


def called(family: Family, text: str) -> list[tuple[str, Any]]:
    _, content, calls = told(read(parser_of(family), [text]))
    assert family is HARMONY or content == ""
    return [(name, json.loads(arguments)) for name, arguments in calls]


#: Marks of harmony always are control tokens.
WRITTEN = [pytest.param(family, control, id=f"{family.name}, {'control tokens' if control else 'text'}")
           for family in FAMILIES for control in (True, False) if control or family is not HARMONY]


@pytest.mark.parametrize(("family", "control"), WRITTEN)
def test_required_calls_are_read_back_and_fit_their_schemas(family: Family, control: bool) -> None:
    vocab = MarkVocab(family, control=control)
    one, many = held(family, vocab, "required"), held(family, vocab, "required", parallel=True)
    counts = set()
    for seed in range(12):
        text, several = write(one, vocab, seed), write(many, vocab, seed)
        assert text is not None
        assert several is not None
        calls = called(family, text)
        assert len(calls) == 1
        calls = called(family, several)
        counts.add(len(calls))
        for name, arguments in calls:
            jsonschema.validate(arguments, SCHEMAS[name])
    assert (len(counts) > 1) != family.single


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


def test_auto_leaves_words_free_and_holds_a_call_once_it_has_begun() -> None:
    vocab = MarkVocab(HERMES, control=False)
    auto = held(HERMES, vocab, "auto", parallel=True)
    assert takes(auto, vocab, "Hello, a < b.")
    assert takes(auto, vocab, f"I look.\n{CALL}")
    assert takes(auto, vocab, f"{CALL}\n{CALL}")
    assert not takes(auto, vocab, "<tool_call> is a mark")
    assert not takes(auto, vocab, CALL.replace("weather", "wether"))
    assert not takes(auto, vocab, CALL.replace("Köln", "Rome"))
    assert not takes(held(HERMES, vocab, "auto"), vocab, f"{CALL}\n{CALL}")


def test_a_thought_may_hold_the_mark_of_a_call() -> None:
    vocab = MarkVocab(HERMES, control=False)
    auto = held(HERMES, vocab, "auto", after="</think>")
    assert takes(auto, vocab, f"What is <tool_call>?</think>\n\nLook.\n{CALL}")
    assert takes(auto, vocab, "So.</think>\n\nHello")
    assert not takes(auto, vocab, "So.</think>\n\n<tool_call> is a mark")
    assert not takes(auto, vocab, "So.")
    required = held(HERMES, vocab, "required", after="</think>")
    assert takes(required, vocab, f"So.</think>\n\n{CALL}")
    assert not takes(required, vocab, "So.</think>\n\nHello")


def test_a_thought_that_the_model_opens_itself_may_hold_the_mark_too() -> None:
    tags = Tags("<think>", "</think>", "\n", "\n\n")
    for marks in (HERMES.marks, (*HERMES.marks, "<think>", "</think>")):
        vocab = MarkVocab(replace(HERMES, marks=marks), control="<think>" in marks)
        spell = Spelling(vocab.control)
        enforced = with_calls(HERMES, HERMES.grammar([WEATHER], parallel=False, spell=spell), "auto", None, spell,
                              after=None, tags=tags)
        assert enforced is not None
        auto = compiled(vocab, enforced)
        mark = "" if "<think>" in marks else "<tool_call>"
        assert takes(auto, vocab, f"<think>Why {mark}?</think>\n\nHello")
        assert takes(auto, vocab, f"<think>Why?</think>\n\n{CALL}")
        assert takes(auto, vocab, CALL)
        assert not takes(auto, vocab, "Hello <tool_call> is")


def test_with_none_no_call_begins() -> None:
    vocab = MarkVocab(HERMES, control=False)
    none = held(HERMES, vocab, "none")
    assert takes(none, vocab, "Hello <tool_cal.")
    assert not takes(none, vocab, f"Hello {CALL}")


def test_a_format_and_tools_make_a_call_or_an_answer_in_that_format() -> None:
    vocab = MarkVocab(HERMES, control=False)
    schema = JsonSchema('{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}')
    for content, fits in ((schema, '{"a": 1}'), (Regex(r"a/b|c\/d"), "a/b")):
        either = held(HERMES, vocab, "auto", content=content)
        assert takes(either, vocab, CALL)
        assert takes(either, vocab, fits)
        assert not takes(either, vocab, "Hello")


def test_llama_calls_without_a_mark_or_speaks() -> None:
    vocab = MarkVocab(LLAMA3, control=True)
    auto = held(LLAMA3, vocab, "auto")
    call = '{"name": "weather", "parameters": {"city": "Köln"}}'
    assert takes(auto, vocab, call)
    assert takes(auto, vocab, f"<|python_tag|>{call}")
    assert takes(auto, vocab, "It is {fine}.")
    assert not takes(auto, vocab, call.replace("weather", "wether"))


def test_harmony_thinks_speaks_and_calls() -> None:
    vocab = MarkVocab(HARMONY, control=True)
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    call = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Köln"}'
    final = "<|channel|>final<|message|>Hello."
    auto, required = held(HARMONY, vocab, "auto"), held(HARMONY, vocab, "required")
    for said in (final, call, thought + final, thought + thought + call):
        assert takes(auto, vocab, said)
        assert takes(required, vocab, said) == ("final" not in said)
    assert not takes(auto, vocab, call.replace("Köln", "Rome"))
    after = held(HARMONY, vocab, "required", after="<|end|>")
    assert takes(after, vocab, f"Hm.<|end|><|start|>assistant{call}")
    schema = without_calls(HARMONY, Regex("[0-9]+"), Spelling(vocab.control), after=None)
    assert schema is not None
    assert takes(compiled(vocab, schema), vocab, thought + "<|channel|>final<|message|>42")
    assert not takes(compiled(vocab, schema), vocab, thought + final)


