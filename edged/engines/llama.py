"""llama.cpp through the low-level API of llama-cpp-python: many sequences in one `llama_batch`, filled by hand.

A row is a llama.cpp sequence id. KV is one unified pool, where a fork shares cells without copying and any row may use
what the others leave, or split, each row with its own; see `_split`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edged.engines.base import (
    Capabilities,
    EngineError,
    Facts,
    Loaded,
    Logits,
    Progress,
    RowWork,
    State,
    Threads,
    Vocab,
)
from edged.engines.llama_adapters import LlamaAdapters
from edged.engines.llama_batch import LlamaBatch
from edged.engines.llama_library import lib
from edged.engines.llama_model import (
    FLASH,
    begin,
    device_name,
    engine_version,
    last_words,
    load_model,
    precision_of,
    rope_of,
)
from edged.engines.llama_vocab import LlamaVocab, metadata
from edged.engines.machine import memory_for, threads_for
from edged.engines.pages import give_back_zeros, private_ranges
from edged.engines.slots import Slots
from edged.errors import InsufficientMemory, LoadFailed
from edged.types import LoadSpec

DEFAULT_ROWS = 8
#: The most tokens one step takes, and the size of the buffer that llama.cpp computes in.
STEP_TOKENS = 512
#: The part of memory that KV may take where nobody names a context, and the context that is kept all the same.
KV_SHARE = 1 / 8
DEFAULT_CONTEXT = 8192
#: The part of memory that KV of its own for every row may take.
SPLIT_SHARE = 1 / 8
SMALLEST_CONTEXT = 512
#: Weights and the buffers that grow with them, in sizes of the file.
WEIGHTS_OVERHEAD = 1.1


KvType = Literal["f32", "f16", "q8_0"]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """kv_unified: None decides by memory, see `_split`. flash_attention: None lets llama.cpp decide. key_type,
    value_type: of KV; None for keys decides, see `_kv`; values in q8_0 need flash attention. ubatch: tokens that are
    computed at once, of a step. batch_threads: of steps with more than one token a row; None for as many as of others.
    spin_count: how often a waiting OpenMP thread looks before it sleeps (`edged.engines` sets it in time)."""

    kv_unified: bool | None = None
    flash_attention: bool | None = None
    key_type: KvType | None = None
    value_type: KvType = "f16"
    ubatch: int = STEP_TOKENS
    batch_threads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    spin_count: Annotated[int, msgspec.Meta(ge=0)] | None = None
    mlock: bool = False


#: llama.cpp's number of the type, and bytes per value: q8_0 is 32 values and one fp16 scale in a block of 34 bytes.
_KV_TYPES: dict[KvType, tuple[int, float]] = {
    "f32": (lib.GGML_TYPE_F32, 4.0), "f16": (lib.GGML_TYPE_F16, 2.0), "q8_0": (lib.GGML_TYPE_Q8_0, 34 / 32),
}
_BLOCK = 32

class LlamaGenerator:
    def __init__(
        self, model: Any, context: Any, caps: Capabilities, vocab: LlamaVocab, adapters: LlamaAdapters, *, split: bool,
    ) -> None:
        self.caps = caps
        self._adapters = adapters
        self.vocab: Vocab = vocab
        self._split = split
        self._model = model
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._lengths = [0] * caps.rows
        self._slots = Slots(caps.rows)
        self._batch = LlamaBatch(caps.step_tokens)

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        self._adapters.use(self._context, work[0].adapter)
        if self._split:
            for one, other in self._slots.gather(item.row for item in work):
                self._swap(one, other)
        # llama.cpp computes neighbours together, if they come in order.
        order = sorted(range(len(work)), key=lambda index: self._slots[work[index].row])
        self._batch.clear()
        outputs = 0
        for item in (work[index] for index in order):
            self._batch.add(item.tokens, sequence=self._slots[item.row], position=self._lengths[item.row],
                            outputs=item.logits)
            outputs += item.logits
        if (code := lib.llama_decode(self._context, self._batch.native)) != 0:
            # Parts of the batch may be in the pool already: forget what this step added to each row.
            for item in work:
                lib.llama_memory_seq_rm(self._memory, self._slots[item.row], self._lengths[item.row], -1)
            raise EngineError("no KV left" if code == 1 else f"llama_decode returned {code}: {last_words()}")
        for item in work:
            self._lengths[item.row] += len(item.tokens)
        if not outputs:
            return [np.empty((0, self.vocab.size), np.float32)] * len(work)
        rows: Logits = np.ctypeslib.as_array(lib.llama_get_logits(self._context), (outputs, self.vocab.size))
        results: list[Logits] = [rows] * len(work)
        first = 0
        for index in order:
            results[index] = rows[first:first + work[index].logits]
            first += work[index].logits
        return results

    def trim(self, row: int, keep: int) -> int:
        if keep < self._lengths[row]:
            slot = self._slots[row]
            if not lib.llama_memory_seq_rm(self._memory, slot, keep, -1):
                # Window and recurrent state cannot go back; a whole sequence can always be removed.
                lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
                keep = 0
            self._lengths[row] = keep
        return self._lengths[row]

    def fork(self, src: int, dst: int, keep: int) -> int:
        if self._split:
            # llama_memory_seq_cp would copy the row's whole buffer, 100 ms for a context of 8192; this copies what
            # it holds, a few.
            self.unstash(dst, self.stash(src))
        else:
            lib.llama_memory_seq_cp(self._memory, self._slots[src], self._slots[dst], -1, -1)
            self._lengths[dst] = self._lengths[src]
        return self.trim(dst, keep)

    def stash(self, row: int) -> State:
        data = self._read(self._slots[row])
        return State(self._lengths[row], (data,))

    def unstash(self, row: int, state: State) -> int:
        self._lengths[row] = state.tokens if self._write(self._slots[row], state.parts[0]) else 0
        return self._lengths[row]

    def _read(self, slot: int) -> NDArray[np.uint8]:
        size = lib.llama_state_seq_get_size(self._context, slot)
        data = np.empty(size, np.uint8)
        if lib.llama_state_seq_get_data(self._context, _bytes(data), size, slot) == 0:
            raise EngineError("llama.cpp could not save the state of a sequence")
        return data

    def _write(self, slot: int, data: NDArray[Any]) -> bool:
        if lib.llama_state_seq_set_data(self._context, _bytes(data), data.nbytes, slot) == 0:
            lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
            return False
        return True

    def _swap(self, one: int, other: int) -> None:
        """Two sequences exchange their KV; the mapping says already whose it is then. Some milliseconds, once in a
        while, against a run of its own for each row that is no neighbour, in every step."""
        states = {slot: self._read(slot) for slot, mine in ((one, other), (other, one))
                  if self._lengths[self._slots.row_in(mine)]}
        for slot in (one, other):
            lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
        for slot, target in ((one, other), (other, one)):
            if slot in states and not self._write(target, states[slot]):
                raise EngineError("llama.cpp could not move a sequence")

    def set_threads(self, threads: Threads) -> None:
        """With OpenMP the others sleep: a step of one thread uses none of its team, a smaller team ends the rest."""
        lib.llama_set_n_threads(self._context, threads.decode, threads.batch)

    def close(self) -> None:
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)


def _bytes(data: NDArray[Any]) -> Any:
    return ctypes.cast(data.ctypes.data, ctypes.POINTER(ctypes.c_uint8))


@dataclass(frozen=True, slots=True)
class _Kv:
    """key_type, value_type: llama.cpp's numbers of the types."""

    key_type: int
    value_type: int
    bytes_per_token: float


