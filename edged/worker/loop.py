"""The step loop: take orders, admit, plan, run the engine, turn logits into events. One thread, the only one that
touches engine and scheduler."""

from __future__ import annotations

import queue
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import structlog

from edged.engines.base import DeviceLost, EngineError, Generator, Logits, RowWork
from edged.errors import EdgedError, Internal
from edged.ipc.messages import Cancel, Forget, Pause, Resume, Stats
from edged.types import Delta, Event, Finished, Started, Usage, WorkerStats
from edged.worker.answer import Answer, End, Taken
from edged.worker.foreign import Foreign
from edged.worker.kv_disk import KvDisk
from edged.worker.orders import Closed, Noted, Order, Queued, Warm
from edged.worker.outbox import Outbox, failed
from edged.worker.pace import Pace
from edged.worker.prefix_files import MIN_USES
from edged.worker.prepare import Prepared
from edged.worker.rows import Rows
from edged.worker.scheduler import Piece, Scheduler, Step
from edged.worker.sequence import Sequence
from edged.worker.speculation import Speculation
from edged.worker.warm import WarmQueue
from edged.worker.worth import Worth

#: Statistics are the worker's heartbeat too: they leave at this interval while steps run, and when idle.
STATS_INTERVAL_S = 1.0

log = structlog.get_logger("worker")


@dataclass(slots=True)
class _Running:
    """One request: its choices' answers, and what is left of them. started_s: when it was admitted; first_s: when it
    had its first token."""

    prepared: Prepared
    arrived_s: float
    answers: dict[int, Answer]
    left: int
    cached_tokens: int = 0
    started_s: float | None = None
    first_s: float | None = None


