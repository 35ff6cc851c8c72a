"""What an answer must be to be learned from: the recipe's filters, read once and then asked of each answer.

What lengths, pattern, JSON and schema look at is the answer's text; of one that says nothing and calls tools, the JSON
array of its calls, `[{"name": …, "arguments": {…}}]`. Whatever the recipe says, calls must be of the prompt's tools,
with arguments that their schemas allow.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edged.errors import ConfigError, EdgedError, InvalidRequest
from training.chat_wire import openai_message
from training.examples import Example, Message
from training.pupil import Unlearnable
from training.recipe import Filters

#: Why an answer is not learned from. unfinished: cut at its limit of tokens, or by the endpoint's own filter.
#: template: that of the model which would learn it cannot say it.
#: disagrees, minority: see `training.answers.select`. refused: the teacher did not answer that prompt.
Reason = Literal["unfinished", "too short", "too long", "pattern", "not json", "schema", "tool call", "validator",
                 "template", "disagrees", "minority", "refused"]
#: Of the function that a recipe names: prompt and answer as OpenAI writes messages; None or the reason against it.
Validate = Callable[[list[dict[str, Any]], dict[str, Any]], str | None]
#: Says what is wrong with a value of JSON, None where nothing is.
Check = Callable[[Any], str | None]

_FINISHED = ("stop", "tool_calls")


@dataclass(frozen=True, slots=True)
class Objection:
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sieve:
    """Filters, ready to be used."""

    said: Filters
    pattern: re.Pattern[str] | None
    schema: Check | None
    validate: Validate | None
    unlearnable: Unlearnable | None = None

    def objection(self, example: Example, answer: Message, finish_reason: str | None) -> Objection | None:
        """None: it is good. Raises InvalidRequest where the recipe's own function fails."""
        if self.said.finished_only and finish_reason not in _FINISHED:
            return Objection("unfinished", f"it ended with {finish_reason!r}")
        text = text_of(answer)
        if len(text.strip()) < self.said.min_characters:
            return Objection("too short", f"{len(text.strip())} characters")
        if self.said.max_characters is not None and len(text) > self.said.max_characters:
            return Objection("too long", f"{len(text)} characters")
        if (wrong := wrong_calls(example, answer)) is not None:
            return Objection("tool call", wrong)
        if self.pattern is not None and self.pattern.search(text) is None:
            return Objection("pattern")
        return self._of_json(text) or self._validated(example, answer) or self._of_template(example, answer)

    def _of_json(self, text: str) -> Objection | None:
        if not self.said.json and self.schema is None:
            return None
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            return Objection("not json", str(error))
        if self.schema is not None and (wrong := self.schema(value)) is not None:
            return Objection("schema", wrong)
        return None

    def _of_template(self, example: Example, answer: Message) -> Objection | None:
        if self.unlearnable is None or (why := self.unlearnable(example, answer)) is None:
            return None
        return Objection("template", why)

    def _validated(self, example: Example, answer: Message) -> Objection | None:
        if self.validate is None:
            return None
        try:
            said: object = self.validate([openai_message(message) for message in example.prompt],
                                         openai_message(answer))
        except Exception as error:
            raise InvalidRequest(
                f"the validator {self.said.validator} failed on prompt {example.id}: {type(error).__name__}: {error}; "
                "mend it and run this again: the answers are kept") from error
        if said is None:
            return None
        if not isinstance(said, str):
            raise InvalidRequest(f"the validator {self.said.validator} returned {said!r}; it returns None for a good "
                                 "answer, and else the reason against it as a text")
        return Objection("validator", said)


def sieve(
    said: Filters, at: Callable[[str], Path], mistake: Callable[[str, str], ConfigError],
    unlearnable: Unlearnable | None = None,
) -> Sieve:
    """at: the absolute path of one that the recipe names. mistake: the error for a key of the table. Raises it."""
    try:
        pattern = re.compile(said.pattern) if said.pattern is not None else None
    except re.error as error:
        raise mistake("pattern", f"is no regular expression: {error}") from None
    return Sieve(said, pattern, _schema(said.schema, at, mistake), _function(said.validator, at, mistake),
                 unlearnable)


