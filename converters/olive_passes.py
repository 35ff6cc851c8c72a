# mypy: disable-error-code="import-untyped"
"""Our passes, registered with Olive; only Olive imports this module.

EdgedBits: Olive's Gptq takes bits by the full name of a module; here by a pattern of names. EdgedGraph: Olive 0.13's
own ModelBuilder pass breaks with onnxruntime-genai 0.15 and later, whose builder takes its options otherwise.
EdgedWeights: what `converters.graph_weights` says.
"""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import onnxruntime_genai.models.builder as genai_builder
import torch
from olive.hardware.accelerator import AcceleratorSpec
from olive.hardware.constants import ExecutionProvider
from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes import Pass
from olive.passes.olive_pass import PassConfigParam
from olive.passes.pass_config import BasePassConfig

from converters import graph_weights
from converters.recipe import WeightRule


class EdgedBits(Pass):  # type: ignore[misc]
    """Marks modules of a Hugging Face model for other bits than the pass that follows gives to all."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "match": PassConfigParam(type_=str, required=True, description="regular expression, found in their names"),
            "bits": PassConfigParam(type_=int, required=True, description="4 or 8"),
        }

    def _run_for_config(
        self, model: HfModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> HfModelHandler:
        settings: Any = config
        names = [
            name for name, module in model.load_model(cache_model=False).named_modules()
            if isinstance(module, torch.nn.Linear) and re.search(settings.match, name)
        ]
        marked = copy.copy(model)
        marked.model_attributes = {
            **(model.model_attributes or {}),
            "mixed_precision_info": {"default": {}, "overrides": {name: {"bits": settings.bits} for name in names}},
        }
        return marked


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
        _as_the_builder_reads(options["hf_details"]["hf_config"])
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


def _as_the_builder_reads(config: Any) -> None:
    """The builder asks for names of transformers 4, which configurations saved by transformers 5 have no more."""
    rope = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in rope:
        config.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]
        config.rope_theta = rope["full_attention"]["rope_theta"]
        rope = config.rope_parameters = rope["full_attention"]
    if "rope_type" in rope:
        rope.setdefault("type", rope["rope_type"])
    if rope.get("rope_type") == "default" and hasattr(config, "original_max_position_embeddings"):
        # Of Phi 3: where they differ the builder looks for a second rotary table, which only `longrope` has.
        config.original_max_position_embeddings = config.max_position_embeddings


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
