"""Embeddings and reranking through llama.cpp: many inputs as sequences of one batch, pooled by llama.cpp as the file
says (or the operator does). Models without KV (BERT and its kin) are encoded; decoders that were trained to embed are
decoded, and their KV forgotten after each run.

Vectors have length 1, as OpenAI's have: a GGUF does not say whether its model was trained for that. `normalize = false`
in the model's options leaves them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from edged.engines.base import (
    EmbedderCapabilities,
    EngineError,
    Facts,
    LoadedEmbedder,
    Passage,
    Progress,
    Vectors,
)
from edged.engines.llama_batch import LlamaBatch
from edged.engines.llama_library import lib
from edged.engines.llama_model import FLASH, begin, device_name, engine_version, last_words, load_model, precision_of
from edged.engines.llama_vocab import LlamaVocab, metadata
from edged.engines.machine import memory_for, threads_for
from edged.engines.scores import sigmoid, unit_length
from edged.errors import InsufficientMemory, LoadFailed
from edged.types import LoadSpec

#: Inputs of one run, where nobody says.
DEFAULT_INPUTS = 64
#: llama.cpp pools what one micro-batch holds: a run is one, and takes so many tokens at least.
LEAST_BATCH_TOKENS = 512
#: The part of memory that computing may take where nobody names a context.
BUFFER_SHARE = 1 / 8
SMALLEST_CONTEXT = 512

#: Flash attention rounds keys and values to 16 bits, so that an input's vector depends on its neighbours in the fourth
#: digit; without it attention takes tokens² × heads. Up to this context there is none.
EXACT_TOKENS = 2048

Pooling = Literal["mean", "cls", "last", "rank"]
_POOLING: dict[Pooling, int] = {
    "mean": lib.LLAMA_POOLING_TYPE_MEAN, "cls": lib.LLAMA_POOLING_TYPE_CLS, "last": lib.LLAMA_POOLING_TYPE_LAST,
    "rank": lib.LLAMA_POOLING_TYPE_RANK,
}


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """pooling: None takes the file's. normalize: vectors of length 1. flash_attention: None decides, see
    `EXACT_TOKENS`."""

    pooling: Pooling | None = None
    normalize: bool = True
    flash_attention: bool | None = None
    mlock: bool = False


Finish = Callable[[Vectors], Vectors]


class LlamaEmbedder:
    def __init__(
        self, model: Any, context: Any, caps: EmbedderCapabilities, pairs: _Pairs, *, finish: Finish, width: int,
    ) -> None:
        """finish: makes of llama.cpp's numbers, `width` for each input, what `run` gives."""
        self.caps = caps
        self._model, self._context, self._pairs = model, context, pairs
        self._finish, self._width = finish, width
        self._memory = lib.llama_get_memory(context)
        self._compute = lib.llama_decode if self._memory else lib.llama_encode
        self._batch = LlamaBatch(caps.batch_tokens)

    def passage(self, text: str) -> Passage:
        return Passage(self._pairs.vocab.tokenize(text, special=True, bos=True))

    def pair(self, query: str, document: str) -> Passage:
        return Passage(self._pairs.tokens(query, document))

    def run(self, passages: Sequence[Passage]) -> Vectors:
        if len(passages) > self.caps.batch_inputs:
            raise EngineError(f"a run of more than {self.caps.batch_inputs} inputs")
        self._batch.clear()
        for sequence, passage in enumerate(passages):
            self._batch.add(passage.tokens, sequence=sequence, position=0, outputs=len(passage.tokens))
        code = self._compute(self._context, self._batch.native)
        try:
            if code != 0:
                raise EngineError(f"llama.cpp returned {code}: {last_words()}")
            vectors = np.stack([self._pooled(sequence) for sequence in range(len(passages))])
        finally:
            if self._memory:
                lib.llama_memory_clear(self._memory, False)
        return self._finish(vectors)

    def _pooled(self, sequence: int) -> Vectors:
        pointer = lib.llama_get_embeddings_seq(self._context, sequence)
        if not pointer:
            raise EngineError(f"llama.cpp gave nothing for input {sequence}: {last_words()}")
        # A view of its memory, which the next run overwrites.
        vector: Vectors = np.ctypeslib.as_array(pointer, (self._width,)).copy()
        return vector

    def close(self) -> None:
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)


class _Pairs:
    """How a reranker reads query and document: by the file's own template (`tokenizer.chat_template.rerank`), else as
    cross-encoders are trained, with the vocabulary's special tokens around both."""

    def __init__(self, model: Any, vocab: LlamaVocab) -> None:
        self.vocab = vocab
        native = lib.llama_model_get_vocab(model)
        template = lib.llama_model_chat_template(model, b"rerank")
        self._template = template.decode(errors="replace") if template else None
        bos, eos, sep = lib.llama_vocab_bos(native), lib.llama_vocab_eos(native), lib.llama_vocab_sep(native)
        end = eos if eos >= 0 else sep
        adds_end, adds_sep = lib.llama_vocab_get_add_eos(native) and end >= 0, lib.llama_vocab_get_add_sep(native)
        self._before = [bos] if lib.llama_vocab_get_add_bos(native) and bos >= 0 else []
        self._between = ([end] if adds_end else []) + ([sep] if adds_sep and sep >= 0 else [])
        self._after = [end] if adds_end else [sep] if adds_sep and sep >= 0 else []

    def tokens(self, query: str, document: str) -> list[int]:
        if self._template is not None:
            said = {"{query}": query, "{document}": document}
            text = re.sub(r"\{query\}|\{document\}", lambda match: said[match[0]], self._template)
            return self.vocab.tokenize(text, special=True, bos=False)
        first, second = (self.vocab.tokenize(text, special=True, bos=False) for text in (query, document))
        return [*self._before, *first, *self._between, *second, *self._after]


