"""From an embedding or rerank request to token ids, and the checks that need them. Runs beside the loop."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from edged.engines.base import Embedder, EmbedderCapabilities, Passage
from edged.errors import ContextLengthExceeded, InvalidRequest
from edged.task import check_task
from edged.types import EmbedRequest, LoadSpec, Request
from edged.worker.context_limit import ContextLimit, context_limit

log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class PreparedEmbed:
    """A request that can run. dimensions: of the vectors it wants."""

    request: EmbedRequest
    passages: list[Passage]
    dimensions: int

    @property
    def tokens(self) -> int:
        return sum(len(passage.tokens) for passage in self.passages)


class EmbedPrepare:
    """Thread-safe; raises an EdgedError for a request that cannot run."""

    def __init__(self, spec: LoadSpec, embedder: Embedder) -> None:
        self._name, self._task = spec.name, spec.task
        self._embedder = embedder
        self._log_prompts = spec.log_prompts

    def __call__(self, request: Request) -> PreparedEmbed:
        check_task(request, self._task, self._name)
        assert isinstance(request, EmbedRequest)
        caps = self._embedder.caps
        dimensions = _dimensions(request.dimensions, caps, self._name)
        if self._log_prompts:
            log.info("prompt", request_id=request.id, prompt=request.inputs, query=request.query)
        limit = context_limit(request.context, caps.context)
        passages = [self._passage(request, index, limit) for index in range(len(request.inputs))]
        return PreparedEmbed(request, passages, dimensions)

    def _passage(self, request: EmbedRequest, index: int, limit: ContextLimit) -> Passage:
        said = request.inputs[index]
        field = "input" if request.query is None else "documents"
        param = field if len(request.inputs) == 1 else f"{field}[{index}]"
        caps = self._embedder.caps
        if isinstance(said, list):
            wrong = next((token for token in said if not 0 <= token < caps.vocab_size), None)
            if wrong is not None:
                raise InvalidRequest(f"`{param}` holds token {wrong}; this model's tokens are 0 to "
                                     f"{caps.vocab_size - 1}", param=param)
            passage = Passage(said)
        elif request.query is None:
            passage = self._embedder.passage(said)
        else:
            passage = self._embedder.pair(request.query, said)
        if not passage.tokens:
            raise InvalidRequest(f"`{param}` has no tokens for this model; leave it out", param=param)
        if len(passage.tokens) > limit.tokens:
            what = "has" if request.query is None else "with the query has"
            raise ContextLengthExceeded(
                f"{limit.said}, and `{param}` {what} {len(passage.tokens)}. Send it "
                "in shorter pieces; nothing is cut silently.", param=param)
        return passage


def _dimensions(wanted: int | None, caps: EmbedderCapabilities, name: str) -> int:
    if wanted is None or wanted == caps.dimensions:
        return caps.dimensions
    if wanted in caps.shorter:
        return wanted
    raise InvalidRequest(
        f"`dimensions` of {name} is {caps.dimensions}{_others(caps)}, not {wanted}; of a model that was trained for "
        "shorter vectors, `dimensions` in models.toml tells their lengths", param="dimensions")


def _others(caps: EmbedderCapabilities) -> str:
    if not caps.shorter:
        return " and nothing else"
    if isinstance(caps.shorter, range):
        return " or any smaller number"
    assert isinstance(caps.shorter, tuple)
    return f" or one of {', '.join(map(str, sorted(caps.shorter)))}"
