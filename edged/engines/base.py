"""The engine seam: logits out. Scheduler and sampler sit above it, so every engine gets batching, logprobs, stop
strings and seeds in the same way.

A *row* is one sequence's KV inside the engine, numbered 0 … caps.rows-1, and has a length: the count of tokens whose
KV it holds. The caller owns the numbering and knows every length; the engine owns the memory. All calls come from one
thread, except `Vocab`, whose methods may be called from any.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edged.types import LoadSpec

#: float32, shape [positions, vocabulary]; a view that the engine overwrites in its next step.
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Threads:
    """Of the processor. decode: of steps with one token a row; batch: of those with more."""

    decode: int
    batch: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do with the model it has loaded; the scheduler plans by it.

    rows: sequences that can have KV at once. context: tokens one row can hold. kv_tokens: tokens all rows together can
    hold. mixed_step: one step may hold rows of one token and rows of many. multi_token_rows: how many rows of one step
    may have more than one token. step_tokens: tokens in one step at most. state_bytes_per_token: size of stashed KV.
    all_logits: False where the graph gives logits for the last position only. moves_kv: False where KV cannot leave its
    row: fork and unstash keep nothing, stash raises EngineError. trims: False where KV cannot go back to any earlier
    length (recurrent state): trim and fork then keep all or nothing, and a State serves only what begins with all of
    it. adapters: names of those that are loaded beside the model. threads: that it computes with on a quiet machine,
    None where it does not tell. sets_threads: True where `set_threads` can change them between steps.
    """

    rows: int
    context: int
    kv_tokens: int
    mixed_step: bool
    multi_token_rows: int
    step_tokens: int
    state_bytes_per_token: int
    all_logits: bool = True
    moves_kv: bool = True
    trims: bool = True
    adapters: tuple[str, ...] = ()
    threads: Threads | None = None
    sets_threads: bool = False


@dataclass(frozen=True, slots=True)
class RowWork:
    """Tokens to append to one row. logits: how many of the last positions want logits, 0 … len(tokens). adapter: the
    one to compute with, the same in all work of a step and for all that a row holds; None is the model as it is."""

    row: int
    tokens: Sequence[int]
    logits: int
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """One row's KV, out of the engine, as plain memory that may be written to a file and read back. Only an engine with
    the same `Facts.state_format` can use it. parts: C-contiguous, of any type and shape: only their bytes count."""

    tokens: int
    parts: tuple[NDArray[Any], ...]

    @property
    def size_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Fill:
    """Tokens for filling a gap: `prefix` goes before the text above it, `suffix` before the text below it, and after
    `middle` the model writes what belongs between them."""

    prefix: int
    suffix: int
    middle: int


class Vocab(Protocol):
    """Thread-safe. Token ids are 0 … size-1."""

    size: int
    bos: int | None
    #: Tokens that end an answer.
    end: frozenset[int]
    #: Texts of the special tokens that chat templates name: bos_token, eos_token, …
    special: dict[str, str]
    #: The model's own Jinja chat template, if it has one.
    chat_template: str | None
    #: None where the model was not trained to fill gaps.
    fill: Fill | None

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        """special: texts of special tokens become those tokens, else they are plain text. bos: put the model's
        beginning token first, if the model was trained with one (a template that wrote it already keeps one)."""
        ...

    def piece(self, token: int) -> bytes:
        """The exact bytes a token adds to the text; may be part of a character. b"" for control tokens."""
        ...

    def written(self, token: int) -> bytes:
        """As `piece`, and of control tokens the text that stands for them (`<|im_end|>`)."""
        ...

    def strips_first_space(self) -> bool:
        """True where the tokenizer adds a space before a text, which decoding must take away again."""
        ...


