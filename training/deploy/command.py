"""The command `edged` as a script uses it: --json, and its last line is what came of it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from edged.errors import Conflict, EdgedError, InsufficientMemory, InsufficientStorage, Internal, InvalidRequest
from edged.store.entries import JobFailed, JobLine, JobProgress, Manifest

EDGED = (sys.executable, "-m", "edged.cli.main")
#: `edged.cli.exit_codes.NOT_GOOD_ENOUGH`: it is kept, not served.
NOT_GOOD_ENOUGH = 6
Told = Callable[[JobProgress], None]
_KNOWN: tuple[type[EdgedError], ...] = (InsufficientMemory, InsufficientStorage, Conflict)


def job(arguments: Sequence[str], told: Told) -> Manifest:
    """What pulls or converts. Returns the version that it made, served or not. Raises what it ended with."""
    last: JobLine | None = None
    for line in _lines(arguments):
        last = msgspec.json.decode(line, type=JobLine)
        if last.progress is not None:
            told(last.progress)
    if last is not None and last.error is not None:
        raise _revived(arguments, last.error)
    if last is None or last.manifest is None:
        raise Internal(f"{_shown(arguments)} ended and named no version; run it by hand to see why")
    return last.manifest


def answer(arguments: Sequence[str]) -> Any:
    """The one JSON value that it prints. Raises InvalidRequest where it fails."""
    return msgspec.json.decode(b"\n".join(_lines(arguments)))


def _lines(arguments: Sequence[str]) -> Iterator[bytes]:
    """As they come. What ends this process ends the command first."""
    with tempfile.TemporaryFile() as said, subprocess.Popen(
            [*EDGED, *arguments, "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said) as process:
        assert process.stdout is not None
        none = True
        try:
            for line in process.stdout:
                none = False
                yield line
            code = process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            raise
        if none and code != 0:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines()
            why = words[-1].removeprefix("edged: ") if words else f"it ended with exit code {code}"
            raise InvalidRequest(f"{_shown(arguments)}: {why}")


def _revived(arguments: Sequence[str], failed: JobFailed) -> EdgedError:
    known = next((each for each in _KNOWN if each.default_code == failed.code), None)
    kind = known or (InvalidRequest if failed.status < 500 else Internal)
    return kind(f"{_shown(arguments)}: {failed.message}", code=failed.code)


def _shown(arguments: Sequence[str]) -> str:
    return f"`edged {arguments[0]}`"
