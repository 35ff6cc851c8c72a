"""What a worker consists of once its model is loaded, by what that is for: generation, or embeddings and scores."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from edged.engines.base import Embedder, Generator, Loaded, LoadedEmbedder, Passage, RowWork
from edged.errors import LoadFailed
from edged.task import check_task
from edged.types import GenerateRequest, LoadSpec, ModelInfo, Rendered, Request
from edged.worker.embed_loop import EmbedLoop
from edged.worker.embed_prepare import EmbedPrepare
from edged.worker.kv_disk import KvDisk
from edged.worker.loop import Loop
from edged.worker.orders import Order
from edged.worker.outbox import Outbox
from edged.worker.prepare import Prepare, Prepared
from edged.worker.speculation import Speculation
from edged.worker.template import Child
from edged.worker.threads import tuned, watched
from edged.worker.warm import render_warm_prompts

#: KV of preempted requests held outside the engine, at most.
STASH_LIMIT_BYTES = 1 << 30
#: The first step reads every weight; the second is as long as the rate of prefill needs that is told from it, a
#: fourteenth less than that of long pieces, and short enough for a large model on a small processor.
WARM_UP_TOKENS = (2, 16)


@dataclass(frozen=True, slots=True)
class Service:
    """prepare: of a request, thread-safe. inbox: of the loop that `run` is, which returns when it is told Closed. info:
    its load_s is yet to be said."""

    info: ModelInfo
    prepare: Callable[[Request], Any]
    inbox: SimpleQueue[Order[Any]]
    run: Callable[[], None]
    close: Callable[[], None]


def generation(spec: LoadSpec, loaded: Loaded, outbox: Outbox, child: Child | None = None,
               disk: KvDisk | None = None) -> Service:
    """Warm. child: a renderer of templates that was started in advance. disk: for prefixes, closed with the service.
    Raises EdgedError, DeviceLost."""
    generator, facts = loaded.generator, loaded.facts
    caps, vocab = generator.caps, generator.vocab
    prepare = Prepare(spec, caps, vocab, child=child)
    tokens_per_s = _warm_up(generator)
    threads, tuning = tuned(spec, generator, tokens_per_s)
    speculation = speculation_for(spec, loaded, tokens_per_s=tokens_per_s)
    loop = Loop(generator, outbox, stash_limit_bytes=STASH_LIMIT_BYTES, tokens_per_s=tokens_per_s,
                ram_bytes=spec.kv_cache.ram_bytes, disk=disk, speculation=speculation,
                foreign=watched(generator, threads, speculation), beside_bytes=prepare.resident_bytes)

    render_warm_prompts(spec.warm_prompts, prepare, loop.inbox)

    def checked(request: Request) -> Prepared | Rendered:
        check_task(request, spec.task, spec.name)
        assert isinstance(request, GenerateRequest)
        return prepare.rendered(request) if request.prompt_only else prepare(request)

    def close() -> None:
        prepare.close()
        if disk is not None:
            disk.close()
        if speculation is not None:
            speculation.close()
        generator.close()

    return Service(
        info=ModelInfo(
            engine=spec.engine, engine_version=facts.engine_version, device=facts.device, precision=facts.precision,
            context=caps.context, rows=caps.rows, kv_tokens=caps.kv_tokens, vocab_size=vocab.size,
            kv_bytes=facts.kv_bytes, weights_bytes=facts.weights_bytes, load_s=0.0, chat=prepare.chat,
            tuning=tuning,
        ),
        prepare=checked, inbox=loop.inbox, run=loop.run, close=close,
    )


def embedding(spec: LoadSpec, loaded: LoadedEmbedder, outbox: Outbox) -> Service:
    """Warm. Raises EdgedError, DeviceLost."""
    embedder, facts = loaded.embedder, loaded.facts
    caps = embedder.caps
    loop = EmbedLoop(embedder, outbox, tokens_per_s=_warm_up_embedder(embedder))
    return Service(
        info=ModelInfo(
            engine=spec.engine, engine_version=facts.engine_version, device=facts.device, precision=facts.precision,
            context=caps.context, rows=caps.batch_inputs, kv_tokens=0, vocab_size=caps.vocab_size,
            kv_bytes=facts.kv_bytes, weights_bytes=facts.weights_bytes, load_s=0.0, chat=False, task=spec.task,
            dimensions=caps.dimensions if spec.task == "embed" else None,
        ),
        prepare=EmbedPrepare(spec, embedder), inbox=loop.inbox, run=loop.run, close=embedder.close,
    )


def speculation_for(spec: LoadSpec, loaded: Loaded, *, tokens_per_s: float) -> Speculation | None:
    """tokens_per_s: at which prompts are read. Raises what the load of a draft model raises."""
    if not spec.speculation:
        return None
    caps, vocab = loaded.generator.caps, loaded.generator.vocab
    model = None
    if spec.draft is not None:
        from edged.worker.draft import load_draft

        if not (caps.all_logits and caps.trims):
            raise LoadFailed(f"{spec.name} cannot take a `draft`: its graph gives logits for the last position only, "
                             "or its KV does not go back to an earlier length; leave `draft` out")
        model = load_draft(spec, loaded.generator, loaded.facts)
    return Speculation(caps, vocab.end, tokens_per_s=tokens_per_s, model=model)


def _warm_up(generator: Generator) -> float:
    """Touch every weight once, so that the first client does not pay, and learn the rate of prefill in tokens/s."""
    for wanted in WARM_UP_TOKENS:
        count = min(wanted, generator.caps.context // 2)
        tokens = [index % generator.vocab.size for index in range(count)]
        began_s = time.monotonic()
        generator.step([RowWork(0, tokens, 1)])
        seconds = time.monotonic() - began_s
        generator.trim(0, 0)
    return count / max(seconds, 1e-3)


def _warm_up_embedder(embedder: Embedder) -> float:
    caps = embedder.caps
    for wanted in WARM_UP_TOKENS:
        count = min(wanted, caps.context)
        passage = Passage([index % caps.vocab_size for index in range(count)])
        began_s = time.monotonic()
        embedder.run([passage])
        seconds = time.monotonic() - began_s
    return count / max(seconds, 1e-3)
