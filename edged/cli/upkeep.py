"""`edged verify`, `gc` and `purge`: the health of the store, and what it remembers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

from cyclopts import Parameter
from msgspec import Struct

from edged.cli.exit_codes import ExitCode
from edged.cli.installed import collect
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, say, size
from edged.cli.progress import Show, show_for
from edged.cli.target import Target, store_of
from edged.errors import EdgedError
from edged.store.entries import Damage, JobProgress


class Verified(Struct, frozen=True):
    damage: list[Damage]


def verify(
    name: Annotated[str | None, Parameter(help="An installed model; all of them by default.")] = None, /, *,
    home: Home = None, json: Json = False,
) -> int:
    """Hash every file again. What is damaged is moved aside, and the next pull of that model mends it.

    Ends with 1 where there is damage.

    As in:

    ```
    edged verify
    edged verify smollm2-135m || edged pull smollm2-135m
    ```
    """
    damage = _damage(store_of(home), name)
    if json:
        answer_json({"damage": damage})
    elif not damage:
        answer("every file is what its manifest says")
    else:
        for each in damage:
            answer(f"{each.name}@{each.version}: {each.path} {each.what}")
        for broken in sorted({each.name for each in damage}):
            say(f"`edged pull {broken}` mends it")
    return ExitCode.FAILED if damage else ExitCode.OK


def _damage(target: Target, name: str | None) -> list[Damage]:
    if target.running is not None:
        if sys.stderr.isatty():
            say("hashing every file; this takes as long as reading them")
        return target.running.client.post("/edged/v1/verify", {"model": name} if name else {}, Verified).damage
    from edged.store import Store

    show: Show | None = show_for(json=False) if sys.stderr.isatty() else None
    if show is None:
        return Store(target.settings.home).verify(name)
    with show as telling:
        return Store(target.settings.home).verify(name, lambda path, done, total: telling(
            JobProgress(stage="hashing", file=path, done_bytes=done, total_bytes=total)))


def gc(*, home: Home = None, json: Json = False) -> int:
    """Remove what no model needs: files of removed models, and downloads that nobody went on with for a week.

    As in:

    ```
    edged gc
    ```
    """
    collected = collect(store_of(home))
    if json:
        answer_json(collected)
    else:
        answer(f"{size(collected.bytes)} freed: {collected.blobs} files, {collected.models} model folders, "
               f"{collected.parts} unfinished downloads")
    return ExitCode.OK


class Purged(Struct, frozen=True):
    responses: int
    kv_files: int
    captured: int


def purge(*, home: Home = None, json: Json = False) -> int:
    """Forget what clients said and were answered: stored responses, KV of prompts, and answers captured for training.

    As in:

    ```
    edged purge
    ```
    """
    purged = _purge(store_of(home))
    if json:
        answer_json(purged)
    else:
        answer(f"{purged.responses} stored responses, {purged.kv_files} files of KV and {purged.captured} captured "
               "answers removed")
    return ExitCode.OK


def _purge(target: Target) -> Purged:
    if target.running is not None:
        return target.running.client.post("/edged/v1/purge", {}, Purged)
    from edged.daemon.kv_files import kv_files
    from edged.store.captured import Captured
    from edged.store.paths import Layout
    from edged.store.responses import response_files

    def responses() -> int:
        files = response_files(target.settings)
        files.open()
        return files.purge()

    captured, stored, kv = _each(
        Captured(Layout(target.settings.home)).purge, responses, kv_files(target.settings).purge)
    return Purged(stored, kv, captured)


def _each(*purges: Callable[[], int]) -> list[int]:
    """Every one is done; then the first error is raised, if there was one."""
    counts: list[int] = []
    errors: list[Exception] = []
    for purge in purges:
        try:
            counts.append(purge())
        except (OSError, EdgedError) as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return counts
