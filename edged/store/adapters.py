"""LoRA adapters beside a model: a version with one more, or one fewer, is a version of the model like any other, so it
is activated, rolled back, verified and collected in the same way. Blobs are shared: only the adapter takes room.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from msgspec.structs import replace

from edged.errors import AdapterNotFound, BadReference, CorruptFile, ModelNotFound
from edged.store import locks, refs
from edged.store.blobs import key_of
from edged.store.entries import Adapter, FileEntry, Manifest
from edged.store.manifests import digest_of
from edged.store.paths import VERSION_DIGITS
from edged.store.select import ADAPTERS_FOLDER
from edged.store.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def name_for(reference: str, said: str | None) -> str:
    """What requests will call it: as said, else as its folder, file or repository is called. Raises BadReference."""
    name = said if said is not None else refs.parse(reference).name.rpartition("/")[2].partition(":")[0]
    if not _NAME.fullmatch(name):
        raise BadReference(f"{name[:80]!r} cannot be the name of an adapter: letters, digits and . _ - only, and a "
                           "letter or digit first; name it with --as", param="as")
    return name


def file_for(name: str, suffix: str) -> str:
    return f"{ADAPTERS_FOLDER}{name}{suffix}"


def changing(store: Store, model: str) -> locks.Lock:
    """Held while a model's next version is made of its active one: two that add one each must not lose one."""
    return locks.lock(store.layout.pull_lock(key_of("adapters", model)))


def with_one(manifest: Manifest, adapter: Adapter, files: Iterable[FileEntry]) -> Manifest:
    """The version that has it too, instead of one that had its name. files: what comes with it. Pure."""
    kept = tuple(one for one in manifest.adapters if one.name != adapter.name)
    return _remade(manifest, (*kept, adapter), files)


def remove(store: Store, model: str, name: str) -> Manifest:
    """Make the version that has it no more the active one, and return it. Versions that have it stay, to go back to.
    Raises ModelNotFound, CorruptFile, AdapterNotFound."""
    with changing(store, model):
        manifest = store.manifest(model)
        if name not in (known := [adapter.name for adapter in manifest.adapters]):
            raise AdapterNotFound(model, name, known)
        made = as_known(store, _remade(manifest, tuple(one for one in manifest.adapters if one.name != name), ()))
        store.publish(made, by="activate")
    return made


def as_known(store: Store, manifest: Manifest) -> Manifest:
    """As it is here already, where it is: a version's own record says more of it."""
    try:
        return store.manifest(manifest.name, manifest.version)
    except (ModelNotFound, CorruptFile):
        return manifest


def left_behind(before: Manifest) -> str | None:
    """What a person should know when a version of other weights takes the place of this one. Pure."""
    if not before.adapters:
        return None
    names = ", ".join(adapter.name for adapter in before.adapters)
    return (f"the adapters of {before.name}@{before.version} ({names}) were made for its weights and stay with it; for "
            f"the new version pull them again with --adapter-of {before.name}")


def is_base_of(base_digest: str, manifest: Manifest) -> bool:
    """Whether the version is those files with adapters beside them."""
    return bool(manifest.adapters) and digest_of(manifest.base_files) == base_digest


def _remade(manifest: Manifest, adapters: tuple[Adapter, ...], new: Iterable[FileEntry]) -> Manifest:
    wanted = {path for adapter in adapters for path in (adapter.file, adapter.graph)}
    known = {entry.path: entry for entry in manifest.files} | {entry.path: entry for entry in new}
    base = {entry.path for entry in manifest.base_files}
    files = tuple(known[path] for path in sorted(known) if path in base or path in wanted)
    digest = digest_of(files)
    ordered = tuple(sorted(adapters, key=lambda adapter: adapter.name))
    return replace(manifest, files=files, digest=digest, version=digest[:VERSION_DIGITS], adapters=ordered,
                   created=time.time())
