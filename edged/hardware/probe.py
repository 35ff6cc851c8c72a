"""Reads the facts of this machine: from /proc and /sys on Linux, through psutil and sysctl elsewhere. Takes a few
milliseconds, starts no inference library, and never fails: what cannot be read is left out."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import psutil
from msgspec.structs import replace

from edged.hardware.cgroups import cgroups, quota_cores
from edged.hardware.devices import accelerators, apple, board, gpus, read_nvml
from edged.hardware.facts import Cpu, Facts, Memory
from edged.hardware.installed import installed
from edged.hardware.sysfs import text, whole

#: Of the CPU features, those that inference kernels are compiled for.
FEATURES = frozenset({
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "neon", "asimdhp", "fphp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
})
#: cgroup v1 writes a number near 2**63 for "no limit".
_NO_LIMIT = 2**60


def probe(root: Path = Path("/")) -> Facts:
    """root: where /proc, /sys and /dev are looked for; tests give the files of other machines."""
    here = root == Path("/")
    cpu = _cpu(root)
    cards = gpus(root, read_nvml if here else list)
    if here and (own := apple(cpu.model)) is not None:
        cards.append(own)
    return Facts(
        system=platform.system(),
        architecture=platform.machine(),
        cpu=cpu,
        memory=_memory(root),
        board=board(root),
        gpus=tuple(cards),
        accelerators=tuple(accelerators(root)),
        software=installed(),
    )


def probe_with(home: Path) -> Facts:
    """This machine with the engine environments of a store's home."""
    return with_environments(probe(), home)


def with_environments(facts: Facts, home: Path) -> Facts:
    from edged.hardware.environments import environments

    return replace(facts, environments={one.name: one.software for one in environments(home)})


def _cpu(root: Path) -> Cpu:
    described = text(root / "proc/cpuinfo")
    if not described:
        return _cpu_elsewhere()
    names = re.findall(r"^(?:model name|Model|Hardware|cpu model)\s*:\s*(.+)$", described, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", described, re.MULTILINE)
    logical = len(re.findall(r"^processor\s*:", described, re.MULTILINE)) or 1
    cores = {text(path) or path.parts[-3] for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/topology/"
                                                                 "core_cpus_list")}
    physical = len(cores) or logical
    return Cpu(
        model=names[0].strip() if names else platform.processor() or platform.machine(),
        physical=physical,
        logical=logical,
        usable=_usable(root, logical),
        fast=_fast_cores(root, physical),
        features=FEATURES & set(flags[1].split()) if flags else frozenset(),
    )


def _usable(root: Path, logical: int) -> int:
    """By the affinity of this process and the CPU quota of its cgroups, which container runtimes set."""
    allowed = len(os.sched_getaffinity(0)) if root == Path("/") and hasattr(os, "sched_getaffinity") else logical
    for group in cgroups(root, "cpu"):
        if (cores := quota_cores(group)) is not None:
            allowed = min(allowed, max(1, int(cores)))
    return max(1, min(allowed, logical))


def _fast_cores(root: Path, physical: int) -> int:
    """On machines with two kinds of cores, those of the faster kind: Arm tells capacities, Intel names the kinds."""
    capacities = [
        value for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpu_capacity")
        if (value := whole(path)) is not None
    ]
    if capacities:
        return sum(value >= 0.8 * max(capacities) for value in capacities)
    if fast := _cpu_list(text(root / "sys/devices/cpu_core/cpus")):
        cores = {text(root / f"sys/devices/system/cpu/cpu{number}/topology/core_cpus_list") or str(number)
                 for number in fast}
        return len(cores)
    return physical


def _cpu_list(written: str) -> list[int]:
    """`0-3,8` as the kernel writes lists of processors."""
    numbers: list[int] = []
    for part in written.split(","):
        if found := re.fullmatch(r"(\d+)(?:-(\d+))?", part):
            numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return numbers


def _cpu_elsewhere() -> Cpu:
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    known = _sysctl("machdep.cpu.brand_string", "hw.perflevel0.physicalcpu", "hw.optional.arm.FEAT_DotProd",
                    "hw.optional.arm.FEAT_I8MM", "hw.optional.avx2_0")
    features = {name for name, key in (("asimddp", "hw.optional.arm.FEAT_DotProd"), ("i8mm", "hw.optional.arm."
                "FEAT_I8MM"), ("avx2", "hw.optional.avx2_0")) if known.get(key) == "1"}
    return Cpu(
        model=known.get("machdep.cpu.brand_string") or platform.processor() or platform.machine(),
        physical=physical, logical=logical, usable=logical,
        fast=int(known.get("hw.perflevel0.physicalcpu") or physical), features=frozenset(features),
    )


def _sysctl(*names: str) -> dict[str, str]:
    if platform.system() != "Darwin":
        return {}
    try:
        told = subprocess.run(["/usr/sbin/sysctl", *names], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split(": ", 1) for line in told.stdout.splitlines() if ": " in line)


def _memory(root: Path) -> Memory:
    described = dict(re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB$", text(root / "proc/meminfo"), re.MULTILINE))
    if described.keys() >= {"MemTotal", "MemAvailable"}:
        total, available = int(described["MemTotal"]) * 1024, int(described["MemAvailable"]) * 1024
    else:
        told = psutil.virtual_memory()
        total, available = told.total, told.available
    limit: int | None = None
    for group in cgroups(root, "memory"):
        for bound, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most = whole(group / bound)
            if most is not None and most < min(total, _NO_LIMIT):
                limit = most if limit is None else min(limit, most)
                available = min(available, max(0, most - (whole(group / usage) or 0)))
    return Memory(total=total, available=available, limit=limit)
