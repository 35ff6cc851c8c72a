"""The operator's program that looks at an answer before it is kept: one line of JSON in, one out, or nothing.

It runs apart: in a session of its own, at low priority, without the daemon's secrets, one at a time, and is killed with
all that it started when its time is over. What it says on standard error is thrown away, for it may hold what it was
given. A line that comes back must be a whole `Answer`; whatever else happens, the answer is not kept.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

import msgspec

from edged.daemon.process import environment
from edged.settings import Origin, Settings
from edged.store.captured import Answer
from edged.store.damaged import DAMAGED

_PIECE_BYTES = 64 << 10
#: A redacted line may grow by names that it puts in place of others, but not without bound.
_GROWTH_BYTES = 1 << 20
_PRIORITY = 10


class RedactionFailed(Exception):
    """The reason in few words, without anything of the answer."""


class Redaction:
    """One thread calls `redact`; `stop` may come from another one."""

    def __init__(self, command: Sequence[str], limit_s: float) -> None:
        self._command, self._limit_s = command, limit_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def redact(self, line: bytes) -> bytes | None:
        """What may be kept of the line, as a line again; None where that is nothing. Raises RedactionFailed."""
        written = self._run(line)
        if not written.strip():
            return None
        try:
            answer = msgspec.json.decode(written, type=Answer)
        except DAMAGED:
            raise RedactionFailed("it wrote something else than one answer as a line of JSON") from None
        return msgspec.json.encode(answer) + b"\n"

    def stop(self) -> None:
        """Kills what runs; from now on every call fails."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                _kill(self._process)

    def _run(self, line: bytes) -> bytes:
        ends_s = time.monotonic() + self._limit_s
        process = self._start()
        try:
            written = _exchange(process, line, ends_s, most_bytes=len(line) + _GROWTH_BYTES)
            code = process.wait(max(0.0, ends_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise RedactionFailed(f"it took longer than capture_redact_s = {self._limit_s:g}") from None
        finally:
            with self._lock:
                self._process = None
                # Also what it started and left behind, which may hold what it was given.
                _kill(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            process.wait()
        if code != 0:
            raise RedactionFailed(f"it ended with exit code {code}")
        return written

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise RedactionFailed("edged is stopping")
            try:
                process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                    start_new_session=True, env=environment(os.environ))
            except OSError as error:
                raise RedactionFailed(f"it cannot be started ({error.strerror})") from None
            self._process = process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _PRIORITY)
        return process


def _exchange(process: subprocess.Popen[bytes], line: bytes, ends_s: float, *, most_bytes: int) -> bytes:
    """What it writes until it closes its output. Raises TimeoutExpired and RedactionFailed."""
    assert process.stdin is not None
    assert process.stdout is not None
    left, written = memoryview(line), bytearray()
    for pipe in (process.stdin, process.stdout):
        os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdin, selectors.EVENT_WRITE)
        ready.register(process.stdout, selectors.EVENT_READ)
        while True:
            due_s = ends_s - time.monotonic()
            events = ready.select(max(0.0, due_s))
            if not events and due_s <= 0:
                raise subprocess.TimeoutExpired(process.args, 0)
            for key, _ in events:
                if key.fileobj is process.stdin:
                    try:
                        left = left[os.write(key.fd, left[:_PIECE_BYTES]):]
                    except BrokenPipeError:
                        # It need not read what it has no use for.
                        left = left[:0]
                    if not left:
                        ready.unregister(process.stdin)
                        with contextlib.suppress(BrokenPipeError):
                            process.stdin.close()
                elif piece := os.read(key.fd, _PIECE_BYTES):
                    written += piece
                    if len(written) > most_bytes:
                        raise RedactionFailed(f"it wrote more than {most_bytes} bytes")
                else:
                    return bytes(written)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The session that it leads. Its number is not another's yet: it was not waited for, or has just ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def require_program(settings: Settings, origins: Mapping[str, Origin]) -> None:
    """A program that cannot be found would have every answer dropped. Raises ConfigError; `edged serve` calls it."""
    if settings.capture_redact and shutil.which(settings.capture_redact[0]) is None:
        raise origins["capture_redact"].mistake(
            f"there is no program {settings.capture_redact[0]}; give its whole path, and let it be executable")
