"""`edged export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, size
from edged.cli.progress import show_for
from edged.cli.target import store_of
from edged.daemon.names import resolve
from edged.store import Store
from edged.store.catalog import load_catalog
from edged.store.export import export as write
from edged.store.export import foundry_id


def export(
    name: Annotated[str, Parameter(help="An installed model, name@version, or an alias.")],
    to: Annotated[Path | None, Parameter(help="A folder that is not there yet; by default ./NAME-VERSION.")] = None,
    /, *, home: Home = None, json: Json = False,
) -> int:
    """Write a model as a folder for other runtimes.

    Foundry Local and onnxruntime-genai load a folder of ONNX, llama.cpp and what is built on it a GGUF. Pulled into
    another edged, it is the same version there.

    As in:

    ```
    edged export my-finetuned-model
    edged export my-finetuned-model@3f2a ./for-foundry
    ```
    """
    target = store_of(home)
    store = Store(target.running.home if target.running else target.settings.home)
    manifest = resolve(name, store, load_catalog(target.settings.models_file)).manifest
    folder = (to or Path(f"{manifest.name.rpartition('/')[2].replace(':', '-')}-{manifest.version}")).expanduser()
    with show_for(json=json) as show:
        files = write(store, manifest, folder, show)
    foundry = foundry_id(manifest)
    if json:
        answer_json({"name": manifest.name, "version": manifest.version, "folder": str(folder.absolute()),
                     "files": [str(file) for file in files], "foundry_id": foundry})
        return ExitCode.OK
    answer(f"wrote {manifest.name}@{manifest.version} to {folder} ({len(files)} files, {size(manifest.size)})")
    if foundry is not None:
        answer(f"onnxruntime-genai: onnxruntime_genai.Model({str(folder)!r})")
        answer(f"Foundry Local: register_model({str(folder.absolute())!r}, {foundry!r}, metadata with task = "
               "'chat-completion') of its local catalog")
    if manifest.engine == "llama":
        answer(f"llama.cpp: llama-server -m {folder / manifest.file}")
    return ExitCode.OK
