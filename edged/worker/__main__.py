"""`python -m edged.worker FD`: one loaded model, until the socket closes. FD is this end of a socketpair."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

import structlog

from edged import engines
from edged.engines.base import Generator, Loaded, RowWork
from edged.errors import EdgedError, Internal
from edged.ipc import frames
from edged.ipc.messages import Load, Loading, LoadRefused, Ready
from edged.types import LoadSpec, ModelInfo
from edged.worker.loop import Loop
from edged.worker.outbox import Outbox
from edged.worker.prepare import Prepare
from edged.worker.reader import Reader

#: Silence for longer than this while loading means a hang to the daemon.
LOADING_INTERVAL_S = 2.0
#: KV of preempted requests held outside the engine, at most.
STASH_LIMIT_BYTES = 1 << 30
WARM_UP_TOKENS = 32

log = structlog.get_logger("worker")


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info,
                    structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    sock = socket.socket(fileno=int(sys.argv[1]))
    outbox = Outbox(sock)
    first = frames.receive(sock)
    if not isinstance(first, Load):
        return 1
    spec = first.spec
    began_s = time.monotonic()
    try:
        loaded = _load(spec, outbox)
        generator = loaded.generator
        prepare = Prepare(spec, generator.caps, generator.vocab)
        tokens_per_s = _warm_up(generator)
    except EdgedError as error:
        outbox.send(LoadRefused(error.status, error.type, error.message, error.code, error.retry))
        return 0
    except Exception as error:
        log.exception("load_failed")
        failure = Internal(f"{spec.name} could not be loaded: {type(error).__name__}; the log says more")
        outbox.send(LoadRefused(failure.status, failure.type, failure.message, failure.code, failure.retry))
        return 0
    loop = Loop(generator, outbox, stash_limit_bytes=STASH_LIMIT_BYTES, tokens_per_s=tokens_per_s)
    Reader(sock, prepare, loop.inbox, outbox).start()
    outbox.send(Ready(_info(spec, loaded, prepare, time.monotonic() - began_s)))
    loop.run()
    prepare.close()
    generator.close()
    return 0


def _load(spec: LoadSpec, outbox: Outbox) -> Loaded:
    """Load with a heartbeat: some libraries say nothing for minutes."""
    fraction = 0.0
    done = threading.Event()

    def progress(value: float) -> None:
        nonlocal fraction
        fraction = value

    def beat() -> None:
        while not done.wait(LOADING_INTERVAL_S):
            outbox.send(Loading(fraction))

    outbox.send(Loading(0.0))
    threading.Thread(target=beat, name="loading", daemon=True).start()
    try:
        return engines.load(spec, progress)
    finally:
        done.set()


def _warm_up(generator: Generator) -> float:
    """Touch every weight once, so that the first client does not pay, and learn the rate of prefill in tokens/s."""
    count = min(WARM_UP_TOKENS, generator.caps.context // 2)
    tokens = [index % generator.vocab.size for index in range(count)]
    for _ in range(2):
        began_s = time.monotonic()
        generator.step([RowWork(0, tokens, 1)])
        seconds = time.monotonic() - began_s
        generator.trim(0, 0)
    return count / max(seconds, 1e-3)


def _info(spec: LoadSpec, loaded: Loaded, prepare: Prepare, load_s: float) -> ModelInfo:
    caps, facts, vocab = loaded.generator.caps, loaded.facts, loaded.generator.vocab
    return ModelInfo(
        engine=spec.engine, engine_version=facts.engine_version, device=facts.device, precision=facts.precision,
        context=caps.context, rows=caps.rows, kv_tokens=caps.kv_tokens, vocab_size=vocab.size,
        kv_bytes=facts.kv_bytes, weights_bytes=facts.weights_bytes, load_s=load_s, chat=prepare.chat,
    )


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Native libraries may hang or crash in their own exit handlers; nothing of ours is left to do.
    os._exit(code)
