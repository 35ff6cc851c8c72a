"""onnxruntime-genai's own generator, for providers whose KV lives on the device: cuda, directml, webgpu, qnn, openvino.

Each row is a Generator of its own, so a step of many rows runs them one after another: they share weights and turns,
not work. KV cannot leave a Generator: a fork and an unstash keep nothing, and what they would have held is computed
again, in pieces. A Generator reserves KV for its whole context when it is made, which is at a row's first token. It
holds Python's GIL while it works, so that a piece also delays the worker's other threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai

from edged.engines.base import (
    Capabilities,
    DeviceLost,
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
from edged.engines.genai_config import read_config
from edged.engines.hf_vocab import HfVocab
from edged.errors import DeviceUnavailable, LoadFailed
from edged.types import LoadSpec

DEFAULT_ROWS = 4
STEP_TOKENS = 256

#: What genai calls a provider when it is asked for, and what it then says of the model, in lower case.
_PROVIDERS = {
    "cpu": (None, "cpu"),
    "cuda": ("cuda", "cuda"),
    "directml": ("dml", "dml"),
    "webgpu": ("WebGPU", "webgpu"),
    "qnn": ("QNN", "qnn"),
    "openvino": ("OpenVINO", "openvino"),
    "tensorrt-rtx": ("NvTensorRtRtx", "nvtensorrtrtx"),
}

#: What drivers say when the device or its context is gone for good: every code of CUDA but "out of memory", and those
#: of Direct3D and WebGPU.
_LOST = re.compile(
    r"CUDA failure (?!2\b)\d+|DXGI_ERROR_DEVICE_(?:REMOVED|HUNG|RESET)|887A000[567]|device (?:was )?lost", re.I)


class GenaiGenerator:
    def __init__(self, make: Callable[[], Any], logits: str, caps: Capabilities, vocab: Vocab) -> None:
        """make: a new Generator with room for caps.context tokens. logits: the name of the graph's output."""
        self.caps = caps
        self.vocab = vocab
        self._make = make
        self._logits = logits
        self._rows: list[Any | None] = [None] * caps.rows

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        if len(work) > 1 and any(len(item.tokens) != 1 for item in work):
            raise EngineError("a step takes many rows of one token or one row of many")
        return [self._append(item) for item in work]

    def trim(self, row: int, keep: int) -> int:
        generator = self._rows[row]
        if generator is None:
            return 0
        if keep < generator.token_count():
            try:
                # The logits are those of what is gone; nobody reads them before the row's next tokens.
                generator.rewind_to(keep)
            except Exception:
                # Windows and recurrent states cannot go back, and a step that failed may leave anything.
                self._rows[row] = None
        return self._length(row)

    def fork(self, src: int, dst: int, keep: int) -> int:
        return 0

    def stash(self, row: int) -> State:
        raise EngineError("KV cannot leave a generator of onnxruntime-genai")

    def unstash(self, row: int, state: State) -> int:
        return 0

    def set_threads(self, threads: Threads) -> None:
        raise EngineError("onnxruntime-genai keeps the threads that its model was loaded with")

    def close(self) -> None:
        self._rows.clear()

    def _length(self, row: int) -> int:
        generator = self._rows[row]
        return 0 if generator is None else int(generator.token_count())

    def _append(self, item: RowWork) -> Logits:
        if self._length(item.row) + len(item.tokens) > self.caps.context:
            raise EngineError("a row is over its context")
        with _engine_errors():
            generator = self._rows[item.row]
            if generator is None:
                generator = self._rows[item.row] = self._make()
            generator.append_tokens(np.asarray(item.tokens, np.int32))
            if not item.logits:
                return np.empty((0, self.vocab.size), np.float32)
            # The last position alone costs less to bring from the device.
            found = generator.get_logits() if item.logits == 1 else generator.get_output(self._logits)
        logits: Logits = np.asarray(found, np.float32).reshape(-1, self.vocab.size)
        return logits[-item.logits:]


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        kind = DeviceLost if _LOST.search(str(error)) else EngineError
        raise kind(f"onnxruntime-genai: {_without_paths(error)}") from error


