"""onnxruntime-genai's own generator behind the seam: what it refuses, and what is left after a failure. What it shares
with every engine is in test_engine_seam."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from edged.engines import load
from edged.engines.base import Capabilities, DeviceLost, EngineError, RowWork
from edged.engines.fake import FakeVocab
from edged.engines.genai import GenaiGenerator
from edged.errors import DeviceUnavailable
from edged.types import EngineName, LoadSpec

pytestmark = pytest.mark.real


@pytest.mark.parametrize("provider", ["cuda", "directml", "webgpu", "qnn", "openvino", "tensorrt-rtx", "vulkan"])
@pytest.mark.parametrize("engine", ["genai", "ort"])
def test_a_provider_that_is_not_here_is_refused_by_name_and_the_processor_does_not_step_in(
    tiny_onnx: LoadSpec, engine: EngineName, provider: str,
) -> None:
    with pytest.raises(DeviceUnavailable, match=provider) as refused:
        load(msgspec.structs.replace(tiny_onnx, engine=engine, provider=provider), lambda fraction: None)
    assert "/" not in refused.value.message.replace("and/or", "")


def test_the_device_is_what_onnxruntime_genai_says_it_runs_on(
    tiny_genai: LoadSpec, monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load(tiny_genai, lambda fraction: None).facts.device == "cpu"

    class Config:
        def __init__(self, folder: str) -> None: ...
        def clear_providers(self) -> None: ...
        def append_provider(self, name: str) -> None: ...

    class Model:
        device_type = "CPU"

        def __init__(self, config: Config) -> None: ...

    monkeypatch.setattr("onnxruntime_genai.Config", Config)
    monkeypatch.setattr("onnxruntime_genai.Model", Model)
    with pytest.raises(DeviceUnavailable, match="was to run on cuda, but onnxruntime-genai runs it on cpu"):
        load(msgspec.structs.replace(tiny_genai, provider="cuda"), lambda fraction: None)


def test_a_row_over_its_context_fails_and_the_row_works_again_afterwards(tiny_genai: LoadSpec) -> None:
    generator = load(msgspec.structs.replace(tiny_genai, context=32), lambda fraction: None).generator
    tokens = [(index * 7) % 400 + 5 for index in range(30)]
    expected = generator.step([RowWork(0, tokens, 1)])[0].copy()
    with pytest.raises(EngineError, match="over its context"):
        generator.step([RowWork(0, [5] * 3, 1)])
    assert generator.trim(0, 0) == 0
    assert np.array_equal(generator.step([RowWork(0, tokens, 1)])[0], expected)


class Broken:
    """A Generator whose device is gone."""

    def __init__(self, message: str) -> None:
        self._message = message

    def token_count(self) -> int:
        return 3

    def append_tokens(self, tokens: Any) -> None:
        raise RuntimeError(self._message)

    def rewind_to(self, length: int) -> None:
        raise RuntimeError(self._message)


@pytest.mark.parametrize(("message", "kind"), [
    ("CUDA failure 999: unknown error ; GPU=0 ; expr=cudaStreamSynchronize(stream)", DeviceLost),
    ("/src/dml/device.cpp(12): 887A0005: DXGI_ERROR_DEVICE_REMOVED", DeviceLost),
    ("WebGPU device lost (2): Device was destroyed.", DeviceLost),
    ("CUDA failure 2: out of memory ; GPU=0", EngineError),
    ("input_ids size (200) + current sequence length (20) exceeds max length (128)", EngineError),
])
def test_a_lost_device_is_told_from_a_step_that_failed(message: str, kind: type[EngineError]) -> None:
    caps = Capabilities(rows=1, context=64, kv_tokens=64, mixed_step=False, multi_token_rows=1, step_tokens=64,
                        state_bytes_per_token=1, moves_kv=False)
    generator = GenaiGenerator(lambda: Broken(message), "logits", caps, FakeVocab())
    with pytest.raises(EngineError) as failed:
        generator.step([RowWork(0, [5, 6], 1)])
    assert failed.type is kind
    assert "/src" not in str(failed.value)
    assert generator.trim(0, 0) == 0
