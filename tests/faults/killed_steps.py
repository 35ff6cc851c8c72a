"""A process that changes a store's versions and is killed: `python -m tests.faults.killed_steps HOME`.

As `killed_pulls`: it forks a child for each line of its input, `K HALF STEP…`, which dies by SIGKILL just before its
K-th operation on the store's files; with HALF 1, a write is half done by then.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edged.store import Store
from tests.faults.killed_pulls import die_before
from tests.faults.version_steps import STEPS


def main() -> None:
    home = Path(sys.argv[1])
    for line in sys.stdin:
        count, half, step = line.split()
        child = os.fork()
        if child == 0:
            if step != "migrate":
                store = Store(home)
                die_before(int(count), half=half == "1")
                STEPS[step](store)
            else:
                die_before(int(count), half=half == "1")
                Store(home)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
