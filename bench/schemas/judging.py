"""What an answer to a schema is worth. The judge is the package `jsonschema`, which no server here uses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for


class Verdict(StrEnum):
    """VAGUE: refused, and the message names no keyword of the schema. CUT: `max_tokens` or the context ended it.
    UNJUDGED: the judge itself failed."""

    VALID = "valid"
    REFUSED = "refused by keyword"
    VAGUE = "refused otherwise"
    CUT = "cut"
    INVALID = "INVALID"
    ERROR = "error"
    UNJUDGED = "not judged"


@dataclass(frozen=True)
class Answer:
    """status: as of HTTP, 0 where nothing came. text: what was written, or what an error says. end: why it ended."""

    status: int
    text: str
    end: str = ""


def judge(schema: dict[str, Any], answer: Answer) -> tuple[Verdict, str]:
    """The verdict, and the keyword that was refused, or what was seen."""
    if answer.status == 0 or answer.status >= 500:
        return Verdict.ERROR, f"{answer.status}: {answer.text}"
    if answer.status >= 400:
        named = refused(schema, answer.text)
        return (Verdict.REFUSED, named) if named else (Verdict.VAGUE, answer.text)
    if answer.end == "length":
        return Verdict.CUT, ""
    try:
        value = json.loads(answer.text, parse_constant=_no_json)
    except ValueError:
        return Verdict.INVALID, f"no JSON: {answer.text!r}"
    try:
        wrong = next(validator(schema).iter_errors(value), None)
    except Exception as error:  # whatever stops the judge says nothing about the server
        return Verdict.UNJUDGED, f"{type(error).__name__}: {error}"
    if wrong is None and answer.end == "stop":
        return Verdict.VALID, ""
    return Verdict.INVALID, f"{wrong.message if wrong else f'ended by {answer.end!r}'}: {answer.text!r}"


def validator(schema: dict[str, Any]) -> Validator:
    """By the schema's own dialect. Formats assert."""
    kind = validator_for(schema, default=Draft202012Validator)
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def refused(schema: dict[str, Any], message: str) -> str:
    """The keyword that a refusal names, between marks of any kind; of several the first. Empty if there is none."""
    found = ((match.start(), word) for word in set(_words(schema))
             for match in [re.search(rf"[`'\"/]{re.escape(word)}[`'\"/:]", message)] if match)
    return min(found, default=(0, ""))[1]


def _words(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, value in schema.items():
            yield name
            yield from _words(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _words(item)


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
