"""Classes with control characters let through what they say and nothing else, as Python's `re` reads them."""

from __future__ import annotations

import json
import re

import pytest

from edged.engines.fake import FakeVocab
from edged.errors import InvalidRequest
from edged.types import JsonSchema
from edged.worker.constraint import Constraints
from edged.worker.pattern import writable

pytestmark = pytest.mark.unit

CONSTRAINTS = Constraints(FakeVocab())
WRITABLE = [chr(code) for code in range(128) if code in b"\b\f\n\r\t" or 0x20 <= code < 0x7f]


def allowed(schema: object, text: str) -> bool:
    """Whether this text can be a whole answer."""
    matcher = CONSTRAINTS.compile(JsonSchema(json.dumps(schema))).matcher()
    for byte in text.encode():
        mask = None if matcher.finished else matcher.mask()
        if mask is None or not mask[byte]:
            return False
        matcher.accept([byte])
    return matcher.finished


@pytest.mark.parametrize("piece", [
    '[^"]', r'[^"\\]', r"[^\\]", '[^"a-z]', r"[\x00-\x1f]", "[\x00-\x1f#]", r"[^ -~]", r"[^\]]", r"[^]]", r"[]^]",
    r"[\s\S]", r"[\x01-\x09]", r"[^\x00-\x1f]", r"[^\[\]]", r"(\x01|c)", r"\x23", r"\u0023", r"[^\n]", ".", r"\W",
    r"\S", r"\\", r"\[", '"',
])
def test_of_ascii_a_class_allows_what_it_says(piece: str) -> None:
    pattern = f"^a{piece}b$"
    matching = {one for one in WRITABLE if re.search(pattern, f"a{one}b")}
    assert matching
    schema = {"type": "string", "pattern": pattern}
    assert {one for one in WRITABLE if allowed(schema, json.dumps(f"a{one}b"))} == matching


@pytest.mark.parametrize("piece", [r"\x01", "\x01", r"[\x01]", r"[\x01\x02]", r"\u0001", r"\x{7f}", r"\a", r"\v"])
def test_a_character_that_cannot_be_written_is_not_left_out_instead(piece: str) -> None:
    with pytest.raises(InvalidRequest, match="no text satisfies it"):
        CONSTRAINTS.compile(JsonSchema(json.dumps({"type": "string", "pattern": f"^a{piece}b$"})))


def test_names_are_held_to_their_pattern_too() -> None:
    schema = {"type": "object", "patternProperties": {'^[^"]b$': {"type": "null"}}, "additionalProperties": False}
    assert allowed(schema, '{"ab": null}')
    assert not allowed(schema, r'{"\"b": null}')


@pytest.mark.parametrize("pattern", [
    "a[b", "[", "[^", "[]", "\\", r"[\\", "a]", r"\[a\]", "(?i)ab+", r"^\d{3}\.\w$", "",
])
def test_what_has_no_whole_class_stays_as_it_is(pattern: str) -> None:
    assert writable(pattern) == pattern
