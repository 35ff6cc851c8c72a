"""From the name a client says to the version it means: aliases, `name@version` or the first digits of a version,
references of what was pulled."""

from __future__ import annotations

import difflib
import json
from typing import Protocol

from msgspec import Struct

from edged.errors import BadReference, CorruptFile, EdgedError, ModelNotFound
from edged.store.entries import Catalog, Manifest


class Installed(Protocol):
    """What is needed of the store."""

    def names(self) -> list[str]: ...
    def manifest(self, name: str, version: str | None = None) -> Manifest: ...


class Aliases(Protocol):
    """What is needed of the catalog."""

    current: Catalog

    def resolve_alias(self, name: str) -> str: ...


class Resolved(Struct, frozen=True):
    """alias_of: the model an alias stands for; None where the name is no alias. plain: no version was named, by the
    client or by the alias."""

    manifest: Manifest
    alias_of: str | None = None
    plain: bool = True


def resolve(said: str, store: Installed, catalog: Aliases) -> Resolved:
    """Raises ModelNotFound, which says what to do; BadReference where a beginning of a version may mean several;
    CorruptFile."""
    target = catalog.resolve_alias(said)
    alias_of = target if target != said else None
    refused: EdgedError | None = None
    for name, version in _readings(target):
        try:
            return Resolved(store.manifest(name, version), alias_of, plain=version is None)
        except (ModelNotFound, BadReference) as error:
            refused = error if version is not None else refused
    for name in store.names():
        try:
            manifest = store.manifest(name)
        except (ModelNotFound, CorruptFile):
            continue
        if target in (manifest.reference, manifest.reference.removeprefix("hf.co/")):
            return Resolved(manifest, alias_of)
    if refused is not None and target.rpartition("@")[0] in store.names():
        raise refused
    raise ModelNotFound(_hint(said, target, store, catalog), param="model")


def _readings(target: str) -> list[tuple[str, str | None]]:
    name, at, version = target.rpartition("@")
    return [(target, None), (name, version)] if at and name and version else [(target, None)]


SHOWN_CHARACTERS = 100


def _hint(said: str, target: str, store: Installed, catalog: Aliases) -> str:
    name = target.partition("@")[0]
    if len(said) > SHOWN_CHARACTERS:
        return f"the model {said[:SHOWN_CHARACTERS]!r}… does not exist. `edged models` lists what can be pulled"
    installed = store.names()
    if name in catalog.current.models:
        meaning = f" (an alias of {target!r})" if target != said else ""
        return f"the model {said!r}{meaning} is not installed; `edged pull {name}` fetches it"
    known = sorted({*installed, *catalog.current.models, *catalog.current.aliases})
    near = difflib.get_close_matches(said, known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    example = installed[0] if installed else "smollm2-135m"
    return (
        f"the model {said!r} does not exist{hint} `edged models` lists what can be pulled. To let this name stand for "
        f"an installed model, add to models.toml under [aliases]: {json.dumps(said)} = {json.dumps(example)}"
    )
