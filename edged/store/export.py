"""A version of a model as a folder of its own, for other runtimes: Foundry Local and onnxruntime-genai take an ONNX
folder as it is, llama.cpp and what is built on it the GGUF.

Copied or reflinked, never linked: what others write there is none of the store's. The folder appears whole, by rename.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from edged.errors import Conflict, RefusedFile
from edged.store import clone, space
from edged.store.entries import JobProgress, Manifest
from edged.store.store import Store

#: Files that only edged reads, such as its own graph over the same weights.
_OWN = "edged."
#: How Foundry Local knows a folder in its cache for a model; the template is the folder's own.
_FOUNDRY_FILE = "inference_model.json"


def export(store: Store, manifest: Manifest, to: Path, progress: Callable[[JobProgress], None]) -> list[Path]:
    """Returns the files. Raises Conflict where `to` exists and holds anything; RefusedFile for a model of the fake
    engine; InsufficientStorage; CorruptFile."""
    if manifest.engine == "fake":
        raise RefusedFile(f"{manifest.name} is a model of the fake engine, which nothing else runs")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Conflict(f"{to} is there already; name a folder that is not, or an empty one")
    to.parent.mkdir(parents=True, exist_ok=True)
    wanted = [entry for entry in manifest.files if not entry.path.rpartition("/")[2].startswith(_OWN)]
    total = sum(entry.size for entry in wanted)
    space.require(to.parent, total)
    making = to.with_name(f".{to.name}-{os.getpid()}")
    done = 0
    with store.lease(manifest):
        folder = store.folder(manifest)
        try:
            making.mkdir()
            for entry in wanted:
                target = making / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                progress(JobProgress(stage="copying", file=entry.path, done_bytes=done, total_bytes=total))
                clone.copy(folder / entry.path, target)
                target.chmod(0o644)
                done += entry.size
            if manifest.engine in ("ort", "genai"):
                (making / _FOUNDRY_FILE).write_bytes(msgspec.json.encode({"Name": foundry_id(manifest)}))
            if to.exists():
                to.rmdir()
            making.rename(to)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
    return sorted(path for path in to.rglob("*") if path.is_file())


def foundry_id(manifest: Manifest) -> str:
    """`<name>-generic-<target>:1`, the form that Foundry Local gives its models."""
    name = "".join(each if each.isalnum() or each in ".-_" else "-" for each in manifest.name)
    return f"{name}-{manifest.precision}-generic-{manifest.target}:1"