def text_of(answer: Message) -> str:
    if answer.content or not answer.tool_calls:
        return answer.content
    return json.dumps([{"name": name, "arguments": _value(arguments)} for name, arguments in calls_of(answer)],
                      ensure_ascii=False)


def calls_of(answer: Message) -> list[tuple[str, Any]]:
    """Name and arguments of each call, the latter as they were said."""
    found = []
    for call in answer.tool_calls:
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        found.append((str(function.get("name")), function.get("arguments", "")))
    return found


def wrong_calls(example: Example, answer: Message) -> str | None:
    """Why its calls cannot be made, None where they can."""
    schemas = dict(_schemas_of(example))
    for name, said in calls_of(answer):
        if name not in schemas:
            return f"there is no tool {name}"
        arguments = _value(said)
        if not isinstance(arguments, dict):
            return f"the arguments of {name} are no JSON object"
        if (schema := schemas[name]) is not None:
            try:
                wrong = _tool_check(json.dumps(schema, sort_keys=True))(arguments)
            except InvalidRequest as error:
                return f"{name}: {error.message}"
            if wrong is not None:
                return f"{name}: {wrong}"
    return None


def check_tools(examples: Iterable[Example]) -> None:
    """Raises InvalidRequest where the parameters of a tool are no JSON Schema."""
    for example in examples:
        for name, schema in _schemas_of(example):
            try:
                if schema is not None:
                    _tool_check(json.dumps(schema, sort_keys=True))
            except InvalidRequest as error:
                raise InvalidRequest(
                    f"the tool {name} of prompt {example.id}: {error.message}; mend it in the data, where they look "
                    "like {\"type\": \"object\", \"properties\": {…}}, before answers are asked for") from error


def _schemas_of(example: Example) -> list[tuple[str, Any]]:
    """Name and parameters of each tool."""
    functions = [tool.get("function", {}) for tool in example.tools]
    return [(str(function.get("name")), function.get("parameters")) for function in functions]


def check_of(schema: Any, title: str) -> Check:
    """A JSON Schema of any draft, formats included. References lead within it: nothing is fetched. Raises
    InvalidRequest where it is none."""
    import jsonschema
    from jsonschema.validators import validator_for
    from referencing import exceptions
    from referencing.jsonschema import EMPTY_REGISTRY

    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InvalidRequest(f"{title} has no JSON Schema: {error.message}") from None
    validator = kind(schema, registry=EMPTY_REGISTRY, format_checker=kind.FORMAT_CHECKER)

    def check(value: Any) -> str | None:
        try:
            error = jsonschema.exceptions.best_match(validator.iter_errors(value))
        except exceptions.Unresolvable as lost:
            raise InvalidRequest(f"{title} refers to {lost.ref}, which is not in it; put it under $defs") from None
        return f"{error.json_path}: {error.message}"[:300] if error is not None else None

    return check


@functools.cache
def _tool_check(schema: str) -> Check:
    return check_of(json.loads(schema), "what it says of its parameters")


def _value(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments


def _schema(
    said: str | None, at: Callable[[str], Path], mistake: Callable[[str, str], ConfigError],
) -> Check | None:
    if said is None:
        return None
    try:
        return check_of(msgspec.json.decode(at(said).read_bytes()), said)
    except (OSError, msgspec.DecodeError) as error:
        raise mistake("schema", f"{at(said)} is no file with a JSON Schema: {error}") from None
    except EdgedError as error:
        raise mistake("schema", error.message) from None


def _function(
    said: str | None, at: Callable[[str], Path], mistake: Callable[[str, str], ConfigError],
) -> Validate | None:
    """The file is the recipe owner's own code, and runs as such."""
    if said is None:
        return None
    file, colon, name = said.rpartition(":")
    path = at(file)
    if not colon or not name.isidentifier() or path.suffix != ".py" or not path.is_file():
        raise mistake("validator", f"must name a function of a file that is there, as in \"checks.py:is_good\"; {path} "
                                   f"{'is there' if path.is_file() else 'is not there'}")
    spec = importlib.util.spec_from_file_location(f"recipe_validator_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise mistake("validator", f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    found: Validate | None = getattr(module, name, None)
    if not callable(found):
        raise mistake("validator", f"{path} has no function {name}")
    return found
