"""One worker process and its socket: spawned, listened to, watched, ended, reaped.

`run` is its whole life and returns its Exit. Whatever ends it (asked, crash, hang, a broken frame) takes one way: the
socket ends, the process is reaped, `run` returns. Nothing is heard from it after that.

It dies with the daemon because its socket does; a process that ignores that is killed by group, being the leader of
its own session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

import structlog
from msgspec import Struct

import edged
from edged.daemon.failures import revive
from edged.daemon.stderr import LastLines, gist
from edged.errors import EdgedError
from edged.ipc import frames
from edged.ipc.messages import (
    Cancel,
    Events,
    Load,
    Loading,
    LoadRefused,
    Lost,
    Pause,
    Ready,
    Resume,
    Stats,
    Submit,
    ToWorker,
)
from edged.types import Event, Failed, Finished, LoadSpec, ModelInfo, WorkerStats

COMMAND = (sys.executable, "-m", "edged.worker")
TRIAL_COMMAND = (sys.executable, "-m", "edged.worker.trial")
#: How long a worker has after its socket closed, and again after SIGTERM.
EXIT_GRACE_S = 2.0
#: While loading a worker speaks every few seconds, but starting an interpreter from a slow disk takes long too.
LOADING_SILENCE_S = 15.0
#: A daemon that was itself stopped for long reads what came meanwhile before it judges.
SECOND_LOOK_S = 0.25
_SECRET = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)(?:_|$)", re.IGNORECASE)
_OURS = re.compile(r"EDGED_|NOTIFY_SOCKET$|WATCHDOG_|LISTEN_")

log = structlog.get_logger("edged.daemon")


class Listener(Protocol):
    """Who owns the worker. Called in order, never after `run` returned."""

    def loaded(self, info: ModelInfo) -> None: ...
    def events(self, events: list[Event]) -> None: ...
    def stats(self, stats: WorkerStats) -> None: ...


class Ending(Enum):
    """ASKED: the daemon wanted it. REFUSED: it said that the model cannot be loaded, or `refuse` did. LOST: the device
    that it ran on is gone. KILLED: the daemon had to, because it hung or talked nonsense. DIED: by itself, or by
    somebody else's hand."""

    ASKED = auto()
    REFUSED = auto()
    LOST = auto()
    KILLED = auto()
    DIED = auto()