def load(spec: LoadSpec, progress: Progress) -> LoadedEmbedder:
    try:
        options = msgspec.convert(spec.options, Options)
    except msgspec.ValidationError as error:
        raise LoadFailed(f"options of {spec.name}: {error}") from error
    device = begin(spec.provider)
    if device is not None and device.has_own_memory:
        spec = replace(spec, memory_bytes=device.free_bytes)
    model = load_model(Path(spec.path) / spec.file, device, progress, mlock=options.mlock)
    meta = metadata(model)
    architecture = meta.get("general.architecture", "")
    reranks = spec.task == "rerank"
    pooling = _pooling(spec, options, meta, architecture)
    tokens = _context_tokens(spec, lib.llama_model_n_ctx_train(model), lib.llama_model_n_embd(model),
                             lib.llama_model_size(model))
    inputs = spec.rows or DEFAULT_INPUTS

    params = lib.llama_context_default_params()
    params.embeddings = True
    params.pooling_type = pooling
    params.n_ctx = params.n_batch = params.n_ubatch = max(tokens, LEAST_BATCH_TOKENS)
    params.n_seq_max = inputs
    params.kv_unified = True
    flash = options.flash_attention
    params.flash_attn_type = FLASH[False if flash is None and tokens <= EXACT_TOKENS else flash]
    params.no_perf = True
    params.swa_full = True
    params.n_threads = params.n_threads_batch = threads_for(spec)
    context = lib.llama_init_from_model(model, params)
    if not context:
        lib.llama_model_free(model)
        raise LoadFailed(f"llama.cpp cannot make a context of {tokens} tokens for {spec.name}: {last_words()}")
    vocab = LlamaVocab(model, meta)
    width = lib.llama_model_n_cls_out(model) if reranks else lib.llama_model_n_embd_out(model)
    caps = EmbedderCapabilities(
        dimensions=1 if reranks else width, context=tokens, vocab_size=vocab.size,
        batch_tokens=max(tokens, LEAST_BATCH_TOKENS), batch_inputs=inputs, padded=False, shorter=spec.dimensions,
        normalized=options.normalize and not reranks,
    )
    finish = _scoring(spec, architecture, width) if reranks else unit_length if options.normalize else _as_they_are
    embedder = LlamaEmbedder(model, context, caps, _Pairs(model, vocab), finish=finish, width=width)
    return LoadedEmbedder(embedder, Facts(
        engine_version=engine_version(), device=device_name(spec.provider, device), precision=precision_of(model),
        weights_bytes=lib.llama_model_size(model), kv_bytes=0,
    ))


def _as_they_are(vectors: Vectors) -> Vectors:
    return vectors


def _scoring(spec: LoadSpec, architecture: str, labels: int) -> Finish:
    if architecture.startswith("qwen3"):
        # The probabilities of yes and no already (llama.cpp, build_pooling).
        return lambda vectors: vectors[:, :1]
    if labels != 1:
        raise LoadFailed(f"{spec.name} sorts texts into {labels} classes; a reranker has one score")
    return sigmoid


def _pooling(spec: LoadSpec, options: Options, meta: dict[str, str], architecture: str) -> int:
    """llama.cpp's number. Raises LoadFailed where nobody says it, and where llama.cpp would pool wrongly."""
    said = _POOLING[options.pooling] if options.pooling is not None else int(
        meta.get(f"{architecture}.pooling_type", lib.LLAMA_POOLING_TYPE_NONE))
    if spec.task == "rerank":
        if int(meta.get("tokenizer.ggml.token_type_count", 1)) > 1:
            raise LoadFailed(
                f"{spec.name} tells query and document apart by token types, which llama.cpp does not do: its scores "
                "would be wrong. Take the model's ONNX form")
        return lib.LLAMA_POOLING_TYPE_RANK
    if said in (lib.LLAMA_POOLING_TYPE_NONE, lib.LLAMA_POOLING_TYPE_RANK):
        raise LoadFailed(
            f"{spec.file} does not say how to make one vector of a text; the model's page tells it: options = "
            "{ pooling = \"mean\" } (or \"cls\", \"last\") under the model in models.toml")
    return said


def _context_tokens(spec: LoadSpec, trained: int, width: int, weights_bytes: int) -> int:
    """What the operator says, else the trained context as far as memory goes. A run of n tokens takes some buffers of n
    rows, and attention's mask of n². Raises LoadFailed, InsufficientMemory."""
    if spec.context is not None and spec.context > trained:
        raise LoadFailed(f"{spec.name} takes {trained} tokens at most; `context` cannot be {spec.context}")
    budget = memory_for(spec)
    room = (spec.memory_bytes - weights_bytes) if spec.memory_bytes else budget * BUFFER_SHARE

    def need_bytes(tokens: int) -> int:
        return tokens * width * 16 * 4 + tokens * tokens * 4

    if spec.context is not None:
        if need_bytes(spec.context) > max(0, budget - weights_bytes):
            raise InsufficientMemory(
                f"{spec.name} with a context of {spec.context} tokens needs about {need_bytes(spec.context) >> 20} MiB "
                f"beside its weights; lower `context`")
        return spec.context
    tokens = trained
    while tokens > SMALLEST_CONTEXT and need_bytes(tokens) > room:
        tokens = max(tokens // 2, SMALLEST_CONTEXT)
    return tokens
