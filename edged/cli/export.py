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
from edged.store import Store
from edged.store.catalog import load_catalog
from edged.store.export import export as write
from edged.store.export import foundry_id


def export(
    name: Annotated[str, Parameter(help="An installed model, name@version, or an alias.")],
    to: Annotated[Path | None, Parameter(help="A folder that is not there yet; by default ./NAME-VERSION.")] = None,
    /, *, home: Home = None, json: Json = False,
) -> int:
    """Write a model as a folder that other runtimes load: Foundry Local and onnxruntime-genai one of ONNX, llama.cpp
    and what is built on it one with a GGUF.

    As in:

    ```
    edged export my-finetuned-model
    edged export my-finetuned-model@3f2a ./for-foundry
    ```
    """
    target = store_of(home)
    store = Store(target.running.home if target.running else target.settings.home)
    plain, _, version = load_catalog(target.settings.models_file).resolve_alias(name).partition("@")
    manifest = store.manifest(plain, version or None)
    folder = (to or Path(f"{manifest.name.rpartition('/')[2].replace(':', '-')}-{manifest.version}")).expanduser()
    with show_for(json=json) as show:
        files = write(store, manifest, folder.absolute(), show)
    if json:
        answer_json({"folder": str(folder.absolute()), "files": [str(file) for file in files]})
        return ExitCode.OK
    answer(f"wrote {manifest.name}@{manifest.version} to {folder} ({len(files)} files, {size(manifest.size)})")
    if manifest.engine != "llama":
        answer(f"onnxruntime-genai: og.Model({str(folder)!r})")
        answer(f"Foundry Local: register_model({str(folder)!r}, {foundry_id(manifest)!r}, …) of its local catalog")
    return ExitCode.OK