class Exit(Struct, frozen=True, kw_only=True):
    """Why a worker is gone. reason: one line for people, with the gist of its last words and without paths of this
    machine. loaded: it had said that it can serve. last_lines: the end of its stderr as it was."""

    ending: Ending
    reason: str
    loaded: bool = False
    refused: EdgedError | None = None
    code: int | None = None
    last_lines: tuple[str, ...] = ()


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What a worker gets of the daemon's environment: no secrets, no settings, nothing of the service manager's.
    OpenMP threads spin for a few microseconds only between the parts of a step: with the default a foreign busy process
    slows a step tenfold, and without any spinning every step takes thrice as long (bench/LOG.md). numpy multiplies no
    matrices here, and threads that wait for some took half as long as its import."""
    kept = {name: value for name, value in ours.items() if not _SECRET.search(name) and not _OURS.match(name)}
    ours_alone = {"GOMP_SPINCOUNT": "1000", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                  "ORT_DISABLE_TELEMETRY": "1"}
    return {**ours_alone, **kept}


class WorkerProcess:
    def __init__(self, spec: LoadSpec, listener: Listener, *, load_timeout_s: float, hang_timeout_s: float,
                 command: Sequence[str] = COMMAND, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec, self._listener = spec, listener
        self._load_timeout_s, self._hang_timeout_s = load_timeout_s, hang_timeout_s
        self._command, self._clock = command, clock
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._lines = LastLines(log.bind(model=spec.name))
        self._asked = False
        self._cause: str | None = None
        self._refused: EdgedError | None = None
        self._lost: str | None = None
        self._ready = False
        self._running: set[str] = set()
        self._paused: set[str] = set()
        self._owes_a_frame = False
        self._watched = asyncio.Event()
        self._heard = self._progressed = clock()
        self._fraction = -1.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def send(self, message: ToWorker) -> None:
        """Lost without a sign when the worker is gone; its Exit says so."""
        if self._writer is None or self._writer.is_closing():
            return
        self._note_sent(message)
        self._writer.write(frames.encode(message))

    def stop(self) -> None:
        """Close its socket, upon which it exits; then SIGTERM, then SIGKILL. Requests it had get no more events."""
        self._asked = True
        if self._writer is not None:
            self._writer.close()

    def refuse(self, error: EdgedError) -> None:
        """It says that it can serve and may not. It ends as after `stop`, with this error in its Exit."""
        self._refused = error
        if self._writer is not None:
            self._writer.close()

    def kill(self, cause: str | None = None) -> None:
        """SIGKILL now. cause: None when the daemon wanted it gone, else what it did wrong."""
        self._asked = self._asked or cause is None
        self._cause = self._cause or cause
        self._signal(signal.SIGKILL)
        if self._writer is not None:
            self._writer.close()

    async def run(self) -> Exit:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await self._spawn(theirs)
            reader, self._writer = await asyncio.open_connection(sock=ours)
        except OSError as error:
            ours.close()
            self._signal(signal.SIGKILL)
            return Exit(ending=Ending.ASKED if self._asked else Ending.DIED,
                        reason=f"it could not be started ({os.strerror(error.errno or 0)})")
        stderr = asyncio.create_task(self._lines.follow(self._process.stderr))
        watch = asyncio.create_task(self._watch())
        self._heard = self._progressed = self._clock()
        try:
            if self._asked:
                self._writer.close()
            self.send(Load(self._spec))
            await self._listen(reader)
        except frames.FrameError as error:
            self.kill(f"it sent a broken frame ({error})")
        except asyncio.CancelledError:
            self.kill()
            raise
        finally:
            watch.cancel()
            self._writer.close()
            await self._reap(self._process)
            with contextlib.suppress(TimeoutError):
                # A grandchild may hold the pipe open for ever.
                await asyncio.wait_for(stderr, 1.0)
        return self._exit(self._process.returncode)

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        fd = theirs.fileno()
        return await asyncio.create_subprocess_exec(
            *self._command, str(fd), pass_fds=(fd,), start_new_session=True, env=environment(os.environ),
            cwd=Path(edged.__file__).parent.parent,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (frame := await frames.read(reader)) is not None:
            if self._asked or self._cause or self._refused:
                continue
            self._heard = self._clock()
            self._owes_a_frame = False
            match frame:
                case Events(events=events):
                    for event in events:
                        if isinstance(event, (Finished, Failed)):
                            self._running.discard(event.id)
                            self._paused.discard(event.id)
                    self._listener.events(events)
                case Loading(fraction=fraction):
                    if fraction > self._fraction:
                        self._fraction, self._progressed = fraction, self._heard
                case Ready(info=info):
                    self._ready = True
                    self._listener.loaded(info)
                case LoadRefused():
                    self._refused = revive(frame)
                case Lost(reason=reason):
                    self._lost = reason
                case Stats(stats=stats):
                    self._listener.stats(stats)

    def _note_sent(self, message: ToWorker) -> None:
        if not self._must_speak():
            self._heard = self._clock()
        match message:
            case Submit(request=request):
                self._running.add(request.id)
            case Pause(id=request_id):
                self._paused.add(request_id)
            case Resume(id=request_id):
                self._paused.discard(request_id)
            case Cancel(id=request_id):
                self._running.discard(request_id)
                self._paused.discard(request_id)
                # Once idle it says so with a Stats frame: one that hangs is found though its clients are gone.
                self._owes_a_frame = True
        self._watched.set()

    def _must_speak(self) -> bool:
        return not self._ready or self._owes_a_frame or not self._running <= self._paused

    async def _watch(self) -> None:
        """Kill it when it must speak and is silent. Loading may take long as long as it goes forward."""
        while True:
            if not self._must_speak():
                self._watched.clear()
                await self._watched.wait()
                continue
            if (left_s := self._patience_s()) > 0:
                # No longer than the shorter limit, which holds as soon as it is ready.
                await asyncio.sleep(min(left_s, self._hang_timeout_s))
                continue
            await asyncio.sleep(SECOND_LOOK_S)
            if self._must_speak() and self._patience_s() <= 0:
                if self._silent_s() >= self._silence_limit_s():
                    self.kill(f"it gave no sign of life for {self._silence_limit_s():g} s")
                else:
                    self.kill(f"it made no progress in loading for {self._load_timeout_s:g} s")
                return

    def _silent_s(self) -> float:
        return self._clock() - self._heard

    def _silence_limit_s(self) -> float:
        return self._hang_timeout_s if self._ready else max(self._hang_timeout_s, LOADING_SILENCE_S)

    def _patience_s(self) -> float:
        left_s = self._silence_limit_s() - self._silent_s()
        if not self._ready:
            left_s = min(left_s, self._load_timeout_s - (self._clock() - self._progressed))
        return left_s

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        for escalation in (signal.SIGTERM, signal.SIGKILL):
            try:
                await asyncio.wait_for(process.wait(), EXIT_GRACE_S)
                break
            except TimeoutError:
                self._signal(escalation)
        await process.wait()
        # What it started itself is still in its group, and keeps the group's number from being given anew.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _exit(self, code: int | None) -> Exit:
        lines = tuple(self._lines.lines)
        ending, reason = self._why(code)
        if ending in (Ending.KILLED, Ending.DIED) and (words := gist(lines)):
            reason += f": {words}"
        return Exit(ending=ending, reason=reason, loaded=self._ready, refused=self._refused, code=code,
                    last_lines=lines)

    def _why(self, code: int | None) -> tuple[Ending, str]:
        if self._asked:
            return Ending.ASKED, "it was stopped"
        if self._cause is not None:
            return Ending.KILLED, self._cause
        if self._refused is not None:
            return Ending.REFUSED, self._refused.message
        if self._lost is not None:
            return Ending.LOST, f"its device was lost: {self._lost}"
        if code is None or code >= 0:
            return Ending.DIED, f"it ended by itself with exit code {code}"
        hint = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
        return Ending.DIED, f"it was killed by {_signal_name(-code)}{hint}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
