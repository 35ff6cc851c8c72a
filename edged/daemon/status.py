"""What the daemon tells of a model: frozen values, no I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import Struct

from edged.types import Task, Tuning


class ModelState(StrEnum):
    """ABSENT: installed, not loaded. BROKEN: it kept crashing and is started again only by an explicit load.
    DEVICE_LOST: the device that served it is gone; the next request looks whether it is back."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    BROKEN = "broken"
    DEVICE_LOST = "device_lost"


#: What became of a model that was in memory before a restart. asked: somebody wanted it before its turn came; gave_way:
#: it was stopped while it loaded, for the sake of what somebody wanted; left_out: it was not tried.
ReloadOutcome = Literal["ready", "asked", "no_room", "gave_way", "failed", "left_out"]


class Served(Struct, frozen=True, kw_only=True):
    """The worker that really answers; `device` is attested by its engine."""

    name: str
    version: str
    engine: str
    device: str
    digest: str


class ModelStatus(Struct, frozen=True, kw_only=True):
    """size: bytes on disk. context, device, rows, load_s, idle_s: None unless loaded. running: admitted by the worker;
    waiting: accepted and not yet running. restarts: deaths nobody asked for. created: seconds since 1970. share: of the
    requests for its plain name, while a rollout is under way; candidate: it is the one that is tried. reason: why it
    runs on that device; engine_version: as the build that serves attests it, both None unless loaded. environment: the
    engine environment that it serves from, None for edged's own. adapters: names that requests may use. task: what it
    is for; dimensions: of its vectors, None unless it is loaded and makes such. kv_ram_bytes, kv_disk_bytes: KV of
    earlier prompts that its worker keeps in memory, and that it has in files; prefix_disk_tokens: of prompts since it
    was loaded, those that came from files. speculative_*: since it was loaded. notes: what its operator should know
    of how it was set up. threads: that decode now, None where that is not known. tuning: in force, None
    unless loaded, and where nothing was measured. load_s: from the decision to load it. kv_bytes: what its KV grows to
    where all of kv_tokens is used. reloaded: it was loaded because it was in memory before a restart of the daemon.
    captured: its whole answers are kept for training, with what was asked."""

    name: str
    version: str
    digest: str
    engine: str
    precision: str
    size: int
    parameters: int | None
    context: int | None
    device: str | None
    state: ModelState
    pinned: bool
    keep_alive_s: float
    idle_s: float | None
    running: int
    waiting: int
    resident_bytes: int
    kv_used_tokens: int
    kv_tokens: int
    load_s: float | None
    rows: int | None
    restarts: int
    alias_of: str | None
    created: float
    error: str | None
    share: float | None = None
    candidate: bool = False
    reason: str | None = None
    engine_version: str | None = None
    environment: str | None = None
    adapters: tuple[str, ...] = ()
    task: Task = "generate"
    dimensions: int | None = None
    speculative_proposed_tokens: int = 0
    speculative_accepted_tokens: int = 0
    kv_ram_bytes: int = 0
    kv_disk_bytes: int = 0
    prefix_disk_tokens: int = 0
    notes: tuple[str, ...] = ()
    threads: int | None = None
    tuning: Tuning | None = None
    kv_bytes: int = 0
    reloaded: bool = False
    captured: bool = False

    @property
    def kv_bytes_per_token(self) -> float:
        return self.kv_bytes / self.kv_tokens if self.kv_tokens else 0.0
