"""A process that converts and is killed, again and again: `python -m tests.faults.killed_conversions FOLDER`.

It imports everything once and then forks a job for each line of its input, `HOW COUNT`. kill: the job dies by SIGKILL
just before the COUNT-th operation on files that it or one of its stages makes, in the middle of it if it is a write,
and so does the stage. full: from that operation on the disk is full. none: nothing happens. Each line of output: how
the job ended, and how many operations it made.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
import sys

from converters.__main__ import main as convert
from edged.store import files
from edged.store.files import Operation
from tests.faults.stand_in_conversion import stages

#: The kinds of operations that need room.
NEEDS_ROOM = ("create", "write", "folder", "rename", "link", "sync")


def watch(counter: mmap.mmap, job: int, how: str, count: int) -> None:
    def seen(operation: Operation) -> None:
        # Job and stage never run at the same time, so nobody counts beside us.
        made = struct.unpack_from("q", counter)[0] + 1
        struct.pack_into("q", counter, 0, made)
        if how == "full" and made >= count and operation.kind in NEEDS_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if how == "kill" and made == count:
            if operation.kind == "write" and operation.data is not None:
                fd = os.open(operation.path, os.O_WRONLY)
                os.pwrite(fd, operation.data[: len(operation.data) // 2], operation.offset)
            os.kill(job, signal.SIGKILL)
            if job != os.getpid():
                # The kernel takes the stage along when its job dies; nothing more of it is to happen before that.
                os.kill(os.getpid(), signal.SIGKILL)

    files.watch = seen


def main() -> None:
    folder = sys.argv[1]
    counter = mmap.mmap(-1, 8)
    for line in sys.stdin:
        how, count = line.split()
        struct.pack_into("q", counter, 0, 0)
        job = os.fork()
        if job == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            watch(counter, os.getpid(), how, int(count))
            os._exit(convert([folder], stages()))
        _, status = os.waitpid(job, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)} {struct.unpack_from('q', counter)[0]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
