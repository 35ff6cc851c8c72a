"""Trials of a form on a device (`python -m edged.worker.trial`), each in a process of its own that cannot outlive the
one that asks: it ends when its standard input does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

import edged
from edged.daemon.failures import revive
from edged.daemon.process import environment
from edged.daemon.stderr import gist
from edged.errors import EdgedError, LoadFailed
from edged.ipc.trials import Trial, TrialResult
from edged.types import Failed

#: Of what it says on stderr, the end, for the error.
KEPT_BYTES = 16384
#: Beside loading: prefills and decodes of the slowest boxes.
MEASURING_S = 300.0

#: Carries out one trial. Raises what the trial raised, and LoadFailed where it died or took too long.
RunTrial = Callable[[Trial, Sequence[str]], Awaitable[TrialResult]]


async def run_trial(trial: Trial, command: Sequence[str], *, timeout_s: float) -> TrialResult:
    """command: with the interpreter of the engine's environment. Cancel it to end the process. Raises as RunTrial."""
    process = await asyncio.create_subprocess_exec(
        *command, start_new_session=True, env=environment(os.environ), cwd=Path(edged.__file__).parent.parent,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said = asyncio.create_task(_end_of(process.stderr))
    try:
        process.stdin.write(msgspec.json.encode(trial) + b"\n")
        answer = await asyncio.wait_for(process.stdout.read(), timeout_s)
        code = await process.wait()
    except TimeoutError:
        raise LoadFailed(f"its trial took longer than {timeout_s:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        with contextlib.suppress(TimeoutError):
            # A grandchild may hold the pipe open for ever.
            await asyncio.wait_for(asyncio.shield(said), 1.0)
        said.cancel()
    return _result(answer, code, said.result() if said.done() and not said.cancelled() else b"")


def _result(answer: bytes, code: int, said: bytes) -> TrialResult:
    try:
        result = msgspec.json.decode(answer, type=TrialResult)
    except msgspec.MsgspecError:
        words = gist(said.decode(errors="replace").splitlines())
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise LoadFailed(f"its trial {how}{f': {words}' if words else ''}") from None
    if result.error is not None:
        error = result.error
        raise revive(Failed("", error.status, error.type, error.message, error.code, None, error.retry))
    return result


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while piece := await stream.read(1 << 16):
        kept = (kept + piece)[-KEPT_BYTES:]
    return kept


def lasting(error: EdgedError) -> bool:
    """Whether the next trial of the same would end in the same way: a device that cannot run this model, rather than
    one that had no memory left for a moment."""
    return isinstance(error, LoadFailed)
