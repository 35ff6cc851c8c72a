"""Schemas before llguidance: what is refused names its keyword, what asserts nothing is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edged.errors import InvalidRequest
from edged.worker.schema import MAX_DEPTH, MAX_SUBSCHEMAS, enforceable, enforceable_in_lark

pytestmark = pytest.mark.unit


def cleaned(schema: Any) -> Any:
    written = json.loads(enforceable(json.dumps(schema)))
    del written["x-guidance"]
    return written


@pytest.mark.parametrize("keyword", [
    "not", "if", "uniqueItems", "contains", "dependentRequired", "propertyNames", "unevaluatedProperties", "nullable",
    "foo", "x-guidance", "strict", "minimun",
])
@pytest.mark.parametrize("around", [
    lambda inner: inner,
    lambda inner: {"type": "object", "properties": {"a": inner}},
    lambda inner: {"items": {"anyOf": [{"type": "null"}, inner]}},
    lambda inner: {"$defs": {"d": inner}, "$ref": "#/$defs/d"},
    lambda inner: {"additionalProperties": inner},
    lambda inner: {"prefixItems": [inner]},
], ids=["top", "property", "items", "defs", "additional", "prefix"])
def test_a_keyword_that_is_not_enforced_is_refused_by_name_wherever_it_stands(keyword: str, around: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"`{keyword}`"):
        enforceable(json.dumps(around({keyword: True})))


def test_the_refusal_says_where_the_keyword_stands() -> None:
    with pytest.raises(InvalidRequest, match="at /properties/a/items"):
        enforceable(json.dumps({"properties": {"a": {"items": {"not": {}}}}}))


def test_annotations_are_left_out_and_properties_of_their_names_stay() -> None:
    names = ["title", "description", "default", "deprecated", "examples", "discriminator"]
    schema = {"type": "object", "properties": {name: {"type": "string", name: {"not": 1}} for name in names}}
    assert cleaned(schema | {"title": "T"}) == {
        "type": "object", "properties": {name: {"type": "string"} for name in names}}


def test_values_are_no_schemas() -> None:
    schema = {"enum": [{"not": 1}, {"title": 2}], "const": {"foo": 1}}
    assert cleaned(schema) == schema


@pytest.mark.parametrize("schema", [
    {"format": "iri"}, {"format": 3}, {"format": ["date"]},
    {"multipleOf": 1_000_003}, {"multipleOf": 0.12345}, {"multipleOf": "a"},
    {"minProperties": 2}, {"minProperties": 2, "required": ["a"]},
    {"const": "a\0b"}, {"enum": ["a", "b\x7f"]}, {"const": {"a": [{"b": "\x1f"}]}},
], ids=ascii)
def test_a_value_that_would_be_enforced_in_part_is_refused_by_its_keyword(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"`{next(iter(schema))}`"):
        enforceable(json.dumps(schema))


@pytest.mark.parametrize("schema", [
    {"format": "uuid"}, {"multipleOf": 0.01}, {"multipleOf": 5}, {"minProperties": 1},
    {"minProperties": 2, "required": ["a", "b"]}, {"const": "\b\f\n\r\té🙂"}, {"enum": [{"a\x01": 1}]},
], ids=ascii)
def test_the_same_keywords_with_other_values_are_taken(schema: dict[str, Any]) -> None:
    assert cleaned(schema) == schema


@pytest.mark.parametrize("text", ["[]", "true", "{", "3", '{"a":' * 100_000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="schema"):
        enforceable(text)


def test_depth_and_size_have_limits() -> None:
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH + 1):
        deep = {"items": deep}
    with pytest.raises(InvalidRequest, match="nested deeper"):
        enforceable(json.dumps(deep))
    with pytest.raises(InvalidRequest, match=f"more than {MAX_SUBSCHEMAS}"):
        enforceable(json.dumps({"properties": {str(number): {} for number in range(MAX_SUBSCHEMAS)}}))


def test_schemas_within_a_lark_grammar_are_held_to_the_same() -> None:
    written = enforceable_in_lark('start: "a" %json {"type": "object", "title": "}"} "b" %json\n{"const": 1} /[%]json/')
    assert written.startswith('start: "a" %json {"type": "object", "x-guidance"')
    assert '"b" %json\n{"const": 1, "x-guidance"' in written
    assert written.endswith("/[%]json/")
    with pytest.raises(InvalidRequest, match="`not`"):
        enforceable_in_lark('start: %json {"not": {}}')


def test_a_format_of_time_is_narrowed_beside_what_else_the_schema_says() -> None:
    narrowed = cleaned({"format": "date-time", "allOf": [{"minLength": 3}]})
    assert narrowed["format"] == "date-time"
    assert narrowed["allOf"][0] == {"minLength": 3}
    assert len(narrowed["allOf"]) == 4
