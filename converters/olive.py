# mypy: disable-error-code="import-untyped"
"""A Hugging Face folder into a complete ONNX folder, by Olive: the passes of a recipe in order, then the graph.

Passes run through Olive's own registry and configuration, one after another. Its workflow engine is not used: it
keeps every intermediate model in a cache, copies the result once more, and swallows what a pass raised (it ends with
exit code 0 and no model). What a pass made is looked at here: all files are there, and the graph loads.
"""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from converters.positions import gather_positions
from converters.quiet import quietly
from converters.recipe import Recipe
from edged.errors import EdgedError, InvalidRequest

if TYPE_CHECKING:
    from olive.hardware.accelerator import AcceleratorSpec
    from olive.model import OliveModelHandler

Progress = Callable[[float, str | None], None]

#: Device and execution provider by Olive's names.
_ACCELERATORS = {
    "cpu": ("cpu", "CPUExecutionProvider"),
    "cuda": ("gpu", "CUDAExecutionProvider"),
    "directml": ("gpu", "DmlExecutionProvider"),
    "webgpu": ("gpu", "WebGpuExecutionProvider"),
    "tensorrt-rtx": ("gpu", "NvTensorRTRTXExecutionProvider"),
    "qnn": ("npu", "QNNExecutionProvider"),
    "openvino": ("npu", "OpenVINOExecutionProvider"),
}
#: Our own passes, as Olive's registry wants them.
_PASSES = {name: f"converters.olive_passes.{name}" for name in ("EdgedBits", "EdgedGraph", "EdgedWeights")}
#: Passes of Olive that want a data set.
_CALIBRATING = ("Gptq",)
_NEEDED = ("genai_config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json")


class ConversionFailed(EdgedError):
    """Olive could not make the model; the message is its reason."""

    default_code = "conversion_failed"
    retry = False


def convert(
    hf_folder: Path, recipe: Recipe, out: Path, *, calibration: Path | None, work: Path, progress: Progress
) -> None:
    """Makes `out`, a folder as onnxruntime-genai's builder writes it: genai_config.json, model.onnx, model.onnx.data,
    tokenizer, chat template. It appears whole, by a rename, or not at all.

    hf_folder: safetensors only. calibration: a text of the user's, for a recipe that calibrates; None for the one that
    ships. work: a folder on the same file system as `out`, for what lies between; gone at the end. progress: called
    with 0 … 1 and what is being done. Blocks, in a process of its own: `converters.quiet` changes it. Raises
    ConversionFailed, InvalidRequest where the recipe is refused, and ConfigError for a mistake in the text.
    """
    if recipe.refused is not None:
        raise InvalidRequest(f"recipe {recipe.name} is not for here: {recipe.refused}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        made = _run(hf_folder, recipe, calibration, work, progress)
        _check(made, recipe)
        if recipe.positions:
            gather_positions(made)
        made.replace(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(1.0, None)


def _run(
    hf_folder: Path, recipe: Recipe, calibration: Path | None, work: Path, progress: Progress
) -> Path:
    """Returns the folder of the last pass."""
    steps = [dict(step) for step in recipe.passes]
    precision = "fp32" if recipe.weights and not recipe.passes else recipe.precision
    steps.append({"type": "EdgedGraph", "precision": precision, "builder": recipe.builder})
    if recipe.weights:
        steps.append({
            "type": "EdgedWeights", "rules": msgspec.to_builtins(recipe.weights), "smooth": recipe.smooth})
    done = 0

    def receive(line: str) -> None:
        if re.match(r"(Reading|Saving|Quantizing) ", line):
            progress(done / len(steps), line.removesuffix(" for GenAI").partition(" in /")[0])

    with quietly(receive):
        from olive.hardware.accelerator import AcceleratorSpec
        from olive.model import HfModelHandler

        accelerator = AcceleratorSpec(*_ACCELERATORS[recipe.target])
        if recipe.calibrates:
            from converters import olive_text

            for step in steps:
                if step["type"] in _CALIBRATING:
                    step["data_config"] = olive_text.data_config(hf_folder, calibration)
        model: OliveModelHandler = HfModelHandler(model_path=str(hf_folder))
        for done, step in enumerate(steps):
            model = _run_pass(step.pop("type"), step, model, work / f"{done}", accelerator=accelerator)
            gc.collect()
            if done:
                shutil.rmtree(work / f"{done - 1}", ignore_errors=True)
    return work / f"{done}"


def _run_pass(
    kind: str, settings: dict[str, Any], model: OliveModelHandler, folder: Path, *, accelerator: AcceleratorSpec
) -> OliveModelHandler:
    from olive.package_config import OlivePackageConfig
    from olive.passes import PassModuleConfig

    registry = OlivePackageConfig.load_default_config()
    for name, path in _PASSES.items():
        registry.passes[name.lower()] = PassModuleConfig(module_path=path, supported_providers=["*"])
    try:
        pass_class = registry.import_pass_module(kind)
        config = pass_class.generate_config(accelerator, settings, disable_search=True)
        if not pass_class.validate_config(config, accelerator):
            raise ConversionFailed(f"Olive refuses the settings of {kind} for {accelerator}: {settings}")
        return pass_class(accelerator, config).run(model, str(folder))
    except EdgedError:
        raise
    except Exception as error:
        raise ConversionFailed(f"{kind}: {error or type(error).__name__}") from error


def _check(folder: Path, recipe: Recipe) -> None:
    """What is served is complete, holds nothing else, and loads where the CPU can load it."""
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise ConversionFailed(f"Olive ended without {', '.join(missing)}")
    if recipe.target != "cpu":
        return
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConversionFailed(f"Olive made a model that onnxruntime cannot load: {error}") from error
