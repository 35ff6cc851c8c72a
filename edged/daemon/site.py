"""What all models of one daemon share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edged.daemon.breaker import Breaker
from edged.daemon.capture import Capture
from edged.daemon.footprint import Footprints
from edged.daemon.habits import Habits
from edged.daemon.metrics import Metrics
from edged.daemon.suspects import Suspects
from edged.errors import EdgedError
from edged.settings import Settings
from edged.store import Store
from edged.store.catalog import CatalogFile
from edged.store.entries import Manifest

if TYPE_CHECKING:
    from edged.hardware.facts import Facts


@dataclass(frozen=True, slots=True)
class Site:
    """tickets: order of arrival among all requests and asks. changed: tell the router that something may be decided
    anew. failing: this version cannot serve, for this reason; told before those that wait for it are refused, so that
    they may be taken elsewhere. facts: of this machine as it is now; takes milliseconds, and may be called in any
    thread."""

    settings: Settings
    store: Store
    catalog: CatalogFile
    metrics: Metrics
    footprints: Footprints
    habits: Habits
    suspects: Suspects
    capture: Capture
    tickets: Iterator[int]
    changed: Callable[[], None]
    failing: Callable[[Manifest, EdgedError], None]
    breaker: Callable[[], Breaker]
    worker_command: Sequence[str]
    trial_command: Sequence[str]
    facts: Callable[[], Facts]
    clock: Callable[[], float] = time.monotonic


def facts_of(home: Path) -> Facts:
    """Of this machine with the engine environments of a home, probed now."""
    from edged.hardware.probe import probe_with

    return probe_with(home)
