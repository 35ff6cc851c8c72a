"""Every request field in a table: what it may hold, and whether it is served, inert, or not served yet.

The rule above all: a field is honoured, or refused by name. Inert are only those that by their meaning cannot change
the answer; they are told in the header `edged-ignored`. null means absent, as OpenAI has it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from edged.errors import InvalidRequest, MissingParameter, UnknownParameter, UnsupportedParameter

#: Takes (value, path), gives the accepted value, raises InvalidRequest whose param is the path.
Check = Callable[[Any, str], Any]
Checked = TypeVar("Checked", bound=Check)
Unknown = Literal["refuse", "report"]
Schema = dict[str, Any]


def takes(schema: Schema | Callable[[], Schema]) -> Callable[[Checked], Checked]:
    """For a check: which values it may accept, as a JSON Schema; for the OpenAPI document, never to check by."""

    def mark(check: Checked) -> Checked:
        check.schema = schema  # type: ignore[attr-defined]
        return check

    return mark


def schema_of(check: Check) -> Schema:
    """{}, which any value fits, where the check does not say."""
    said = getattr(check, "schema", {})
    return dict(said() if callable(said) else said)


class Field(NamedTuple):
    """off: values that mean "as if absent" of a field that is not served yet; `instead` says what to do without it."""

    use: Literal["served", "inert", "later"]
    check: Check | None = None
    required: bool = False
    off: tuple[Any, ...] = ()
    instead: str = ""


Table = dict[str, Field]


def served(check: Check, *, required: bool = False) -> Field:
    return Field("served", check, required)


def inert(check: Check) -> Field:
    return Field("inert", check)


def later(*off: Any, instead: str = "") -> Field:
    return Field("later", off=off, instead=instead)


def object_schema(table: Table) -> Schema:
    """Of a request's body: what `accept` takes under the setting unknown_fields = "refuse"."""
    return {
        "type": "object",
        "properties": {name: _property(field) for name, field in table.items()},
        "required": [name for name, field in table.items() if field.required],
        "additionalProperties": False,
    }


def kind_schema(table: Table, kind: str, key: str = "type", *, said: bool = False) -> Schema:
    """`object_schema` of one of the kinds that `key` tells apart. said: it must be, though the table does not ask."""
    schema = object_schema(table)
    said = said and not table[key].required
    schema["properties"] |= {key: {"const": kind} if said or table[key].required else {"enum": [kind, None]}}
    schema["required"] += [key] if said else []
    return schema


def list_schema(item: Schema, sizes: range) -> Schema:
    """Of what `items` takes."""
    return {"type": "array", "items": item, "minItems": sizes[0], "maxItems": sizes[-1]}


def _property(field: Field) -> Schema:
    if field.use == "later":
        off = [value for value in field.off if value is not None]
        return {"enum": [*off, None], "description": "Not served but for what means the same as leaving it out."}
    assert field.check is not None
    schema = schema_of(field.check)
    if field.use == "inert":
        schema = {**schema, "description": "Checked, and ignored: it cannot change the answer. Told in edged-ignored."}
    return schema if field.required or not schema else {"anyOf": [schema, {"type": "null"}]}


class Accepted(NamedTuple):
    """values: the served fields that were said. ignored: names for the header `edged-ignored`."""

    values: dict[str, Any]
    ignored: list[str]


def accept(table: Table, said: Mapping[str, Any], *, unknown: Unknown, path: str = "") -> Accepted:
    """Raises InvalidRequest or a subclass of it that names the field; of several mistakes the first one sent."""
    accepted = Accepted({}, [])
    for name, value in said.items():
        at = f"{path}.{name}" if path else name
        field = table.get(name)
        if field is None:
            if unknown == "refuse":
                raise _unknown(name, at, table)
            accepted.ignored.append(at)
        elif value is None:
            continue
        elif field.use == "later":
            if not any(_same(value, off) for off in field.off):
                raise UnsupportedParameter(f"`{at}` is not served yet. {field.instead or 'Leave it out.'}", param=at)
        else:
            assert field.check is not None
            checked = field.check(value, at)
            if field.use == "inert":
                accepted.ignored.append(at)
            else:
                accepted.values[name] = checked
    for name, field in table.items():
        if field.required and name not in accepted.values:
            at = f"{path}.{name}" if path else name
            raise MissingParameter(f"`{at}` is missing.", param=at)
    return accepted


def _same(value: Any, off: Any) -> bool:
    """1 and True are equal in Python, and not in JSON; 1 and 1.0 are in both."""
    return isinstance(value, bool) is isinstance(off, bool) and bool(value == off)


def _unknown(name: str, at: str, table: Table) -> UnknownParameter:
    shown, at = name[:64], at[:200]
    near = difflib.get_close_matches(shown, table, n=1)
    hint = f" Did you mean `{near[0]}`?" if near else " Leave it out."
    return UnknownParameter(f"There is no field `{shown}` here.{hint}", param=at)


def wrong(path: str, expected: str) -> InvalidRequest:
    """The one form of message for a value that does not fit."""
    return InvalidRequest(f"`{path}` must be {expected}.", param=path)


