"""A trial that stays: one loaded model in a process of its own, measured in turns by the one who opened it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

import edged
from edged.daemon.failures import revive
from edged.daemon.process import environment
from edged.daemon.stderr import gist
from edged.errors import LoadFailed
from edged.hardware.tuning import Part
from edged.ipc.trials import Trial, TrialFailed, TrialResult, Turn, Turned
from edged.types import Failed

#: Of what it says on stderr, the end, for the error.
KEPT_BYTES = 16384
#: A turn of a slow box is a step of each part: minutes mean a hang.
TURN_S = 120.0


class Turns:
    """result: what it told of itself when it had loaded."""

    def __init__(self, process: asyncio.subprocess.Process, stderr: asyncio.Task[bytes]) -> None:
        self._process, self._stderr = process, stderr
        self.result = TrialResult()

    async def begin(self, trial: Trial, *, timeout_s: float) -> None:
        self.result = msgspec.json.decode(await self._ask(msgspec.json.encode(trial), timeout_s), type=TrialResult)
        _raise(self.result.error)

    async def measure(
        self, parts: Sequence[Part], seconds: float, threads: tuple[int, int] | None = None,
    ) -> dict[Part, float]:
        """Tokens a second of each part. Raises what the engine raised, and LoadFailed where the process died or took
        too long."""
        turn = Turn(parts=tuple(parts), seconds=seconds, threads=threads)
        said = await self._ask(msgspec.json.encode(turn), TURN_S + 10 * seconds)
        turned = msgspec.json.decode(said, type=Turned)
        _raise(turned.error)
        return turned.rates

    async def _ask(self, line: bytes, timeout_s: float) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + b"\n")
            if said := await asyncio.wait_for(self._process.stdout.readline(), timeout_s):
                return said
        except ConnectionError:
            pass
        except TimeoutError:
            raise LoadFailed(f"its trial took longer than {timeout_s:g} s") from None
        code = await self._process.wait()
        words = gist((await self._stderr).decode(errors="replace").splitlines())
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise LoadFailed(f"its trial {how}{f': {words}' if words else ''}")


@contextlib.asynccontextmanager
async def open_turns(trial: Trial, command: Sequence[str], *, timeout_s: float) -> AsyncIterator[Turns]:
    """The process ends with the block. Raises what loading raised, and LoadFailed where it died or took too long."""
    process = await asyncio.create_subprocess_exec(
        *command, start_new_session=True, env=environment(os.environ), cwd=Path(edged.__file__).parent.parent,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    stderr = asyncio.create_task(_end_of(process.stderr))
    turns = Turns(process, stderr)
    try:
        await turns.begin(trial, timeout_s=timeout_s)
        yield turns
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        stderr.cancel()


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while piece := await stream.read(1 << 16):
        kept = (kept + piece)[-KEPT_BYTES:]
    return kept


def _raise(error: TrialFailed | None) -> None:
    if error is not None:
        raise revive(Failed("", error.status, error.type, error.message, error.code, None, error.retry))
