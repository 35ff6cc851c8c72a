"""How much memory models take: measured on earlier loads, estimated before the first. And how much there is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
import structlog

from edged.store.damaged import DAMAGED
from edged.store.entries import Manifest, ModelEntry

#: Interpreter, libraries and working buffers of a worker.
WORKER_BYTES = 160 << 20
#: Weights with what an engine lays beside them, and KV as a share of them where its size is not known.
WEIGHTS = 1.1
KV_OF_WEIGHTS = 0.15
#: Of the memory that is free while nothing is loaded.
BUDGET_SHARE = 0.8

log = structlog.get_logger("edged.daemon")


def estimate(manifest: Manifest, entry: ModelEntry) -> int:
    """Before the first load. An engine fits its KV into what it is given unless the catalog fixes the context."""
    kv_bytes = None
    if entry.context is not None and entry.kv_bytes_per_token is not None:
        kv_bytes = entry.context * entry.kv_bytes_per_token
    return WORKER_BYTES + model_bytes(manifest, kv_bytes)


def model_bytes(manifest: Manifest, kv_bytes: int | None = None) -> int:
    """Weights and KV, of unknown size where None, without a process."""
    return int(manifest.size * WEIGHTS) + (int(manifest.size * KV_OF_WEIGHTS) if kv_bytes is None else kv_bytes)


def measured_budget() -> int:
    """A share of what is free now, within the control group's limit where there is one. Call it while no model is
    loaded."""
    import psutil  # not before the first load: it would be 6 ms of each start

    free_bytes = psutil.virtual_memory().available
    if (limit := _cgroup_free()) is not None:
        free_bytes = min(free_bytes, limit)
    return int(free_bytes * BUDGET_SHARE)


def _cgroup_free() -> int | None:
    """Bytes under the control group's memory.max (cgroup v2), page cache counted as free."""
    try:
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(limit) - int((group / "memory.current").read_text()) + int(stat.get("file", 0))
    except (OSError, ValueError):
        return None


class Footprints:
    """Peak resident bytes of each model that was loaded, by digest, in one small file of the store's home.

    One owner writes it, whole, by rename. Losing it costs a worse guess, so a read-only home is no error."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._bytes = msgspec.json.decode(file.read_bytes(), type=dict[str, int])
        except (OSError, *DAMAGED):
            self._bytes = {}

    def get(self, digest: str) -> int | None:
        return self._bytes.get(digest)

    def record(self, digest: str, resident_bytes: int) -> None:
        """Kept when it differs by more than a twentieth from what is known."""
        known = self._bytes.get(digest, 0)
        if resident_bytes <= 0 or abs(resident_bytes - known) * 20 <= known:
            return
        self._bytes[digest] = resident_bytes
        new = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            new.write_bytes(msgspec.json.encode(self._bytes))
            new.replace(self._file)
        except OSError as error:
            log.info("footprints.not_kept", reason=error.strerror)
            with contextlib.suppress(OSError):
                new.unlink()
