"""A process that pulls and is killed, again and again: `python -m tests.faults.killed_pulls HOME ENDPOINT REFERENCE`.

It imports everything once and then forks a child for each line of its input, `K HALF`: the child dies by SIGKILL just
before its K-th operation on the store's files; with HALF 1, a write is half done by then. K 0: nobody dies. Each line
of output says how the child ended: its signal or exit code.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from edged.store import Store, files
from edged.store.entries import Catalog
from edged.store.files import Operation
from edged.store.pull import HubSettings, pull
from tests.models import ignore


def die_before(count: int, *, half: bool) -> None:
    made = 0

    def watch(operation: Operation) -> None:
        nonlocal made
        made += 1
        if made < count:
            return
        if half and operation.kind == "write" and operation.data is not None:
            fd = os.open(operation.path, os.O_WRONLY)
            os.pwrite(fd, operation.data[: len(operation.data) // 2], operation.offset)
        os.kill(os.getpid(), signal.SIGKILL)

    files.watch = watch


def main() -> None:
    home, endpoint, reference = sys.argv[1:]
    for line in sys.stdin:
        count, half = (int(word) for word in line.split())
        child = os.fork()
        if child == 0:
            if count:
                die_before(count, half=bool(half))
            store = Store(Path(home))
            manifest = pull(store, Catalog(), reference, hub=HubSettings(endpoint, backoff_s=0.001), progress=ignore)
            store.folder(manifest)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
