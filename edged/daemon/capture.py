"""Whole answers that are kept for training, where the operator says so: `capture` in the settings or in models.toml.

    Generation ──events──▶ Recording ──ended well──▶ a thread: redact ─▶ append
The event loop only collects and hands over; how long redaction or the disk take is nobody's wait. What the thread
cannot keep up with is dropped and counted, and so is what cannot be redacted: nothing is kept as it was instead.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import msgspec
import structlog

from edged.daemon.generation import Generation
from edged.daemon.metrics import Metrics
from edged.daemon.recording import Recording
from edged.daemon.redaction import Redaction, RedactionFailed
from edged.daemon.status import Served
from edged.errors import Conflict, EdgedError
from edged.settings import Settings
from edged.store.captured import Answer, Captured, Kept, is_captured
from edged.store.captured_files import captured_files
from edged.store.catalog import CatalogFile
from edged.store.paths import Layout
from edged.types import ChatPrompt, GenerateRequest, Request

#: What may wait for the thread; a recording takes about its texts.
MOST_WAITING = 64
MOST_WAITING_BYTES = 16 << 20
#: On stop, what waits may be kept within this time.
LAST_S = 2.0
_SWEEP_S = 3600.0

log = structlog.get_logger("edged.daemon")


class _Drop(NamedTuple):
    """reason: a label of the metric. why: for the log; empty where nothing went wrong."""

    reason: str
    why: str = ""


class Capture:
    """Owned by the event loop. `_keep` and `_keep_one` run in the one thread, which owns the files."""

    def __init__(self, settings: Settings, catalog: CatalogFile, metrics: Metrics) -> None:
        """Touches nothing before it is first used."""
        self._settings, self._catalog, self._metrics = settings, catalog, metrics
        self._layout = Layout(settings.home)
        self._folder = Captured(self._layout)
        self._files = captured_files(settings)
        self._redaction = (Redaction(settings.capture_redact, settings.capture_redact_s) if settings.capture_redact
                           else None)
        self._thread = ThreadPoolExecutor(1, "capture")
        self._sweeping: asyncio.Task[None] | None = None
        self._waiting: dict[asyncio.Future[list[_Drop]], int] = {}
        self._waiting_bytes = 0
        #: Raised by each purge; the thread reads it.
        self._epoch = 0
        self._closed = False
        self._told_on: tuple[str, ...] = ()
        self._told_why = ""

    def of(self, model: str) -> bool:
        """Whether answers of the model of that name are kept."""
        return is_captured(model, self._settings, self._catalog.current.models.get(model))

    def models(self) -> list[str]:
        """All of which answers are kept, or would be, sorted."""
        named = {*self._settings.capture, *self._catalog.current.models}
        return sorted(name for name in named if self.of(name))

    def begin(self, model: str, request: Request) -> Recording | None:
        """For a worker's new request; None where its answer is not kept."""
        if not (self.of(model) and isinstance(request, GenerateRequest) and request.capture
                and isinstance(request.prompt, ChatPrompt) and not request.prompt_only):
            return None
        return Recording(request, self._epoch)

    def take(self, generation: Generation) -> None:
        """Its last event has come. What was recorded of it is kept soon, or dropped and counted."""
        recording, served = generation.recording, generation.served
        if recording is None or self._closed or recording.epoch != self._epoch or not self.of(served.name):
            return
        size = recording.size_bytes()
        if len(self._waiting) >= MOST_WAITING or self._waiting_bytes + size > MOST_WAITING_BYTES:
            self._drop(served.name, _Drop("busy", "redaction or the disk is slower than answers come"))
            return
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._keep, recording, served)
        self._waiting[future] = size
        self._waiting_bytes += size
        future.add_done_callback(partial(self._kept, served.name))

    def start(self) -> None:
        """From now on what is too old goes, also of models that are captured no more."""
        self.tell()
        self._sweeping = asyncio.create_task(self._sweep(), name="capture")

    def tell(self) -> None:
        """Whose answers are kept, in the log, where that changed."""
        if (on := tuple(self.models())) == self._told_on:
            return
        self._told_on = on
        log.warning("capture.on" if on else "capture.off", models=list(on),
                    folder=str(self._layout.captured), days=self._settings.capture_days,
                    redact=list(self._settings.capture_redact) or None)

    async def close(self, *, last_s: float = LAST_S) -> None:
        """What waits is kept, as far as that goes within last_s. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        if self._waiting:
            await asyncio.wait(set(self._waiting), timeout=last_s)
        if self._waiting:
            log.warning("capture.not_kept", answers=len(self._waiting), reason="edged stops")
        self._epoch += 1
        if self._redaction is not None:
            self._redaction.stop()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._files.close)
        self._thread.shutdown(wait=False)

    async def kept(self) -> list[Kept]:
        """Of every model of which something is kept. Raises Conflict where the disk refuses."""
        with _readable():
            return await asyncio.to_thread(self._folder.kept)

    async def lines(self, model: str) -> Iterator[bytes]:
        """As `edged.store.captured.Captured.lines`; to be iterated in a thread. Raises NotFound, and Conflict where the
        disk refuses."""
        with _readable():
            return await asyncio.to_thread(self._folder.lines, model)

    async def purge(self, model: str | None = None) -> int:
        """Forget all of one model, or all, and what any is about to answer. How many answers were kept. Raises
        NotFound where none of the model were, Conflict where the disk refuses."""
        self._epoch += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._files.purge, model)
        except OSError as error:
            raise Conflict(f"captured answers cannot be removed ({error.strerror}); they stay") from error

    def held_bytes(self) -> int:
        return self._files.held_bytes

    def _keep(self, recording: Recording, served: Served) -> list[_Drop]:
        """In the thread. What was not kept, and why."""
        drops = []
        for answer in recording.answers(served):
            if recording.epoch != self._epoch:
                break
            if (drop := self._keep_one(answer, recording.epoch)) is not None:
                drops.append(drop)
        return drops

    def _keep_one(self, answer: Answer, epoch: int) -> _Drop | None:
        line = msgspec.json.encode(answer) + b"\n"
        if self._redaction is not None:
            try:
                redacted = self._redaction.redact(line)
            except RedactionFailed as error:
                return _Drop("redaction_failed", str(error))
            if redacted is None:
                return _Drop("redacted")
            line = redacted
        if len(line) > self._files.most_line_bytes:
            return _Drop("too_large", f"it takes more than {self._files.most_line_bytes} bytes, an eighth of "
                                      "capture_bytes")
        if epoch != self._epoch:
            return None
        try:
            self._files.append(answer.model, line)
        except (OSError, EdgedError) as error:
            return _Drop("disk", getattr(error, "strerror", None) or str(error))
        self._metrics.captured_answers.labels(answer.model).inc()
        return None

    def _kept(self, model: str, future: asyncio.Future[list[_Drop]]) -> None:
        self._waiting_bytes -= self._waiting.pop(future)
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            self._drop(model, _Drop("failed", f"{type(error).__name__}, a mistake of edged's"))
            return
        drops = future.result()
        for drop in drops:
            self._drop(model, drop)
        if not drops:
            self._told_why = ""

    def _drop(self, model: str, drop: _Drop) -> None:
        """Each is counted; the log has the first of a kind, and the next after one that was kept."""
        self._metrics.capture_dropped.labels(model, drop.reason).inc()
        if drop.why and drop.why != self._told_why:
            self._told_why = drop.why
            log.warning("capture.dropped", model=model, reason=drop.reason, why=drop.why)

    async def _sweep(self) -> None:
        """Where nothing was ever captured there is no folder, and no thread for it."""
        while True:
            try:
                if self._layout.captured.exists():
                    gone = await asyncio.get_running_loop().run_in_executor(self._thread, self._files.tidy)
                    if gone:
                        log.info("capture.expired", files=gone)
            except OSError as error:
                log.warning("capture.not_swept", reason=error.strerror)
            await asyncio.sleep(_SWEEP_S)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Conflict(f"captured answers cannot be read ({error.strerror}); see who owns captured/ in the home, and "
                       "its disk") from error