def _kv(options: Options, meta: dict[str, str], model: Any) -> _Kv:
    """Sizes from the GGUF keys <arch>.attention.{key_length,value_length}; all layers hold all tokens. A recurrent
    model has a state of one size, and nothing for each token. Of a hybrid one llama.cpp tells only the heads of the
    first layer, which often has none: it counts as if all layers had a key for each head.

    Keys are q8_0 and values f16: on a processor that decodes short contexts a sixth faster than f16 for both, in three
    quarters of the memory, and differs from it no more than f16 does between two shapes of a batch; and since llama.cpp
    then takes one path for one row and for many, a request's text does not depend on how many others run. The price
    is prefill, slower by a twentieth at 500 tokens and by a sixth at 3,000 (bench/LOG.md).
    """
    architecture = meta.get("general.architecture", "")
    head_size = lib.llama_model_n_embd(model) // max(lib.llama_model_n_head(model), 1)
    key = int(meta.get(f"{architecture}.attention.key_length", head_size))
    value = int(meta.get(f"{architecture}.attention.value_length", head_size))
    key_type, key_bytes = _KV_TYPES[options.key_type or ("f16" if key % _BLOCK else "q8_0")]
    value_type, value_bytes = _KV_TYPES[options.value_type]
    heads: int = lib.llama_model_n_layer(model) * (lib.llama_model_n_head_kv(model) or lib.llama_model_n_head(model))
    return _Kv(key_type, value_type, heads * (key * key_bytes + value * value_bytes))


