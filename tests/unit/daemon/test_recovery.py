"""Back-off and breaker, suspects, errors from children, last words."""

from __future__ import annotations

import asyncio
import re

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from edged.daemon.breaker import Breaker
from edged.daemon.failures import revive
from edged.daemon.process import environment
from edged.daemon.stderr import KEPT_LINES, LINE_BYTES, LastLines, gist
from edged.daemon.suspects import Suspects
from edged.daemon.waiters import Waiters
from edged.errors import (
    ContextLengthExceeded,
    InsufficientMemory,
    Internal,
    InvalidRequest,
    LoadFailed,
    SuspectRequest,
    WorkerDied,
)
from edged.ipc.messages import LoadRefused
from edged.types import Failed

pytestmark = pytest.mark.unit


def test_back_off_doubles_to_its_most_and_starts_anew_after_success() -> None:
    breaker = Breaker(first_s=1, most_s=30, limit=100)
    delays = []
    for _ in range(7):
        breaker.died(100.0, loading=False)
        delays.append(breaker.not_before - 100.0)
    assert delays == [1, 2, 4, 8, 16, 30, 30]
    breaker.reset()
    assert breaker.not_before == 0
    breaker.died(200.0, loading=False)
    assert breaker.not_before == 201.0


def test_breaker_opens_sooner_for_what_never_loads() -> None:
    loading, serving = Breaker(), Breaker()
    for _ in range(3):
        assert not loading.open
        loading.died(0.0, loading=True)
    assert loading.open
    for _ in range(6):
        serving.died(0.0, loading=False)
    assert not serving.open
    serving.died(0.0, loading=False)
    assert serving.open


def test_suspect_is_refused_after_two_deaths_unless_it_completed_or_time_passed() -> None:
    suspects = Suspects(remember_s=60)
    guilty, innocent, old = ("m", b"guilty"), ("m", b"innocent"), ("m", b"old")
    for now in (0.0, 1.0):
        for identity in (guilty, innocent, old):
            assert not suspects.refuses(identity, now)
            suspects.was_running(identity, now)
    suspects.completed(innocent)
    assert suspects.refuses(guilty, 2.0)
    assert not suspects.refuses(innocent, 2.0)
    assert not suspects.refuses(("other", b"guilty"), 2.0)
    assert not suspects.refuses(old, 62.0)


def test_suspects_are_bounded() -> None:
    suspects = Suspects(most=10)
    for number in range(100):
        suspects.was_running(("m", str(number).encode()), 0.0)
    assert len(suspects._seen) == 10


@pytest.mark.parametrize(("status", "type_", "code", "retry", "kind"), [
    (400, "invalid_request_error", "context_length_exceeded", False, ContextLengthExceeded),
    (400, "invalid_request_error", "something_new", False, InvalidRequest),
    (502, "server_error", "worker_died", True, WorkerDied),
    (502, "server_error", "worker_died", False, SuspectRequest),
    (500, "server_error", "load_failed", False, LoadFailed),
    (507, "server_error", "insufficient_memory", False, InsufficientMemory),
    (599, "server_error", None, True, Internal),
])
def test_errors_come_back_as_what_they_were(
    status: int, type_: str, code: str | None, retry: bool, kind: type[Exception],
) -> None:
    error = revive(Failed("r", status, type_, "a message", code, "messages", retry))
    assert isinstance(error, kind)
    assert (error.message, error.param) == ("a message", "messages")
    if code is not None:
        assert error.code == code


def test_refused_load_comes_back_too() -> None:
    assert isinstance(revive(LoadRefused(500, "server_error", "cut short", "load_failed")), LoadFailed)


@pytest.mark.parametrize(("lines", "expected"), [
    ([], ""),
    (["loading", "bye"], "bye"),
    (["GGML_ASSERT(n > 0) failed at /build/src/ggml.c:12", "Current thread 0x00007f12 (most recent call first):"],
     "GGML_ASSERT(n > 0) failed at ggml.c:12"),
    (["Traceback (most recent call last):", '  File "/opt/x/y.py", line 3', "ValueError: no such tensor"],
     "ValueError: no such tensor"),
    (['{"event": "engine_failed", "error": "no KV at 0xdeadbeef", "level": "error"}'], "engine_failed no KV at 0x…"),
])
def test_gist_is_what_tells_most_without_paths_and_addresses(lines: list[str], expected: str) -> None:
    assert gist(lines) == expected


@given(st.lists(st.text()))
def test_gist_never_holds_an_absolute_path_of_two_parts(lines: list[str]) -> None:
    assert not re.search(r"(?<![\w.])/[a-z]+/[a-z]+", gist([*lines, "error: /usr/lib/x.so is missing"]))


async def test_last_lines_are_bounded_whatever_comes() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"x" * 1_000_000 + b"\n")
    stream.feed_data(b"".join(b"line %d\n" % number for number in range(100)) + b"\xff no end")
    stream.feed_eof()
    kept = LastLines(structlog.get_logger())
    await kept.follow(stream)
    assert len(kept.lines) == KEPT_LINES
    assert kept.lines[-1] == "\ufffd no end"
    assert max(map(len, kept.lines)) <= LINE_BYTES


async def test_json_lines_keep_their_level_and_say_whose_they_are() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b'{"event": "slow_step", "level": "warning", "ms": 12, "model": "other"}\nplain words\n{"broken\n')
    stream.feed_eof()
    with structlog.testing.capture_logs() as logged:
        await LastLines(structlog.get_logger().bind(model="m")).follow(stream)
    assert logged == [
        {"event": "slow_step", "log_level": "warning", "ms": 12, "model": "m", "child_model": "other"},
        {"event": "child.stderr", "log_level": "info", "line": "plain words", "model": "m"},
        {"event": "child.stderr", "log_level": "info", "line": '{"broken', "model": "m"},
    ]


def test_environment_of_a_worker_holds_no_secret_and_no_setting() -> None:
    ours = {
        "PATH": "/bin", "HF_TOKEN": "s", "HUGGING_FACE_HUB_TOKEN": "s", "OPENAI_API_KEY": "s", "DB_PASSWORD": "s",
        "AWS_SECRET_ACCESS_KEY": "s", "EDGED_ADMIN_KEYS": "s", "NOTIFY_SOCKET": "s", "LISTEN_FDS": "3",
        "TOKENIZERS_PARALLELISM": "1", "CUDA_VISIBLE_DEVICES": "0",
    }
    kept = environment(ours)
    assert "s" not in kept.values()
    assert {"PATH", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES"} <= kept.keys()
    assert "LISTEN_FDS" not in kept
    assert kept["GOMP_SPINCOUNT"] == "1000"
    assert environment({"GOMP_SPINCOUNT": "7"})["GOMP_SPINCOUNT"] == "7"


async def test_waiters_are_answered_in_part_failed_or_forgotten() -> None:
    waiters = Waiters()
    first, second, third = waiters.enter(1), waiters.enter(2), waiters.enter(3)
    assert waiters.oldest() == 1
    assert waiters.answer(before=2)
    assert first.done()
    second.cancel()
    assert waiters.oldest() == 3
    waiters.fail(LoadFailed("no"))
    with pytest.raises(LoadFailed):
        await third
    assert not waiters.answer()
    assert waiters.oldest() is None
