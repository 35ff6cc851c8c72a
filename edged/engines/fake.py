"""An engine without a model: a small word vocabulary, text that depends on nothing but the tokens before it, and knobs
to be slow, to crash, to hang and to leak. It keeps the real tokens of every row, and the adapter that each was computed
with, so wrong bookkeeping above the seam (a trim forgotten, a fork of the wrong length) changes the text.

The entry file is `fake.json`; its keys are the fields of `Knobs`, and a model's `options` override them. A message can
tell it what to say, tool calls and thoughts included: see `fake_script`.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import zlib
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edged.engines.base import (
    Capabilities,
    DeviceLost,
    EngineError,
    Facts,
    Fill,
    Loaded,
    Logits,
    Progress,
    RowWork,
    State,
    Threads,
    Vocab,
)
from edged.engines.fake_script import CHAT_TEMPLATE, left_to_say
from edged.errors import InsufficientMemory, LoadFailed
from edged.types import AdapterSpec, LoadSpec, Task

ENGINE_VERSION = "fake-1"

_SPECIAL = ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
_BOS, _EOS, _IM_START, _IM_END = range(256, 260)
_WORDS = [
    "a", "an", "and", "are", "as", "at", "be", "box", "by", "can", "edge", "for", "from", "has", "in", "is", "it",
    "its", "light", "model", "not", "of", "on", "one", "or", "small", "so", "that", "the", "this", "to", "token",
    "was", "we", "when", "which", "with", "word", "work", "you",
]
#: Pieces whose first half must be followed by the second: one character over two tokens.
_SPLIT = [("🙂".encode()[:2], "🙂".encode()[2:]), ("語".encode()[:1], "語".encode()[1:])]
_PIECES: list[bytes] = [
    *(bytes([value]) for value in range(256)),
    *([b""] * len(_SPECIAL)),
    *(f" {word}".encode() for word in _WORDS), b".", b",", b"\n",
    *(half for pair in _SPLIT for half in pair),
]
_TOKEN_BITS = 16
_TOKEN = (1 << _TOKEN_BITS) - 1
_FIRST_WORD = 260
#: So far above all others that no temperature reaches them.
_SCRIPTED_LOGIT = 100.0
_FIRST_SPLIT = len(_PIECES) - 2 * len(_SPLIT)
_TOKENS_BY_PIECE = {piece: token for token, piece in enumerate(_PIECES) if piece}
_LONGEST_PIECE = max(map(len, _PIECES))
#: Words by the count of tokens before them, without a pattern that a draft could be taken from.
_ORDER = np.random.Generator(np.random.Philox(1)).integers(0, len(_WORDS), 4096)
_WORD_BY_WORD = np.full((len(_WORDS), len(_PIECES)), -30.0, np.float32)
_WORD_BY_WORD[range(len(_WORDS)), range(_FIRST_WORD, _FIRST_WORD + len(_WORDS))] = 10.0
_SPECIAL_PATTERN = re.compile("(" + "|".join(re.escape(text) for text in _SPECIAL) + ")")


class Knobs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """step_ms: time of each step; token_ms: more for each token in it. crash_at_token, hang_at_token, fail_at_token,
    nan_at_token: at the k-th decode step of the process; a failed step leaves its rows undefined, as the seam allows.
    crash_on_text: when a row holds this text. mixed_step false: plans as for ORT. trims false: KV cannot go
    back, as a recurrent state. all_logits false: as of a graph with
    a pruned head. end_chance: 1/n is about the chance that a word ends the answer (0: never). cheap: the next word
    depends on the length of its row alone and takes no time to tell, for measuring what is above the engine.

    task: what the model is for; dimensions, shorter: of the vectors of one that embeds.

    device: what it says it runs on, whatever it was told to; by default that. On any device but the processor: noise is
    added to each logit, up to so much; the device is lost at the lost_at_token-th decode step; device_token_ms is the
    time of a token there.

    threads: that it says it computes with, and lets be set; 0 for an engine whose threads are fixed. best_threads: with
    any other number a step takes three times as long, and with dawdle too."""

    context: int = 4096
    rows: int = 8
    kv_tokens: int | None = None
    step_ms: float = 0
    token_ms: float = 0
    load_s: float = 0
    crash_at_token: int | None = None
    hang_at_token: int | None = None
    fail_at_token: int | None = None
    nan_at_token: int | None = None
    crash_on_text: str | None = None
    crash_on_load: bool = False
    hang_on_load: bool = False
    ignore_sigterm: bool = False
    leak_bytes_per_step: int = 0
    refuse: str | None = None
    refuse_memory: bool = False
    mixed_step: bool = True
    trims: bool = True
    all_logits: bool = True
    step_tokens: int = 512
    end_chance: int = 40
    cheap: bool = False
    device: str | None = None
    noise: float = 0
    lost_at_token: int | None = None
    device_token_ms: float | None = None
    task: Task = "generate"
    dimensions: int = 16
    shorter: tuple[int, ...] = ()
    threads: int = 0
    best_threads: int = 0
    batch_threads: int | None = None
    dawdle: bool = False


class FakeVocab:
    def __init__(self) -> None:
        self.size = len(_PIECES)
        self.bos: int | None = _BOS
        self.end = frozenset({_EOS, _IM_END})
        self.special = {"bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
        self.chat_template: str | None = CHAT_TEMPLATE
        self.fill: Fill | None = None

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        tokens = [_BOS] if bos else []
        for part in _SPECIAL_PATTERN.split(text) if special else [text]:
            if special and part in _SPECIAL:
                tokens.append(256 + _SPECIAL.index(part))
            else:
                tokens.extend(part.encode())
        return tokens

    def piece(self, token: int) -> bytes:
        return _PIECES[token]

    def written(self, token: int) -> bytes:
        special = token - 256
        return _SPECIAL[special].encode() if 0 <= special < len(_SPECIAL) else _PIECES[token]

    def strips_first_space(self) -> bool:
        return True


class FakeGenerator:
    def __init__(self, knobs: Knobs, adapters: Mapping[str, int] | None = None) -> None:
        """adapters: by name, a number from 1 to 65535 that its texts depend on."""
        self.vocab: Vocab = FakeVocab()
        kv_tokens = knobs.kv_tokens or knobs.rows * knobs.context
        self.caps = Capabilities(
            rows=knobs.rows, context=min(knobs.context, kv_tokens), kv_tokens=kv_tokens,
            mixed_step=knobs.mixed_step, multi_token_rows=knobs.rows if knobs.mixed_step else 1,
            step_tokens=knobs.step_tokens, state_bytes_per_token=4, all_logits=knobs.all_logits,
            trims=knobs.trims, adapters=tuple(adapters or ()),
            threads=Threads(knobs.threads, knobs.batch_threads or knobs.threads) if knobs.threads else None,
            sets_threads=bool(knobs.threads),
        )
        self.threads = self.caps.threads
        self._knobs = knobs
        self._adapters: dict[str | None, int] = {None: 0}
        self._adapters.update(adapters or {})
        # Tokens, and above their 16 bits the number of the adapter that each was computed with: as KV does, they keep
        # what they were computed with, whatever comes after.
        self._rows: list[list[int]] = [[] for _ in range(knobs.rows)]
        self._decode_steps = 0
        self._leak: list[bytearray] = []

    @property
    def kv_used_tokens(self) -> int:
        return sum(map(len, self._rows))

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        self._refuse_what_no_engine_takes(work)
        self._misbehave(work)
        results = []
        for item in work:
            row = self._rows[item.row]
            adapter = self._adapters[item.adapter] << _TOKEN_BITS
            row.extend(token | adapter for token in item.tokens)
            ends = range(len(row) - item.logits + 1, len(row) + 1)
            if self._knobs.cheap:
                results.append(_cheap_logits(ends))
                continue
            results.append(np.stack([self._logits(row, end) for end in ends]) if item.logits
                           else np.empty((0, self.vocab.size), np.float32))
        if self._decode_steps == self._knobs.nan_at_token and any(len(item.tokens) == 1 for item in work):
            results = [np.full_like(logits, np.nan) for logits in results]
        return results

    def trim(self, row: int, keep: int) -> int:
        if keep < len(self._rows[row]) and not self.caps.trims:
            keep = 0
        del self._rows[row][keep:]
        return len(self._rows[row])

    def fork(self, src: int, dst: int, keep: int) -> int:
        """The copy counts once more in the pool from the next step on, as in engines that do not share cells."""
        if self._rows[dst]:
            raise EngineError(f"row {dst} is not empty")
        if keep > len(self._rows[src]):
            raise EngineError(f"row {src} has {len(self._rows[src])} tokens, not {keep}")
        self._rows[dst] = list(self._rows[src])
        return self.trim(dst, keep)

    def stash(self, row: int) -> State:
        return State(len(self._rows[row]), (np.array(self._rows[row], np.uint32),))

    def unstash(self, row: int, state: State) -> int:
        if self._rows[row]:
            raise EngineError(f"row {row} is not empty")
        if self.kv_used_tokens + state.tokens > self.caps.kv_tokens:
            return 0
        self._rows[row] = state.parts[0].view(np.uint32).tolist()
        return state.tokens

    def set_threads(self, threads: Threads) -> None:
        if not self.caps.sets_threads:
            raise EngineError("the fake engine was told that its threads are fixed")
        self.threads = threads

    def close(self) -> None:
        self._rows.clear()

    def _logits(self, row: list[int], end: int) -> Logits:
        """Words get scores of 0 … 8 by a hash of all tokens before; bytes are far below. A sentence has two words."""
        logits = np.full(self.vocab.size, -30.0, np.float32)
        tokens = [cell & _TOKEN for cell in row[:end]] if self.caps.adapters else row[:end]
        last = tokens[-1]
        scripted = _scripted(tokens)
        if scripted is None and last >= _FIRST_SPLIT and (last - _FIRST_SPLIT) % 2 == 0:
            logits[last + 1] = 10.0
            return logits
        digest = zlib.crc32(array("H", tokens).tobytes())
        if self.caps.adapters and max(row[:end]) > _TOKEN:
            digest = zlib.crc32(array("I", row[:end]).tobytes())
        scores = np.random.Generator(np.random.Philox(digest)).random(self.vocab.size - _FIRST_WORD, np.float32) * 8
        logits[_FIRST_WORD:] = scores
        logits[_FIRST_SPLIT + 1::2] = -30.0
        two_words = min(tokens[-2:]) >= _FIRST_WORD
        if self._knobs.end_chance and digest % self._knobs.end_chance == 0 and two_words:
            logits[_IM_END] = 12.0
        if scripted is not None:
            logits[scripted] = _SCRIPTED_LOGIT
        if self._knobs.noise:
            # Of numbers that depend on the text alone: a wrong device is wrong in the same way each time.
            off = np.random.Generator(np.random.Philox(digest + 1)).random(self.vocab.size, np.float32)
            logits += np.float32(self._knobs.noise) * off
        return logits

    def _slowness(self, work: Sequence[RowWork]) -> float:
        slowness = 3.0 if self._knobs.dawdle else 1.0
        if self.threads is not None and self._knobs.best_threads:
            batch = any(len(item.tokens) > 1 for item in work)
            used = self.threads.batch if batch else self.threads.decode
            slowness *= 1.0 if used == self._knobs.best_threads else 3.0
        return slowness

    def _refuse_what_no_engine_takes(self, work: Sequence[RowWork]) -> None:
        tokens = sum(len(item.tokens) for item in work)
        if len({item.row for item in work}) < len(work):
            raise EngineError("a row is in the step twice")
        if len({item.adapter for item in work}) > 1 or any(item.adapter not in self._adapters for item in work):
            raise EngineError("this engine computes a step with one adapter, one that it has")
        if tokens > self.caps.step_tokens:
            raise EngineError(f"a step of {tokens} tokens; {self.caps.step_tokens} is the most")
        if not self.caps.mixed_step and len(work) > 1 and any(len(item.tokens) > 1 for item in work):
            raise EngineError("this engine takes many rows of one token or one row of many")
        if self.kv_used_tokens + tokens > self.caps.kv_tokens:
            raise EngineError("no KV left")
        for item in work:
            if not item.tokens or item.logits > (len(item.tokens) if self.caps.all_logits else 1):
                raise EngineError(f"row {item.row}: {item.logits} logits of {len(item.tokens)} tokens")
            if len(self._rows[item.row]) + len(item.tokens) > self.caps.context:
                raise EngineError(f"row {item.row} is over its context")

    def _misbehave(self, work: Sequence[RowWork]) -> None:
        knobs = self._knobs
        if pause_ms := knobs.step_ms + knobs.token_ms * sum(len(item.tokens) for item in work):
            time.sleep(pause_ms * self._slowness(work) / 1000)
        if any(len(item.tokens) == 1 for item in work):
            self._decode_steps += 1
            if self._decode_steps == knobs.crash_at_token:
                os.kill(os.getpid(), signal.SIGSEGV)
            if self._decode_steps == knobs.hang_at_token:
                threading.Event().wait()
            if self._decode_steps == knobs.lost_at_token:
                raise DeviceLost("the fake device was told to go away at this token")
            if self._decode_steps == knobs.fail_at_token:
                for item in work:
                    self._rows[item.row].append(_EOS)
                raise EngineError("the fake engine was told to fail at this token")
        if knobs.crash_on_text is not None:
            needle = knobs.crash_on_text.encode()
            for item in work:
                text = _bytes([*(cell & _TOKEN for cell in self._rows[item.row]), *item.tokens])
                if needle in text:
                    os.kill(os.getpid(), signal.SIGSEGV)
        if knobs.leak_bytes_per_step:
            self._leak.append(bytearray(os.urandom(1) * knobs.leak_bytes_per_step))


def _cheap_logits(ends: range) -> Logits:
    return _WORD_BY_WORD[[_ORDER[end % len(_ORDER)] for end in ends]]


def _scripted(row: list[int]) -> int | None:
    """The next token of the text that the last message told, if it did."""
    starts = [at for at, token in enumerate(row) if token == _IM_START][-2:]
    if len(starts) < 2:
        return None
    left = left_to_say(_bytes(row[starts[0]:starts[1]]).removesuffix(b"\n"), _bytes(row[starts[1]:]))
    if left is None:
        return None
    lengths = range(min(_LONGEST_PIECE, len(left)), 0, -1)
    return next((_TOKENS_BY_PIECE[left[:length]] for length in lengths if left[:length] in _TOKENS_BY_PIECE), _IM_END)


def _bytes(tokens: Sequence[int]) -> bytes:
    return b"".join(_PIECES[token] for token in tokens)


def _number(adapter: AdapterSpec) -> int:
    """Of a file of any content. Raises LoadFailed."""
    try:
        return zlib.crc32(Path(adapter.path).read_bytes()) % _TOKEN + 1
    except OSError as error:
        raise LoadFailed(f"the adapter {adapter.name} cannot be read: {error.strerror}") from error


def begin_load(spec: LoadSpec, progress: Progress) -> tuple[Knobs, int]:
    """Read the knobs, and do what they say of loading. Returns them and the size of the file in bytes."""
    file = Path(spec.path) / spec.file
    try:
        said: dict[str, Any] = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        knobs = msgspec.convert({**said, **spec.options}, Knobs)
    except (OSError, msgspec.MsgspecError) as error:
        raise LoadFailed(f"{spec.file} is not a fake model: {error}") from error
    if knobs.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if knobs.crash_on_load:
        os.kill(os.getpid(), signal.SIGSEGV)
    if knobs.hang_on_load:
        threading.Event().wait()
    for step in range(10):
        progress(step / 10)
        time.sleep(knobs.load_s / 10)
    if knobs.refuse is not None:
        raise LoadFailed(knobs.refuse)
    if knobs.refuse_memory:
        raise InsufficientMemory("the fake model was told not to fit in memory")
    return knobs, file.stat().st_size


def load(spec: LoadSpec, progress: Progress) -> Loaded:
    knobs, size = begin_load(spec, progress)
    on_device = spec.provider != "cpu"
    knobs = msgspec.structs.replace(
        knobs, context=min(spec.context or knobs.context, knobs.context), rows=spec.rows or knobs.rows,
        threads=knobs.threads and (spec.threads or knobs.threads),
        noise=knobs.noise if on_device else 0, lost_at_token=knobs.lost_at_token if on_device else None,
        token_ms=knobs.device_token_ms if on_device and knobs.device_token_ms is not None else knobs.token_ms,
    )
    generator = FakeGenerator(knobs, {adapter.name: _number(adapter) for adapter in spec.adapters})
    device = knobs.device or (f"{spec.provider} (fake)" if on_device else "cpu")
    return Loaded(generator, Facts(
        engine_version=ENGINE_VERSION, device=device, precision="fake", weights_bytes=size,
        kv_bytes=4 * generator.caps.kv_tokens, state_format=ENGINE_VERSION,
    ))
