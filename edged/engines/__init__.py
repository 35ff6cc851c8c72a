"""Engines behind one seam (`base`). Each module imports one native library, and only a worker imports the module."""

from __future__ import annotations

import os
from importlib import import_module

from edged.engines.base import Load, Loaded, LoadedEmbedder, LoadEmbedder, Progress
from edged.errors import LoadFailed
from edged.types import LoadSpec

_MODULES = {
    "llama": "edged.engines.llama", "ort": "edged.engines.ort", "genai": "edged.engines.genai",
    "fake": "edged.engines.fake",
}


_EMBEDDERS = {
    "llama": "edged.engines.llama_embed", "ort": "edged.engines.ort_embed", "fake": "edged.engines.fake_embed",
}


def load(spec: LoadSpec, progress: Progress) -> Loaded:
    """Load one model with the engine that `spec` names. Raises LoadFailed, InsufficientMemory or
    DeviceUnavailable."""
    if spec.engine == "llama" and "spin_count" in spec.options:
        # OpenMP reads it once, when llama.cpp's library brings it in.
        os.environ["GOMP_SPINCOUNT"] = str(spec.options["spin_count"])
    engine_load: Load = import_module(_MODULES[spec.engine]).load
    return engine_load(spec, progress)


def load_embedder(spec: LoadSpec, progress: Progress) -> LoadedEmbedder:
    """As `load`, of a model for embeddings or reranking."""
    if spec.engine not in _EMBEDDERS:
        raise LoadFailed(f"{spec.name}: the engine {spec.engine} has no embeddings; they run on llama and ort")
    engine_load: LoadEmbedder = import_module(_EMBEDDERS[spec.engine]).load
    return engine_load(spec, progress)
