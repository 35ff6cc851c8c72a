"""What a process holds at one moment, seen from outside."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

import psutil


class Held(NamedTuple):
    """files: open descriptors, sockets among them."""

    files: int
    sockets: int
    threads: int
    resident_bytes: int

    @property
    def handles(self) -> tuple[int, int, int]:
        return self.files, self.sockets, self.threads


def held(process: psutil.Process) -> Held:
    folder, kinds = f"/proc/{process.pid}/fd", []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            kinds.append(os.readlink(f"{folder}/{name}").partition(":")[0])
    return Held(len(kinds), kinds.count("socket"), process.num_threads(), process.memory_info().rss)


def forget_peak(process: psutil.Process) -> None:
    """`peak_bytes` counts from now on."""
    with open(f"/proc/{process.pid}/clear_refs", "w") as file:
        file.write("5")


def peak_bytes(process: psutil.Process) -> int:
    """The most that was ever resident, since the last `forget_peak`."""
    with open(f"/proc/{process.pid}/status") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
