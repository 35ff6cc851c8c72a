"""What goes to a box: a folder that `edged convert` takes, or with `--adapter-of` `edged pull`, on any machine.

    export/model/      weights in safetensors, tokenizer, chat template, licence, edged-training.json
    export/adapter/    what peft saved of an adapter that is kept, and the same beside it

The same training is exported as the same bytes. A recipe whose adapter is merged when it runs alone and kept in a group
has both; what another training left goes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

from msgspec import Struct

from edged.store import files, trained
from edged.store.blobs import hash_file
from edged.store.entries import FileEntry
from edged.store.manifests import digest_of
from edged.store.select import TRAINING_FILE
from training.recipe import Recipe
from training.run import Moment, Run, Tell, digest
from training.stage import StageKind

_MAKING = "making"


class Exported(Struct, frozen=True, kw_only=True):
    """folder: relative to the run. digest: over its files, as `edged.store.manifests.digest_of` counts them, without
    what they say of their training: the same weights are not published twice because they were measured otherwise."""

    kind: Literal["model", "adapter"]
    folder: str
    digest: str
    size_bytes: int


def wanted(recipe: Recipe) -> bool:
    return recipe.finetune is not None or (recipe.distil is not None and recipe.distil.student is not None)


def key(run: Run) -> str:
    student = run.recipe.distil is not None and run.recipe.distil.student is not None
    return digest("export", run.key("student" if student else "finetune"), run.key("evaluate"), run.recipe.export,
                  run.recipe.name)


def run_export(run: Run, tell: Tell) -> Exported:
    """Raises RefusedFile, ConversionFailed of a merge that fails; InvalidRequest where a stage has not ended."""
    from training.lineage import lineage, says_the_same

    top, ended = run.path("export"), run.trained()
    keeps = ended.kind == "adapter" and run.recipe.export.adapter == "keep"
    made = top / ("adapter" if keeps else "model")
    making = top / _MAKING
    if making.exists():
        files.remove_tree(making)
    said = lineage(run, made)
    source = run.folder / ended.folder
    if keeps:
        _keep(run, source, making)
    elif ended.kind == "adapter":
        _merge(run, source, making, tell)
    else:
        _copy(source, making)
    (making / TRAINING_FILE).write_bytes(trained.encode(said))
    for file in sorted(making.iterdir()):
        file.chmod(0o644)
        files.sync_file(file)
    for before in (top / "adapter", top / "model"):
        if before.exists() and (before == made or not says_the_same(before, said)):
            files.remove_tree(before)
    files.rename(making, made)
    entries = [FileEntry(path=file.name, size=file.stat().st_size, sha256=hash_file(file))
               for file in sorted(made.iterdir())]
    return Exported(kind="adapter" if keeps else "model", folder=made.relative_to(run.folder).as_posix(),
                    digest=digest_of(entry for entry in entries if entry.path != TRAINING_FILE),
                    size_bytes=sum(entry.size for entry in entries))


def _merge(run: Run, adapter: Path, out: Path, tell: Tell) -> None:
    from converters.merge import merge
    from training.models import base_folder

    merge(base_folder(run, tell=tell), [(run.recipe.name, adapter)], out,
          lambda fraction, file: tell(Moment(stage="export", what="merging", fraction=fraction)))


def _copy(source: Path, out: Path) -> None:
    from converters.refuse import model_files

    out.mkdir()
    for name in model_files(sorted(file.name for file in source.iterdir())):
        shutil.copyfile(source / name, out / name)


def _keep(run: Run, adapter: Path, out: Path) -> None:
    """With the base's tokenizer and licence; which base it is for is said as the recipe says it, without a path of this
    machine."""
    from converters.refuse import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, model_files
    from edged.store.kinds import is_weights
    from training.models import base_folder, named

    out.mkdir()
    base = base_folder(run)
    for name in model_files(sorted(file.name for file in base.iterdir())):
        if not is_weights(name) and not name.endswith(".index.json") and name != CONFIG:
            shutil.copyfile(base / name, out / name)
    for file in adapter.iterdir():
        if file.suffix in (".json", ".jinja") and file.name != ADAPTER_CONFIG:
            shutil.copyfile(file, out / file.name)
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, out / ADAPTER_WEIGHTS)
    config = json.loads((adapter / ADAPTER_CONFIG).read_bytes())
    config["base_model_name_or_path"] = named(run.recipe.base)
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


EXPORT = StageKind("export", wanted, key, run_export)
