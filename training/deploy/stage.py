"""From an export to a version that serves, by the commands that a person would type.

Merged weights, and students, are converted under the recipe's name: a version for each conversion, gated; the first one
serves if it is good. An adapter that is kept goes beside the model that it was trained for: the installed one, or one
that is made of the base here. A version that was there before is gone back to by `edged rollback NAME`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.errors import ConfigError, EdgedError
from edged.settings import load_settings
from edged.store import Store, files
from edged.store.entries import JobProgress, Manifest
from edged.store.lineage import ConversionSpec, ConvertedSource
from training import opened
from training.deploy import command
from training.deploy.texts import write_texts
from training.export.stage import Exported
from training.lineage import data_digest
from training.models import base_facts, base_key
from training.recipe import Deploy, Recipe
from training.run import Moment, Run, Tell, digest
from training.stage import StageKind

if TYPE_CHECKING:
    from converters.recipe import Recipe as ConversionRecipe


class Version(Struct, frozen=True, kw_only=True):
    """One that was made. conversion: the recipe's name, None of an adapter beside a model. held_back: why the gate
    keeps it from serving, in words; empty where it passed or the loss was accepted."""

    name: str
    version: str
    digest: str
    engine: str
    precision: str
    size_bytes: int
    conversion: str | None = None
    held_back: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"


class Deployed(Struct, frozen=True, kw_only=True):
    """versions: the first is what the recipe is for. adapters: names that requests may say to it, by the name of the
    recipe that trained each. active: it answers to the plain name. home: of the store."""

    versions: tuple[Version, ...]
    adapters: dict[str, str] = {}
    active: bool
    home: str

    @property
    def version(self) -> Version:
        return self.versions[0]


def wanted(recipe: Recipe) -> bool:
    return recipe.deploy is not None


def key(run: Run) -> str:
    """The store counts too: another one has nothing of it yet. Conversion recipes count by what they say, with the
    recipes that they begin from, and so does what a conversion is calibrated and gated with. Raises as `check`."""
    from converters.recipe import load_recipe

    check(run)
    deploy = _table(run)
    conversions = [load_recipe(conversion(run, said)) for said in deploy.conversion]
    exports = [(each.recipe.name, *_exported(each)) for each in opened.members(run) or (run,)]
    return digest("deploy", deploy, conversions, exports, run.recipe.name, base_key(run), str(_home()))


def run_deploy(run: Run, tell: Tell) -> Deployed:
    """Raises what `edged convert` and `edged pull` end with; ConfigError where the recipe wants what cannot be."""
    check(run)
    kept = [each for each in opened.members(run) or (run,) if each.value("export", Exported).kind == "adapter"]
    return _beside(run, kept, tell) if kept else _converted(run, tell)


def check(run: Run) -> None:
    """What would be refused after hours of training. Raises ConfigError."""
    from converters.recipe import load_recipe

    deploy = _table(run)
    for number, said in enumerate(deploy.conversion):
        path = ("deploy", "conversion", number)
        try:
            recipe = load_recipe(conversion(run, said))
        except ConfigError as error:
            raise run.file.mistake(path, str(error)) from None
        if recipe.refused is not None:
            raise run.file.mistake(path, f"{said} is not for here: {recipe.refused}")
    if run.recipe.name == run.recipe.base.partition("@")[0]:
        raise run.file.mistake(("name",), "is that of the base, which would be no base any more once this serves in "
                                          "its place; name it otherwise")
    if not deploy.conversion:
        raise run.file.mistake(("deploy", "conversion"), "names no conversion; cpu-int8 is one")
    keeps = bool(run.recipe.members) or run.recipe.export.adapter == "keep"
    if keeps and not deploy.activate:
        raise run.file.mistake(("deploy", "activate"), "an adapter that is kept serves as soon as it is beside its "
                                                       'model; merge it (export.adapter = "merge") to try it first')
    if keeps and len(deploy.conversion) > 1:
        raise run.file.mistake(("deploy", "conversion"), "names several, and an adapter that is kept goes beside one "
                                                         'model; name one, or merge it (export.adapter = "merge")')
    if deploy.adapter_of is not None and not keeps:
        raise run.file.mistake(("deploy", "adapter_of"), 'is for an adapter that is kept; add [export] with adapter = '
                                                         '"keep"')
    if deploy.adapter_of is not None and not _is_installed(deploy.adapter_of):
        raise run.file.mistake(("deploy", "adapter_of"), f"{deploy.adapter_of} is not installed; `edged pull` it, or "
                                                         "leave the key out: then the base is")


def _exported(run: Run) -> tuple[str, ...]:
    """Digests of the export and, where it is to be converted, of the examples that this is calibrated and gated with.
    """
    exported = run.value("export", Exported)
    return (exported.digest, data_digest(run)) if exported.kind == "model" else (exported.digest,)


def conversion(run: Run, said: str) -> str:
    return str(run.at(said)) if said.endswith(".toml") else said


def _converted(run: Run, tell: Tell) -> Deployed:
    deploy, exported = _table(run), run.value("export", Exported)
    source = run.folder / exported.folder
    # Named by the weights and by what the texts are made of: a conversion that is asked for in the same words goes on
    # where an earlier one ended, and one of other weights or with other texts must begin anew.
    texts = run.path("deploy") / digest(*_exported(run))[:16]
    files.make_folder(texts)
    calibration, tasks = write_texts(run, source, texts)
    asked = ["--calibration", str(calibration), *(["--tasks", str(tasks)] if tasks is not None else [])]
    asked += ["--accept-loss"] if deploy.accept_loss else []
    made: list[Version] = []
    # The first one last, so that it is what serves in the end.
    for number, said in reversed(list(enumerate(deploy.conversion))):
        serve = number == 0 and deploy.activate
        manifest = command.job(
            ["convert", str(source), "--name", run.recipe.name, "--recipe", conversion(run, said), *asked,
             "--activate" if serve else "--no-activate"], _told(said, tell))
        made.insert(0, _version(manifest, accepted=deploy.accept_loss))
    return Deployed(versions=tuple(made), active=deploy.activate and not made[0].held_back, home=str(_home()))


def _beside(run: Run, kept: Sequence[Run], tell: Tell) -> Deployed:
    model = _base_of(run, base_facts(kept[0]).digest, tell)
    manifest: Manifest | None = None
    for each in kept:
        folder = each.folder / each.value("export", Exported).folder
        manifest = command.job(["pull", str(folder), "--adapter-of", model, "--as", each.recipe.name],
                               _told(f"adapter {each.recipe.name}", tell))
    assert manifest is not None
    return Deployed(versions=(_version(manifest, accepted=True),), active=True, home=str(_home()),
                    adapters={each.recipe.name: each.recipe.name for each in kept})


def _base_of(run: Run, base_digest: str, tell: Tell) -> str:
    """The installed model that adapters go beside, made here where the base is not installed."""
    from converters.recipe import load_recipe

    deploy, base = _table(run), run.recipe.base
    if deploy.adapter_of is not None:
        return deploy.adapter_of
    if _is_installed(base):
        return base
    first = conversion(run, deploy.conversion[0])
    if not _serves_already(run, base_digest, load_recipe(first)):
        source = str(run.at(base)) if base.startswith((".", "/", "~")) else base
        asked = ["--accept-loss"] if deploy.accept_loss else []
        manifest = command.job(["convert", source, "--name", run.recipe.name, "--recipe", first, *asked],
                               _told(f"base {deploy.conversion[0]}", tell))
        if (version := _version(manifest, accepted=deploy.accept_loss)).held_back:
            raise run.file.mistake(
                ("deploy", "conversion"), f"{deploy.conversion[0]} loses too much of the base "
                f"({'; '.join(version.held_back)}); name another one, or accept_loss = true")
    return run.recipe.name


def _is_installed(said: str) -> bool:
    return not said.startswith((".", "/", "~")) and _home().is_dir() \
        and said.partition("@")[0] in Store(_home()).names()


def _serves_already(run: Run, base_digest: str, recipe: ConversionRecipe) -> bool:
    """The base in that form, perhaps with adapters beside it, which a conversion of it would leave behind."""
    from converters.record import settings_of

    try:
        manifest = Store(_home()).manifest(run.recipe.name)
    except EdgedError:
        return False
    return (isinstance(manifest.source, ConvertedSource) and manifest.conversion is not None
            and manifest.source.base_digest == base_digest and manifest.conversion.recipe == recipe.name
            and manifest.conversion.settings == settings_of(recipe, ConversionSpec(name=run.recipe.name, source="")))


def _version(manifest: Manifest, *, accepted: bool) -> Version:
    verdict = manifest.verdict
    held_back = verdict.lacking if verdict is not None and not accepted else ()
    if manifest.never_run:
        held_back = (f"it was built for {manifest.target}, which is not here",)
    return Version(
        name=manifest.name, version=manifest.version, digest=manifest.digest, engine=manifest.engine,
        precision=manifest.precision, size_bytes=manifest.size, held_back=held_back,
        conversion=manifest.conversion.recipe if manifest.conversion is not None else None)


def _told(said: str, tell: Tell) -> command.Told:
    def told(moment: JobProgress) -> None:
        fraction = moment.done_bytes / moment.total_bytes if moment.total_bytes else moment.fraction
        tell(Moment(stage="deploy", what=f"{said} {moment.stage}", fraction=fraction, note=moment.note))

    return told


def _table(run: Run) -> Deploy:
    assert run.recipe.deploy is not None
    return run.recipe.deploy


def _home() -> Path:
    return load_settings()[0].home


DEPLOY = StageKind("deploy", wanted, key, run_deploy)
