"""The start of a worker, in two threads: one reads the weights, which is the native library's work; beside it the other
imports what comes after, starts the process that renders templates, and looks which prefixes have a file."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from edged import engines
from edged.engines.base import Progress
from edged.types import LoadSpec
from edged.worker.journal import journal
from edged.worker.outbox import Outbox

if TYPE_CHECKING:
    from edged.worker.kv_disk import Reading
    from edged.worker.service import Service
    from edged.worker.template import Child


def load_service(spec: LoadSpec, outbox: Outbox, progress: Progress) -> Service:
    """Loaded and warm. Raises EdgedError, DeviceLost."""
    read_ahead(Path(spec.path))
    with ThreadPoolExecutor(1, thread_name_prefix="beside") as beside:
        if spec.task != "generate":
            imported = beside.submit(_import_service)
            embedder = engines.load_embedder(spec, progress)
            imported.result()
            from edged.worker.service import embedding

            return embedding(spec, embedder, outbox)
        started = beside.submit(_start, spec)
        try:
            loaded = engines.load(spec, progress)
        except BaseException:
            started.result()[0].close()
            raise
        child, files = started.result()
        from edged.worker.service import generation

        return generation(spec, loaded, outbox, child, files.opened(loaded.facts.state_format))


def read_ahead(folder: Path) -> None:
    """Let the system begin to read the model's files, while libraries are still imported. Nothing where it is in the
    page cache, as after an unload: engines map the same files."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _import_service() -> None:
    journal()
    import edged.worker.reader
    import edged.worker.service  # noqa: F401


def _start(spec: LoadSpec) -> tuple[Child, Reading]:
    """The renderer before the imports: it has imports of its own to do."""
    from edged.worker.template import Child

    child = Child()
    _import_service()
    from edged.worker.kv_disk import Reading

    return child, Reading(spec)
