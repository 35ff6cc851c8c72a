"""llama.cpp through the low-level API of llama-cpp-python: many sequences in one `llama_batch`, filled by hand.

A row is a llama.cpp sequence id. KV is one unified pool, where a fork shares cells without copying and any row may use
what the others leave, or split, each row with its own; see `_split`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from edged.engines.base import Capabilities, EngineError, Facts, Loaded, Logits, Progress, RowWork, State, Vocab
from edged.engines.llama_vocab import LlamaVocab, metadata
from edged.errors import InsufficientMemory, LoadFailed
from edged.types import LoadSpec

DEFAULT_ROWS = 16
#: The most tokens one step takes, and the size of the buffer that llama.cpp computes in.
STEP_TOKENS = 512
#: Where nobody names a context: the part of memory that KV may take, and the context that is kept all the same.
KV_SHARE = 1 / 4
DEFAULT_CONTEXT = 8192
SMALLEST_CONTEXT = 512
#: The part of memory that KV of its own for every row may take.
SPLIT_SHARE = 1 / 16
#: Weights and the buffers that grow with them, in sizes of the file.
WEIGHTS_OVERHEAD = 1.1


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """kv_unified: None decides by memory, see `_split`. kv_type: "f16" or "q8_0" (needs flash attention).
    flash_attention: None lets llama.cpp decide."""

    kv_unified: bool | None = None
    flash_attention: bool | None = None
    kv_type: str = "f16"
    ubatch: int = STEP_TOKENS
    mlock: bool = False


_KV_TYPES = {"f16": (lib.GGML_TYPE_F16, 2.0), "q8_0": (lib.GGML_TYPE_Q8_0, 34 / 32)}
_FLASH = {None: lib.LLAMA_FLASH_ATTN_TYPE_AUTO, True: lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
          False: lib.LLAMA_FLASH_ATTN_TYPE_DISABLED}

_log_lines: list[str] = []
_log_lock = threading.Lock()


@lib.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _data: Any) -> None:
    """llama.cpp's own words are kept for the message of a failed load, and not printed."""
    if level >= 3:
        with _log_lock:
            _log_lines.append(text.decode(errors="replace").strip())
            del _log_lines[:-20]


def _last_words() -> str:
    with _log_lock:
        return "; ".join(_log_lines[-3:])


def _pointer(array: NDArray[Any], item: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(item))


