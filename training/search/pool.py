"""Processes that make trials, several at once: started, fed and ended here. What they say comes out of one queue, so
that whoever reads it needs no lock.

A worker ends when its standard input does, so none outlives its search, not even one that is killed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from training.search.messages import Begin, Died, FromWorker, ToWorker

COMMAND = (sys.executable, "-P", "-m", "training.search.worker")
_STOP_LIMIT_S = 10.0
_TOLD_BYTES = 2000


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    reader: threading.Thread
    log: Path


class Pool:
    """Context manager, one thread. begins: of so many processes at once, each numbered from 0 and with its share of the
    processors."""

    def __init__(self, begins: Sequence[Begin], folder: Path, command: Sequence[str] = COMMAND) -> None:
        """folder: for the workers' logs. command: what a worker is."""
        self._begins, self._folder, self._command = begins, folder, command
        self._workers: dict[int, _Worker] = {}
        self._said: queue.Queue[tuple[int, FromWorker]] = queue.Queue()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for worker in self._workers.values():
            with contextlib.suppress(OSError):
                _input(worker).close()
            # One that is in the middle of a trial has nothing to bring in order.
            worker.process.terminate()
        for worker in self._workers.values():
            _wait(worker)
        self._workers.clear()

    def send(self, job: int, message: ToWorker) -> None:
        """Starts a worker where there is none. One that has just died is told of by `get`."""
        if job not in self._workers:
            self._workers[job] = self._start(job)
            self._write(job, self._begins[job])
        self._write(job, message)

    def get(self) -> tuple[int, FromWorker]:
        """The next message of any worker, and whose it is. After Died the job has no worker any more."""
        job, message = self._said.get()
        if isinstance(message, Died):
            worker = self._workers.pop(job)
            _wait(worker)
            with contextlib.suppress(OSError):
                _input(worker).close()
            message = Died(_last_words(worker))
        return job, message

    def _write(self, job: int, message: ToWorker) -> None:
        with contextlib.suppress(BrokenPipeError):
            stream = _input(self._workers[job])
            stream.write(msgspec.json.encode(message) + b"\n")
            stream.flush()

    def _start(self, job: int) -> _Worker:
        path = self._folder / f"worker-{job}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env={**os.environ, **_threads(len(self._begins))})
        reader = threading.Thread(target=self._read, args=(job, process), daemon=True)
        reader.start()
        return _Worker(process, reader, path)

    def _read(self, job: int, process: subprocess.Popen[bytes]) -> None:
        decoder: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with contextlib.suppress(msgspec.MsgspecError):
                    # A last line that a death tore says nothing.
                    self._said.put((job, decoder.decode(line)))
        self._said.put((job, Died("")))


def _threads(jobs: int) -> dict[str, str]:
    """One job has all processors, as the training itself will have."""
    return {} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}


def _input(worker: _Worker) -> Any:
    assert worker.process.stdin is not None
    return worker.process.stdin


def _wait(worker: _Worker) -> None:
    try:
        worker.process.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        worker.process.kill()
        worker.process.wait()
    worker.reader.join()


def _last_words(worker: _Worker) -> str:
    code = worker.process.returncode
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    said = worker.log.read_bytes()[-_TOLD_BYTES:].decode("utf-8", "replace").strip()
    memory = "; memory may have run out: fewer jobs or a smaller batch_size need less" if code == -9 else ""
    return f"the process of the trial {how}{memory}" + (f"; it said: {said}" if said else "")
