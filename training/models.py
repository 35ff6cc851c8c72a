"""The model that a training starts from, as a folder that transformers reads, whatever it was: an installed GGUF, a
GGUF file, a Hugging Face folder or a repository. Brought once into `<run>/base/<key>/` and found there from then on.

What is there went through the rules of conversion (`converters.refuse`): safetensors and texts only, and no
configuration that names code. Weights of a folder of this machine are linked to, not copied; where the run folder has
been moved and the links lead to nothing, the same contents are brought again. What is named but not here any more is
what the run brought of it, as long as that is whole: a run goes on where its base is not installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from edged.errors import BadReference, Conflict, EdgedError, InvalidRequest, ModelNotFound, RefusedFile
from edged.store import files, locks, refs, space
from edged.store.entries import FileEntry, JobProgress, Manifest
from edged.store.select import TRAINING_FILE
from training.digests import digests
from training.run import Moment, Run, Tell, digest

FOLDER = "base"
#: In the run's `base/`: the key of each model by the name that the recipe has for it.
NAMES_FILE = "names.json"
_MODEL, _FACTS = "model", "base.json"


class Base(Struct, frozen=True, kw_only=True):
    """What a base was. reference: as it was named, its revision pinned. digest: over its files, as
    `edged.store.manifests.digest_of` counts them. origin: what its weights have been through, in words, None where
    nothing was lost. note: what a person should know of it."""

    reference: str
    digest: str
    parameters: int
    origin: str | None = None
    license: str | None = None
    note: str | None = None


def base_folder(run: Run, said: str | None = None, tell: Tell | None = None) -> Path:
    """Absolute. said: another model than the recipe's base, as `base` may name it. Raises RefusedFile, BadReference,
    InvalidRequest, ModelNotFound, SourceUnavailable, CorruptFile, ConversionFailed, InsufficientStorage."""
    return _here(run, said, tell) / _MODEL


def base_facts(run: Run, said: str | None = None) -> Base:
    """Brings it where it is not here yet. Raises as `base_folder`."""
    return msgspec.json.decode((_here(run, said, None) / _FACTS).read_bytes(), type=Base)


def base_key(run: Run, said: str | None = None) -> str:
    """Changes when the contents of the model behind the name do, wherever it lies: equal files have equal keys on every
    machine. A repository stays what it was when this run first brought it. Raises as `base_folder`."""
    with contextlib.ExitStack() as held:
        return _found(run, said or run.recipe.base, held).key


def named(said: str) -> str:
    """A model as a recipe names it, for others to read: of a path its last name (`./smollm2`), since where it lies is
    this machine's own matter."""
    return f"./{Path(said).name}" if said.startswith((".", "/", "~")) else said


def forget_others(run: Run, models: Iterable[str | None]) -> None:
    """Takes away what was brought of other models than are now behind these names (None: the recipe's base). For
    whoever holds the run's lock, while no stage runs. Where one of them cannot be told here, all stay."""
    try:
        keys = {said or run.recipe.base: base_key(run, said) for said in models}
    except EdgedError:
        return
    if not (top := run.folder / FOLDER).is_dir():
        return
    _write_names(top, {said: key for said, key in _names(top).items() if keys.get(said) == key})
    for each in sorted(top.iterdir()):
        if each.is_dir() and each.name.partition(".")[0] not in keys.values():
            files.remove_tree(each)


def tokenizer_of(folder: Path) -> Any:
    """Of a Hugging Face folder, without the network and without code of its own."""
    from transformers import AutoTokenizer

    from converters.quiet import quietly

    with quietly():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


class _Bring(Protocol):
    """Makes the folder `out`; `scratch` goes afterwards."""

    def __call__(self, out: Path, scratch: Path, tell: Tell) -> Base: ...


@dataclass(frozen=True, slots=True)
class _Found:
    """A model, looked at but not brought. key: names its folder in the run. whole: whether what was brought of it into
    such a folder is still there."""

    key: str
    bring: _Bring
    whole: Callable[[Path], bool] = Path.is_dir


