"""The loop of embedding and rerank workers: take orders, plan a run, compute it, send what came out. One thread, the
only one that touches the engine. A run is as large as the measured rate computes in a moment, so that a cancel takes
effect at once and nobody waits long behind another's thousand texts."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence

import numpy as np
import psutil
import structlog

from edged.engines.base import DeviceLost, Embedder, EngineError, Vectors
from edged.errors import EdgedError, Internal
from edged.ipc.messages import Cancel, Pause, Resume, Stats
from edged.types import Embedded, Event, Finished, Started, Usage, WorkerStats
from edged.worker.alive import alive
from edged.worker.embed_plan import Item, Plan, Waiting
from edged.worker.embed_prepare import PreparedEmbed
from edged.worker.orders import Closed, Order, Queued
from edged.worker.outbox import Outbox, failed
from edged.worker.pace import Pace

#: Statistics are the worker's heartbeat too.
STATS_INTERVAL_S = 1.0

log = structlog.get_logger("worker")


class EmbedLoop:
    def __init__(self, embedder: Embedder, outbox: Outbox, *, tokens_per_s: float) -> None:
        self.inbox: queue.SimpleQueue[Order[PreparedEmbed]] = queue.SimpleQueue()
        self._embedder = embedder
        self._outbox = outbox
        self._plan = Plan(embedder.caps)
        self._pace = Pace(tokens_per_s)
        #: Every request that has not ended, by id.
        self._requests: dict[str, Waiting] = {}
        self._process = psutil.Process()
        self._stats_due_s = 0.0
        self._runs = self._run_inputs = 0

    def run(self) -> None:
        """Returns when the connection is closed. Raises DeviceLost: nothing that runs can be answered any more."""
        while self._take_orders():
            items = self._plan.next_run(self._pace.piece_tokens)
            if items:
                # Before the engine runs: a request that crashes it must be known to have been running.
                self._start(items)
                self._compute(items)
            self._send_stats()

    def _take_orders(self) -> bool:
        """Waits for an order only when there is nothing to compute. False at the end."""
        while True:
            try:
                order = self.inbox.get_nowait() if self._plan.runnable else self._wait()
            except queue.Empty:
                return True
            match order:
                case Queued(prepared=prepared, arrived_s=arrived_s):
                    waiting = self._requests[prepared.request.id] = Waiting(prepared, arrived_s)
                    self._plan.add(waiting)
                case Cancel(id=request):
                    self._drop(request)
                case Pause(id=request):
                    self._plan.pause(request, True)
                case Resume(id=request):
                    self._plan.pause(request, False)
                case Closed():
                    return False

    def _wait(self) -> Order[PreparedEmbed]:
        self._send_stats(idle=True)
        while True:
            try:
                return self.inbox.get(timeout=STATS_INTERVAL_S)
            except queue.Empty:
                self._send_stats()

    def _start(self, items: Sequence[Item]) -> None:
        events: list[Event] = []
        for waiting in dict.fromkeys(item.waiting for item in items):
            if not waiting.started:
                waiting.started = True
                queued_s = time.monotonic() - waiting.arrived_s
                events.append(Started(waiting.id, waiting.prepared.tokens, 0, queued_s))
        self._outbox.events(events)

    def _compute(self, items: Sequence[Item]) -> None:
        passages = [item.passage for item in items]
        tokens = sum(len(passage.tokens) for passage in passages)
        began_s = time.monotonic()
        try:
            with alive(tokens / self._pace.tokens_per_s, lambda: self._outbox.send(Stats(self._stats()))):
                vectors = self._embedder.run(passages)
        except DeviceLost:
            raise
        except EngineError as error:
            log.error("engine_failed", reason=str(error), inputs=len(items))
            self._fail(items, Internal("the engine failed while it computed this request; send it again"))
            return
        self._pace.observe(tokens, time.monotonic() - began_s)
        self._runs += 1
        self._run_inputs += len(items)
        broken = [item for item, vector in zip(items, vectors, strict=True) if not np.isfinite(vector).all()]
        if broken:
            log.error("vectors_refused", reason="they are no numbers", inputs=len(broken))
            self._fail(broken, Internal("the model gave no usable numbers for this request"))
        self._send_vectors(items, vectors)

    def _send_vectors(self, items: Sequence[Item], vectors: Vectors) -> None:
        events: list[Event] = []
        for waiting in dict.fromkeys(item.waiting for item in items):
            if waiting.id not in self._requests:
                continue
            rows = [row for row, item in enumerate(items) if item.waiting is waiting]
            wanted = shortened(vectors[rows], waiting.prepared.dimensions, self._embedder.caps.normalized)
            data = np.ascontiguousarray(wanted, dtype="<f4").tobytes()
            events.append(Embedded(waiting.id, [items[row].index for row in rows], data))
            if not waiting.order:
                self._drop(waiting.id)
                events.append(Finished(waiting.id, Usage(waiting.prepared.tokens, 0)))
        self._outbox.events(events)

    def _fail(self, items: Sequence[Item], error: EdgedError) -> None:
        """Whole requests end: a client gets an answer or an error, not some of its vectors."""
        ended = [one.id for one in dict.fromkeys(item.waiting for item in items) if one.id in self._requests]
        for request in ended:
            self._drop(request)
        self._outbox.events([failed(request, error) for request in ended])

    def _drop(self, request: str) -> None:
        self._plan.remove(request)
        self._requests.pop(request, None)

    def _send_stats(self, *, idle: bool = False) -> None:
        now_s = time.monotonic()
        if now_s < self._stats_due_s and not idle:
            return
        self._stats_due_s = now_s + STATS_INTERVAL_S
        self._outbox.send(Stats(self._stats()))

    def _stats(self) -> WorkerStats:
        """Also from another thread, while this one is in the engine."""
        running = sum(waiting.started for waiting in self._requests.values())
        return WorkerStats(
            running=running, waiting=len(self._requests) - running, steps=self._runs, step_rows=self._run_inputs,
            resident_bytes=self._process.memory_info().rss,
        )


def shortened(vectors: Vectors, dimensions: int, normalized: bool) -> Vectors:
    """The beginnings of vectors, as models are trained for it (Matryoshka representation learning, arXiv:2205.13147):
    of length 1 again where the whole ones are."""
    if dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    if not normalized:
        return cut
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    result: Vectors = cut / np.maximum(lengths, np.finfo(np.float32).tiny)
    return result
