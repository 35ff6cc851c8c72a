"""What an engine may take of the machine: as the daemon says, and asked of the machine where nobody said. Asking takes
imports that a worker's start is spared otherwise."""

from __future__ import annotations

from edged.types import LoadSpec


def threads_for(spec: LoadSpec) -> int:
    if spec.threads:
        return spec.threads
    from edged.hardware.probe import probe

    return probe().cpu.threads


def memory_for(spec: LoadSpec) -> int:
    """Bytes."""
    if spec.memory_bytes:
        return spec.memory_bytes
    import psutil

    return psutil.virtual_memory().total
