from __future__ import annotations

import asyncio

import pytest

from edged.daemon.background import Background, Run, Transcript
from edged.errors import Conflict

pytestmark = pytest.mark.unit


async def read(transcript: Transcript, number: int = 0) -> list[bytes]:
    return [piece async for piece in transcript.follow(number)]


async def test_readers_at_any_pace_read_the_same() -> None:
    transcript = Transcript()
    early = asyncio.create_task(read(transcript))
    for number in range(5):
        transcript.add(b"%d" % number)
        await asyncio.sleep(0)
    middle = asyncio.create_task(read(transcript, 3))
    await asyncio.sleep(0)
    transcript.add(b"last")
    transcript.end()
    assert await early == [b"0", b"1", b"2", b"3", b"4", b"last"]
    assert await middle == [b"3", b"4", b"last"]
    assert await read(transcript) == await early
    assert await read(transcript, 9) == []


async def test_who_reads_too_late_is_told_so() -> None:
    transcript = Transcript(limit_bytes=10)
    for number in range(8):
        transcript.add(b"%04d" % number)
    transcript.end()
    assert await read(transcript, 6) == [b"0006", b"0007"]
    with pytest.raises(Conflict, match="before number 6"):
        await read(transcript, 5)


async def test_a_run_is_found_by_its_own_client_only_and_not_once_it_has_ended() -> None:
    background, ends = Background(), asyncio.Event()
    run = Run("me", Transcript(), lambda: None)

    async def work() -> None:
        await ends.wait()

    background.start("one", run, work())
    assert background.running("one", "me") is run
    assert background.running("one", "you") is None
    assert background.transcript("one", "you") is None
    ends.set()
    assert run.task is not None
    await run.task
    assert background.running("one", "me") is None
    assert background.transcript("one", "me") is run.transcript


async def test_closing_ends_what_runs_and_lets_last_words_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.daemon.background.CLOSE_S", 0.05)
    background, said = Background(), []
    endless, ending = Run("me", None, lambda: None), Run("me", None, lambda: None)

    async def for_ever() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            said.append(f"cancelled by a client: {endless.cancelled}")

    async def last_words() -> None:
        ending.ending = True
        await asyncio.sleep(0.2)
        said.append("kept")

    background.start("one", endless, for_ever())
    background.start("two", ending, last_words())
    await background.close()
    assert said == ["cancelled by a client: False", "kept"]