class LlamaGenerator:
    def __init__(self, model: Any, context: Any, caps: Capabilities, vocab: LlamaVocab) -> None:
        self.caps = caps
        self.vocab: Vocab = vocab
        self._model = model
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._lengths = [0] * caps.rows
        count = caps.step_tokens
        self._token = np.zeros(count, np.int32)
        self._position = np.zeros(count, np.int32)
        self._sequence = np.zeros(count, np.int32)
        self._wants = np.zeros(count, np.int8)
        # llama.cpp wants a list of sequence ids for each token: pointers into one flat array, of one id each.
        self._one = np.ones(count, np.int32)
        self._lists = self._sequence.ctypes.data + 4 * np.arange(count, dtype=np.uintp)
        self._batch = lib.llama_batch(
            n_tokens=0, token=_pointer(self._token, lib.llama_token), pos=_pointer(self._position, lib.llama_pos),
            n_seq_id=_pointer(self._one, ctypes.c_int32), logits=_pointer(self._wants, ctypes.c_int8),
            seq_id=_pointer(self._lists, ctypes.POINTER(lib.llama_seq_id)),
        )

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        filled = outputs = 0
        for item in work:
            count, length = len(item.tokens), self._lengths[item.row]
            end = filled + count
            if end > self.caps.step_tokens:
                raise EngineError(f"a step of more than {self.caps.step_tokens} tokens")
            self._token[filled:end] = item.tokens
            self._position[filled:end] = range(length, length + count)
            self._sequence[filled:end] = item.row
            self._wants[filled:end] = 0
            self._wants[end - item.logits:end] = 1
            filled, outputs = end, outputs + item.logits
        self._batch.n_tokens = filled
        if (code := lib.llama_decode(self._context, self._batch)) != 0:
            # Parts of the batch may be in the pool already: forget what this step added to each row.
            for item in work:
                lib.llama_memory_seq_rm(self._memory, item.row, self._lengths[item.row], -1)
            raise EngineError("no KV left" if code == 1 else f"llama_decode returned {code}: {_last_words()}")
        for item in work:
            self._lengths[item.row] += len(item.tokens)
        if not outputs:
            return [np.empty((0, self.vocab.size), np.float32)] * len(work)
        rows: Logits = np.ctypeslib.as_array(lib.llama_get_logits(self._context), (outputs, self.vocab.size))
        results, first = [], 0
        for item in work:
            results.append(rows[first:first + item.logits])
            first += item.logits
        return results

    def trim(self, row: int, keep: int) -> int:
        if keep < self._lengths[row]:
            if not lib.llama_memory_seq_rm(self._memory, row, keep, -1):
                # Window and recurrent state cannot go back; a whole sequence can always be removed.
                lib.llama_memory_seq_rm(self._memory, row, -1, -1)
                keep = 0
            self._lengths[row] = keep
        return self._lengths[row]

    def fork(self, src: int, dst: int, keep: int) -> int:
        # In split KV llama.cpp copies whole sequences only; a longer copy is trimmed afterwards.
        lib.llama_memory_seq_cp(self._memory, src, dst, -1, -1)
        self._lengths[dst] = self._lengths[src]
        return self.trim(dst, keep)

    def stash(self, row: int) -> State:
        size = lib.llama_state_seq_get_size(self._context, row)
        data = (ctypes.c_uint8 * size)()
        written = lib.llama_state_seq_get_data(self._context, data, size, row)
        if written == 0:
            raise EngineError(f"llama.cpp could not save the state of row {row}")
        return State(self._lengths[row], data, size)

    def unstash(self, row: int, state: State) -> int:
        data: Any = state.data
        if lib.llama_state_seq_set_data(self._context, data, state.size_bytes, row) == 0:
            lib.llama_memory_seq_rm(self._memory, row, -1, -1)
            self._lengths[row] = 0
        else:
            self._lengths[row] = state.tokens
        return self._lengths[row]

    def close(self) -> None:
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)


def _kv_bytes_per_token(meta: dict[str, str], model: Any, bytes_per_value: float) -> float:
    """From the GGUF keys <arch>.attention.{head_count_kv,key_length,value_length}; all layers hold all tokens."""
    architecture = meta.get("general.architecture", "")
    layers, embedding = lib.llama_model_n_layer(model), lib.llama_model_n_embd(model)
    heads, kv_heads = lib.llama_model_n_head(model), lib.llama_model_n_head_kv(model)
    head_size = embedding // max(heads, 1)
    key = int(meta.get(f"{architecture}.attention.key_length", head_size))
    value = int(meta.get(f"{architecture}.attention.value_length", head_size))
    values: int = layers * kv_heads * (key + value)
    return values * bytes_per_value


