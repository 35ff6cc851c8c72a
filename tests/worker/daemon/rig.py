"""A router over a store of fake models, with everything of the daemon but HTTP."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from edged.daemon.breaker import Breaker
from edged.daemon.metrics import Metrics
from edged.daemon.router import Generation, Router
from edged.hardware.facts import Cpu, Facts, Memory
from edged.settings import Settings
from edged.store import Manifest, Store
from edged.store.catalog import CatalogFile
from edged.store.entries import FileEntry, LocalSource
from edged.store.lineage import Target
from edged.store.manifests import digest_of
from edged.types import ChoiceEnd, Delta, Event, Finished, GenerateRequest, SamplingParams, Started, TextPrompt

_numbers = itertools.count(1)


#: Two cores and nothing else, so that no test depends on the machine it runs on.
PLAIN = Facts(
    system="Linux", architecture="x86_64", memory=Memory(total=4 << 30, available=3 << 30),
    cpu=Cpu(model="test", physical=2, logical=2, usable=2, fast=2),
)


def install(
    store: Store, name: str, *, target: Target = "cpu", activate: bool = True, **knobs: Any,
) -> Manifest:
    """A version of a fake model in the store, misbehaving as `knobs` say; its answers are as long as they may be.
    Spaces in its file make its digest another than that of the next one. target: the device that it was built for,
    beside the processor."""
    content = json.dumps({"end_chance": 0, "context": 16384} | knobs).encode() + b" " * next(_numbers)
    with store.receiver() as receiver:
        blob = receiver.receive("ab" * 32, lambda part: part.write(content))
        files = (FileEntry(path="fake.json", size=blob.size, sha256=blob.sha256),)
        digest = digest_of(files)
        manifest = Manifest(
            name=name, version=digest[:12], digest=digest, engine="fake", precision="fake", file="fake.json",
            files=files, source=LocalSource(path="fake"), reference=f"./{name}", created=0.0, target=target,
            task=knobs.get("task", "generate"))
        store.publish(manifest, activate=activate)
    return manifest


class Answer(NamedTuple):
    text: str
    tokens: int


class Rig:
    """facts: of the machine; a test may change them."""

    def __init__(self, folder: Path, *, catalog: str = "", facts: Facts = PLAIN,
                 breaker: Callable[[], Breaker] = lambda: Breaker(first_s=0.05), remembers: bool = True,
                 **settings: Any) -> None:
        self.store = Store(folder / "home")
        self.models_file = folder / "models.toml"
        self.models_file.write_text(catalog)
        shipped = folder / "shipped.toml"
        shipped.write_text("")
        self.metrics = Metrics()
        self.catalog = CatalogFile(self.models_file, shipped)
        said = {"keep_alive_s": -1, "memory_bytes": 1 << 40, "hang_timeout_s": 20, **settings}
        self.settings = Settings(home=folder / "home", **said)
        self.facts = facts
        self.router = Router(self.settings, self.store, self.catalog, self.metrics, breaker=breaker,
                             facts=lambda: self.facts, remembers=remembers)

    def install(self, name: str, **said: Any) -> Manifest:
        return install(self.store, name, **said)

    async def __aenter__(self) -> Rig:
        await self.router.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.router.kill()

    async def generate(self, model: str, text: str = "hello", *, tokens: int | None = 8) -> Generation:
        return await self.router.generate(model, request(text, tokens=tokens))

    async def answer(self, model: str, text: str = "hello", *, tokens: int = 8) -> Answer:
        return answer(await collect(await self.generate(model, text, tokens=tokens)))

    def pid(self, model: str) -> int:
        served = self.router._model(self.store.manifest(model))
        assert served.pid is not None
        return served.pid

    def metric(self, name: str, **labels: str) -> float:
        for refresh in self.metrics._on_render:
            refresh()
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def request(text: str = "hello", *, tokens: int | None = 8) -> GenerateRequest:
    return GenerateRequest(id=f"r{next(_numbers)}", prompt=TextPrompt(text), max_tokens=tokens,
                           sampling=SamplingParams(temperature=0))


async def collect(generation: Generation) -> list[Event]:
    return [event async for event in generation]


def answer(events: list[Event]) -> Answer:
    """Whole, and in the order that is promised."""
    first, *deltas, end, last = events
    assert isinstance(first, Started)
    assert isinstance(end, ChoiceEnd)
    assert isinstance(last, Finished)
    assert all(isinstance(delta, Delta) for delta in deltas)
    tokens = sum(delta.tokens for delta in deltas if isinstance(delta, Delta))
    assert tokens == last.usage.completion_tokens
    return Answer("".join(delta.text for delta in deltas if isinstance(delta, Delta)), tokens)


class Stopwatch:
    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began
