"""Answers of real models to a nested schema, on every engine: all valid, greedy and drawn, and what is forced is
computed in pieces."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edged.engines import load
from edged.engines.base import Generator, Logits, RowWork
from edged.engines.hf_vocab import HfVocab
from edged.ipc.messages import FromWorker, Stats
from edged.types import (
    ChatPrompt,
    ChoiceEnd,
    Delta,
    Event,
    Failed,
    GenerateRequest,
    JsonSchema,
    LoadSpec,
    Regex,
    SamplingParams,
)
from edged.worker.constraint import Constraints
from edged.worker.loop import Loop
from edged.worker.orders import Closed, Queued
from edged.worker.outbox import Outbox
from edged.worker.prepare import Prepare

pytestmark = pytest.mark.real

PLACE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 24},
        "kind": {"enum": ["city", "river", "mountain"]},
        "position": {"$ref": "#/$defs/position"},
        "near": {"type": "array", "maxItems": 1, "items": {"anyOf": [
            {"type": "null"},
            {"type": "object", "properties": {"name": {"type": "string", "maxLength": 16},
                                              "position": {"$ref": "#/$defs/position"}},
             "required": ["name", "position"], "additionalProperties": False},
        ]}},
        "seen": {"type": "string", "format": "date"},
        "open": {"type": "boolean"},
    },
    "required": ["name", "kind", "position", "near", "seen", "open"], "additionalProperties": False,
    "$defs": {"position": {"type": "object", "properties": {
        "north": {"type": "integer", "minimum": -90, "maximum": 90}, "east": {"type": "integer", "minimum": -180,
                                                                           "maximum": 180}},
        "required": ["north", "east"], "additionalProperties": False}},
}
ASKED = ["Oslo", "the Nile", "Mont Blanc", "Lima", "the Rhine", "Fuji", "Cairo", "the Volga", "Elbrus", "Perth"]


class Collected(Outbox):
    """All that the loop says; when nothing is left to do, it is closed."""

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.loop: Loop | None = None

    def send(self, message: FromWorker) -> None:
        if isinstance(message, Stats) and self.loop is not None and not (
            message.stats.running or message.stats.waiting or self.loop.inbox.qsize()
        ):
            self.loop.inbox.put(Closed())

    def events(self, events: list[Event]) -> None:
        self.log += events


class Counted:
    """A generator whose steps are counted."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.rows = self.tokens = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        self.rows += len(work)
        self.tokens += sum(len(item.tokens) for item in work)
        return self._generator.step(work)


def answers(generator: Counted, spec: LoadSpec, requests: list[GenerateRequest]) -> dict[str, tuple[str, str]]:
    """Text and reason of each."""
    outbox = Collected()
    loop = outbox.loop = Loop(generator, outbox, stash_limit_bytes=1 << 28, tokens_per_s=1000)
    prepare = Prepare(spec, generator.caps, generator.vocab)
    try:
        for request in requests:
            loop.inbox.put(Queued(prepare(request), 0.0))
        loop.run()
    finally:
        prepare.close()
    assert not [event for event in outbox.log if isinstance(event, Failed)]
    texts: dict[str, str] = defaultdict(str)
    reasons: dict[str, str] = {}
    for event in outbox.log:
        if isinstance(event, Delta):
            texts[event.id] += event.text
        elif isinstance(event, ChoiceEnd):
            reasons[event.id] = event.reason
    return {id: (texts[id], reason) for id, reason in reasons.items()}


def places(temperature: float) -> list[GenerateRequest]:
    return [
        GenerateRequest(
            id=f"{name} at {temperature}", constraint=JsonSchema(json.dumps(PLACE)),
            prompt=ChatPrompt(messages=[{"role": "user", "content": f"Describe {name} as JSON."}]),
            sampling=SamplingParams(temperature=temperature, seed=number))
        for number, name in enumerate(ASKED)
    ]


@pytest.mark.parametrize("model", ["tiny_onnx", "tiny_genai", "smollm2"])
def test_every_engine_answers_to_a_schema_and_nothing_else(model: str, request: pytest.FixtureRequest) -> None:
    """Twenty answers of SmolLM2 through llama.cpp, and of a random model, which has no idea of JSON, through the other
    engines."""
    spec: LoadSpec = request.getfixturevalue(model)
    counted = Counted(load(spec, lambda fraction: None).generator)
    try:
        found = answers(counted, spec, places(0.0) + places(1.0))
    finally:
        counted.close()
    assert len(found) == 20
    validator = Draft202012Validator(PLACE, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for text, reason in found.values():
        assert reason == "stop"
        validator.validate(json.loads(text))
    assert len({text for text, _ in found.values()}) > 10
    # Rows whose tokens came in pieces: the names of the properties above all.
    assert counted.tokens > 1.3 * counted.rows


def test_forced_text_is_cut_as_the_models_own_tokenizer_cuts_it(smollm2: LoadSpec, tiny_hf: Path) -> None:
    llama = load(smollm2, lambda fraction: None).generator
    try:
        for vocab in (llama.vocab, HfVocab(tiny_hf, 512, frozenset())):
            compiled = Constraints(vocab).compile(Regex('The licence of the "Work" is granted, 🙂!'))
            matcher = compiled.matcher()
            forced = matcher.forced()
            assert forced == vocab.tokenize('The licence of the "Work" is granted, 🙂!', special=False, bos=False)
            matcher.accept(forced)
            assert matcher.finished
    finally:
        llama.close()


def test_control_tokens_of_a_real_vocabulary_are_no_text(tiny_hf: Path) -> None:
    vocab = HfVocab(tiny_hf, 512, frozenset())
    allowed = Constraints(vocab).compile(Regex(r"(?s:.)*x")).matcher().mask()
    assert allowed is not None
    control = [token for token in range(vocab.size) if not vocab.piece(token)]
    assert len(control) == 3
    assert not allowed[control].any()
