"""A real worker process with the fake engine, and the daemon's end of its socket, read when a test says so."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

import edged
from edged.ipc import frames
from edged.ipc.messages import Events, FromWorker, Load, Loading, Ready, Submit, ToWorker
from edged.types import (
    ChatPrompt,
    Delta,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    LoadSpec,
    SamplingParams,
    TextPrompt,
)

#: For a machine that has other things to do; what a test waits for comes far sooner.
PATIENCE_S = 30.0


def text(said: str, *, id: str = "r", tokens: int | None = 8, n: int = 1, **more: Any) -> GenerateRequest:
    return GenerateRequest(id=id, prompt=TextPrompt(said), max_tokens=tokens, n=n,
                           sampling=SamplingParams(temperature=0.0, seed=1), **more)


def chat(said: str, *, id: str = "r", tokens: int | None = 8) -> GenerateRequest:
    return GenerateRequest(id=id, prompt=ChatPrompt(messages=[{"role": "user", "content": said}]), max_tokens=tokens)


class Worker:
    """said: the knobs of the fake engine. Answers are as long as they may be."""

    def __init__(self, folder: Path, *, said: dict[str, Any], load: bool = True, **spec: Any) -> None:
        (folder / "fake.json").write_text(json.dumps({"end_chance": 0, **said}))
        self.spec = LoadSpec(name="fake", version="1", digest="0", engine="fake", path=str(folder), file="fake.json",
                             **spec)
        self.socket, theirs = socket.socketpair()
        self._stderr = folder / "stderr"
        with theirs, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edged.worker", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
                cwd=Path(edged.__file__).parent.parent, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
        if load:
            self.send(Load(self.spec))

    def send(self, *messages: ToWorker) -> None:
        for message in messages:
            self.socket.sendall(frames.encode(message))

    def submit(self, *requests: GenerateRequest) -> None:
        self.send(*map(Submit, requests))

    def receive(self, timeout_s: float = PATIENCE_S) -> FromWorker | None:
        """The next frame; None when the worker has closed."""
        until = time.monotonic() + timeout_s
        header = self._exactly(4, until)
        body = header and self._exactly(struct.unpack(">I", header)[0], until)
        return frames.from_worker.decode(body) if body else None

    def _exactly(self, count: int, until: float) -> bytes | None:
        data = bytearray()
        while len(data) < count:
            self.socket.settimeout(max(until - time.monotonic(), 0.001))
            try:
                part = self.socket.recv(count - len(data))
            except ConnectionError:
                return None
            if not part:
                return None
            data += part
        return bytes(data)

    def frames(self, seconds: float) -> Iterator[tuple[float, FromWorker]]:
        """What comes in this time, with the seconds since the call."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            try:
                frame = self.receive(seconds - passed)
            except TimeoutError:
                return
            assert frame is not None, "the worker is gone"
            yield time.monotonic() - began, frame

    def ready(self) -> Ready:
        while True:
            match self.receive():
                case Ready() as ready:
                    return ready
                case Loading():
                    pass
                case other:
                    raise AssertionError(f"{other} instead of Ready")

    def until(self, true: Callable[[Event], bool]) -> list[Event]:
        """All events up to the one wanted, and those that came in one frame with it."""
        seen: list[Event] = []
        until = time.monotonic() + PATIENCE_S
        while not any(map(true, seen)):
            frame = self.receive(until - time.monotonic())
            assert frame is not None, f"the worker is gone after {seen}"
            if isinstance(frame, Events):
                seen += frame.events
        return seen

    def answer(self, id: str = "r") -> str:
        seen = self.until(lambda event: isinstance(event, Finished | Failed) and event.id == id)
        assert not any(isinstance(event, Failed) and event.id == id for event in seen), seen
        return "".join(event.text for event in seen if isinstance(event, Delta) and event.id == id)

    def exit_code(self, timeout_s: float = PATIENCE_S) -> int:
        return self.process.wait(timeout_s)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> None:
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def gaps(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(moments)]


def gone(processes: list[psutil.Process], within_s: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return not alive


