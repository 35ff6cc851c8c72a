"""Models that a recipe sets beside its own: a teacher as it is served, or whatever else answers somewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edged.errors import ConfigError
from edged.store import Store
from edged.store.entries import Manifest
from training.endpoint import check as check_endpoint
from training.evaluate.subject import Subject, names_here
from training.recipe import Beside
from training.run import Run
from training.served import Server

#: Of the subject that answers to the recipe's name.
SERVED = "served"


def served_name(conversion: str | None) -> str:
    """Of the subject that is served: of each further conversion by its name."""
    return SERVED if conversion is None else f"{SERVED}-{conversion}"


def check(run: Run, conversions: Sequence[str]) -> None:
    """That each can be asked, as far as can be told, and has a name of its own in the report. conversions: names of
    what is deployed besides the first. Raises ConfigError with the place."""
    taken = {*names_here(run.recipe), *map(served_name, (None, *conversions))}
    for number, said in enumerate(run.recipe.evaluate.beside):
        if (name := name_of(said)) in taken:
            raise run.file.mistake(("evaluate", "beside", number),
                                   f"is another one called {name} in the report; give it a name of its own")
        taken.add(name)
        if said.endpoint is not None:
            try:
                check_endpoint(said.endpoint, said.api_key_env)
            except ConfigError as error:
                raise run.file.mistake(("evaluate", "beside", number), error.message) from None


def name_of(said: Beside) -> str:
    return said.name or re.sub(r"[^A-Za-z0-9._-]+", "-", said.model).strip("-._") or "beside"


def subject_beside(said: Beside, server: Server, home: Path) -> Subject:
    """Loads an installed one. Raises Conflict where it cannot be loaded. Nothing is known of what serves elsewhere, so
    that is asked anew each time."""
    name = name_of(said)
    if said.endpoint is not None:
        return Subject(name=name, kind="endpoint", base_url=said.endpoint, model=said.model,
                       served_adapter=said.adapter, api_key_env=said.api_key_env)
    loaded, store = server.load(said.model), Store(home)
    manifest = store.manifest(said.model.partition("@")[0], loaded.version)
    return Subject(
        name=name, kind="endpoint", base_url=server.base_url, model=said.model, served_adapter=said.adapter,
        identity=manifest.digest, artifact=artifact(manifest, store), loaded=loaded)


def artifact(manifest: Manifest, store: Store) -> Path:
    """What the engine loads: a folder of ONNX, or a GGUF."""
    folder = store.folder(manifest)
    return folder / manifest.file if manifest.file.endswith(".gguf") else folder