class Loop:
    def __init__(self, generator: Generator, outbox: Outbox, *, stash_limit_bytes: int, tokens_per_s: float,
                 ram_bytes: int = 0, disk: KvDisk | None = None, speculation: Speculation | None = None,
                 foreign: Foreign | None = None, beside_bytes: Callable[[], int] = int) -> None:
        """stash_limit_bytes: of KV of preempted requests; ram_bytes: of KV of idle prefixes out of the engine; disk:
        for what several requests begin with. foreign: None for an engine whose threads are fixed. beside_bytes: that
        the worker's other processes hold."""
        self.inbox: queue.SimpleQueue[Order[Prepared]] = queue.SimpleQueue()
        self._generator = generator
        self._outbox = outbox
        self._pace = Pace(tokens_per_s)
        self._rows = Rows(generator, ram_bytes=ram_bytes, disk=disk, worth=Worth(lambda: self._pace.tokens_per_s))
        self._scheduler = Scheduler(generator.caps, self._rows, stash_limit_bytes=stash_limit_bytes)
        self._speculation = speculation
        self._warm = WarmQueue()
        self._notes: tuple[str, ...] = ()
        self._foreign = foreign
        self._requests: dict[str, _Running] = {}
        self._events: list[Event] = []
        self._process = psutil.Process()
        self._beside_bytes = beside_bytes
        self._stats_due_s = 0.0
        self._steps = self._step_rows = self._prefix_query = self._prefix_hit = self._prompt_computed = 0
        self._hit_from: Counter[str] = Counter()
        #: Of the last step.
        self._adapter: str | None = None
        self._switches = 0

    def run(self) -> None:
        """Returns when the connection is closed. Raises DeviceLost: nothing that runs can be answered any more."""
        while self._take_orders():
            for sequence in self._scheduler.admit():
                self._admitted(sequence)
            # Before the engine runs: a request that crashes it must be known to have been running.
            self._send_events()
            began_s = time.monotonic()
            if self._speculation is not None:
                self._speculation.propose(self._scheduler.active)
            for step in self._scheduler.plan(self._pace.piece_tokens):
                self._run_step(step)
            if self._speculation is not None:
                self._speculation.ticked(time.monotonic() - began_s)
            self._send_events()
            self._send_stats()
            if self._foreign is not None:
                self._foreign.look(time.monotonic())

    def _take_orders(self) -> bool:
        """Waits for an order only when there is nothing to compute. False at the end."""
        while True:
            if self._rows.purged:
                self._forget()
            if self.inbox.empty() and not self._scheduler.runnable and (warm := self._warm.next()) is not None:
                self._submit(Queued(warm, time.monotonic()))
            try:
                order = self.inbox.get_nowait() if self._scheduler.runnable else self._wait()
            except queue.Empty:
                return True
            match order:
                case Queued():
                    self._give_up_warming()
                    self._submit(order)
                case Cancel(id=request):
                    self._scheduler.cancel(request)
                    self._requests.pop(request, None)
                case Pause(id=request):
                    self._scheduler.pause(request, True)
                case Resume(id=request):
                    self._scheduler.pause(request, False)
                case Forget():
                    self._forget()
                case Warm(prepared=prepared):
                    self._warm.add(prepared)
                case Noted(text=text):
                    self._notes = (*self._notes, text)
                case Closed():
                    return False

    def _wait(self) -> Order[Prepared]:
        self._send_stats(idle=True)
        if self._foreign is not None:
            self._foreign.rest(time.monotonic())
        while True:
            while self.inbox.empty() and self._rows.tend():
                pass
            try:
                return self.inbox.get(timeout=STATS_INTERVAL_S)
            except queue.Empty:
                self._send_stats()

    def _forget(self) -> None:
        self._give_up_warming()
        self._scheduler.forget()
        self._warm.all_again()

    def _give_up_warming(self) -> None:
        """Clients go before; what has KV stays as a prefix."""
        if (request := self._warm.current) is not None:
            self._scheduler.cancel(request)
            self._requests.pop(request, None)
            self._warm.given_up()

    def _submit(self, queued: Queued[Prepared]) -> None:
        prepared = queued.prepared
        request = prepared.request
        seed = prepared.sampling.seed
        if seed is None:
            seed = secrets.randbits(63)
        try:
            answers = {index: Answer(prepared, index, self._generator.vocab, seed) for index in range(request.n)}
        except EdgedError as error:
            self._outbox.events([failed(request.id, error)])
            return
        sequences = [
            Sequence(request.id, index, request.client, list(prepared.tokens), prepared.max_length,
                     adapter=request.adapter, scope=request.cache_scope)
            for index in range(request.n)
        ]
        leader = sequences[0]
        leader.prompt_logits = request.echo and request.logprobs is not None
        leader.siblings = sequences[1:]
        if request.id == self._warm.current:
            leader.uses = MIN_USES  # worth a file as it is
        self._requests[request.id] = _Running(prepared, queued.arrived_s, answers, request.n)
        self._scheduler.submit(leader)

    def _admitted(self, sequence: Sequence) -> None:
        running = self._requests[sequence.request]
        if running.started_s is not None:
            return
        running.started_s = time.monotonic()
        running.cached_tokens = sequence.cached_tokens
        if sequence.request == self._warm.current:
            return
        self._prefix_query += sequence.prompt_length
        self._prefix_hit += sequence.cached_tokens
        self._hit_from[sequence.cached_from] += sequence.cached_tokens
        queued_s = running.started_s - running.arrived_s
        self._events.append(Started(sequence.request, sequence.prompt_length, sequence.cached_tokens, queued_s))

    def _run_step(self, step: Step) -> None:
        # An earlier step of this tick may have ended a sequence, or failed it.
        step = [piece for piece in step if piece.sequence.row is not None]
        if not step:
            return
        work = [_row_work(piece) for piece in step]
        began_s = time.monotonic()
        try:
            results = self._generator.step(work)
        except DeviceLost:
            raise
        except EngineError as error:
            log.error("engine_failed", reason=str(error), rows=len(step))
            failure = Internal("the engine failed while it computed this request; send it again")
            for piece in step:
                self._scheduler.fail(piece.sequence)
            for request in dict.fromkeys(piece.sequence.request for piece in step):
                self._fail(request, failure)
            return
        seconds = time.monotonic() - began_s
        self._steps += 1
        self._step_rows += len(step)
        if work[0].adapter != self._adapter:
            self._adapter = work[0].adapter
            self._switches += 1
        if any(piece.count > 1 and not piece.sequence.answering for piece in step):
            self._pace.observe(sum(piece.tokens for piece in step), seconds)
        if self._speculation is not None:
            self._speculation.observe(len(step), sum(piece.tokens for piece in step), seconds)
        self._prompt_computed += sum(
            min(piece.count, max(piece.sequence.prompt_length - piece.sequence.length, 0)) for piece in step)
        self._scheduler.advance(step)
        for piece, logits in zip(step, results, strict=True):
            # An earlier piece may have failed the request.
            if not piece.logits or piece.sequence.request not in self._requests:
                continue
            try:
                self._take_logits(piece, logits)
            except EngineError as error:
                log.error("logits_refused", request_id=piece.sequence.request, reason=str(error))
                self._scheduler.fail(piece.sequence)
                self._fail(piece.sequence.request, Internal("the model gave no usable numbers for this request"))
                # They may come from a prefix that others would reuse.
                self._rows.drop_every_idle()
            except EdgedError as error:  # of a constraint
                self._fail(piece.sequence.request, error)

    def _take_logits(self, piece: Piece, logits: Logits) -> None:
        """Raises EngineError for logits that are no numbers, EdgedError where a constraint cannot be held to."""
        sequence = piece.sequence
        running = self._requests[sequence.request]
        answer = running.answers[sequence.index]
        if sequence.prompt_logits:
            answer.echo_logprobs(sequence.length - piece.count, logits)
        if sequence.pending:
            return
        running.first_s = running.first_s or time.monotonic()
        if len(sequence.tokens) == sequence.prompt_length:
            if sequence.index:
                answer.share_echo(running.answers[0])
            self._show(answer.start())
            if running.prepared.request.max_tokens == 0:
                self._show(answer.rest())
                self._end(sequence, answer, End("length"))
                return
        taken = answer.take(logits[len(logits) - 1 - len(piece.draft):], piece.draft)
        sequence.tokens.extend(taken.tokens)
        if self._speculation is not None and piece.draft:
            self._verified(self._speculation, piece, taken)
        self._show(taken.delta)
        if taken.end is not None:
            self._end(sequence, answer, taken.end)

    def _verified(self, speculation: Speculation, piece: Piece, taken: Taken) -> None:
        speculation.verified(piece.sequence, len(piece.draft), taken.accepted, refused=taken.refused)
        if not self._scheduler.accept(piece.sequence, taken.accepted):
            speculation.give_up()

    def _show(self, delta: Delta | None) -> None:
        if delta is not None:
            self._events.append(delta)

    def _end(self, sequence: Sequence, answer: Answer, end: End) -> None:
        self._events.append(answer.end(end))
        self._scheduler.finish(sequence)
        running = self._requests[sequence.request]
        running.left -= 1
        if not running.left:
            del self._requests[sequence.request]
            completion = sum(answer.completion_tokens for answer in running.answers.values())
            reasoning = sum(answer.reasoning_tokens for answer in running.answers.values())
            usage = Usage(sequence.prompt_length, completion, running.cached_tokens, reasoning)
            began_s, now_s = running.started_s or running.arrived_s, time.monotonic()
            first_s = running.first_s or now_s
            self._events.append(Finished(sequence.request, usage, first_s - began_s, now_s - first_s))

    def _fail(self, request: str, error: EdgedError) -> None:
        """The whole request ends: a client gets an answer or an error, not some of its choices."""
        self._scheduler.cancel(request)
        if self._requests.pop(request, None) is not None:
            self._events.append(failed(request, error))

    def _send_events(self) -> None:
        if (warm := self._warm.current) is not None:
            # Nobody asked for it.
            self._events = [event for event in self._events if event.id != warm]
            if warm not in self._requests:
                self._warm.ended()
        self._outbox.events(self._events)
        self._events = []

    def _send_stats(self, *, idle: bool = False) -> None:
        now_s = time.monotonic()
        if now_s < self._stats_due_s and not idle:
            return
        self._stats_due_s = now_s + STATS_INTERVAL_S
        self._outbox.send(Stats(WorkerStats(
            running=self._scheduler.running, waiting=self._scheduler.waiting,
            kv_used_tokens=self._rows.used_tokens, kv_tokens=self._generator.caps.kv_tokens,
            steps=self._steps, step_rows=self._step_rows,
            prefix_query_tokens=self._prefix_query, prefix_hit_tokens=self._prefix_hit,
            prompt_computed_tokens=self._prompt_computed, prefix_restored_tokens=self._hit_from["ram"],
            prefix_disk_tokens=self._hit_from["disk"], kv_ram_bytes=self._rows.ram_bytes,
            kv_disk_bytes=self._rows.disk_bytes, kv_write_failures=self._rows.failed_writes, notes=self._notes,
            preemptions=self._scheduler.preemptions, adapter_switches=self._switches,
            speculative_proposed_tokens=self._speculation.proposed_tokens if self._speculation else 0,
            speculative_accepted_tokens=self._speculation.accepted_tokens if self._speculation else 0,
            threads=self._threads,
            resident_bytes=self._process.memory_info().rss + self._beside_bytes(),
        )))

    @property
    def _threads(self) -> int:
        fixed = self._generator.caps.threads
        return self._foreign.threads if self._foreign is not None else fixed.decode if fixed is not None else 0


def _row_work(piece: Piece) -> RowWork:
    sequence = piece.sequence
    assert sequence.row is not None
    tokens = sequence.tokens[sequence.length:sequence.length + piece.count]
    return RowWork(sequence.row, tokens + piece.draft, piece.logits, sequence.adapter)
