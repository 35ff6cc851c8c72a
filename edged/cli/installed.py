"""`edged list`, `show` and `rm`: what is installed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from msgspec import Struct

from edged.cli.client import Client, model_path
from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, duration, size, table
from edged.cli.target import Target, store_of
from edged.daemon.status import ModelStatus
from edged.errors import CorruptFile, EdgedError, ModelNotFound
from edged.store.entries import Collected, Manifest, ModelEntry
from edged.store.lineage import Quality


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


class Versions(Struct, frozen=True):
    active: str
    versions: list[Manifest]


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


def show(
    name: Annotated[str, Parameter(help="An installed model, or an alias.")], /, *, home: Home = None,
    json: Json = False,
) -> int:
    """Show all that is known of an installed model: its versions, files, source, state and how it is served.

    As in:

    ```
    edged show smollm2-135m
    ```
    """
    target = store_of(home)
    entry = _entry(target, name)
    if target.running is not None:
        client = target.running.client
        status: ModelStatus | None = client.get(model_path(name), ModelStatus)
        versions = client.get(f"/edged/v1/manifests/{model_path(name).removeprefix('/edged/v1/models/')}", Versions)
    else:
        from edged.store import Store

        store, status = Store(target.settings.home), None
        plain = _plain(target, name)
        versions = Versions(store.active(plain), store.versions(plain))
    if json:
        answer_json({"active": versions.active, "versions": versions.versions, "status": status, "catalog": entry})
        return ExitCode.OK
    for manifest in versions.versions:
        _print_version(manifest, active=manifest.version == versions.active)
    if status is not None:
        _print_fields({"state": status.state.value, "device": status.device, "context": status.context,
                       "memory": size(status.resident_bytes) if status.resident_bytes else None,
                       "error": status.error})
    if entry is not None:
        _print_fields({"title": entry.title, "note": entry.note, "served with": _served_with(entry) or None})
    return ExitCode.OK


def _plain(target: Target, name: str) -> str:
    from edged.store.catalog import load_catalog

    return load_catalog(target.settings.models_file).resolve_alias(name).partition("@")[0]


def _entry(target: Target, name: str) -> ModelEntry | None:
    from edged.store.catalog import load_catalog

    return load_catalog(target.settings.models_file).entry(name.partition("@")[0])


def _served_with(entry: ModelEntry) -> str:
    said: dict[str, Any] = {"context": entry.context, "keep_alive_s": entry.keep_alive_s, "pin": entry.pin or None,
                            **msgspec.to_builtins(entry.sampling), **entry.options}
    defaults = msgspec.to_builtins(type(entry.sampling)())
    return ", ".join(f"{key} {value}" for key, value in said.items()
                     if value is not None and defaults.get(key) != value)


def _print_version(manifest: Manifest, *, active: bool) -> None:
    answer(f"{manifest.name}@{manifest.version}{' (active)' if active else ''}")
    source = msgspec.to_builtins(manifest.source)
    _print_fields({
        "engine": f"{manifest.engine} {manifest.precision}", "size": size(manifest.size),
        "parameters": f"{manifest.parameters:,}" if manifest.parameters else None, "license": manifest.license,
        "pulled as": manifest.reference, "from": source.pop("from") + " " + _source(source),
        "pulled": time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.created)),
        "quality": _quality(manifest.quality),
    })
    for entry in manifest.files:
        answer(f"  file         {entry.path}  {size(entry.size)}  sha256:{entry.sha256}")


def _quality(quality: Quality | None) -> str | None:
    if quality is None:
        return None
    return (f"perplexity x{quality.perplexity_ratio:.3f}, top-1 {quality.top1_agreement:.1%}, "
            f"KL {quality.kl_divergence:.3f} against {quality.reference}")


def _source(said: dict[str, Any]) -> str:
    if "base" in said:
        return " + ".join([said["base"], *(adapter["reference"] for adapter in said["adapters"])])
    if "parts" in said:
        return ", ".join(f"{part['dist']}=={part['version']}" for part in said["parts"])
    return f"{said['repo']}@{said['revision']}" if "repo" in said else str(said.get("path", ""))


def _print_fields(fields: dict[str, object]) -> None:
    for key, value in fields.items():
        if value not in (None, ""):
            answer(f"  {key:<12} {value}")


class Removed(Struct, frozen=True):
    removed: str


def rm(
    names: Annotated[list[str], Parameter(help="Installed models; name@version for one version only.",
                                          negative=())],
    /, *, home: Home = None, json: Json = False,
) -> int:
    """Remove models and free what only they needed on the disk. One that is loaded is refused: unload it first.

    As in:

    ```
    edged rm smollm2-135m
    edged rm smollm2-135m@1f0c2d3e4a5b
    ```
    """
    target = store_of(home)
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
