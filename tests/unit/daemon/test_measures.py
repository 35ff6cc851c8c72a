"""Metrics, traffic and footprints."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.daemon.footprint import Footprints, estimate, measured_budget
from edged.daemon.generation import Generation
from edged.daemon.metrics import Metrics
from edged.daemon.traffic import Traffic
from edged.store.entries import FileEntry, LocalSource, Manifest, ModelEntry
from edged.types import Delta, Event, Finished, GenerateRequest, Started, TextPrompt, Usage, WorkerStats
from tests.unit.daemon.test_generation import Runner

pytestmark = pytest.mark.unit


def sample(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"model": "m"})


async def test_a_request_is_measured_from_its_acceptance() -> None:
    metrics = Metrics()
    traffic = Traffic(metrics, "m")
    generation = Generation(GenerateRequest(id="r", prompt=TextPrompt("q")), 1, Runner(), 100.0)
    seen: list[tuple[float, Event]] = [
        (101.0, Started("r", 7, 2, 0.5)), (103.0, Delta("r", 0, "a")), (103.5, Delta("r", 0, "", tokens=0)),
        (105.0, Delta("r", 0, "bc", tokens=2)), (106.0, Finished("r", Usage(7, 3, 2))),
    ]
    for now, event in seen:
        traffic.saw(generation, event, now)
    assert sample(metrics, "edged_queue_time_seconds_sum") == 1.0
    assert sample(metrics, "edged_time_to_first_token_seconds_sum") == 3.0
    assert sample(metrics, "edged_inter_token_latency_seconds_sum") == 1.0
    assert sample(metrics, "edged_e2e_request_latency_seconds_sum") == 6.0
    assert sample(metrics, "edged_prompt_tokens_total") == 7
    assert sample(metrics, "edged_generation_tokens_total") == 3


async def test_retry_after_follows_the_measured_service_time() -> None:
    traffic = Traffic(Metrics(), "m")
    assert traffic.retry_after_s(waiting=10, rows=8) == 1.0
    for _ in range(3):
        generation = Generation(GenerateRequest(id="r", prompt=TextPrompt("q")), 1, Runner(), 0.0)
        traffic.saw(generation, Started("r", 7, 2, 0.5), 10.0)
        traffic.saw(generation, Finished("r", Usage(7, 3, 2)), 50.0)
    assert traffic.retry_after_s(waiting=10, rows=8) == 5.0
    assert traffic.retry_after_s(waiting=10, rows=1) == 40.0


def test_reports_of_the_worker_become_counters_and_the_mean_batch() -> None:
    metrics = Metrics()
    traffic = Traffic(metrics, "m")
    first = WorkerStats(steps=10, step_rows=20, prefix_query_tokens=100, prefix_hit_tokens=40,
                        speculative_proposed_tokens=30, speculative_accepted_tokens=20)
    traffic.reported(WorkerStats(), first)
    assert sample(metrics, "edged_speculative_proposed_tokens_total") == 30
    assert sample(metrics, "edged_speculative_accepted_tokens_total") == 20
    traffic.reported(first, WorkerStats(steps=12, step_rows=36, prefix_query_tokens=150, prefix_hit_tokens=90,
                                         prompt_computed_tokens=70, prefix_restored_tokens=20, prefix_disk_tokens=10))
    assert sample(metrics, "edged_prompt_computed_tokens_total") == 70
    assert sample(metrics, "edged_prefix_cache_ram_tokens_total") == 20
    assert sample(metrics, "edged_prefix_cache_disk_tokens_total") == 10
    assert sample(metrics, "edged_batch_size") == 8
    assert sample(metrics, "edged_prefix_cache_query_tokens_total") == 150
    assert sample(metrics, "edged_prefix_cache_hit_tokens_total") == 90
    traffic.reported(WorkerStats(), first)
    assert sample(metrics, "edged_prefix_cache_hit_tokens_total") == 130


def test_rendering_asks_the_owners_first_and_holds_nothing_of_the_process() -> None:
    metrics = Metrics()
    metrics.on_render(lambda: metrics.store_bytes.set(42))
    text = metrics.render().decode()
    assert "edged_store_bytes 42.0" in text
    assert "python_info" not in text
    assert all(line.startswith(("#", "edged_")) for line in text.splitlines())


def test_footprints_outlive_the_daemon_and_a_damaged_file_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "footprints.json"
    Footprints(file).record("d" * 64, 1000)
    assert Footprints(file).get("d" * 64) == 1000
    assert [path.name for path in tmp_path.iterdir()] == ["footprints.json"]
    written = file.stat().st_mtime_ns
    known = Footprints(file)
    known.record("d" * 64, 1040)
    known.record("e" * 64, 0)
    assert file.stat().st_mtime_ns == written
    known.record("d" * 64, 900)
    assert Footprints(file).get("d" * 64) == 900
    for damaged in (b'{"d": "x', b'{"\xff": 1}', b'{"d":' + b"[" * 100_000):
        file.write_bytes(damaged)
        assert Footprints(file).get("d" * 64) is None


def test_footprints_in_a_home_that_cannot_be_written_are_kept_for_this_run(tmp_path: Path) -> None:
    known = Footprints(tmp_path / "missing" / "footprints.json")
    known.record("d" * 64, 1000)
    assert known.get("d" * 64) == 1000


def test_estimate_is_more_than_the_weights_and_the_budget_less_than_the_machine() -> None:
    manifest = Manifest(
        name="m", version="v", digest="d", engine="fake", precision="fake", file="f",
        files=(FileEntry(path="f", size=1 << 30, sha256="0" * 64),), source=LocalSource(path="p"), reference="m",
        created=0.0)
    plain = estimate(manifest, ModelEntry(name="m"))
    assert 1 << 30 < plain < 2 << 30
    long = estimate(manifest, ModelEntry(name="m", context=32768, kv_bytes_per_token=1 << 16))
    assert long - plain > 1 << 30
    assert 0 < measured_budget() < 1 << 50
