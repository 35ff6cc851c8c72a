"""Continuous batching over a ModelBuilder graph (onnxruntime-genai) with a plain onnxruntime session, on CPU.

Past and present of every layer are bound to one buffer (`kv_buffers`), so KV grows in place; GroupQueryAttention takes
each row's length from its attention mask, so the rows of a batch may differ in length. The rows of one run must be
neighbours in the buffer: a row's *slot* is its place there, and rows change slots as needed. A run takes many rows of
one token, or one row of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
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
from edged.engines.context import affordable_context
from edged.engines.genai_config import ADAPTERS_GRAPH, CONTEXT_PROPERTY, read_config
from edged.engines.hf_vocab import HfVocab
from edged.engines.kv_buffers import KvBuffers
from edged.engines.machine import threads_for
from edged.engines.ort_adapters import OrtAdapters
from edged.engines.ort_graph import Names, choose_graph, gives_all_logits, precision_of, read_graph
from edged.engines.ort_session import SPIN_US, device_of, engine_version, open_session
from edged.engines.slots import Slots
from edged.errors import DeviceUnavailable, LoadFailed
from edged.types import LoadSpec

DEFAULT_ROWS = 8
STEP_TOKENS = 512
#: Memory of fewer dropped tokens is kept for what the row gets next: giving it back takes two calls a head and layer.
FORGET_TOKENS = 256
#: Masks are as wide as the longest row, in steps: for each new shape of its inputs the session plans its memory anew,
#: and keeps the plan.
MASK_TOKENS = 64

Ids = NDArray[np.int64]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """spin_us: microseconds that a waiting thread looks for work before it sleeps."""

    spin_us: Annotated[int, msgspec.Meta(ge=0)] = SPIN_US


class Decode:
    """One token for each of the slots low … high-1. All bindings are made once but the mask's, which grows: binding
    60 tensors anew costs about a tenth of a step."""

    def __init__(self, binding: Any, names: Names, logits: Logits) -> None:
        rows = len(logits)
        self.binding = binding
        self.logits = logits
        self._names = names
        self._ids = np.zeros((rows, 1), np.int64)
        self._positions = np.zeros((rows, 1), np.int64)
        self._mask = np.zeros((rows, 0), np.int64)
        self._columns = np.arange(0)
        self._every = np.arange(rows)
        _bind(binding, names.ids, self._ids)
        if names.positions:
            _bind(binding, names.positions, self._positions)
        if names.wanted:
            _bind(binding, names.wanted, self._every)
        shape = list(logits.shape) if names.wanted else [rows, 1, logits.shape[1]]
        binding.bind_output(names.logits, "cpu", 0, np.float32, shape, logits.ctypes.data)

    def fill(self, tokens: list[int], lengths: list[int], width: int) -> None:
        """lengths: of each row with its token."""
        if self._mask.shape[1] != width:
            self._mask = np.zeros((len(tokens), width), np.int64)
            self._columns = np.arange(width)
            _bind(self.binding, self._names.mask, self._mask)
        ends = np.array(lengths)[:, None]
        self._ids[:, 0] = tokens
        np.less(self._columns, ends, out=self._mask, casting="unsafe")
        if self._names.positions:
            np.subtract(ends, 1, out=self._positions)


class OrtGenerator:
    def __init__(
        self, session: Any, names: Names, kv: KvBuffers, caps: Capabilities, vocab: Vocab, *, adapters: OrtAdapters,
    ) -> None:
        self.caps = caps
        self._adapters = adapters
        self.vocab = vocab
        self._session = session
        self._names = names
        self._kv = kv
        # By slots and adapter, as what is bound is.
        self._decodes: dict[tuple[int, int, str | None], Decode] = {}
        # Of the last decode run: its rows in the caller's order and their adapter, which of them is in which place, and
        # where each is.
        self._arranged: tuple[list[int], str | None] = [], None
        self._current: Decode
        self._order: list[int] = []
        self._places: list[int] = []
        self._pieces: dict[tuple[int, str | None], Any] = {}
        self._lengths = [0] * caps.rows
        self._slots = Slots(caps.rows)
        self._logits = np.empty((caps.rows, vocab.size), np.float32)
        self._piece_logits = self._logits

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        if len(work) == 1 and len(work[0].tokens) > 1:
            return [self._piece(work[0])]
        if any(len(item.tokens) != 1 for item in work):
            raise EngineError("a run takes many rows of one token or one row of many")
        return self._decode(work)

    def trim(self, row: int, keep: int) -> int:
        length = self._lengths[row]
        if length - keep >= FORGET_TOKENS:
            self._kv.forget(self._slots[row], keep, length)
        self._lengths[row] = min(length, keep)
        return self._lengths[row]

    def fork(self, src: int, dst: int, keep: int) -> int:
        self._kv.copy(self._slots[src], self._slots[dst], keep)
        self._lengths[dst] = keep
        return keep

    def stash(self, row: int) -> State:
        return State(self._lengths[row], tuple(self._kv.read(self._slots[row], self._lengths[row])))

    def unstash(self, row: int, state: State) -> int:
        self._kv.write(self._slots[row], state.tokens, state.parts)
        self._lengths[row] = state.tokens
        return state.tokens

    def set_threads(self, threads: Threads) -> None:
        raise EngineError("a session of onnxruntime keeps the threads that it was made with")

    def close(self) -> None:
        self._decodes.clear()
        self._pieces.clear()
        self._kv.release()

    def warm(self) -> None:
        """The first run of a session is slow, and what it allocates stays."""
        self.step([RowWork(0, [0, 0], 1)])
        for rows in (1, self.caps.rows):
            self.step([RowWork(row, [0], 1) for row in range(rows)])
        for row in range(self.caps.rows):
            self.trim(row, 0)

    def _decode(self, work: Sequence[RowWork]) -> list[Logits]:
        rows, adapter = [item.row for item in work], work[0].adapter
        if (rows, adapter) != self._arranged:
            self._arrange(rows, adapter)
        lengths = [self._lengths[row] + 1 for row in rows]
        tokens = [item.tokens[0] for item in work]
        decode, order, places = self._current, self._order, self._places
        decode.fill([tokens[index] for index in order], [lengths[index] for index in order], self._width(max(lengths)))
        self._run(decode.binding)
        for row, length in zip(rows, lengths, strict=True):
            self._lengths[row] = length
        return [decode.logits[place:place + item.logits] for place, item in zip(places, work, strict=True)]

    def _arrange(self, rows: list[int], adapter: str | None) -> None:
        """Make the rows neighbours, and remember how they lie: mostly the next step has the same."""
        for one, other in self._slots.gather(rows):
            # The mapping says already whose KV it is then.
            holds, held = (self._lengths[self._slots.row_in(slot)] for slot in (other, one))
            self._kv.swap(one, holds, other, held)
        slots = [self._slots[row] for row in rows]
        low, high = min(slots), max(slots) + 1
        key = low, high, adapter
        if key not in self._decodes:
            self._decodes[key] = Decode(self._bound(*key), self._names, self._logits[: high - low])
        self._current = self._decodes[key]
        self._order = sorted(range(len(rows)), key=slots.__getitem__)
        self._places = [slot - low for slot in slots]
        self._arranged = rows, adapter

    def _piece(self, item: RowWork) -> Logits:
        slot, count = self._slots[item.row], len(item.tokens)
        start = self._lengths[item.row]
        end = start + count
        width = self._width(end)
        binding = self._pieces.get((slot, item.adapter))
        if binding is None:
            binding = self._pieces[slot, item.adapter] = self._bound(slot, slot + 1, item.adapter)
        # A session keeps no references: these arrays must outlive the run.
        ids = np.array(item.tokens, np.int64)[None]
        mask = (np.arange(width) < end).astype(np.int64)[None]
        positions = np.arange(start, end)[None]
        wanted = np.arange(count - max(item.logits, 1), count)
        _bind(binding, self._names.ids, ids)
        _bind(binding, self._names.mask, mask)
        if self._names.positions:
            _bind(binding, self._names.positions, positions)
        if self._names.wanted:
            _bind(binding, self._names.wanted, wanted)
            computed = len(wanted)
        else:
            computed = count if self.caps.all_logits else 1
        logits = self._room(computed)
        shape = list(logits.shape) if self._names.wanted else [1, *logits.shape]
        binding.bind_output(self._names.logits, "cpu", 0, np.float32, shape, logits.ctypes.data)
        self._run(binding)
        self._lengths[item.row] = end
        return logits[computed - item.logits:]

    def _run(self, binding: Any) -> None:
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise EngineError(f"onnxruntime: {error}") from error

    def _width(self, length: int) -> int:
        if length > self.caps.context:
            raise EngineError("a row is over its context")
        return min(-(-length // MASK_TOKENS) * MASK_TOKENS, self.caps.context)

    def _room(self, positions: int) -> Logits:
        """A buffer that stays: to take a hundred megabytes from the system for each piece costs as much as it does."""
        if positions > len(self._piece_logits):
            self._piece_logits = np.empty((positions, self.vocab.size), np.float32)
        return self._piece_logits[:positions]

    def _bound(self, low: int, high: int, adapter: str | None) -> Any:
        binding = self._session.io_binding()
        self._adapters.bind(binding, adapter)
        for layer, array in zip(self._kv.layers, self._kv.arrays, strict=True):
            rows = array[low:high]
            address, shape = rows.ctypes.data, list(rows.shape)
            binding.bind_input(layer.past, "cpu", 0, layer.kind, shape, address)
            binding.bind_output(layer.present, "cpu", 0, layer.kind, shape, address)
        return binding


def _bind(binding: Any, name: str, array: Ids) -> None:
    """The array's own memory, which must stay where it is as long as the binding is used."""
    binding.bind_input(name, "cpu", 0, np.int64, list(array.shape), array.ctypes.data)


