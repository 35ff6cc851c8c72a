"""A router in memory: answers from a script of events, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from edged.api.app import create_app
from edged.daemon.metrics import Metrics
from edged.daemon.responses import Responses
from edged.daemon.status import ModelState, ModelStatus, Served
from edged.errors import EdgedError, ModelNotFound
from edged.settings import Settings
from edged.store.entries import LocalSource, Manifest, ModelEntry
from edged.types import ChoiceEnd, Delta, Event, Finished, GenerateRequest, SamplingParams, Started, Usage

SERVED = Served(name="tiny", version="0123456789ab", engine="fake", device="CPU (fake)", digest="ab" * 32)

MANIFEST = Manifest(
    name="tiny", version=SERVED.version, digest=SERVED.digest, engine="fake", precision="fp32", file="fake.json",
    files=(), source=LocalSource(path="tiny"), reference="./tiny", created=1.0, parameters=1000,
)

Script = Callable[[GenerateRequest], Sequence[Event | EdgedError | float]]


def words(*texts: str) -> Script:
    """Every choice gets the same texts, one Delta each; then the end."""

    def script(request: GenerateRequest) -> list[Event | EdgedError | float]:
        events: list[Event | EdgedError | float] = [Started(request.id, 3, 1, 0.0)]
        events += [Delta(request.id, index, text) for text in texts for index in range(request.n)]
        events += [ChoiceEnd(request.id, index, "stop") for index in range(request.n)]
        return [*events, Finished(request.id, Usage(3, len(texts) * request.n, 1))]

    return script


def status(name: str, alias_of: str | None = None) -> ModelStatus:
    return ModelStatus(
        name=name, version=SERVED.version, digest=SERVED.digest, engine="fake", precision="fp32", size=10,
        parameters=1000, context=4096, device=SERVED.device, state=ModelState.READY, pinned=False, keep_alive_s=300.0,
        idle_s=1.0, running=0, waiting=0, resident_bytes=1, kv_used_tokens=0, kv_tokens=4096, load_s=0.1, rows=8,
        restarts=0, alias_of=alias_of, created=1.0, error=None,
    )


class FakeGeneration:
    def __init__(self, router: FakeRouter, request: GenerateRequest) -> None:
        self.served = SERVED
        self.request = request
        self.read = 0
        self.cancelled = asyncio.Event()
        self.recording = None
        self._router = router

    def more(self) -> list[Event]:
        return []

    async def __aiter__(self) -> AsyncIterator[Event]:
        for item in self._router.script(self.request):
            if isinstance(item, float):
                self._router.moved.set()
                await asyncio.sleep(item)
            elif isinstance(item, EdgedError):
                raise item
            else:
                self.read += 1
                self._router.moved.set()
                yield item

    async def cancel(self, why: EdgedError | None = None) -> None:
        self.cancelled.set()


class FakeRouter:
    """load_s: how long generate takes. refuse: what it raises."""

    def __init__(self, script: Script) -> None:
        self.script = script
        #: Set whenever something happened that a test may wait for.
        self.moved = asyncio.Event()
        self.load_s = 0.0
        self.refuse: Exception | None = None
        self.ready = True
        self.requests: list[GenerateRequest] = []
        self.generations: list[FakeGeneration] = []
        self.abandoned = 0
        self.calls: list[tuple[Any, ...]] = []

    async def until(self, happened: Callable[[], bool]) -> None:
        while not happened():
            self.moved.clear()
            await self.moved.wait()

    def status(self, model: str) -> ModelStatus:
        if model == "alias":
            return status("alias", alias_of="tiny")
        if model not in ("tiny", "org/repo:q4", f"tiny@{SERVED.version}"):
            raise ModelNotFound(f"There is no model {model!r} here. Did you mean tiny?", param="model")
        return status(model)

    def models(self) -> list[ModelStatus]:
        return [self.status("tiny"), self.status("org/repo:q4"), self.status("alias")]

    async def generate(self, model: str, request: GenerateRequest) -> FakeGeneration:
        self.status(model)
        self.requests.append(request)
        self.moved.set()
        try:
            await asyncio.sleep(self.load_s)
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        if self.refuse is not None:
            raise self.refuse
        generation = FakeGeneration(self, request)
        self.generations.append(generation)
        return generation

    def described(self, model: str) -> tuple[Manifest, ModelEntry]:
        self.status(model.partition("@")[0])
        return MANIFEST, ModelEntry(name="tiny", sampling=SamplingParams(temperature=0.2, repetition_penalty=1.1))

    def catalogued(self, name: str) -> bool:
        return name == "tiny-1b"

    async def load(self, model: str, *, keep_alive_s: float | None = None, pin: bool | None = None,
                   forgive: bool = True) -> ModelStatus:
        self.calls.append(("load", model, keep_alive_s, pin))
        return self.status(model)

    async def unload(self, model: str, *, force: bool = False) -> ModelStatus:
        self.calls.append(("unload", model, force))
        return self.status(model)

    async def reload(self) -> list[str]:
        self.calls.append(("reload",))
        return []


def app_with(router: FakeRouter, jobs: Any = None, store: Any = None, **settings: Any) -> Any:
    """Answers of /v1/responses are kept only where a home is given."""
    made = Settings(**({"stored_responses": 0} if "home" not in settings else {}) | settings)
    return create_app(router, made, jobs, Metrics(), store, responses=Responses(made))  # type: ignore[arg-type]
