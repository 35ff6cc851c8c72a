# mypy: disable-error-code="import-untyped"
"""Our passes, registered with Olive; only Olive imports this module.

EdgedGraph: Olive 0.13's own ModelBuilder pass breaks with onnxruntime-genai 0.15 and later, whose builder takes its
options otherwise. EdgedWeights: what `converters.graph_weights` says.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import onnxruntime_genai.models.builder as genai_builder
from olive.hardware.accelerator import AcceleratorSpec
from olive.hardware.constants import ExecutionProvider
from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes import Pass
from olive.passes.olive_pass import PassConfigParam
from olive.passes.pass_config import BasePassConfig

from converters import graph_weights
from converters.recipe import WeightRule


class EdgedGraph(Pass):  # type: ignore[misc]
    """HF model, plain or quantized by Olive, → the folder that onnxruntime-genai loads."""

    PROVIDERS: ClassVar[dict[str, str]] = {
        ExecutionProvider.CPUExecutionProvider: "cpu",
        ExecutionProvider.CUDAExecutionProvider: "cuda",
        ExecutionProvider.DmlExecutionProvider: "dml",
        ExecutionProvider.WebGpuExecutionProvider: "webgpu",
        ExecutionProvider.NvTensorRTRTXExecutionProvider: "NvTensorRtRtx",
    }

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "precision": PassConfigParam(type_=str, required=True, description="int4, int8, bf16, fp16 or fp32"),
            "builder": PassConfigParam(type_=dict[str, Any], default_value={}, description="the builder's options"),
        }

    @staticmethod
    def is_accelerator_agnostic(accelerator_spec: AcceleratorSpec) -> bool:
        return False

    def _run_for_config(
        self, model: HfModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        settings: Any = config
        provider = self.PROVIDERS.get(self.accelerator_spec.execution_provider)
        if provider is None:
            raise ValueError(f"onnxruntime-genai's builder has no {self.accelerator_spec.execution_provider}")
        folder = Path(output_model_path)
        cache = folder.with_name("cache")
        source = str(model.model_name_or_path)
        written = [f"{key}={_written(value)}" for key, value in settings.builder.items()]
        options = genai_builder.parse_extra_options(
            "", source, str(folder), settings.precision, provider, str(cache), written)
        genai_builder.create_model(
            "", source, str(folder), settings.precision, provider, str(cache), **options)
        return ONNXModelHandler(model_path=str(folder), onnx_file_name="model.onnx")



class EdgedWeights(Pass):  # type: ignore[misc]
    """The folder that EdgedGraph made in 32 bits → the same with weights in 4 and 8 bits."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "rules": PassConfigParam(type_=list[dict[str, Any]], required=True, description="WeightRule as tables"),
            "smooth": PassConfigParam(type_=bool, default_value=False, description="make channels more alike"),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        settings: Any = config
        made, folder = Path(model.model_path).parent, Path(output_model_path)
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns("*.onnx", "*.onnx.data"))
        rules = msgspec.convert(settings.rules, list[WeightRule])
        graph_weights.quantize(made, folder, rules, smooth=settings.smooth, tell=print)
        return ONNXModelHandler(model_path=str(folder), onnx_file_name="model.onnx")


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
