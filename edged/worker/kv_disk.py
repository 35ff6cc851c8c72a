"""KV of prompts that outlives this worker: which prefixes the disk has, their KV back, and new ones written beside.

One thread, the loop's, calls everything here; a thread of low priority writes, so that no step waits for a disk. What
the disk refuses is no request's error: it is logged once, counted, and writing pauses.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edged.engines.base import State
from edged.store.kv import Found, KvFolder, Outcome, kv_folder
from edged.store.kv_format import Identity, token_bytes
from edged.types import AdapterSpec, LoadSpec
from edged.worker.journal import journal

#: States that wait for the disk hold memory; one more than this is not taken.
MOST_QUEUED_BYTES = 128 << 20
#: After the disk refused: full, read-only, or out of today's budget.
PAUSE_S = 600.0
#: So often a purge by another process is looked for.
LOOK_S = 30.0
#: At the end: for the write that is under way.
CLOSE_S = 0.2
_NICENESS = 15


@dataclass(frozen=True, slots=True, eq=False)
class DiskPrefix:
    """A prefix that has a file. scope, adapter: whose it is, and what it was computed with."""

    scope: str
    adapter: str | None
    tokens: list[int]
    found: Found


class _Offer(NamedTuple):
    """purges: as the folder said it when the state was made, or before."""

    identity: Identity
    parts: list[memoryview]
    size_bytes: int
    purges: str


class KvDisk:
    def __init__(self, folder: KvFolder, found: Sequence[Found], *, model: str, state_format: str,
                 adapters: Sequence[AdapterSpec], clock: Callable[[], float] = time.monotonic) -> None:
        """found: the model's files. Those of another format are of no use to anybody any more, and removed."""
        self._folder, self._model, self._format = folder, model, state_format
        self._adapters: dict[str | None, str] = {None: ""}
        self._adapters.update({adapter.name: f"{adapter.digest} x{adapter.scale!r}" for adapter in adapters})
        self._clock = clock
        self._known = self._usable(found)
        self._keys = {one.found.path.stem for one in self._known}
        self._held_bytes = folder.held_bytes(model)
        self._purges = folder.purges()
        self._offers: queue.SimpleQueue[_Offer | None] = queue.SimpleQueue()
        self._queued_bytes = 0
        #: Nothing larger than this is taken until then.
        self._most_bytes, self._most_until_s = 0, 0.0
        self._lock = threading.Lock()
        self._written: list[DiskPrefix] = []
        self._refused: set[int | None] = set()
        self._closed = False
        #: Somebody purged the folder: what this worker holds of before is to be dropped, then `forget` is to be called.
        self.purged = False
        #: Writes that the disk refused.
        self.failed_writes = 0
        self._thread = threading.Thread(target=self._write_all, name="kv", daemon=True)
        self._thread.start()

    @property
    def held_bytes(self) -> int:
        """Of this model's files, as of the last look."""
        return self._held_bytes

    def known(self) -> list[DiskPrefix]:
        """At the start, the most recently used first."""
        return list(self._known)

    def written(self) -> list[DiskPrefix]:
        """What has come to disk since this was last asked."""
        with self._lock:
            written, self._written = self._written, []
        return written

    def fetch(self, prefix: DiskPrefix) -> State | None:
        """Blocks for the disk. None where it is gone, damaged or expired: it is to be forgotten."""
        parts = self._folder.read(prefix.found)
        if parts is None:
            with self._lock:
                self._keys.discard(prefix.found.path.stem)
            return None
        return State(len(prefix.tokens), tuple(np.frombuffer(part, np.uint8) for part in parts))

    def wants(self, scope: str, adapter: str | None, tokens: Sequence[int], size_bytes: int) -> bool:
        """Whether `offer` would take it: a cheap answer, before KV is taken out of the engine. size_bytes: about."""
        if self._closed or self.purged or size_bytes > self._folder.most_bytes:
            return False
        if self._queued_bytes and self._queued_bytes + size_bytes > MOST_QUEUED_BYTES:
            return False
        if size_bytes > self._most_bytes and self._clock() < self._most_until_s:
            return False
        return self._identity(scope, adapter, tokens).key not in self._keys

    def offer(self, scope: str, adapter: str | None, tokens: Sequence[int], state: State) -> bool:
        """Have it written in the background. False where it is not wanted: there already, over budget, or too much
        waits. The state's memory is not to change any more."""
        if not self.wants(scope, adapter, tokens, state.size_bytes):
            return False
        identity = self._identity(scope, adapter, tokens)
        parts = [part.reshape(-1).view(np.uint8).data for part in state.parts]
        with self._lock:
            self._keys.add(identity.key)
            self._queued_bytes += state.size_bytes
        self._offers.put(_Offer(identity, parts, state.size_bytes, self._purges))
        return True

    def forget(self) -> None:
        """After a purge, once nothing is held of before: what waits to be written is dropped, what is written is gone,
        and what comes now may be written again."""
        with self._lock:
            self._known, self._keys, self._written = [], set(), []
            self._purges = self._folder.purges()
            self.purged = False

    def close(self) -> None:
        """What is being written has a moment to end; what waits is lost."""
        self._closed = True
        self._offers.put(None)
        self._thread.join(CLOSE_S)

    def _identity(self, scope: str, adapter: str | None, tokens: Sequence[int]) -> Identity:
        return Identity(model=self._model, state_format=self._format, scope=scope, adapter=self._adapters[adapter],
                        tokens=token_bytes(tokens))

    def _write_all(self) -> None:
        """The thread."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while not self._closed:
            try:
                offer = self._offers.get(timeout=LOOK_S)
            except queue.Empty:
                self._look()
                continue
            if offer is not None:
                self._write(offer)
                with self._lock:
                    self._queued_bytes -= offer.size_bytes

    def _look(self) -> None:
        self._held_bytes = self._folder.held_bytes(self._model)
        self.purged = self.purged or self._folder.purges() != self._purges

    def _write(self, offer: _Offer) -> None:
        try:
            outcome = self._folder.write(
                offer.identity, offer.parts, purges=offer.purges, go_on=lambda: not self._closed)
            found = self._folder.find(offer.identity) if outcome in (Outcome.WRITTEN, Outcome.THERE) else None
        except OSError as error:
            self._disk_refused(error)
            outcome, found = Outcome.NO_ROOM, None
        if outcome in (Outcome.OVER_BUDGET, Outcome.NO_ROOM):
            self._most_bytes = self._folder.left_today_bytes() if outcome is Outcome.OVER_BUDGET else 0
            self._most_until_s = self._clock() + PAUSE_S
        names = {spelled: name for name, spelled in self._adapters.items()}
        with self._lock:
            if offer.purges != self._purges:
                return  # of before a purge that is known
            if found is None:
                self._keys.discard(offer.identity.key)
            else:
                self._written.append(_prefix(found, names))
        self._look()

    def _disk_refused(self, error: OSError) -> None:
        self.failed_writes += 1
        if error.errno not in self._refused:
            self._refused.add(error.errno)
            journal().warning("kv_not_written", reason=error.strerror or str(error), again_in_s=PAUSE_S)

    def _usable(self, found: Sequence[Found]) -> list[DiskPrefix]:
        names = {spelled: name for name, spelled in self._adapters.items()}
        usable = []
        for one in found:
            identity = one.header.identity
            if identity.state_format != self._format:
                self._folder.remove(one.path, reason=f"of {identity.state_format}, not {self._format}")
            elif identity.adapter in names:
                usable.append(_prefix(one, names))
        return usable


def _prefix(found: Found, names: Mapping[str, str | None]) -> DiskPrefix:
    """names: of adapters, by their spelling in files."""
    identity = found.header.identity
    return DiskPrefix(identity.scope, names[identity.adapter], identity.token_list(), found)


class Reading:
    """The headers of a model's files, read in a thread while its weights load."""

    def __init__(self, spec: LoadSpec) -> None:
        self._spec = spec
        kv_cache = spec.kv_cache
        self._folder = kv_folder(kv_cache) if kv_cache.folder and kv_cache.disk_bytes else None
        self._found: list[Found] = []
        self._thread = threading.Thread(target=self._read, name="kv headers", daemon=True)
        if self._folder is not None:
            self._thread.start()

    def opened(self, state_format: str) -> KvDisk | None:
        """Once the model is loaded. None where nothing is kept on disk, or its KV is of no use to another process."""
        if self._folder is None or not state_format:
            return None
        self._thread.join()
        spec = self._spec
        return KvDisk(self._folder, self._found, model=spec.digest, state_format=state_format, adapters=spec.adapters)

    def _read(self) -> None:
        assert self._folder is not None
        try:
            self._found = self._folder.of_model(self._spec.digest)
        except Exception:
            journal().exception("kv_not_read")