def _pool(spec: LoadSpec, trained: int, per_token: float, weights_bytes: int) -> int:
    """Tokens of the KV pool. A context that the operator named is honoured or refused; else it is the trained one as
    far as KV_SHARE of the memory goes, and at least DEFAULT_CONTEXT where that fits."""
    budget = spec.memory_bytes or psutil.virtual_memory().total
    room = int(max(0, budget - weights_bytes * WEIGHTS_OVERHEAD) / per_token)
    if spec.context is not None:
        wanted = spec.context
    else:
        share = max(int(budget * KV_SHARE / per_token), DEFAULT_CONTEXT)
        wanted = max(min(trained, room, share) // 256 * 256, min(trained, SMALLEST_CONTEXT))
    if wanted > trained:
        raise LoadFailed(f"{spec.name} was trained for a context of {trained} tokens; `context` cannot be {wanted}")
    if wanted > room:
        need = int(weights_bytes * WEIGHTS_OVERHEAD + per_token * wanted)
        advice = f"lower `context` to {room} or less" if room >= SMALLEST_CONTEXT else "take a smaller variant"
        raise InsufficientMemory(
            f"{spec.name} with a context of {wanted} tokens needs about {need >> 20} MiB and may use "
            f"{budget >> 20} MiB; {advice}"
        )
    return wanted


def _split(options: Options, spec: LoadSpec, rows: int, pool: int, per_token: float) -> bool:
    """Whether each row gets KV of its own, of the whole context. In a unified pool every row's attention steps over
    the cells of all others, which costs a fifth at 8 rows of a small model; split KV is reserved whole, so it is
    taken only where that is a small part of the memory."""
    if options.kv_unified is not None:
        return not options.kv_unified
    budget = spec.memory_bytes or psutil.virtual_memory().total
    return rows * pool * per_token <= budget * SPLIT_SHARE


def load(spec: LoadSpec, progress: Progress) -> Loaded:
    try:
        options = msgspec.convert(spec.options, Options)
        kv_type, bytes_per_value = _KV_TYPES[options.kv_type]
    except msgspec.ValidationError as error:
        raise LoadFailed(f"options of {spec.name}: {error}") from error
    except KeyError:
        raise LoadFailed(f"options of {spec.name}: kv_type is one of {', '.join(_KV_TYPES)}") from None
    lib.llama_log_set(_log, ctypes.c_void_p(0))
    lib.llama_backend_init()

    @lib.llama_progress_callback  # type: ignore[untyped-decorator]
    def on_progress(fraction: float, _data: Any) -> bool:
        progress(fraction)
        return True

    model_params = lib.llama_model_default_params()
    model_params.progress_callback = on_progress
    if options.mlock:
        model_params.load_mode = lib.LLAMA_LOAD_MODE_MLOCK
    file = Path(spec.path) / spec.file
    model = lib.llama_model_load_from_file(str(file).encode(), model_params)
    if not model:
        raise LoadFailed(f"llama.cpp cannot load {spec.file}: {_last_words()}")
    meta = metadata(model)
    weights_bytes = lib.llama_model_size(model)
    per_token = _kv_bytes_per_token(meta, model, bytes_per_value)
    pool = _pool(spec, lib.llama_model_n_ctx_train(model), per_token, weights_bytes)
    rows = spec.rows or DEFAULT_ROWS

    params = lib.llama_context_default_params()
    split = _split(options, spec, rows, pool, per_token)
    params.n_ctx = pool * rows if split else pool
    params.n_seq_max = rows
    params.n_batch = STEP_TOKENS
    params.n_ubatch = options.ubatch
    params.kv_unified = not split
    params.flash_attn_type = _FLASH[options.flash_attention]
    params.type_k = params.type_v = kv_type
    params.no_perf = True
    params.swa_full = True
    if spec.threads:
        params.n_threads = params.n_threads_batch = spec.threads
    context = lib.llama_init_from_model(model, params)
    if not context:
        lib.llama_model_free(model)
        raise LoadFailed(f"llama.cpp cannot make a context of {pool} tokens for {spec.name}: {_last_words()}")
    row_context = min(lib.llama_n_ctx_seq(context), lib.llama_n_ctx(context))
    caps = Capabilities(
        rows=rows, context=min(row_context, pool), kv_tokens=lib.llama_n_ctx(context), mixed_step=True,
        multi_token_rows=rows, step_tokens=STEP_TOKENS, state_bytes_per_token=int(per_token),
    )
    facts = Facts(
        engine_version=f"llama-cpp-python {lib_version()}", device="cpu",
        precision=_description(model), weights_bytes=weights_bytes,
        kv_bytes=int(per_token * caps.kv_tokens),
    )
    return Loaded(LlamaGenerator(model, context, caps, LlamaVocab(model, meta)), facts)


def lib_version() -> str:
    import llama_cpp

    return llama_cpp.__version__


def _description(model: Any) -> str:
    """llama.cpp's one-line description, such as `llama ?B Q4_1`: its last word is the file type."""
    buffer = ctypes.create_string_buffer(256)
    lib.llama_model_desc(model, buffer, 256)
    words = buffer.value.decode(errors="replace").replace(" - Small", "_S").replace(" - Medium", "_M").replace(
        " - Large", "_L").split()
    return words[-1] if words else "unknown"
