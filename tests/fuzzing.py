"""Requests that nobody thought of: made by schemathesis from the daemon's own OpenAPI document, some that fit it and
some that do not, and held against it.

Names of models, and ids, are put in afterwards: by chance nobody hits one, and everything would be a 404. What an
answer must be:

    no 5xx          but a 504 of who set `timeout_s`
    no surprise     status, content type and body are as the document says
    no leniency     a body that does not fit the document is refused
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import jsonschema
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, CheckFunction, load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.schemas import APIOperation

from edged.store import Store
from tests.worker.daemon.rig import install

#: What they fetch or run is not of this daemon, or reads files of this machine by their paths.
LEFT_OUT = {
    "POST /edged/v1/pull": "asks the hub", "POST /api/pull": "asks the hub",
    "POST /edged/v1/convert": "reads paths of this machine, and runs for minutes",
}
#: Here no name of a model that others use is put in: they would be gone, or stopped.
CHANGES = {
    "DELETE /edged/v1/models/{name}", "DELETE /api/delete", "POST /edged/v1/load", "POST /edged/v1/unload",
    "POST /edged/v1/activate", "POST /edged/v1/rollback", "POST /edged/v1/rollout",
}
MODELS: dict[str, dict[str, Any]] = {
    "talker": {"context": 1024, "end_chance": 8}, "vectors": {"task": "embed", "context": 512, "shorter": [4, 8]},
    "judge": {"task": "rerank", "context": 512}, "spare": {"context": 256, "end_chance": 4},
    "doomed": {"context": 128},
}
#: What by chance always names something that is not there: mostly left out, so that the other fields are reached.
_BARS = ("adapter", "tool_choice", "dimensions", "previous_response_id", "keep_alive", "grammar", "suffix")
_CHECKS = ("status_code_conformance", "content_type_conformance")
_WHOLE = "response_schema_conformance"
_STREAMS = ("text/event-stream", "application/x-ndjson")
_LIMIT_S = 30


def install_models(store: Store) -> None:
    for name, knobs in MODELS.items():
        install(store, name, **knobs)


@dataclass
class Tally:
    """statuses: by operation. broken: (operation, what is broken) → the first request that did it, and its answer."""

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    broken: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        return sum(counter.total() for counter in self.statuses.values())

    def count(self, statuses: Iterable[int]) -> int:
        return sum(counter[status] for counter in self.statuses.values() for status in statuses)


class Fuzzer:
    """Of one daemon, which has MODELS."""

    def __init__(self, base_url: str) -> None:
        load_all_checks()
        self._checks = {name: cast(CheckFunction, CHECKS.get_one(name)) for name in (*_CHECKS, _WHOLE)}
        self._base_url = base_url
        self._document = httpx.get(f"{base_url}/openapi.json").raise_for_status().json()
        found = schemathesis.openapi.from_dict(self._document).get_all_operations()
        self._operations = {operation.label: operation for operation in map(_whole, found)}
        self._validators = dict(self._bodies())
        self._session = requests.Session()
        #: Newest last, so that some of them are there still.
        self._responses = ["resp_0"]

    def close(self) -> None:
        self._session.close()

    @property
    def operations(self) -> list[str]:
        return [label for label in self._operations if label not in LEFT_OUT]

    def run(self, label: str, examples: int, tally: Tally, *, start: int = 0) -> None:
        """So many requests that fit the operation, and so many that do not. start: of the random numbers."""
        operation = self._operations[label]
        for mode in schemathesis.GenerationMode:
            if not _can(operation, mode):
                continue

            @seed(start)
            @settings(max_examples=examples, database=None, deadline=None, phases=[Phase.generate],
                      suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet)
            @given(case=operation.as_strategy(mode), pick=st.integers(0, 1023))
            def ask(case: schemathesis.Case[Any], pick: int) -> None:
                self._ask(label, case, pick, tally)

            ask()

    def _bodies(self) -> Iterator[tuple[str, jsonschema.Draft202012Validator]]:
        components = {"components": self._document["components"]}
        for path, methods in self._document["paths"].items():
            for method, operation in methods.items():
                if "requestBody" in operation:
                    schema = operation["requestBody"]["content"]["application/json"]["schema"]
                    yield f"{method.upper()} {path}", jsonschema.Draft202012Validator(schema | components)

    def _ask(self, label: str, case: schemathesis.Case[Any], pick: int, tally: Tally) -> None:
        self._name(label, case, pick)
        response = case.call(self._base_url, session=self._session, timeout=_LIMIT_S)
        status = response.status_code
        tally.statuses[label][status] += 1
        for what in self._broken(label, case, response):
            tally.broken.setdefault((label, what), f"{case.as_curl_command()[:2000]}\n{response.text[:500]}")
        if label == "POST /v1/responses" and status == 200 and isinstance(told := _json(response), dict):
            self._responses = [*self._responses[-16:], told["id"]]

    def _name(self, label: str, case: schemathesis.Case[Any], pick: int) -> None:
        """Puts in names that are there, mostly."""
        parameters = case.path_parameters
        if "name" in parameters and pick % 4:
            parameters["name"] = _model_for(label, pick) if label in CHANGES else _of(tuple(MODELS), pick)
        if "identity" in parameters and "/v1/responses/" in label and pick % 4:
            parameters["identity"] = _of(self._responses, pick)
        body = case.body
        if not isinstance(body, dict):
            return
        if isinstance(body.get("model"), str) and pick % 16 != 3:
            body["model"] = _model_for(label, pick)
        if pick % 4:
            case.body = body = _whole_numbers(body)
            for name in _BARS:
                body.pop(name, None)
            if label == "POST /v1/responses":
                body.setdefault("input", "say: hm")
        elif "previous_response_id" in body:
            body["previous_response_id"] = _of(self._responses, pick)
        if "keep_alive" in body and isinstance(body.get("model"), str):
            # The model's worker may be gone after this.
            body["model"] = "spare"

    def _broken(self, label: str, case: schemathesis.Case[Any], response: schemathesis.Response) -> Iterator[str]:
        said = case.body if isinstance(case.body, dict) else {}
        if response.status_code >= 500 and not (response.status_code == 504 and "timeout_s" in said):
            yield f"{response.status_code}"
        kind = response.headers.get("content-type", [""])[0].partition(";")[0]
        checks = [check for name, check in self._checks.items() if name != _WHOLE or kind not in _STREAMS]
        if kind in _STREAMS:
            yield from self._broken_chunks(label, kind, response.text)
        try:
            case.validate_response(response, checks=checks)
        except FailureGroup as failures:
            for failure in failures.exceptions:
                yield f"{failure.title}: {failure.message.splitlines()[0][:200]}" if failure.message else failure.title
        if response.status_code < 300 and (validator := self._validators.get(label)) is not None:
            # As the daemon read it: what was sent need not be what was made.
            sent = json.loads(cast(bytes, response.request.body) or b"null")
            if (error := jsonschema.exceptions.best_match(validator.iter_errors(sent))) is not None:
                yield f"taken, and not in the document: {error.json_path} ({error.validator})"


    def _broken_chunks(self, label: str, kind: str, text: str) -> Iterator[str]:
        """A chunk that tells of an error is of another schema, and its stream's last."""
        method, path = label.split()
        content = self._document["paths"][path][method.lower()]["responses"]["200"]["content"]
        if kind not in content:
            return
        validator = jsonschema.Draft202012Validator(
            content[kind]["schema"] | {"components": self._document["components"]})
        for chunk in _chunks(kind, text):
            if "error" not in chunk and (error := jsonschema.exceptions.best_match(validator.iter_errors(chunk))):
                yield f"a chunk that is not in the document: {error.json_path} ({error.validator})"


