"""`edged list` and `rm`: what is installed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from cyclopts import Parameter
from msgspec import Struct

from edged.cli.client import Client, model_path
from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, duration, size, table
from edged.cli.target import Target, store_of
from edged.daemon.status import ModelStatus
from edged.errors import BadReference, CorruptFile, EdgedError, ModelNotFound
from edged.store.entries import Collected


class Row(Struct, frozen=True, kw_only=True):
    """One line of `edged list`. state: None where no daemon runs. size: bytes on disk; created: seconds since 1970."""

    name: str
    version: str
    engine: str
    precision: str
    size: int
    created: float
    digest: str
    state: str | None = None
    alias_of: str | None = None
    error: str | None = None


class Statuses(Struct, frozen=True):
    models: list[ModelStatus]


def list_models(*, home: Home = None, json: Json = False) -> int:
    """List the installed models, and the aliases that stand for one.

    As in:

    ```
    edged list
    edged list --json | jq -r '.[].name'
    ```
    """
    target = store_of(home)
    rows = installed(target)
    if json:
        answer_json(rows)
        return ExitCode.OK
    if not rows:
        answer("nothing is installed; `edged models` shows what fits this machine, `edged pull smollm2-135m` is for "
               "trying out")
        return ExitCode.OK
    now = time.time()
    answer(table(
        ("NAME", "VERSION", "ENGINE", "PRECISION", "SIZE", "STATE", "PULLED"),
        [(row.name, row.version, row.engine, row.precision, size(row.size),
          f"alias of {row.alias_of}" if row.alias_of else row.state or "-",
          f"{duration(max(0.0, now - row.created))} ago") for row in rows],
    ))
    return ExitCode.OK


def installed(target: Target) -> list[Row]:
    """By name; what the daemon says, else what the store holds."""
    if target.running is not None:
        found = target.running.client.get("/edged/v1/models", Statuses).models
        return [Row(
            name=each.name, version=each.version, engine=each.engine, precision=each.precision, size=each.size,
            created=each.created, digest=each.digest, state=each.state.value, alias_of=each.alias_of, error=each.error,
        ) for each in found]
    return _in_store(target.settings.home)


def _in_store(home: Path) -> list[Row]:
    from edged.store import Store

    if not home.exists():
        return []
    store, rows = Store(home), []
    for name in store.names():
        try:
            manifest = store.manifest(name)
        except (ModelNotFound, CorruptFile):
            continue
        rows.append(Row(
            name=name, version=manifest.version, engine=manifest.engine, precision=manifest.precision,
            size=manifest.size, created=manifest.created, digest=manifest.digest))
    return rows


class Removed(Struct, frozen=True):
    removed: str


def rm(
    names: Annotated[list[str], Parameter(help="Installed models; name@version for one version only.",
                                          negative=())],
    /, *,
    adapter: Annotated[str | None, Parameter(help="Remove only this adapter of the model, which goes on without it; "
                                                  "versions that have it stay to go back to.")] = None,
    home: Home = None, json: Json = False,
) -> int:
    """Remove models and free what only they needed on the disk. One that is loaded is refused: unload it first.

    As in:

    ```
    edged rm smollm2-135m
    edged rm smollm2-135m@1f0c2d3e4a5b
    edged rm smollm2-135m --adapter pirate
    ```
    """
    target = store_of(home)
    if adapter is not None:
        return _rm_adapter(target, names, adapter, json=json)
    freed = 0
    removed: list[str] = []
    failed: EdgedError | None = None
    for name in names:
        try:
            _remove(target, name)
            removed.append(name)
        except EdgedError as error:
            failed = error
            break
    if removed:
        freed = collect(target).bytes
    if json:
        answer_json({"removed": removed, "freed_bytes": freed})
    elif removed:
        answer(f"removed {', '.join(removed)}; {size(freed)} freed")
    if failed is not None:
        raise failed
    return ExitCode.OK


def _rm_adapter(target: Target, names: list[str], adapter: str, *, json: bool) -> int:
    if len(names) != 1:
        raise BadReference("an adapter is removed from one model; name that alone")
    if target.running is not None:
        target.running.client.delete(f"{model_path(names[0])}?adapter={quote(adapter, safe='')}", Removed)
    else:
        from edged.store import Store, adapters

        adapters.remove(Store(target.settings.home), names[0], adapter)
    if json:
        answer_json({"removed": [f"{names[0]} --adapter {adapter}"], "freed_bytes": 0})
    else:
        answer(f"{names[0]} goes on without {adapter}; `edged rollback {names[0]}` brings it back")
    return ExitCode.OK


def _remove(target: Target, said: str) -> None:
    if target.running is not None:
        target.running.client.delete(model_path(said), Removed)
        return
    from edged.store import Store

    store = Store(target.settings.home)
    if said in store.names():
        store.remove(said)
        return
    name, _, version = said.rpartition("@")
    store.remove(name or said, version if name else None)


def collect(target: Target) -> Collected:
    if target.running is not None:
        client: Client = target.running.client
        return client.post("/edged/v1/gc", {}, Collected)
    from edged.store import Store

    return Store(target.settings.home).collect()
