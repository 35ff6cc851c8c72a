"""One stage in a process of its own (`converters.child`): its memory is really free for the next one, and what a
library does to a process ends with it. The child has the run folder's lock as long as it lives, whatever becomes of its
parent. What it prints goes to `<stage>/log.txt`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from converters import child
from edged.errors import EdgedError, InsufficientMemory, InsufficientStorage, Internal, revived
from edged.store import files
from edged.store.files import FILE_MODE
from training.run import Moment, Run, Tell
from training.stage import StageKind

#: In the run folder: the traceback of an error that nobody foresaw.
FAILURE_FILE = "failure.txt"
#: In a stage's folder: what libraries print.
LOG_FILE = "log.txt"
_GOES_ON = "Run the same command again: it goes on where it was"


def do(run: Run, kind: StageKind, tell: Tell) -> msgspec.Raw:
    """Returns what the stage returned, as JSON. Raises what it raised."""
    def explain(name: str, error: Exception) -> EdgedError:
        return explained(run, name, error)

    def work(told: Tell) -> object:
        _print_to(run.path(kind.name) / LOG_FILE)
        return kind.run(run, told)

    ended = _ended(kind.name, work, tell, explain)
    # What an earlier run failed by is no longer so.
    files.remove(run.folder / FAILURE_FILE)
    return msgspec.Raw(ended.value)


def asked(run: Run, what: str, ask: Callable[[], None]) -> None:
    """Asks torch something before the stages. Whoever has asked it for a GPU can never fork a process that computes on
    one, so it must not be this process. Raises what `ask` raises."""
    _ended(what, lambda told: ask(), lambda moment: None, lambda name, error: explained(run, name, error))


def _ended(
    name: str, work: Callable[[Tell], object], tell: Tell, explain: Callable[[str, Exception], EdgedError],
) -> child.Ended:
    # What is not written yet would be written by both.
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        return child.run_telling(name, work, tell, Moment, explain)
    except child.StageFailed as failed:
        said = failed.failed
        raise _of_training(name, revived(said.message, status=said.status, type=said.type, retry=said.retry,
                                         code=said.code)) from None


def explained(run: Run, name: str, error: Exception) -> EdgedError:
    """What to tell of an exception of a stage: libraries wrap a full disk and a lack of memory in exceptions of their
    own."""
    known = child.explained(name, error)
    if known is error or not isinstance(known, Internal | InsufficientMemory | InsufficientStorage):
        return known
    if isinstance(known, InsufficientMemory):
        return InsufficientMemory(
            f"memory ran out in stage {name}; a smaller batch_size (with more accumulation), checkpointing = true or a "
            f"smaller data.max_tokens need less. {_GOES_ON}")
    if isinstance(known, InsufficientStorage):
        return InsufficientStorage(f"the disk became full in stage {name}; free some room on it. {_GOES_ON}")
    kept = run.folder / FAILURE_FILE
    kept.write_text("".join(traceback.format_exception(error)))
    first = (str(error).strip().splitlines() or ["it said nothing"])[0][:300]
    return Internal(f"stage {name} failed: {type(error).__name__}: {first}; {kept} tells more. {_GOES_ON}")


def _print_to(log: Path) -> None:
    """Python's and every native library's standard output and error."""
    sys.stdout.flush()
    sys.stderr.flush()
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _of_training(name: str, error: EdgedError) -> EdgedError:
    """A child that was killed can say nothing itself."""
    if isinstance(error, InsufficientMemory) and error.message.startswith(f"the stage {name} was killed"):
        return InsufficientMemory(
            f"stage {name} was killed, perhaps because memory ran out; a smaller batch_size (with more accumulation), "
            f"checkpointing = true or other programs closed need less. {_GOES_ON}")
    return error
