"""A daemon for the time of one command: on a Unix socket of its own, gone when the command is, however that ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edged.cli.client import Client
from edged.cli.exit_codes import NoDaemon

START_LIMIT_S = 60.0
END_LIMIT_S = 15.0


@contextlib.contextmanager
def private_daemon(home: Path) -> Iterator[Client]:
    """It stops when its standard input ends, which the end of this process brings about in any case. In a session of
    its own: ctrl-C is for the command. Raises NoDaemon with the daemon's own words when it cannot start."""
    with tempfile.TemporaryDirectory(prefix="edged-") as folder:
        socket, log_file = Path(folder) / "edged.sock", Path(folder) / "log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edged.cli.main", "serve", "--session", f"--home={home}", f"--socket={socket}",
                 "--log-level=warning"],
                # It and its workers run nothing of the folder in which a person has typed the command.
                env={**os.environ, "PYTHONSAFEPATH": "1"},
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
        try:
            yield _started(process, socket, log_file)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(process: subprocess.Popen[bytes], socket: Path, log_file: Path) -> Client:
    client = Client(socket)
    ends_s = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < ends_s:
        if socket.exists():
            with contextlib.suppress(NoDaemon):
                client.status()
                return client
        time.sleep(0.02)
    said = log_file.read_text(errors="replace").strip().splitlines()
    raise NoDaemon("the daemon for this session did not start" + (f": {said[-1]}" if said else ""))