def load(spec: LoadSpec, progress: Progress) -> Loaded:
    if spec.options:
        raise LoadFailed(f"options of {spec.name}: this engine has none, but {', '.join(spec.options)} was given")
    if spec.adapters:
        names = ", ".join(adapter.name for adapter in spec.adapters)
        raise LoadFailed(f"{spec.name} has adapters ({names}), which this engine does not serve; on cpu the engine ort "
                         "does, or merge them")
    folder = Path(spec.path)
    config = read_config(folder)
    progress(0.0)
    model = _model(spec, folder)
    progress(1.0)
    # Half of what 32 bits take on devices, but nothing says so before a Generator is made.
    per_token = 2 * 4 * config.model.decoder.num_hidden_layers * (
        config.model.decoder.num_key_value_heads * config.model.decoder.head_size)
    weights_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.name.endswith((".onnx", ".onnx.data")))
    rows = spec.rows or DEFAULT_ROWS
    context = affordable_context(spec, config.model.context, rows * per_token, weights_bytes)

    def make() -> Any:
        parameters = onnxruntime_genai.GeneratorParams(model)
        # Without it KV is reserved for the longest context that the model knows.
        parameters.set_search_options(max_length=context)
        return onnxruntime_genai.Generator(model, parameters)

    logits = config.model.decoder.outputs.get("logits", "logits")
    all_logits, precision = _probe(make, logits)
    caps = Capabilities(
        rows=rows, context=context, kv_tokens=rows * context, mixed_step=False, multi_token_rows=1,
        step_tokens=STEP_TOKENS, state_bytes_per_token=per_token, all_logits=all_logits, moves_kv=False,
    )
    vocab = HfVocab(folder, config.model.vocab_size, config.model.end)
    return Loaded(GenaiGenerator(make, logits, caps, vocab), Facts(
        engine_version=f"onnxruntime-genai {onnxruntime_genai.__version__}", device=spec.provider,
        precision=precision, weights_bytes=weights_bytes, kv_bytes=caps.kv_tokens * per_token,
    ))


def _model(spec: LoadSpec, folder: Path) -> Any:
    """Raises DeviceUnavailable where the provider is not there or something else runs the model, LoadFailed else."""
    if spec.provider not in _PROVIDERS:
        raise DeviceUnavailable(
            f"{spec.name}: onnxruntime-genai has no provider {spec.provider}; it knows {', '.join(_PROVIDERS)}")
    asked, attested = _PROVIDERS[spec.provider]
    try:
        config = onnxruntime_genai.Config(str(folder))
        config.clear_providers()
        if asked is not None:
            config.append_provider(asked)
        model = onnxruntime_genai.Model(config)
    except Exception as error:
        if asked is None:
            raise LoadFailed(f"onnxruntime-genai cannot load {spec.file}: {_without_paths(error)}") from error
        raise DeviceUnavailable(
            f"{spec.name} cannot run on {spec.provider} here: {_without_paths(error)}; "
            f"see `edged hardware`, and `edged engine list` for what can be installed") from error
    runs_on = str(model.device_type).lower()
    if not runs_on.startswith(attested):
        raise DeviceUnavailable(
            f"{spec.name} was to run on {spec.provider}, but onnxruntime-genai runs it on {runs_on}; nothing is served")
    return model


def _probe(make: Callable[[], Any], logits: str) -> tuple[bool, str]:
    """Whether two tokens give logits for both (not where the graph was built with prune_lm_head), and the precision
    of the graph's logits. Raises LoadFailed where the graph loads and does not run: half precision on a processor fails
    at the first token after the prompt."""
    try:
        generator = make()
        generator.append_tokens(np.zeros(2, np.int32))
        found = np.asarray(generator.get_output(logits))
        generator.append_tokens(np.zeros(1, np.int32))
        generator.get_logits()
    except Exception as error:
        raise LoadFailed(f"the graph loads but does not run: {_without_paths(error)}") from error
    return found.shape[1] == 2, {"float16": "fp16", "float32": "fp32"}.get(found.dtype.name, found.dtype.name)


def _without_paths(error: Exception) -> str:
    """Its message reaches clients, which need not know where things lie."""
    return re.sub(r"(?:[A-Za-z]:)?(?:[\\/][\w.+@-]+)+[\\/]", "", str(error)).strip()
