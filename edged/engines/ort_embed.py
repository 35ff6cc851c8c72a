"""Embeddings and reranking on an ONNX encoder through ONNX Runtime: padded batches, pooling and normalisation as the
model's own configuration says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.engines.base import EmbedderCapabilities, EngineError, Facts, LoadedEmbedder, Passage, Progress, Vectors
from edged.engines.encoder_config import EncoderConfig, read_config
from edged.engines.encoder_graph import INPUTS, EncoderGraph, read_graph
from edged.engines.hf_passages import HfPassages
from edged.engines.machine import threads_for
from edged.engines.ort_session import device_of, engine_version, open_session
from edged.engines.pooling import pool
from edged.engines.scores import sigmoid, unit_length
from edged.errors import DeviceUnavailable, LoadFailed
from edged.types import LoadSpec

DEFAULT_INPUTS = 64
#: Tokens of a run, padding included, where the context is not longer.
BATCH_TOKENS = 4096

Ids = NDArray[np.int64]


class OrtEmbedder:
    def __init__(
        self, session: Any, graph: EncoderGraph, texts: HfPassages, caps: EmbedderCapabilities, *,
        first_position: int, finish: Callable[[NDArray[np.float32], Ids], Vectors],
    ) -> None:
        """finish: makes vectors or scores of the graph's output and the mask."""
        self.caps = caps
        self._session, self._graph, self._texts, self._finish = session, graph, texts, finish
        self._first_position, self._pad = first_position, texts.pad()

    def passage(self, text: str) -> Passage:
        return self._texts.passage(text)

    def pair(self, query: str, document: str) -> Passage:
        return self._texts.pair(query, document)

    def run(self, passages: Sequence[Passage]) -> Vectors:
        longest = max(len(passage.tokens) for passage in passages)
        if longest * len(passages) > self.caps.batch_tokens or len(passages) > self.caps.batch_inputs:
            raise EngineError(f"a run of {len(passages)} inputs of {longest} tokens is too large")
        shape = (len(passages), longest)
        tokens = np.full(shape, self._pad, np.int64)
        mask, segments = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, passage in enumerate(passages):
            count = len(passage.tokens)
            tokens[row, :count] = passage.tokens
            mask[row, :count] = 1
            if passage.segments is not None:
                segments[row, :count] = passage.segments
        positions = np.tile(np.arange(longest, dtype=np.int64) + self._first_position, (len(passages), 1))
        known = dict(zip(INPUTS, (tokens, mask, segments, positions), strict=True))
        try:
            (out,) = self._session.run([self._graph.output], {name: known[name] for name in self._graph.inputs})
        except Exception as error:
            raise EngineError(f"onnxruntime: {error}") from error
        return self._finish(out.astype(np.float32, copy=False), mask)

    def close(self) -> None:
        pass


def load(spec: LoadSpec, progress: Progress) -> LoadedEmbedder:
    folder = Path(spec.path)
    if spec.provider != "cpu":
        raise DeviceUnavailable(f"{spec.name}: ONNX models of this kind are served on cpu, not on {spec.provider}")
    # The graph may lie in a folder of its own (`onnx/`); what describes the model lies at the top.
    config = read_config(folder, spec)
    texts = HfPassages(folder, lower_case=config.lower_case)
    progress(0.0)
    session = open_session(folder / spec.file, threads_for(spec))
    progress(0.9)
    graph = read_graph(session, spec, config)
    caps = EmbedderCapabilities(
        dimensions=1, context=config.context, vocab_size=texts.size, padded=True,
        batch_inputs=spec.rows or DEFAULT_INPUTS, batch_tokens=max(config.context, BATCH_TOKENS),
        normalized=config.normalize and spec.task == "embed",
    )
    embedder = OrtEmbedder(session, graph, texts, caps, first_position=config.first_position,
                           finish=_scores if spec.task == "rerank" else partial(_vectors, graph, config))
    try:
        (first,) = embedder.run([texts.passage("a")])
    except EngineError as error:
        raise LoadFailed(f"{spec.file} does not run: {error}") from error
    if spec.task == "rerank" and len(first) != 1:
        raise LoadFailed(f"{spec.name} sorts texts into {len(first)} classes; a reranker has one score")
    embedder.caps = replace(caps, dimensions=len(first), shorter=config.shorter_than(len(first)))
    progress(1.0)
    return LoadedEmbedder(embedder, Facts(
        engine_version=engine_version(), device=device_of(session), precision=graph.precision,
        weights_bytes=_weights_bytes(folder / spec.file), kv_bytes=0,
    ))


def _vectors(graph: EncoderGraph, config: EncoderConfig, out: NDArray[np.float32], mask: Ids) -> Vectors:
    vectors = out if graph.pooled else pool(out, mask, config.pooling or ())
    return unit_length(vectors) if config.normalize else vectors


def _scores(out: NDArray[np.float32], mask: Ids) -> Vectors:
    return sigmoid(out.reshape(len(mask), -1))


def _weights_bytes(graph: Path) -> int:
    """Of the graph and of what lies beside it under its name (`model.onnx.data`, `model.onnx_data`)."""
    return sum(file.stat().st_size for file in graph.parent.iterdir() if file.name.startswith(graph.name))
