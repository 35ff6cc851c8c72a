"""Every metric of API.md that the daemon keeps, in a registry of its own.

Label values are bounded: `model` is the name of an installed model, `version` one of the two of a rollout, `endpoint` a
route template, `status` an HTTP status, `reason` one of a few words. Counters and histograms are updated where things
happen; gauges are read from their owners by `on_render`.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BETWEEN_TOKENS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_REQUEST_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_QUEUE_S = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_LOAD_S = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._on_render: list[Callable[[], None]] = []
        model = ("model",)

        def counter(name: str, text: str, labels: tuple[str, ...] = model) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = model) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = model) -> Histogram:
            return Histogram(name, text, labels, registry=self.registry, buckets=buckets)

        self.requests_total = counter(
            "edged_requests_total", "Answered requests.", ("model", "endpoint", "status"))
        self.requests_running = gauge("edged_requests_running", "Requests admitted by the worker.")
        self.requests_waiting = gauge("edged_requests_waiting", "Requests accepted and not yet running.")
        self.time_to_first_token = histogram(
            "edged_time_to_first_token_seconds", "From acceptance to the first token.", _FIRST_TOKEN_S)
        self.inter_token_latency = histogram(
            "edged_inter_token_latency_seconds", "Between two tokens of a request.", _BETWEEN_TOKENS_S)
        self.e2e_request_latency = histogram(
            "edged_e2e_request_latency_seconds", "From acceptance to the end of the answer.", _REQUEST_S)
        self.queue_time = histogram(
            "edged_queue_time_seconds", "From acceptance to admission by the worker, loading included.", _QUEUE_S)
        self.prompt_tokens = counter("edged_prompt_tokens_total", "Tokens of prompts.")
        self.generation_tokens = counter("edged_generation_tokens_total", "Tokens of answers.")
        self.prompt_computed_tokens = counter(
            "edged_prompt_computed_tokens_total", "Tokens of prompts that were computed, again after a loss too.")
        self.prefix_cache_query_tokens = counter(
            "edged_prefix_cache_query_tokens_total", "Prompt tokens looked up in the prefix cache.")
        self.prefix_cache_hit_tokens = counter(
            "edged_prefix_cache_hit_tokens_total", "Prompt tokens found in the prefix cache.")
        self.prefix_cache_ram_tokens = counter(
            "edged_prefix_cache_ram_tokens_total", "Those of them that came from KV kept in memory.")
        self.prefix_cache_disk_tokens = counter(
            "edged_prefix_cache_disk_tokens_total", "Those of them that came from KV files.")
        self.kv_ram_bytes = gauge("edged_kv_ram_bytes", "KV of earlier prompts that workers keep in memory.")
        self.kv_disk_bytes = Gauge("edged_kv_disk_bytes", "KV files of all models.", registry=self.registry)
        self.kv_write_failures = counter("edged_kv_write_failures_total", "KV files that the disk refused.")
        self.captured_answers = counter("edged_captured_answers_total", "Answers that were kept for training.")
        self.capture_dropped = counter(
            "edged_capture_dropped_total", "Answers that were to be kept and were not: redacted away by the operator's "
            "program, its failures, a full disk, too large, or more than could be kept up with.", ("model", "reason"))
        self.captured_bytes = Gauge("edged_captured_bytes", "Captured answers on disk.", registry=self.registry)
        self.adapter_switches = counter(
            "edged_adapter_switches_total", "Steps that computed with another adapter than the one before them.")
        self.speculative_proposed_tokens = counter(
            "edged_speculative_proposed_tokens_total", "Tokens of drafts that were computed before they were chosen.")
        self.speculative_accepted_tokens = counter(
            "edged_speculative_accepted_tokens_total", "Those of them that came in the answer.")
        self.kv_cache_usage = gauge("edged_kv_cache_usage_ratio", "Share of the KV cache in use, 0 to 1.")
        self.batch_size = gauge("edged_batch_size", "Mean rows of a step since the last report of the worker.")
        self.worker_threads = gauge(
            "edged_worker_threads", "Threads that decode now: fewer while other processes want the processors.")
        self.model_load_seconds = histogram(
            "edged_model_load_seconds", "From the start of a worker until it can serve.", _LOAD_S)
        self.model_reloads = counter(
            "edged_model_reloads_total", "Models that were in memory before a restart, by what became of them.",
            ("model", "outcome"))
        self.model_info = gauge(
            "edged_model_info", "1 for each loaded model.", ("model", "version", "engine", "device", "precision"))
        self.worker_restarts = counter("edged_worker_restarts_total", "Deaths of workers that nobody asked for.")
        self.device_lost = counter(
            "edged_device_lost_total", "Devices that were lost while they served.")
        self.worker_resident_bytes = gauge("edged_worker_resident_bytes", "Resident memory of the worker.")
        version = ("model", "version")
        self.rollout_share = gauge(
            "edged_rollout_share", "Share of a name's requests that its candidate gets, 0 once taken back.", version)
        self.rollout_requests = counter(
            "edged_rollout_requests_total", "Requests of a name with a candidate, by version.", version)
        self.rollout_errors = counter("edged_rollout_errors_total", "Those of them that failed.", version)
        self.rollout_first_token = histogram(
            "edged_rollout_time_to_first_token_seconds", "Of those that waited for no load.", _FIRST_TOKEN_S, version)
        self.rollout_between_tokens = histogram(
            "edged_rollout_inter_token_latency_seconds", "Mean of each request.", _BETWEEN_TOKENS_S, version)
        self.rollout_returns = counter("edged_rollout_returns_total", "Candidates that were taken back.")
        self.store_bytes = Gauge("edged_store_bytes", "Bytes of the store on disk.", registry=self.registry)
        self.jobs = gauge("edged_jobs", "Jobs by kind and state.", ("kind", "state"))

    def on_render(self, refresh: Callable[[], None]) -> None:
        """`refresh` sets the gauges that its owner answers for; called before each rendering."""
        self._on_render.append(refresh)

    def render(self) -> bytes:
        """Prometheus text format, to be served with CONTENT_TYPE."""
        for refresh in self._on_render:
            refresh()
        return generate_latest(self.registry)