def _pool(spec: LoadSpec, trained: int, per_token: float, weights_bytes: int) -> int:
    """Tokens of the KV pool. A context that the operator named is honoured or refused; else it is the trained one as
    far as KV_SHARE of the memory goes, and at least DEFAULT_CONTEXT where that fits."""
    budget = memory_for(spec)
    room = int(max(0, budget - weights_bytes * WEIGHTS_OVERHEAD) / max(per_token, 1))
    if spec.context is not None:
        wanted = spec.context
    else:
        share = max(int(budget * KV_SHARE / max(per_token, 1)), DEFAULT_CONTEXT)
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
    """Whether each row gets KV of its own, of the whole context.

    In a unified pool every row's attention steps over the cells of all others, which costs a fifth at 8 rows of a small
    model, and where a row's cells lie, and so the last bits of its sums, depends on the others. But split KV takes the
    whole context of each row: all of it for a moment while it is made, and for good as far as rows have used it
    (`pages`). So it is taken only where that is a small part of the memory: a smaller `context` gets it.
    """
    if options.kv_unified is not None:
        return not options.kv_unified
    budget = memory_for(spec)
    return rows * pool * per_token <= budget * SPLIT_SHARE


def load(spec: LoadSpec, progress: Progress) -> Loaded:
    try:
        options = msgspec.convert(spec.options, Options)
    except msgspec.ValidationError as error:
        raise LoadFailed(f"options of {spec.name}: {error}") from error
    device = begin(spec.provider)
    if device is not None and device.has_own_memory:
        spec = replace(spec, memory_bytes=device.free_bytes)
    if device is not None and options.key_type is None:
        # Back ends of devices have no kernels for keys of another type than values.
        options = replace(options, key_type=options.value_type)
    model = load_model(Path(spec.path) / spec.file, device, progress, mlock=options.mlock)
    meta = metadata(model)
    adapters = LlamaAdapters(model, spec.adapters, last_words)
    weights_bytes = lib.llama_model_size(model) + adapters.size_bytes
    rows = spec.rows or DEFAULT_ROWS
    trained = lib.llama_model_n_ctx_train(model)
    kv = _kv(options, meta, model)
    per_token = kv.bytes_per_token
    pool = _pool(spec, trained, per_token, weights_bytes)
    recurrent = bool(lib.llama_model_is_recurrent(model))
    goes_back = not recurrent and not lib.llama_model_is_hybrid(model)
    split = goes_back and _split(options, spec, rows, pool, per_token)

    params = lib.llama_context_default_params()
    params.n_ctx = pool * rows if split else pool
    params.n_seq_max = rows
    params.n_batch = STEP_TOKENS
    params.n_ubatch = options.ubatch
    params.kv_unified = not split
    params.flash_attn_type = FLASH[options.flash_attention]
    params.type_k, params.type_v = kv.key_type, kv.value_type
    params.no_perf = True
    params.swa_full = True
    # llama.cpp would take four, whatever the machine has.
    decode = threads_for(spec)
    threads = Threads(decode=decode, batch=options.batch_threads or decode)
    params.n_threads, params.n_threads_batch = threads.decode, threads.batch
    with ThreadPoolExecutor(1, thread_name_prefix="vocab") as beside:
        vocab = beside.submit(LlamaVocab, model, meta)
        before = private_ranges()
        context = lib.llama_init_from_model(model, params)
        if context:
            give_back_zeros(before)
    if not context:
        lib.llama_model_free(model)
        raise LoadFailed(f"llama.cpp cannot make a context of {pool} tokens for {spec.name}: {last_words()}")
    row_context = min(lib.llama_n_ctx_seq(context), lib.llama_n_ctx(context))
    caps = Capabilities(
        rows=rows, context=min(row_context, pool), mixed_step=True,
        # A recurrent row takes the same memory whatever its length.
        kv_tokens=rows * pool if recurrent else lib.llama_n_ctx(context),
        multi_token_rows=rows, step_tokens=STEP_TOKENS, state_bytes_per_token=int(per_token), trims=goes_back,
        adapters=adapters.names,
        threads=threads, sets_threads=True,
    )
    facts = Facts(
        engine_version=engine_version(), device=device_name(spec.provider, device),
        precision=precision_of(model), weights_bytes=weights_bytes,
        kv_bytes=int(per_token * caps.kv_tokens),
        state_format=f"{engine_version()} {kv.key_type} {kv.value_type} flash={options.flash_attention}"
                     + rope_of(meta, lib.llama_n_ctx_seq(context)),
    )
    return Loaded(LlamaGenerator(model, context, caps, vocab.result(), adapters, split=split), facts)
