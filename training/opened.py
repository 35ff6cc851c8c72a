"""A recipe and its run folder, opened by the one process that works in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edged.errors import ConfigError, Conflict
from edged.store import files, locks
from edged.store.locks import Lock
from training.recipe import Export, load_recipe
from training.run import Run

RECIPE_FILE = "recipe.toml"
_LOCK_FILE = "lock"


def open_run(recipe: Path, folder: Path | None = None) -> Run:
    """The run folder is made where there is none. folder: instead of the one that the recipe names. Raises
    ConfigError."""
    run = _opened(recipe, folder)
    found = members(run)
    for member in found:
        _check_member(run, member)
    for number, member in enumerate(found):
        _require_apart(run, member, found[:number])
    return run


def _opened(recipe: Path, folder: Path | None = None) -> Run:
    """Looks at no members: they may name each other."""
    loaded, file = load_recipe(recipe.expanduser().absolute())
    beside = file.path.parent
    where = folder.expanduser().absolute() if folder is not None else (
        beside / Path(loaded.folder).expanduser() if loaded.folder is not None else beside / "runs" / file.path.stem)
    try:
        where.mkdir(mode=files.FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the run folder {where} cannot be made ({error.strerror}); name another one with --folder",
                          file=str(file.path)) from None
    return Run(where, loaded, file)


def members(run: Run) -> tuple[Run, ...]:
    """The runs of a group, each in the folder that its own recipe names: what it learns is the same alone and in a
    group. Here its adapter is kept and the group deploys it, whatever its own recipe says of that. Raises ConfigError.
    """
    return tuple(_member(_opened(run.at(said))) for said in run.recipe.members)


def _member(run: Run) -> Run:
    recipe = msgspec.structs.replace(run.recipe, export=Export(adapter="keep"), deploy=None)
    return Run(run.folder, recipe, run.file)


def held(run: Run) -> Lock:
    """Until it is released. Notes the recipe as it was read. Raises Conflict where another process has the folder."""
    lock = locks.try_lock(run.folder / _LOCK_FILE)
    if lock is None:
        raise Conflict(f"another process works in {run.folder}; wait for it, or name another folder with --folder")
    files.publish_bytes(run.folder / RECIPE_FILE, run.file.text.encode(), run.folder)
    return lock


def _check_member(group: Run, member: Run) -> None:
    if member.recipe.members:
        raise _mistake(group, member, "has members itself; name them here")
    if _base(member) != _base(group):
        raise _mistake(group, member, f"has the base {member.recipe.base}, and this recipe {group.recipe.base}; "
                                      "adapters are for one base")
    if member.recipe.finetune is None or member.recipe.finetune.method == "full":
        raise _mistake(group, member, "trains no adapter; a member needs [finetune] with method lora, qlora or dora")


def _require_apart(group: Run, member: Run, before: Sequence[Run]) -> None:
    """Requests name an adapter as its recipe is named, and one process at a time has a run folder."""
    for other in before:
        if other.file.path.resolve() == member.file.path.resolve():
            raise _mistake(group, member, "is named twice; name it once")
        if other.recipe.name == member.recipe.name:
            raise _mistake(group, member, f"has the name {member.recipe.name}, and so has {other.file.path.name}; "
                                          "requests choose an adapter by it: name one of them otherwise")
    for other in (group, *before):
        if other.folder.resolve() == member.folder.resolve():
            raise _mistake(group, member, f"has the run folder {member.folder}, and so has {other.file.path.name}; "
                                          "give one of them another `folder`")


def _mistake(group: Run, member: Run, message: str) -> ConfigError:
    return group.file.mistake(("members",), f"{member.file.path.name} {message}")


def _base(run: Run) -> str:
    """One that is a path, wherever the recipe lies."""
    said = run.recipe.base
    return str(run.at(said).resolve()) if said.startswith((".", "/", "~")) else said
