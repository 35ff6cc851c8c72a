"""An embedder without a model: a text's vector counts its words, so texts that share words lie near each other. Its
knobs are those of `edged.engines.fake`, as far as they mean something here; a run counts as a decode step."""

from __future__ import annotations

import os
import signal
import threading
import time
import zlib
from collections.abc import Sequence

import numpy as np

from edged.engines.base import (
    DeviceLost,
    EmbedderCapabilities,
    EngineError,
    Facts,
    LoadedEmbedder,
    Passage,
    Progress,
    Vectors,
)
from edged.engines.fake import ENGINE_VERSION, FakeVocab, Knobs, begin_load
from edged.types import LoadSpec


class FakeEmbedder:
    def __init__(self, knobs: Knobs, *, reranks: bool) -> None:
        self._vocab = FakeVocab()
        self._knobs = knobs
        self._reranks = reranks
        self._runs = 0
        self.caps = EmbedderCapabilities(
            dimensions=1 if reranks else knobs.dimensions, context=knobs.context, vocab_size=self._vocab.size,
            batch_tokens=max(knobs.step_tokens, knobs.context), batch_inputs=knobs.rows, padded=True,
            shorter=knobs.shorter, normalized=not reranks,
        )

    def passage(self, text: str) -> Passage:
        return Passage(self._vocab.tokenize(text, special=True, bos=True))

    def pair(self, query: str, document: str) -> Passage:
        first = self._vocab.tokenize(query, special=True, bos=True)
        second = self._vocab.tokenize(document, special=True, bos=False)
        return Passage([*first, *second], [0] * len(first) + [1] * len(second))

    def run(self, passages: Sequence[Passage]) -> Vectors:
        longest = max(len(passage.tokens) for passage in passages)
        if len(passages) > self.caps.batch_inputs or longest * len(passages) > self.caps.batch_tokens:
            raise EngineError(f"a run of {len(passages)} inputs of {longest} tokens is too large")
        self._misbehave(passages)
        if self._runs == self._knobs.nan_at_token:
            return np.full((len(passages), self.caps.dimensions), np.nan, np.float32)
        if self._reranks:
            return np.array([[self._score(passage)] for passage in passages], np.float32)
        return np.stack([self._vector(passage.tokens) for passage in passages])

    def close(self) -> None:
        pass

    def _vector(self, tokens: Sequence[int]) -> Vectors:
        vector = np.zeros(self.caps.dimensions, np.float32)
        for word in self._text(tokens).lower().split():
            hashed = zlib.crc32(word.encode())
            vector[hashed % len(vector)] += 1 - 2 * (hashed >> 31)
        vector[0] += 0.01
        return vector / np.float32(np.linalg.norm(vector))

    def _score(self, passage: Passage) -> float:
        """The share of the query's words that the document has."""
        segments = passage.segments or [0] * len(passage.tokens)
        query, document = (
            set(self._text([token for token, one in zip(passage.tokens, segments, strict=True) if one == part])
                .lower().split()) for part in (0, 1))
        return len(query & document) / max(1, len(query))

    def _text(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self._vocab.piece, tokens)).decode(errors="replace")

    def _misbehave(self, passages: Sequence[Passage]) -> None:
        knobs = self._knobs
        self._runs += 1
        tokens = sum(len(passage.tokens) for passage in passages)
        if pause_ms := knobs.step_ms + knobs.token_ms * tokens:
            time.sleep(pause_ms / 1000)
        needle = knobs.crash_on_text
        if self._runs == knobs.crash_at_token or (
                needle is not None and any(needle in self._text(passage.tokens) for passage in passages)):
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._runs == knobs.hang_at_token:
            threading.Event().wait()
        if self._runs == knobs.lost_at_token:
            raise DeviceLost("the fake device was told to go away at this run")
        if self._runs == knobs.fail_at_token:
            raise EngineError("the fake engine was told to fail at this run")


def load(spec: LoadSpec, progress: Progress) -> LoadedEmbedder:
    knobs, size = begin_load(spec, progress)
    embedder = FakeEmbedder(knobs, reranks=spec.task == "rerank")
    return LoadedEmbedder(embedder, Facts(
        engine_version=ENGINE_VERSION, device=knobs.device or spec.provider, precision="fake", weights_bytes=size,
        kv_bytes=0,
    ))
