"""One function in a process of its own: its memory is really free afterwards, its peak is known, and whatever kills it
ends in one clear error.

The child is forked, so the parent has to stay small: one thread, no native library. It inherits the job's locks: where
the parent dies and the child lives a moment longer, the next process still waits for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from edged.errors import (
    ConfigError,
    CorruptFile,
    EdgedError,
    InsufficientMemory,
    InsufficientStorage,
    Internal,
    InvalidRequest,
)
from edged.store.entries import JobFailed, JobProgress

#: A child that was asked to end gets this long.
GRACE_S = 2.0
_POLL_S = 0.2
#: Linux: PR_SET_PDEATHSIG.
_DIE_WITH_PARENT = 1
#: How native allocators say it, in exceptions of other types.
_OUT_OF_MEMORY = ("can't allocate memory", "bad_alloc", "not enough memory", "failed to allocate", "out of memory")
_DISK_FULL = ("no space left on device", "disk quota exceeded")

Tell = Callable[[JobProgress], None]
#: What is told of progress.
Told = TypeVar("Told", bound=Struct)
#: Of a stage that raised: what to tell of it. Called in the child; keeps what a developer needs.
Explain = Callable[[str, Exception], EdgedError]


class StageFailed(Exception):
    """A stage ended without a result."""

    def __init__(self, failed: JobFailed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class Ended(Struct, frozen=True):
    """value: what the function returned, as JSON. peak_bytes: most resident memory of its process."""

    value: bytes
    seconds: float
    peak_bytes: int


class _Said(Struct, frozen=True, omit_defaults=True):
    """One line from the child: exactly one of these. progress and value: JSON, empty where there is none."""

    progress: Raw = Raw()
    error: JobFailed | None = None
    value: Raw = Raw()


_said = msgspec.json.Decoder(_Said)


def run(stage: str, function: Callable[[Tell], object], tell: Tell) -> Ended:
    """`function` in a child; it returns what msgspec can write as JSON. Raises StageFailed. Whatever is raised here
    meanwhile (a signal, a broken pipe) ends the child first."""
    return run_telling(stage, function, tell, JobProgress, _explained_in_log)


def run_telling(
    stage: str, function: Callable[[Callable[[Told], None]], object], tell: Callable[[Told], None], told: type[Told],
    explain: Explain,
) -> Ended:
    """The same, of progress in another form."""
    began = time.monotonic()
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_the_child(stage, function, writing, parent, explain)
    os.close(writing)
    value: bytes | None = None
    error: JobFailed | None = None
    watched = _Watched(child)
    try:
        for line in _lines(reading, watched):
            said = _said.decode(line)
            if bytes(said.progress):
                tell(msgspec.json.decode(said.progress, type=told))
            elif said.error is not None:
                error = said.error
            else:
                value = bytes(said.value)
        watched.wait()
    finally:
        os.close(reading)
        watched.end()
    if error is not None:
        raise StageFailed(error)
    if value is None:
        raise StageFailed(failed_by(_death(stage, watched.code)))
    return Ended(value, time.monotonic() - began, watched.peak_bytes)


def failed_by(error: EdgedError) -> JobFailed:
    if isinstance(error, ConfigError):
        # A recipe or a text that the caller named.
        return JobFailed(status=InvalidRequest.status, type=InvalidRequest.type, message=error.message, code=error.code,
                         retry=False)
    return JobFailed(status=error.status, type=error.type, message=error.message, code=error.code, retry=error.retry)


def explained(stage: str, error: BaseException) -> EdgedError:
    """What to tell of an exception of a stage. Libraries wrap a full disk and a lack of memory in exceptions of their
    own: the whole chain is looked at."""
    chain = list(_chain(error))
    for each in chain:
        words = str(each).lower()
        if (isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT)) \
                or any(sign in words for sign in _DISK_FULL) or isinstance(each, InsufficientStorage):
            return each if isinstance(each, InsufficientStorage) else InsufficientStorage(
                f"the disk of the store became full in stage {stage}; what the job had made is removed and nothing was "
                "installed. `edged gc` frees what no model uses, `edged rm NAME` a model; then ask for it again")
    for each in chain:
        if isinstance(each, EdgedError):
            return each
    if any(isinstance(each, MemoryError) or (not isinstance(each, OSError) and any(
            sign in str(each).lower() for sign in _OUT_OF_MEMORY)) for each in chain):
        return InsufficientMemory(
            f"memory ran out in stage {stage}; `edged unload` models or close other programs, then ask for it again: "
            "it goes on with this stage")
    if type(error).__name__ == "SafetensorError":
        return CorruptFile(f"a file of the model is damaged ({_first_line(error)}); get the model again")
    return Internal(f"stage {stage} failed: {type(error).__name__}: {_first_line(error)}; the job's log tells more")


def _explained_in_log(stage: str, error: Exception) -> EdgedError:
    """Standard error is the job's log."""
    traceback.print_exc()
    return explained(stage, error)


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent ends, where the kernel can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _be_the_child(
    stage: str, function: Callable[[Callable[[Any], None]], object], writing: int, parent: int, explain: Explain,
) -> None:
    """Never returns."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _stop)
        die_with_parent(parent)
        # When memory runs out, this process is to go and not the daemon.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")

        def send(said: _Said) -> None:
            view = memoryview(msgspec.json.encode(said) + b"\n")
            while view:
                view = view[os.write(writing, view):]

        try:
            value = function(lambda moment: send(_Said(progress=Raw(msgspec.json.encode(moment)))))
            send(_Said(value=Raw(msgspec.json.encode(value))))
            code = 0
        except Exception as error:
            send(_Said(error=failed_by(explain(stage, error))))
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


class _Watched:
    """A child until it has ended, and how it did. code: of `os.waitstatus_to_exitcode`."""

    def __init__(self, child: int) -> None:
        self._child = child
        self._ended = False
        self.code = 0
        self.peak_bytes = 0

    def has_ended(self, options: int = os.WNOHANG) -> bool:
        if not self._ended:
            ended, status, usage = os.wait4(self._child, options)
            if ended:
                self._ended = True
                self.code = os.waitstatus_to_exitcode(status)
                self.peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return self._ended

    def wait(self) -> None:
        self.has_ended(0)

    def end(self) -> None:
        """Ask it, then make it. Nothing happens where it has ended."""
        if self.has_ended():
            return
        os.kill(self._child, signal.SIGTERM)
        deadline_s = time.monotonic() + GRACE_S
        while time.monotonic() < deadline_s:
            if self.has_ended():
                return
            time.sleep(0.02)
        os.kill(self._child, signal.SIGKILL)
        self.wait()


def _lines(reading: int, watched: _Watched) -> Iterator[bytes]:
    """Whole lines, to the end of the pipe or of the child: something that the child started may hold the pipe open
    longer."""
    begun = b""
    while True:
        ready, _, _ = select.select([reading], [], [], _POLL_S)
        if not ready:
            if not watched.has_ended():
                continue
            if not select.select([reading], [], [], 0)[0]:
                return
        piece = os.read(reading, 1 << 16)
        if not piece:
            return
        *whole, begun = (begun + piece).split(b"\n")
        yield from whole


def _death(stage: str, code: int) -> EdgedError:
    """code: of `os.waitstatus_to_exitcode`."""
    if code in (-signal.SIGKILL, -signal.SIGABRT):
        return InsufficientMemory(
            f"the stage {stage} was killed ({signal.Signals(-code).name}), perhaps because memory ran out; "
            "`edged unload` models or close other programs, then ask for it again: it goes on with this stage")
    how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code} and said nothing"
    return Internal(f"the stage {stage} {how}; the job's log tells more. Ask for it again to retry this stage")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen = 0
    each: BaseException | None = error
    while each is not None and seen < 20:
        yield each
        each, seen = each.__cause__ or each.__context__, seen + 1


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["it said nothing"])[0][:300]
