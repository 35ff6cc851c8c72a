"""What a manifest says of how a version was made, and which version an equal conversion has made already."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import msgspec

from converters.recipe import Recipe
from converters.work import Work
from edged.errors import ModelNotFound
from edged.hardware.facts import Facts
from edged.hardware.place import places
from edged.store.lineage import ConversionSpec, ConvertedSource
from edged.types import EngineName
from edged.version import VERSION

#: Distributions that decide what comes out, by what is made.
_TOOLS = {
    "onnx": ("olive-ai", "onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "transformers", "torch", "peft"),
    "gguf": ("llama-cpp-python", "gguf", "transformers", "torch", "peft"),
}


def engine_of(recipe: Recipe) -> EngineName:
    return "llama" if recipe.format == "gguf" else "ort"


def runs_here(recipe: Recipe, facts: Facts) -> bool:
    """False for what is built for a device that is not in this machine: nobody can say here how good it is."""
    return any(place.refused is None and (recipe.format == "gguf" or place.provider == recipe.target)
               for place in places(facts, engine_of(recipe), recipe.target))


def settings_of(recipe: Recipe, spec: ConversionSpec) -> dict[str, object]:
    """All that decides the result besides source and tools: the recipe, and digests of the user's texts."""
    said: dict[str, object] = msgspec.json.decode(msgspec.json.encode(recipe))
    settings = {name: value for name, value in said.items() if name not in ("name", "title", "refused")}
    for name, path in (("calibration", spec.calibration), ("tasks", spec.tasks)):
        if path is not None:
            settings[name] = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if Path(path).is_file() else None
    return settings


def tools_of(recipe: Recipe) -> dict[str, str]:
    found = {"edged": VERSION}
    for name in _TOOLS[recipe.format]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def already_made(work: Work, source: ConvertedSource) -> str | None:
    """The version that was made of the same files with the same recipe, texts and tools, and measured: another
    conversion would only make it again. Then it is asked for to be activated."""
    try:
        versions = work.store.versions(work.spec.name)
    except ModelNotFound:
        return None
    settings, tools = settings_of(work.recipe, work.spec), tools_of(work.recipe)
    for manifest in reversed(versions):
        made = manifest.conversion
        if made is not None and isinstance(manifest.source, ConvertedSource) and (
            (manifest.source.base_digest, made.recipe) == (source.base_digest, work.recipe.name)
            and [each.sha256 for each in manifest.source.adapters] == [each.sha256 for each in source.adapters]
            and (made.settings, made.tools) == (settings, tools)
            and (manifest.verdict is not None or manifest.never_run)
        ):
            return manifest.version
    return None
