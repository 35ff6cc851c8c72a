"""Models that a recipe sets beside its own: a teacher as it is served, or whatever else answers somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from edged.store import Store
from edged.store.entries import Manifest
from training.evaluate.subject import Subject
from training.recipe import Beside
from training.served import Server


def subject_beside(said: Beside, server: Server, home: Path) -> Subject:
    """Loads an installed one. Raises Conflict where it cannot be loaded. Nothing is known of what serves elsewhere, so
    that is asked anew each time."""
    name = said.name or re.sub(r"[^A-Za-z0-9._-]+", "-", said.model).strip("-._") or "beside"
    if said.endpoint is not None:
        return Subject(name=name, kind="endpoint", base_url=said.endpoint, model=said.model,
                       served_adapter=said.adapter, api_key_env=said.api_key_env)
    loaded, store = server.load(said.model), Store(home)
    manifest = store.manifest(said.model.partition("@")[0], loaded.version)
    return Subject(
        name=name, kind="endpoint", base_url=server.base_url, model=said.model, served_adapter=said.adapter,
        identity=manifest.digest, artifact=artifact(manifest, store), pid=loaded.pid)


def artifact(manifest: Manifest, store: Store) -> Path:
    """What the engine loads: a folder of ONNX, or a GGUF."""
    folder = store.folder(manifest)
    return folder / manifest.file if manifest.file.endswith(".gguf") else folder
