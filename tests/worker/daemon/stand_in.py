"""A worker without an engine: speaks the frames, misbehaves as its model's `fake.json` says. Run as a script with the
number of its socket. Texts are `w0 w1 …`; max_tokens of them, one each step_ms."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from edged.ipc import frames
from edged.ipc.messages import (
    Cancel,
    Events,
    FromWorker,
    Load,
    Loading,
    LoadRefused,
    Pause,
    Ready,
    Resume,
    Stats,
    Submit,
    ToWorker,
)
from edged.types import ChoiceEnd, Delta, Finished, GenerateRequest, ModelInfo, Started, TextPrompt, Usage, WorkerStats


class Worker:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._knobs: dict[str, Any] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._going: dict[str, asyncio.Event] = {}
        self._tokens = 0

    async def run(self) -> None:
        async for message in self._messages():
            match message:
                case Load(spec=spec):
                    self._knobs = json.loads((Path(spec.path) / spec.file).read_text()) | spec.options
                    if not await self._load():
                        return
                case Submit(request=request):
                    self._going[request.id] = asyncio.Event()
                    self._going[request.id].set()
                    self._tasks[request.id] = asyncio.create_task(self._answer(request))
                case Cancel(id=request_id):
                    self._tasks.pop(request_id).cancel()
                    self._report()
                case Pause(id=request_id):
                    self._going[request_id].clear()
                case Resume(id=request_id):
                    self._going[request_id].set()

    async def _messages(self) -> Any:
        decoder = msgspec.msgpack.Decoder(ToWorker)
        while True:
            try:
                length = int.from_bytes(await self._reader.readexactly(4))
                yield decoder.decode(await self._reader.readexactly(length))
            except asyncio.IncompleteReadError:
                return

    async def _load(self) -> bool:
        knobs = self._knobs
        if knobs.get("ignore_sigterm"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if knobs.get("says"):
            print(knobs["says"], file=sys.stderr, flush=True)
        if knobs.get("crash_on_load"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if knobs.get("hang_on_load"):
            _hang()
        for step in range(10):
            self._send(Loading(step / 10))
            await asyncio.sleep(knobs.get("load_s", 0) / 10)
        if knobs.get("refuse"):
            self._send(LoadRefused(status=500, type="server_error", message=knobs["refuse"], code="load_failed"))
            await self._writer.drain()
            return False
        self._send(Ready(ModelInfo(
            engine="fake", engine_version="stand-in", device="cpu", precision="fake", context=4096,
            rows=knobs.get("rows", 8), kv_tokens=4096, vocab_size=300, kv_bytes=0, weights_bytes=0, load_s=0.0,
            chat=True)))
        self._report()
        return True

    async def _answer(self, request: GenerateRequest) -> None:
        knobs, name = self._knobs, request.id
        count = request.max_tokens or 10**9
        self._send(Events([Started(name, 3, 0, 0.0)]))
        if isinstance(request.prompt, TextPrompt) and knobs.get("crash_on_text", "\0") in request.prompt.text:
            os.kill(os.getpid(), signal.SIGSEGV)
        for token in range(count):
            await self._going[name].wait()
            await asyncio.sleep(knobs.get("step_ms", 0) / 1000)
            self._tokens += 1
            if self._tokens == knobs.get("crash_at_token"):
                os.kill(os.getpid(), signal.SIGSEGV)
            if self._tokens == knobs.get("hang_at_token"):
                _hang()
            self._send(Events([Delta(name, 0, f"w{token} ")]))
            await self._writer.drain()
        self._send(Events([ChoiceEnd(name, 0, "length"), Finished(name, Usage(3, count))]))
        del self._tasks[name]
        self._report()

    def _report(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self._send(Stats(WorkerStats(running=len(self._tasks), resident_bytes=pages * os.sysconf("SC_PAGE_SIZE"))))

    def _send(self, message: FromWorker) -> None:
        self._writer.write(frames.encode(message))


def _hang() -> None:
    time.sleep(3600)


async def main() -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=int(sys.argv[1])))
    await Worker(reader, writer).run()


if __name__ == "__main__":
    asyncio.run(main())