def _here(run: Run, said: str | None, tell: Tell | None) -> Path:
    """The folder that holds it and its facts; the facts are written last, before it gets its name."""
    with contextlib.ExitStack() as held:
        found = _found(run, said or run.recipe.base, held)
        top = run.folder / FOLDER
        top.mkdir(mode=files.FOLDER_MODE, parents=True, exist_ok=True)
        place = top / found.key
        if not found.whole(place):
            held.enter_context(locks.lock(top / f"{found.key}.lock"))
        if not found.whole(place):
            half = top / f"{found.key}.part"
            for old in (half, place):
                if old.exists():
                    files.remove_tree(old)
            (half / "work").mkdir(mode=files.FOLDER_MODE, parents=True)
            facts = found.bring(half / _MODEL, half / "work", tell or _untold)
            _require_writer_of_text(half / _MODEL, facts)
            files.remove_tree(half / "work")
            (half / _FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=2))
            for file in half.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    files.sync_file(file)
            files.rename(half, place)
        if (names := _names(top)).get(said or run.recipe.base) != found.key:
            _write_names(top, {**names, said or run.recipe.base: found.key})
        return place.absolute()


def _names(top: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode((top / NAMES_FILE).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}


def _write_names(top: Path, names: dict[str, str]) -> None:
    files.publish_bytes(top / NAMES_FILE, msgspec.json.format(msgspec.json.encode(names), indent=2), top)


def _found(run: Run, said: str, held: contextlib.ExitStack) -> _Found:
    """held: what keeps it from being removed meanwhile."""
    try:
        return _looked_up(run, said, held)
    except (ModelNotFound, RefusedFile) as error:
        is_path = isinstance(refs.parse(said), refs.LocalReference)
        if run.at(said).exists() if is_path else not isinstance(error, ModelNotFound):
            raise
        top = run.folder / FOLDER
        key = _names(top).get(said)
        if key is None or not (top / key).is_dir() or not all(file.exists() for file in (top / key).rglob("*")):
            raise
        return _Found(key, _gone)


def _gone(out: Path, scratch: Path, tell: Tell) -> Base:
    raise ModelNotFound("what this run had brought of its base was taken away meanwhile; start it again")


def _looked_up(run: Run, said: str, held: contextlib.ExitStack) -> _Found:
    """held: as of `_found`."""
    if not said.startswith((".", "/", "~")) and (found := _installed(said, held)) is not None:
        return found
    reference = refs.parse(said)
    match reference:
        case refs.LocalReference(path=path):
            place, kept = run.at(path), run.folder / FOLDER
            return _gguf_file(place, said, kept) if place.suffix.lower() == ".gguf" else _folder(place, said, kept)
        case refs.HubReference():
            if run.at(said).exists():
                raise BadReference(f"{said} is a folder here and may be a repository: write ./{said} for the folder")
            return _repository(said, reference)
        case refs.PackageReference():
            raise RefusedFile(f"{said} is a package; `edged pull` it first, then name it as it is installed")
        case _:
            raise ModelNotFound(f"{said!r} is not installed; `edged list` shows what is. A Hugging Face model is "
                                "./folder or org/repo, a GGUF ./file.gguf")


def _installed(said: str, held: contextlib.ExitStack) -> _Found | None:
    from edged.settings import load_settings
    from edged.store.manifests import digest_of
    from edged.store.store import Store

    home = load_settings()[0].home
    if not home.is_dir():
        return None
    store = Store(home)
    name, _, version = said.partition("@")
    if name not in store.names():
        return None
    manifest = store.manifest(name, version or None)
    if manifest.engine != "llama":
        raise RefusedFile(
            f"{name}@{manifest.version} is an ONNX model, of which nothing can be trained; name its Hugging Face "
            "original (./folder or org/repo), or an installed GGUF")
    held.enter_context(store.lease(manifest))
    # The folder is asked for only when it is brought: it may have to be made anew.
    # Adapters that were put beside it change nothing of what is trained.
    of_base = digest_of(manifest.base_files)
    return _Found(digest("installed", of_base)[:16], partial(_from_manifest, store.folder, manifest))


def _from_manifest(
    folder_of: Callable[[Manifest], Path], manifest: Manifest, out: Path, scratch: Path, tell: Tell,
) -> Base:
    from edged.store.manifests import digest_of

    reference = f"{manifest.name}@{manifest.version}"
    made = _dequantized(folder_of(manifest) / manifest.file, reference, out, scratch, tell)
    return msgspec.structs.replace(
        made, digest=digest_of(manifest.base_files), license=manifest.license or made.license)


def _gguf_file(file: Path, said: str, kept: Path) -> _Found:
    if not file.is_file():
        raise RefusedFile(f"there is no file {file}")
    return _Found(digest("file", *digests([file], kept))[:16], partial(_from_file, file.resolve(), said))


def _from_file(file: Path, said: str, out: Path, scratch: Path, tell: Tell) -> Base:
    from edged.store.blobs import hash_file
    from edged.store.manifests import digest_of

    entry = FileEntry(path=file.name, size=file.stat().st_size, sha256=hash_file(file))
    return msgspec.structs.replace(_dequantized(file, said, out, scratch, tell), digest=digest_of([entry]))


def _dequantized(file: Path, reference: str, out: Path, scratch: Path, tell: Tell) -> Base:
    """Its digest is still to be told."""
    from converters.dequantize import dequantize, read_facts
    from converters.quiet import quietly

    facts = read_facts(file)
    space.require(scratch, facts.parameters * 4, task=f"{reference} in 32 bits")
    tell(Moment(stage=FOLDER, what=f"dequantizing {reference}"))
    with quietly():
        note = dequantize(file, facts, out, scratch)
    origin = facts.origin
    told = [f"{reference} was {origin}: what that lost is lost" if origin else None, note]
    return Base(reference=reference, digest="", parameters=facts.parameters, origin=origin,
                license=facts.license, note="; ".join(filter(None, told)) or None)


def _folder(folder: Path, said: str, kept: Path) -> _Found:
    from converters import refuse
    from converters.bring import list_folder

    listing = list_folder(folder, refuse.model_files)
    assert listing.folder is not None
    # How the weights were measured, which an export says beside them, makes no other model of them.
    names = sorted(name for name in listing.sizes if name != TRAINING_FILE)
    found = dict(zip(names, digests([listing.folder / name for name in names], kept), strict=True))

    def whole(place: Path) -> bool:
        """Its links lead to the contents that they led to."""
        links = [file for file in (place / _MODEL).rglob("*") if file.is_symlink()]
        return place.is_dir() and all(link.is_file() for link in links) \
            and digests(links, kept) == [found.get(link.name) for link in links]

    def bring(out: Path, scratch: Path, tell: Tell) -> Base:
        from converters.bring import bring_folder
        from converters.source import count_weights
        from edged.store.manifests import digest_of

        brought = bring_folder(listing, out, refuse.check_config, _progress(said, tell))
        if any(brought.sha256_of(name) != sha256 for name, sha256 in found.items()):
            raise Conflict(f"{said} was changed while it was read; start again when its owner is done")
        return Base(reference=said, digest=digest_of(brought.files), parameters=count_weights(out))

    return _Found(digest("folder", found)[:16], bring, whole)


def _repository(said: str, reference: refs.HubReference) -> _Found:
    if reference.quant is not None:
        raise RefusedFile(f"{said}: a training starts from the weights in full; leave `:{reference.quant}` out, or "
                          "`edged pull` it and name it as it is installed")

    def bring(out: Path, scratch: Path, tell: Tell) -> Base:
        from converters import refuse
        from converters.bring import bring_repository, list_repository
        from converters.source import count_weights
        from edged.settings import load_settings
        from edged.store.manifests import digest_of
        from edged.store.sources.hub import open_client
        from edged.store.sources.transfer import HubSettings
        from edged.store.store import Store

        settings, _ = load_settings()
        token = settings.hf_token.get_secret_value() if settings.hf_token is not None else None
        hub = HubSettings(endpoint=settings.hf_endpoint, token=token)
        with open_client(hub) as client:
            listing = list_repository(reference.repo, reference.revision, refuse.model_files, client, hub)
            brought = bring_repository(
                listing, out, refuse.check_config, _progress(said, tell), client=client, settings=hub,
                layout=Store(settings.home).layout)
        return Base(reference=listing.title, digest=digest_of(brought.files), parameters=count_weights(out))

    return _Found(digest("repository", str(reference))[:16], bring)


def _require_writer_of_text(folder: Path, facts: Base) -> None:
    from converters.encoder_export import task_of

    if (task := task_of(folder)) != "generate":
        raise InvalidRequest(f"{facts.reference} is a model for {task}, and trainings are of models that write text")


def _progress(said: str, tell: Tell) -> Callable[[JobProgress], None]:
    def told(moment: JobProgress) -> None:
        fraction = moment.done_bytes / moment.total_bytes if moment.total_bytes else None
        tell(Moment(stage=FOLDER, what=f"bringing {said}", fraction=fraction))

    return told


def _untold(moment: Moment) -> None:
    pass