class Generator(Protocol):
    caps: Capabilities
    vocab: Vocab

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        """Append tokens to rows; one Logits for each RowWork, in order, with `logits` rows (shape [0, vocab] for none).

        Raises EngineError when the engine failed; rows of `work` are then undefined until trimmed to 0.
        """
        ...

    def trim(self, row: int, keep: int) -> int:
        """Drop KV from position `keep` on. Returns the length really kept: window and recurrent state keep less."""
        ...

    def fork(self, src: int, dst: int, keep: int) -> int:
        """Make dst's KV the first `keep` tokens of src's. Returns the length dst has now. dst was empty."""
        ...

    def stash(self, row: int) -> State:
        """KV out of the engine; the row stays as it is."""
        ...

    def unstash(self, row: int, state: State) -> int:
        """KV back into an empty row. Returns its length, 0 if the state cannot be used any more."""
        ...

    def set_threads(self, threads: Threads) -> None:
        """Of the next steps. What a row holds, and what is computed, stays the same. Raises EngineError where
        caps.sets_threads is False."""
        ...

    def close(self) -> None: ...


#: float32, shape [inputs, dimensions].
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbedderCapabilities:
    """What an embedder can do with the model it has loaded; batches are planned by it.

    dimensions: of its vectors; 1 of a reranker, which gives scores. shorter: lengths that a vector may be cut to, where
    the model was trained for that. normalized: vectors have length 1. context: tokens of one input. vocab_size: token
    ids are 0 … vocab_size-1. batch_tokens: tokens of one run at most, at least `context`. batch_inputs: inputs of one
    run at most. padded: every input of a run costs as much as the longest.
    """

    dimensions: int
    context: int
    vocab_size: int
    batch_tokens: int
    batch_inputs: int
    padded: bool
    shorter: Container[int] = ()
    normalized: bool = True


@dataclass(frozen=True, slots=True)
class Passage:
    """One input as tokens. segments: for each token the text of a pair that it belongs to, 0 or 1; None: all 0."""

    tokens: Sequence[int]
    segments: Sequence[int] | None = None


class Embedder(Protocol):
    """One run takes many inputs and keeps nothing. `passage` and `pair` may be called from any thread, all else comes
    from one."""

    caps: EmbedderCapabilities

    def passage(self, text: str) -> Passage:
        """With the special tokens that the model was trained with around a text; nothing is cut."""
        ...

    def pair(self, query: str, document: str) -> Passage:
        """Of a reranker: both, as the model was trained to read them."""
        ...

    def run(self, passages: Sequence[Passage]) -> Vectors:
        """One row for each passage, in order; of a reranker one score, larger where the document fits better, between 0
        and 1. Raises EngineError, DeviceLost."""
        ...

    def close(self) -> None: ...


class EngineError(Exception):
    """The native library failed in a step. The worker goes on if it can."""


class DeviceLost(EngineError):
    """The device is gone (a driver reset, a suspend, a card off its bus), and all KV with it. Any call may raise it;
    the worker ends, and the daemon decides what comes next."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is attested of the loaded model: `device` is the one that really runs it, its provider first, in lower case,
    then its name where there is one (`cpu`, `cuda NVIDIA GeForce RTX 3060`). state_format: of its States: build of the
    engine, types and layout of KV; empty where they are of no use to another process."""

    engine_version: str
    device: str
    precision: str
    weights_bytes: int
    kv_bytes: int
    state_format: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    generator: Generator
    facts: Facts


@dataclass(frozen=True, slots=True)
class LoadedEmbedder:
    embedder: Embedder
    facts: Facts


#: Called with 0 … 1 while weights are read.
Progress = Callable[[float], None]
#: What each engine module offers as `load`. Raises edged.errors.LoadFailed (names the file), InsufficientMemory or
#: DeviceUnavailable (names the provider): an engine never falls back to another device on its own.
Load = Callable[[LoadSpec, Progress], Loaded]
#: The same of modules for embedding models and rerankers; `LoadSpec.task` says which of the two it is.
LoadEmbedder = Callable[[LoadSpec, Progress], LoadedEmbedder]

