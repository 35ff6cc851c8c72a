"""The gauges that tell of models, read from their owners when metrics are rendered."""

from __future__ import annotations

from collections.abc import Iterable

from edged.daemon.metrics import Metrics
from edged.daemon.status import ModelStatus


def set_gauges(metrics: Metrics, models: Iterable[ModelStatus], *, store_bytes: int, kv_disk_bytes: int,
               captured_bytes: int) -> None:
    metrics.store_bytes.set(store_bytes)
    metrics.kv_disk_bytes.set(kv_disk_bytes)
    metrics.captured_bytes.set(captured_bytes)
    for gauge in (metrics.model_info, metrics.requests_running, metrics.requests_waiting,
                  metrics.worker_resident_bytes, metrics.worker_threads, metrics.kv_cache_usage,
                  metrics.kv_ram_bytes):
        gauge.clear()
    for status in models:
        # Two versions of one name may be loaded at once: the sums are the name's.
        metrics.requests_running.labels(status.name).inc(status.running)
        metrics.requests_waiting.labels(status.name).inc(status.waiting)
        metrics.worker_resident_bytes.labels(status.name).inc(status.resident_bytes)
        metrics.kv_ram_bytes.labels(status.name).inc(status.kv_ram_bytes)
        if status.threads is not None:
            metrics.worker_threads.labels(status.name).inc(status.threads)
        if status.device is not None:
            metrics.kv_cache_usage.labels(status.name).set(
                status.kv_used_tokens / status.kv_tokens if status.kv_tokens else 0)
            metrics.model_info.labels(
                status.name, status.version, status.engine, status.device, status.precision).set(1)
