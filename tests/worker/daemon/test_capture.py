"""Capturing harms no answer: programs that hang, disks that refuse, more than can be kept, a stop meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from edged.daemon import capture
from edged.errors import WorkerDied
from edged.store.captured import Captured
from edged.types import ChatPrompt, Finished, GenerateRequest
from tests.worker.daemon.rig import Rig, collect

pytestmark = pytest.mark.worker


def said(text: str = "The box is blue.") -> GenerateRequest:
    number = time.monotonic_ns()
    return GenerateRequest(id=f"r{number}", prompt=ChatPrompt([{"role": "user", "content": f"say: {text}"}]))


async def answered(here: Rig, count: int = 1) -> float:
    """Seconds until all had their last event."""
    began = time.monotonic()
    generations = [await here.router.generate("tiny", said()) for _ in range(count)]
    for events in await asyncio.gather(*map(collect, generations)):
        assert isinstance(events[-1], Finished)
    return time.monotonic() - began


async def counted(here: Rig, name: str, count: int, **labels: str) -> None:
    for _ in range(1000):
        if (found := here.metric(name, model="tiny", **labels)) >= count:
            break
        await asyncio.sleep(0.02)
    assert found == count


async def dropped(here: Rig, reason: str, count: int) -> None:
    await counted(here, "edged_capture_dropped_total", count, reason=reason)


async def test_a_program_that_hangs_delays_nobody_and_keeps_nothing(rig: Callable[..., Rig]) -> None:
    async with rig(capture=("tiny",), capture_redact=("sleep", "60"), capture_redact_s=0.3) as here:
        here.install("tiny")
        await answered(here)
        assert await answered(here, 5) < 3
        await dropped(here, "redaction_failed", 6)
        assert Captured(here.store.layout).models() == []


async def test_more_than_can_be_kept_up_with_is_dropped_and_counted(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capture, "MOST_WAITING", 2)
    async with rig(capture=("tiny",), capture_redact=("sh", "-c", "sleep 1; cat")) as here:
        here.install("tiny")
        await answered(here, 5)
        await dropped(here, "busy", 3)
        await counted(here, "edged_captured_answers_total", 2)
        assert len(list(Captured(here.store.layout).lines("tiny"))) == 2


async def test_a_disk_that_refuses_is_told_once_and_counted_and_answers_go_on(
    rig: Callable[..., Rig], capsys: pytest.CaptureFixture[str],
) -> None:
    async with rig(capture=("tiny",)) as here:
        here.install("tiny")
        here.store.layout.captured.write_bytes(b"no folder")
        for _ in range(3):
            await answered(here)
        await dropped(here, "disk", 3)
        here.store.layout.captured.unlink()
        await answered(here)
        await counted(here, "edged_captured_answers_total", 1)
    assert capsys.readouterr().out.count("capture.dropped") == 1


async def test_a_stop_keeps_what_waits_and_is_not_held_up_by_a_program_that_hangs(
    rig: Callable[..., Rig],
) -> None:
    here = rig(capture=("tiny",), capture_redact=("sh", "-c", "read line; sleep 0.1; printf '%s\\n' \"$line\""))
    here.install("tiny")
    await here.router.start()
    await answered(here, 3)
    await here.router.drain(5)
    assert len(list(Captured(here.store.layout).lines("tiny"))) == 3

    here = rig(capture=("tiny",), capture_redact=("sleep", "60"), capture_redact_s=60)
    here.install("tiny")
    await here.router.start()
    await answered(here, 3)
    began = time.monotonic()
    await here.router.drain(5)
    assert time.monotonic() - began < capture.LAST_S + 5
    assert Captured(here.store.layout).models() == []


async def test_an_answer_whose_worker_died_in_the_middle_is_not_captured(rig: Callable[..., Rig]) -> None:
    async with rig(capture=("tiny",)) as here:
        here.install("tiny", crash_at_token=2)
        generation = await here.router.generate("tiny", said("word " * 40))
        with pytest.raises(WorkerDied):
            await collect(generation)
        assert Captured(here.store.layout).models() == []


async def test_lines_of_many_at_once_are_whole_and_each_is_there_once(rig: Callable[..., Rig]) -> None:
    async with rig(capture=("tiny",)) as here:
        here.install("tiny", rows=8)
        for _ in range(4):
            await answered(here, 12)
        await counted(here, "edged_captured_answers_total", 48)
        lines: list[dict[str, Any]] = [json.loads(line) for line in Captured(here.store.layout).lines("tiny")]
        assert len({line["id"] for line in lines}) == len(lines) == 48
        assert {line["messages"][-1]["content"] for line in lines} == {"The box is blue."}


async def test_where_nothing_is_captured_there_is_no_thread_and_what_is_too_old_goes_all_the_same(
    rig: Callable[..., Rig],
) -> None:
    before = set(threading.enumerate())
    async with rig() as here:
        here.install("tiny")
        await answered(here)
        assert not [thread.name for thread in set(threading.enumerate()) - before if "capture" in thread.name]
    here = rig(capture_days=1)
    folder = here.store.layout.captured_of("gone")
    folder.mkdir(parents=True)
    (folder / "2020-01-01-1.jsonl").write_bytes(b'{"at": 1577836800.0}\n')
    async with here:
        for _ in range(500):
            if not Captured(here.store.layout).paths("gone"):
                break
            await asyncio.sleep(0.02)
        assert Captured(here.store.layout).paths("gone") == []
