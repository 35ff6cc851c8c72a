"""A pull without a store: prints lines as `edged.store.pull` does; its reference says how it goes."""

from __future__ import annotations

import os
import signal
import sys
import time

import msgspec

from edged.store.entries import FileEntry, JobFailed, JobLine, JobProgress, LocalSource, Manifest


def say(line: JobLine) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    reference = sys.argv[-1]
    for done in range(5000 if reference == "chatty" else 5):
        say(JobLine(progress=JobProgress(
            stage="downloading", done_bytes=done, total_bytes=5, note="a note" if done == 1 else None)))
        time.sleep(0.0 if reference == "chatty" else 0.02)
    match reference:
        case "fails":
            say(JobLine(error=JobFailed(
                status=502, type="server_error", message="the hub does not answer", code="source_unavailable")))
            return 1
        case "dies":
            print("Fatal Python error: out of luck at /usr/lib/x.py", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        case "endless":
            time.sleep(600)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say(JobLine(progress=JobProgress(stage="stubborn")))
            time.sleep(600)
        case "environment":
            say(JobLine(progress=JobProgress(stage="environment", file=os.environ["EDGED_HOME"])))
    say(JobLine(manifest=Manifest(
        name=reference, version="0" * 12, digest="0" * 64, engine="fake", precision="fake", file="f",
        files=(FileEntry(path="f", size=5, sha256="0" * 64),), source=LocalSource(path=str(os.getpid())),
        reference=reference, created=0.0)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