def load(spec: LoadSpec, progress: Progress) -> Loaded:
    folder = Path(spec.path)
    try:
        options = msgspec.convert(spec.options, Options)
    except msgspec.ValidationError as error:
        raise LoadFailed(f"options of {spec.name}: {error}") from error
    if spec.provider != "cpu":
        raise DeviceUnavailable(
            f"{spec.name}: this engine keeps KV in the machine's memory and runs on cpu; for {spec.provider} there is "
            f"the engine genai")
    config = read_config(folder)
    graph = ADAPTERS_GRAPH if spec.adapters else choose_graph(folder, config)
    progress(0.0)
    threads = threads_for(spec)
    session = open_session(folder / graph, threads, spin_us=options.spin_us)
    progress(0.9)
    names, layers = read_graph(session, config.model.decoder, graph)
    adapters = OrtAdapters(session, spec.adapters)
    weights_bytes = adapters.size_bytes + sum(
        file.stat().st_size for file in folder.iterdir() if file.name.endswith((".onnx", ".onnx.data")))
    rows = spec.rows or DEFAULT_ROWS
    per_token = sum(layer.bytes_per_token for layer in layers)
    known = session.get_modelmeta().custom_metadata_map.get(CONTEXT_PROPERTY)
    trained = min(config.model.context_length, int(known)) if known else config.model.context
    context = affordable_context(spec, trained, rows * per_token, weights_bytes)
    caps = Capabilities(
        rows=rows, context=context, kv_tokens=rows * context, mixed_step=False, multi_token_rows=1,
        step_tokens=STEP_TOKENS, state_bytes_per_token=per_token, all_logits=names.wanted is not None
        or gives_all_logits(session, names, layers), adapters=adapters.names,
        threads=Threads(decode=threads, batch=threads),
    )
    vocab = HfVocab(folder, config.model.vocab_size, config.model.end)
    generator = OrtGenerator(session, names, KvBuffers(layers, rows, context), caps, vocab, adapters=adapters)
    try:
        generator.warm()
    except EngineError as error:
        raise LoadFailed(f"{graph} does not run: {error}") from error
    progress(1.0)
    return Loaded(generator, Facts(
        engine_version=engine_version(), device=device_of(session),
        precision=precision_of(layers), weights_bytes=weights_bytes, kv_bytes=caps.kv_tokens * per_token,
        state_format=" ".join([engine_version(), *(f"{one.heads}x{one.size}x{one.kind.__name__}" for one in layers)]),
    ))