def _chunks(kind: str, text: str) -> Iterator[dict[str, Any]]:
    for line in text.split("\n"):
        told = line.removeprefix("data: ") if kind == "text/event-stream" else line.strip()
        if told not in ("", "[DONE]") and (kind != "text/event-stream" or line.startswith("data: ")):
            yield json.loads(told)


def _whole_numbers(value: Any) -> Any:
    """5 for 5.0, which JSON Schema takes for an integer too, and edged does not."""
    if isinstance(value, dict):
        return {name: _whole_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _model_for(label: str, pick: int) -> str:
    if label.startswith("DELETE"):
        return "doomed"
    if label in CHANGES:
        return "spare"
    if pick % 8 == 1:
        return _of(tuple(MODELS), pick)
    if "embed" in label:
        return "vectors"
    return "judge" if "rerank" in label else "talker"


def _of(names: Sequence[str], pick: int) -> str:
    return names[pick // 8 % len(names)]


def _whole(result: Any) -> APIOperation[Any, Any, Any, Any]:
    """Raises what schemathesis has against an operation of the document."""
    operation: APIOperation[Any, Any, Any, Any] = result.ok()
    return operation


def _can(operation: APIOperation[Any, Any, Any, Any], mode: schemathesis.GenerationMode) -> bool:
    """Without anything to say there is nothing to say wrongly."""
    return mode.is_positive or bool(operation.body or operation.query)


def _json(response: schemathesis.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
