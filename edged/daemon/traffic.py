"""What one model's requests look like from outside: times, tokens, the rate at which rows come free."""

from __future__ import annotations

import math

from edged.daemon.generation import Generation
from edged.daemon.metrics import Metrics
from edged.types import Delta, Embedded, Event, Failed, Finished, Started, WorkerStats

#: Weight of the newest request in the mean service time.
NEWEST = 0.2
MOST_RETRY_AFTER_S = 600.0


class Traffic:
    def __init__(self, metrics: Metrics, model: str) -> None:
        self._prompt_tokens = metrics.prompt_tokens.labels(model)
        self._generation_tokens = metrics.generation_tokens.labels(model)
        self._first_token = metrics.time_to_first_token.labels(model)
        self._between_tokens = metrics.inter_token_latency.labels(model)
        self._whole = metrics.e2e_request_latency.labels(model)
        self._queue = metrics.queue_time.labels(model)
        self._load = metrics.model_load_seconds.labels(model)
        self._deaths = metrics.worker_restarts.labels(model)
        self._lost = metrics.device_lost.labels(model)
        self._prompt_computed = metrics.prompt_computed_tokens.labels(model)
        self._prefix_query = metrics.prefix_cache_query_tokens.labels(model)
        self._prefix_hit = metrics.prefix_cache_hit_tokens.labels(model)
        self._prefix_ram = metrics.prefix_cache_ram_tokens.labels(model)
        self._prefix_disk = metrics.prefix_cache_disk_tokens.labels(model)
        self._kv_write_failures = metrics.kv_write_failures.labels(model)
        self._adapter_switches = metrics.adapter_switches.labels(model)
        self._proposed = metrics.speculative_proposed_tokens.labels(model)
        self._accepted = metrics.speculative_accepted_tokens.labels(model)
        self._batch = metrics.batch_size.labels(model)
        self._service_s: float | None = None

    def loaded(self, load_s: float) -> None:
        self._load.observe(load_s)

    def device_lost(self) -> None:
        self._lost.inc()

    def died(self) -> None:
        self._deaths.inc()

    def saw(self, generation: Generation, event: Event, now: float) -> None:
        match event:
            case Started(prompt_tokens=tokens):
                generation.started_at = now
                self._queue.observe(now - generation.accepted_at)
                self._prompt_tokens.inc(tokens)
            case Delta(tokens=tokens) if tokens > 0:
                self._generation_tokens.inc(tokens)
                if generation.last_token_at is None:
                    generation.first_token_at = now
                    self._first_token.observe(now - generation.accepted_at)
                else:
                    generation.later_tokens += tokens
                    self._between_tokens.observe((now - generation.last_token_at) / tokens)
                generation.last_token_at = now
            case Embedded():
                # Its client sees nothing of it before the end, but what serves it has begun to answer.
                generation.first_token_at = generation.first_token_at or now
                generation.last_token_at = now
            case Finished() if not generation.request.prompt_only:
                self._whole.observe(now - generation.accepted_at)
                self._served(generation, now)
            case Failed():
                self._served(generation, now)
            case _:
                pass

    def reported(self, before: WorkerStats, after: WorkerStats) -> None:
        """Two reports of one worker, the first of a life against zeros."""
        self._prompt_computed.inc(max(0, after.prompt_computed_tokens - before.prompt_computed_tokens))
        self._prefix_query.inc(max(0, after.prefix_query_tokens - before.prefix_query_tokens))
        self._prefix_hit.inc(max(0, after.prefix_hit_tokens - before.prefix_hit_tokens))
        self._prefix_ram.inc(max(0, after.prefix_restored_tokens - before.prefix_restored_tokens))
        self._prefix_disk.inc(max(0, after.prefix_disk_tokens - before.prefix_disk_tokens))
        self._kv_write_failures.inc(max(0, after.kv_write_failures - before.kv_write_failures))
        self._adapter_switches.inc(max(0, after.adapter_switches - before.adapter_switches))
        self._proposed.inc(max(0, after.speculative_proposed_tokens - before.speculative_proposed_tokens))
        self._accepted.inc(max(0, after.speculative_accepted_tokens - before.speculative_accepted_tokens))
        if (steps := after.steps - before.steps) > 0:
            self._batch.set((after.step_rows - before.step_rows) / steps)

    def retry_after_s(self, *, waiting: int, rows: int) -> float:
        """When a place in the queue should be free: rows end one by one, each after the mean service time."""
        if self._service_s is None:
            return 1.0
        return min(MOST_RETRY_AFTER_S, max(1.0, math.ceil(self._service_s / max(1, min(rows, waiting)))))

    def _served(self, generation: Generation, now: float) -> None:
        if generation.started_at is None:
            return
        took_s = now - generation.started_at
        mean_s = took_s if self._service_s is None else self._service_s
        self._service_s = mean_s + NEWEST * (took_s - mean_s)
