"""Engines behind one seam (`base`). Each module imports one native library, and only a worker imports the module."""

from __future__ import annotations

from importlib import import_module

from edged.engines.base import Load, Loaded, Progress
from edged.types import LoadSpec

_MODULES = {
    "llama": "edged.engines.llama", "ort": "edged.engines.ort", "genai": "edged.engines.genai",
    "fake": "edged.engines.fake",
}


def load(spec: LoadSpec, progress: Progress) -> Loaded:
    """Load one model with the engine that `spec` names. Raises LoadFailed, InsufficientMemory or
    DeviceUnavailable."""
    engine_load: Load = import_module(_MODULES[spec.engine]).load
    return engine_load(spec, progress)
