"""Which edged may write a store, and how what earlier ones wrote is read (PROMISES R16).

`schema.json` is the store's number: an edged that knows less refuses the whole store. Migration raises it, in one
rename, and rewrites nothing: each manifest says its own schema and is read by that, so that a daemon of an earlier
edged which still runs goes on serving, a read-only store serves, and no crash finds a store half migrated.

    1  manifests hold recipe, tools, quality and speed as tables, which nothing ever filled
    2  manifests hold target, never_run, conversion and quality of `edged.store.lineage`; names have a history
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from edged.errors import ConfigError
from edged.store import files, locks
from edged.store.entries import MANIFEST_SCHEMA, Manifest
from edged.store.paths import FOLDERS, Layout

SCHEMA = 2


class _Schema(msgspec.Struct, frozen=True):
    schema: Annotated[int, msgspec.Meta(ge=1)]


def prepare(layout: Layout) -> None:
    """Make the store where there is none, and migrate an older one. Raises ConfigError when it cannot be used, or was
    written by a newer edged: then nothing in it is touched."""
    home = layout.home
    found = _read(layout)
    try:
        if not home.is_dir():
            home.mkdir(mode=files.FOLDER_MODE, parents=True, exist_ok=True)
        for folder in FOLDERS:
            files.make_folder(home / folder)
        if found is None or found < SCHEMA:
            with locks.lock(layout.store_lock):
                _raise_to_ours(layout)
    except OSError as error:
        if found is not None and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return
        raise ConfigError(
            f"the store cannot be made ({os.strerror(error.errno or 0)}); set EDGED_HOME to a folder that this user "
            "may write", file=str(home),
        ) from error


def locked(layout: Layout) -> locks.Lock:
    """The store's lock, for a writer. Raises ConfigError where a newer edged has migrated the store meanwhile."""
    held = locks.lock(layout.store_lock)
    try:
        _read(layout)
    except BaseException:
        held.release()
        raise
    return held


def decode_manifest(data: bytes) -> Manifest:
    """Raises msgspec.MsgspecError or UnicodeDecodeError; where its schema is newer than ours, ConfigError."""
    schema = msgspec.json.decode(data, type=_Schema).schema
    if schema > MANIFEST_SCHEMA:
        raise ConfigError(f"it was written by a newer edged (manifest schema {schema}; this one knows "
                          f"{MANIFEST_SCHEMA})")
    if schema == MANIFEST_SCHEMA:
        return _decoder.decode(data)
    table = msgspec.json.decode(data, type=dict[str, Any])
    for step in range(schema, MANIFEST_SCHEMA):
        table = _STEPS[step](table)
    return msgspec.convert(table, Manifest)


def _from_1(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in ("recipe", "tools", "quality", "speed")} | {
        "schema": 2}


_decoder = msgspec.json.Decoder(Manifest)
#: From each earlier schema to the next.
_STEPS: dict[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _from_1}


def _raise_to_ours(layout: Layout) -> None:
    found = _read(layout)
    if found is None or found < SCHEMA:
        files.publish_bytes(layout.schema, msgspec.json.encode(_Schema(SCHEMA)) + b"\n", layout.tmp)


def _read(layout: Layout) -> int | None:
    """None for a store that is yet to be made. Raises ConfigError for one that this edged may not write."""
    try:
        schema = msgspec.json.decode(layout.schema.read_bytes(), type=_Schema).schema
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.MsgspecError, OSError) as error:
        raise ConfigError(
            "the store's schema file cannot be read; if the folder is a store of edged, write "
            f"{{\"schema\": {SCHEMA}}} into it",
            file=str(layout.schema),
        ) from error
    if schema > SCHEMA:
        raise ConfigError(
            f"this store was written by a newer edged (schema {schema}; this one knows {SCHEMA}); nothing was touched: "
            "upgrade edged, or set EDGED_HOME to another folder",
            file=str(layout.schema),
        )
    return schema
