"""Continuous batching over a ModelBuilder graph (onnxruntime-genai) with a plain onnxruntime session, on CPU.

Past and present of every layer are bound to one buffer [slots, kv_heads, context, head_size], so KV grows in place;
GroupQueryAttention takes each row's length from its attention mask, so the rows of a batch may differ in length. The
rows of one run must be neighbours in the buffer: a row's *slot* is its place there, and rows change slots as needed.
A run takes many rows of one token, or one row of many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.engines.base import Capabilities, EngineError, Facts, Loaded, Logits, Progress, RowWork, State, Vocab
from edged.engines.hf_vocab import HfVocab, read_json
from edged.engines.slots import Slots
from edged.errors import InsufficientMemory, LoadFailed
from edged.hardware.probe import probe
from edged.types import LoadSpec

DEFAULT_ROWS = 8
STEP_TOKENS = 512
#: Without a memory bound the KV buffers of all rows together stay below this; only touched pages become resident.
KV_LIMIT_BYTES = 4 << 30

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Decoder(msgspec.Struct, frozen=True):
    """The part of genai_config.json that describes the graph."""

    filename: str
    num_hidden_layers: int
    num_key_value_heads: int
    head_size: int
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}


class Model(msgspec.Struct, frozen=True):
    decoder: Decoder
    vocab_size: int
    context_length: int
    eos_token_id: int | list[int] = []


class GenaiConfig(msgspec.Struct, frozen=True):
    model: Model


class OrtGenerator:
    def __init__(self, session: Any, model: Model, caps: Capabilities, vocab: Vocab) -> None:
        self.caps = caps
        self.vocab = vocab
        self._session = session
        self._inputs = {one.name: one.type for one in session.get_inputs()}
        decoder = model.decoder
        self._ids = decoder.inputs.get("input_ids", "input_ids")
        self._mask = decoder.inputs.get("attention_mask", "attention_mask")
        self._positions = decoder.inputs.get("position_ids", "position_ids")
        self._logits = decoder.outputs.get("logits", "logits")
        shape = (caps.rows, decoder.num_key_value_heads, caps.context, decoder.head_size)
        self._buffers: list[tuple[str, str, NDArray[Any]]] = []
        for part in ("key", "value"):
            past = decoder.inputs.get(f"past_{part}_names", f"past_key_values.%d.{part}")
            present = decoder.outputs.get(f"present_{part}_names", f"present.%d.{part}")
            for layer in range(decoder.num_hidden_layers):
                kind = _TYPES[self._inputs[past % layer]]
                self._buffers.append((past % layer, present % layer, np.zeros(shape, kind)))
        self._bindings: dict[tuple[int, int], Any] = {}
        self._lengths = [0] * caps.rows
        self._slots = Slots(caps.rows)

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        tokens = len(work[0].tokens)
        if len(work) > 1 and any(len(item.tokens) != 1 for item in work):
            raise EngineError("a run takes many rows of one token or one row of many")
        for one, other in self._slots.gather(item.row for item in work):
            self._swap(one, other)
        first = min(self._slots[item.row] for item in work)
        in_order = sorted(work, key=lambda item: self._slots[item.row])
        lengths = [self._lengths[item.row] + tokens for item in in_order]
        if max(lengths) > self.caps.context:
            raise EngineError("a row is over its context")
        logits = self._run(first, np.array([item.tokens for item in in_order], np.int64), lengths)
        for item in work:
            self._lengths[item.row] += tokens
        return [
            logits[self._slots[item.row] - first, logits.shape[1] - item.logits:]
            if item.logits else np.empty((0, self.vocab.size), np.float32)
            for item in work
        ]

    def trim(self, row: int, keep: int) -> int:
        self._lengths[row] = min(self._lengths[row], keep)
        return self._lengths[row]

    def fork(self, src: int, dst: int, keep: int) -> int:
        source, target = self._slots[src], self._slots[dst]
        for _, _, buffer in self._buffers:
            buffer[target, :, :keep] = buffer[source, :, :keep]
        self._lengths[dst] = keep
        return keep

    def stash(self, row: int) -> State:
        slot, length = self._slots[row], self._lengths[row]
        data = [buffer[slot, :, :length].copy() for _, _, buffer in self._buffers]
        return State(length, data, sum(part.nbytes for part in data))

    def unstash(self, row: int, state: State) -> int:
        parts: Any = state.data
        slot = self._slots[row]
        for (_, _, buffer), part in zip(self._buffers, parts, strict=True):
            buffer[slot, :, : state.tokens] = part
        self._lengths[row] = state.tokens
        return state.tokens

    def close(self) -> None:
        self._bindings.clear()
        self._buffers.clear()

    def probe_logits(self) -> int:
        """Positions that a run of two tokens gives logits for: 1 where the graph was built with prune_lm_head."""
        feeds: dict[str, NDArray[Any]] = {
            self._ids: np.zeros((1, 2), np.int64), self._mask: np.ones((1, 2), np.int64)}
        if self._positions in self._inputs:
            feeds[self._positions] = np.arange(2, dtype=np.int64)[None]
        for past, _, buffer in self._buffers:
            feeds[past] = buffer[:1, :, :0]
        positions: int = self._session.run([self._logits], feeds)[0].shape[1]
        return positions

    def _run(self, first: int, ids: NDArray[np.int64], lengths: list[int]) -> Logits:
        """ids [rows, tokens]; lengths: of each row with these tokens. Returns [rows, tokens or 1, vocab]."""
        rows, tokens = ids.shape
        binding = self._binding(first, first + rows)
        ends = np.asarray(lengths)
        binding.bind_cpu_input(self._ids, ids)
        binding.bind_cpu_input(self._mask, (np.arange(max(lengths)) < ends[:, None]).astype(np.int64))
        if self._positions in self._inputs:
            binding.bind_cpu_input(self._positions, (ends[:, None] - tokens + np.arange(tokens)).astype(np.int64))
        positions = tokens if self.caps.all_logits else 1
        logits = np.empty((rows, positions, self.vocab.size), np.float32)
        binding.bind_output(self._logits, "cpu", 0, np.float32, list(logits.shape), logits.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise EngineError(f"onnxruntime: {error}") from error
        return logits

    def _binding(self, low: int, high: int) -> Any:
        """Binding 60 tensors anew costs about a tenth of a step, so bindings are kept."""
        if (kept := self._bindings.get((low, high))) is not None:
            return kept
        binding = self._bindings[low, high] = self._session.io_binding()
        for past, present, buffer in self._buffers:
            rows = buffer[low:high]
            address, shape = rows.ctypes.data, list(rows.shape)
            binding.bind_input(past, "cpu", 0, buffer.dtype.type, shape, address)
            binding.bind_output(present, "cpu", 0, buffer.dtype.type, shape, address)
        return binding

    def _swap(self, one: int, other: int) -> None:
        """Two slots exchange their KV; the mapping says already whose it is then."""
        first, second = (self._lengths[self._slots.row_in(slot)] for slot in (other, one))
        for _, _, buffer in self._buffers:
            kept = buffer[one, :, :first].copy()
            buffer[one, :, :second] = buffer[other, :, :second]
            buffer[other, :, :first] = kept


def load(spec: LoadSpec, progress: Progress) -> Loaded:
    folder = Path(spec.path)
    if spec.options:
        raise LoadFailed(f"options of {spec.name}: this engine has none, but {', '.join(spec.options)} was given")
    model = _config(folder)
    decoder = model.decoder
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = spec.threads or probe().cpu.threads
    progress(0.0)
    try:
        session = onnxruntime.InferenceSession(
            str(folder / decoder.filename), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise LoadFailed(f"onnxruntime cannot load {decoder.filename}: {error}") from error
    progress(1.0)
    kv_type = next((one.type for one in session.get_inputs() if "key" in one.name), "")
    if kv_type not in _TYPES:
        raise LoadFailed(f"{decoder.filename} is not a graph with past_key_values that this engine can run")
    value_bytes = np.dtype(_TYPES[kv_type]).itemsize
    per_token = 2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_size * value_bytes
    weights_bytes = sum(file.stat().st_size for file in folder.iterdir() if ".onnx" in file.name)
    rows = spec.rows or DEFAULT_ROWS
    context = _context(spec, model.context_length, rows * per_token, weights_bytes)
    end = [model.eos_token_id] if isinstance(model.eos_token_id, int) else model.eos_token_id
    vocab = HfVocab(folder, model.vocab_size, frozenset(end))
    caps = Capabilities(
        rows=rows, context=context, kv_tokens=rows * context, mixed_step=False, multi_token_rows=1,
        step_tokens=STEP_TOKENS, state_bytes_per_token=per_token, all_logits=True,
    )
    generator = OrtGenerator(session, model, caps, vocab)
    if generator.probe_logits() == 1:
        generator.caps = dataclasses.replace(caps, all_logits=False)
    return Loaded(generator, Facts(
        engine_version=f"onnxruntime {onnxruntime.__version__}",
        device=session.get_providers()[0].removesuffix("ExecutionProvider").lower(),
        precision=_precision(session), weights_bytes=weights_bytes, kv_bytes=caps.kv_tokens * per_token,
    ))


def _config(folder: Path) -> Model:
    try:
        return msgspec.convert(read_json(folder / "genai_config.json"), GenaiConfig).model
    except msgspec.ValidationError as error:
        raise LoadFailed(f"genai_config.json: {error}") from error


def _context(spec: LoadSpec, trained: int, bytes_per_token: int, weights_bytes: int) -> int:
    """Tokens of each row: what was asked for, else the trained context, as far as memory allows."""
    room = spec.memory_bytes - int(weights_bytes * 1.2) if spec.memory_bytes else KV_LIMIT_BYTES
    affordable = room // bytes_per_token
    wanted = min(spec.context or trained, trained)
    if affordable < min(wanted, 512) or (spec.context is not None and affordable < wanted):
        need = int(weights_bytes * 1.2) + bytes_per_token * wanted
        raise InsufficientMemory(
            f"{spec.name} with a context of {wanted} tokens needs about {need >> 20} MiB and may use "
            f"{spec.memory_bytes >> 20} MiB; lower `context` or `rows`"
        )
    return min(wanted, affordable)


def _precision(session: Any) -> str:
    """From the graph's inputs all that can be told is the type of activations; the manifest knows the weights'."""
    return "fp16" if any(one.type == "tensor(float16)" for one in session.get_inputs()) else "fp32"
