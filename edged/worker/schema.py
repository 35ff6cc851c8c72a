"""JSON Schemas before llguidance reads them: every keyword must be one that it enforces or one that asserts nothing.

llguidance refuses keywords that it knows and cannot enforce, and passes over those that it does not know: these are
refused here. So are the few cases in which what it enforces is less than what the schema says, and sizes whose work its
own limits do not bound.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from edged.errors import InvalidRequest
from edged.worker.pattern import UNWRITABLE, writable

#: Schemas within each other; llguidance and its JSON reader recurse.
MAX_DEPTH = 40
#: Of a whole schema: its work grows faster than their number.
MAX_SUBSCHEMAS = 2000
#: A multiple is found by a state for each remainder.
MAX_MULTIPLE = 10_000

#: JSON is written as models have mostly read it, on one line with a space after colons and commas: nobody can run on in
#: blanks, and all between two values is forced, which costs no step of its own.
_WRITING: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # No \u: a key could else be written twice, and half a surrogate pair is no Unicode. All but a few control
    # characters can be written without.
    "json_allowed_escapes": 'nrbtf\\"',
    "lenient": False,
    "coerce_one_of": False,
}

_ONE = frozenset({"additionalProperties", "items", "additionalItems"})
_LIST = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_VALUE = frozenset({
    "type", "enum", "const", "$ref", "required", "minProperties", "maxProperties", "minItems", "maxItems", "minLength",
    "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "$schema", "$id", "id", "$anchor",
})
#: They assert nothing, in JSON Schema 2020-12 or in OpenAPI's use of it, and are left out.
_ANNOTATIONS = frozenset({
    "title", "description", "default", "example", "examples", "$comment", "deprecated", "readOnly", "writeOnly",
    "contentMediaType", "contentEncoding", "contentSchema", "discriminator", "externalDocs", "xml",
})
_FORMATS = frozenset({
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
})
_YEAR = r"^(000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})-"
_CLOCK = r":[0-5]\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$"
#: Of what RFC 3339 allows only what every program reads: no year 0, no leap second, capitals, microseconds at most.
_COMMON_FORMS = {"date": [_YEAR], "time": [_CLOCK], "date-time": [_YEAR, "T", _CLOCK]}
_JSON_IN_LARK = re.compile(r"%json\s*(?=\{)")


def enforceable(text: str) -> str:
    """The schema as it is given to llguidance. Raises InvalidRequest that names the keyword, and where it stands."""
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"The schema is no JSON: {error}.") from None
    return _written(schema)


def enforceable_in_lark(grammar: str) -> str:
    """The same for each `%json {…}` of a Lark grammar."""
    pieces, at = [], 0
    for match in _JSON_IN_LARK.finditer(grammar):
        if match.start() < at:
            continue
        try:
            schema, end = json.JSONDecoder().raw_decode(grammar, match.end())
        except (ValueError, RecursionError):
            continue  # not a schema, or none that llguidance could read either
        pieces += [grammar[at:match.end()], _written(schema)]
        at = end
    return "".join([*pieces, grammar[at:]])


def _written(schema: Any) -> str:
    if not isinstance(schema, dict):
        raise InvalidRequest("The schema must be an object.")
    return json.dumps(_Reading().read(schema, "", 0) | {"x-guidance": _WRITING}, ensure_ascii=False)


class _Reading:
    """Of one schema, whose subschemas it counts."""

    def __init__(self) -> None:
        self._count = 0

    def read(self, schema: Any, path: str, depth: int) -> Any:
        """Checked, and without annotations, which may hold anything. path: where it stands (`/properties/name`)."""
        if not isinstance(schema, dict):
            return schema
        self._count += 1
        if self._count > MAX_SUBSCHEMAS:
            raise InvalidRequest(f"The schema has more than {MAX_SUBSCHEMAS} schemas within it; make it smaller.")
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"The schema is nested deeper than {MAX_DEPTH} schemas; make it flatter.")
        _check(schema, path)
        read = {
            keyword: self._inner(keyword, value, f"{path}/{keyword}", depth + 1)
            for keyword, value in schema.items() if keyword not in _ANNOTATIONS
        }
        if patterns := _COMMON_FORMS.get(schema.get("format", "")):
            others = read.get("allOf", [])
            if isinstance(others, list):  # else it is refused for that
                read["allOf"] = [*others, *({"pattern": pattern} for pattern in patterns)]
        return read

    def _inner(self, keyword: str, value: Any, path: str, depth: int) -> Any:
        if keyword in _NAMED and isinstance(value, dict):
            named = writable if keyword == "patternProperties" else str
            return {named(name): self.read(item, f"{path}/{name}", depth) for name, item in value.items()}
        if keyword == "pattern" and isinstance(value, str):
            return writable(value)
        if keyword in _LIST | _ONE and isinstance(value, list):
            return [self.read(item, f"{path}/{index}", depth) for index, item in enumerate(value)]
        return self.read(value, path, depth) if keyword in _ONE else value


def _check(schema: dict[str, Any], path: str) -> None:
    for keyword, value in schema.items():
        if keyword not in _ONE | _LIST | _NAMED | _VALUE | _ANNOTATIONS:
            raise _refusal(keyword, path, "is not enforced; leave it out")
        if keyword == "format" and not (isinstance(value, str) and value in _FORMATS):
            raise _refusal(keyword, path, f"is enforced for {', '.join(sorted(_FORMATS))} only; use `pattern`")
        if keyword in ("const", "enum") and not _can_be_written(value):
            raise _refusal(keyword, path, r"has a control character other than \b \f \n \r \t, which is never written")
        if keyword == "multipleOf" and not _small_multiple(value):
            raise _refusal(keyword, path, f"is enforced for numbers of up to 4 digits below {MAX_MULTIPLE}")
        if keyword == "minProperties" and not _at_least(value, schema):
            # Names that are not in `properties` may come twice.
            raise _refusal(keyword, path, "is enforced up to 1, or up to the count of `required`; name them there")


def _refusal(keyword: str, path: str, why: str) -> InvalidRequest:
    where = f" (at {path[:200]})" if path else ""
    return InvalidRequest(f"The schema's keyword `{keyword[:64]}`{where} {why}.")


def _can_be_written(value: Any) -> bool:
    """llguidance leaves such a character out of a text, but not out of a name."""
    if isinstance(value, str):
        return UNWRITABLE.search(value) is None
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(_can_be_written, inner))


def _small_multiple(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_MULTIPLE:
        return False
    return len(re.sub(r"\D", "", repr(value)).strip("0")) <= 4


def _at_least(value: Any, schema: dict[str, Any]) -> bool:
    required = schema.get("required")
    return isinstance(value, int) and value <= max(1, len(required) if isinstance(required, list) else 0)