def number(low: float, high: float, *, above: bool = False) -> Check:
    """low ≤ value ≤ high, or low < value where `above`."""
    expected = f"a number above {low:g} and at most {high:g}" if above else f"a number from {low:g} to {high:g}"

    @takes({"type": "number", "exclusiveMinimum" if above else "minimum": low, "maximum": high})
    def check(value: Any, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise wrong(path, expected)
        if not low <= value <= high or (above and value == low):
            raise wrong(path, expected)
        return float(value)

    return check


def integer(low: int, high: int) -> Check:
    expected = f"a whole number from {low} to {high}"

    @takes({"type": "integer", "minimum": low, "maximum": high})
    def check(value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(path, expected)
        return value

    return check


@takes({"type": "boolean"})
def boolean(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise wrong(path, "true or false")
    return value


def text(max_length: int | None = None, *, min_length: int = 0) -> Check:
    expected = "a string" if max_length is None else f"a string of {min_length} to {max_length} characters"

    @takes({"type": "string", "minLength": min_length} | ({} if max_length is None else {"maxLength": max_length}))
    def check(value: Any, path: str) -> str:
        if not isinstance(value, str) or len(value) < min_length:
            raise wrong(path, expected)
        if max_length is not None and len(value) > max_length:
            raise wrong(path, expected)
        return value

    return check


def choice(*values: str) -> Check:
    expected = " or ".join(f'"{value}"' for value in values)

    @takes({"enum": list(values)})
    def check(value: Any, path: str) -> str:
        if not isinstance(value, str) or value not in values:
            raise wrong(path, expected)
        return value

    return check


def record(table: Table, unknown: Unknown = "refuse") -> Check:
    """A nested object; gives Accepted."""

    @takes(lambda: object_schema(table))
    def check(value: Any, path: str) -> Accepted:
        if not isinstance(value, dict):
            raise wrong(path, "an object")
        return accept(table, value, unknown=unknown, path=path)

    return check


def mapping(max_entries: int) -> Check:
    @takes({"type": "object", "maxProperties": max_entries})
    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > max_entries:
            raise wrong(path, f"an object of at most {max_entries} entries")
        return value

    return check


def items(value: Any, path: str, check: Check, expected: str, sizes: range) -> list[Any]:
    """A list of `sizes` many; each item checked under its own path."""
    if not isinstance(value, list) or len(value) not in sizes:
        raise wrong(path, expected)
    return [check(item, f"{path}[{index}]") for index, item in enumerate(value)]


_stop_text = text(1024, min_length=1)


@takes({"anyOf": [schema_of(_stop_text), {"type": "array", "maxItems": 16, "items": schema_of(_stop_text)}]})
def stop(value: Any, path: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_stop_text(value, path),)
    return tuple(items(value, path, _stop_text, "a string or a list of up to 16 strings", range(17)))


_bias = number(-100, 100)
MAX_BIASES = 4096
MAX_TOKEN = 2**31 - 1


@takes({"type": "object", "propertyNames": {"pattern": "^[0-9]{1,10}$"}, "additionalProperties": schema_of(_bias),
        "maxProperties": MAX_BIASES})
def logit_bias(value: Any, path: str) -> dict[int, float]:
    biases: dict[int, float] = {}
    for token, bias in mapping(MAX_BIASES)(value, path).items():
        if not re.fullmatch(r"[0-9]{1,10}", token, re.ASCII) or int(token) > MAX_TOKEN:
            raise wrong(path, 'an object of token ids, like {"50256": -100}')
        biases[int(token)] = _bias(bias, f"{path}.{token}")
    return biases


_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"
_DURATION = re.compile(rf"-?(?:{_NUMBER}|(?:{_NUMBER}(?:ms|s|m|h)){{1,8}})", re.ASCII)
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|)", re.ASCII)
_seconds = number(-1, 10**9)


@takes({"anyOf": [{"type": "number", "maximum": 10**9},
                  {"type": "string", "pattern": f"^{_DURATION.pattern}$", "examples": ["10m"]}]})
def keep_alive(value: Any, path: str) -> float:
    """Seconds; -1 for ever. Also texts like "10m" and "1h30m", as Ollama takes them and Go programs write them."""
    if isinstance(value, str):
        if _DURATION.fullmatch(value) is None:
            raise wrong(path, 'seconds, or a text like "10m"')
        value = -1.0 if value.startswith("-") else sum(
            float(part[1]) * _UNITS_S[part[2]] for part in _PART.finditer(value))
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        return -1.0
    return float(_seconds(value, path))


def header_value(names: Sequence[str]) -> bytes:
    """`edged-ignored`: names come from the client, so only what is safe in a header, and not without end."""
    return ", ".join(re.sub(r"[^A-Za-z0-9_.\[\]-]", "?", name[:64]) for name in names[:32]).encode("ascii")


#: What chat and completions have in common.
SAMPLING: Table = {
    "temperature": served(number(0, 2)),
    "top_p": served(number(0, 1, above=True)),
    "top_k": served(integer(0, 2**31 - 1)),
    "min_p": served(number(0, 1)),
    "typical_p": served(number(0, 1, above=True)),
    "repetition_penalty": served(number(0, 10, above=True)),
    "presence_penalty": served(number(-2, 2)),
    "frequency_penalty": served(number(-2, 2)),
    "logit_bias": served(logit_bias),
    "seed": served(integer(-(2**63), 2**63 - 1)),
}

MAX_CHOICES = 16
MAX_TOKENS = 2**31 - 1
MAX_ADAPTER_NAME = 100

GENERATION: Table = SAMPLING | {
    "model": served(text(512, min_length=1), required=True),
    "stop": served(stop),
    "n": served(integer(1, MAX_CHOICES)),
    "max_tokens": served(integer(1, MAX_TOKENS)),
    "stream": served(boolean),
    "stream_options": served(record({"include_usage": served(boolean), "include_obfuscation": inert(boolean)})),
    "timeout_s": served(number(0, 86_400, above=True)),
    "keep_alive": served(keep_alive),
    "user": inert(text()),
    "safety_identifier": inert(text()),
    "prompt_cache_key": inert(text()),
    "service_tier": inert(text()),
    "adapter": served(text(MAX_ADAPTER_NAME, min_length=1)),
}
