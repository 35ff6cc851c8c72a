"""Which inference packages are installed and what they were built for, told from their metadata and files.

Nothing is imported: the daemon loads no native inference library, and such a library that is broken on this machine
must not break the telling. As a program it prints this of the interpreter that it runs under, as JSON.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

import msgspec

from edged.hardware.facts import Software

_DISTRIBUTIONS = (
    "llama-cpp-python", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn",
    "onnxruntime-directml", "onnxruntime-migraphx", "onnxruntime-webgpu", "onnxruntime-ep-webgpu",
    "onnxruntime-ep-openvino", "onnxruntime-ep-nv-tensorrt-rtx-cu12", "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml", "llguidance", "tokenizers",
    "nvidia-ml-py",
)
#: Providers that are part of the main library of a distribution, or in a package of their own, so that no file beside
#: the main library tells.
_BUILT_IN = {
    "onnxruntime-directml": "DirectML", "onnxruntime-qnn": "QNN", "onnxruntime-webgpu": "WebGPU",
    "onnxruntime-ep-webgpu": "WebGPU", "onnxruntime-ep-openvino": "OpenVINO",
    "onnxruntime-ep-nv-tensorrt-rtx-cu12": "NvTensorRTRTX", "onnxruntime-ep-nv-tensorrt-rtx-cu13": "NvTensorRTRTX",
}
_PROVIDER_NAMES = {"cuda": "CUDA", "tensorrt": "TensorRT", "openvino": "OpenVINO", "migraphx": "MIGraphX",
                   "qnn": "QNN", "nv_tensorrt_rtx": "NvTensorRTRTX", "vitisai": "VitisAI", "webgpu": "WebGPU"}


def installed() -> Software:
    versions = {name: version for name in _DISTRIBUTIONS if (version := _version(name)) is not None}
    return Software(
        versions=versions,
        llama_backends=llama_backends(_package("llama_cpp")),
        ort_providers=ort_providers(_package("onnxruntime"), versions),
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(module: str) -> Path | None:
    """The folder of a top-level package, found without importing it."""
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def llama_backends(package: Path | None) -> tuple[str, ...]:
    """By the files `libggml-<backend>`; builds for several CPUs ship one `libggml-cpu-<kind>` for each."""
    if package is None:
        return ()
    names = (re.match(r"(?:lib)?ggml-([a-z0-9]+)", path.name) for path in package.glob("lib/*ggml-*"))
    found = {name[1] for name in names if name and name[1] != "base"}
    if not found and any(package.glob("lib/*llama*")):
        found = {"cpu"}
    return tuple(sorted(found, key=lambda name: (name == "cpu", name)))


def ort_providers(package: Path | None, versions: dict[str, str]) -> tuple[str, ...]:
    """By the files `libonnxruntime_providers_<name>`; CPU is always there, last."""
    if package is None:
        return ()
    found = {name for distribution, name in _BUILT_IN.items() if distribution in versions}
    for path in package.glob("capi/*onnxruntime_providers_*"):
        name = re.match(r"(?:lib)?onnxruntime_providers_([a-z_]+)", path.name)
        if name and name[1] != "shared":
            found.add(_PROVIDER_NAMES.get(name[1], name[1]))
    return (*sorted(found), "CPU")


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(installed()))
