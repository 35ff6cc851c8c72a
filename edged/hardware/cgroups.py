"""The control groups that this process is in, of either version, and what they say of processors."""

from __future__ import annotations

import re
from pathlib import Path

from edged.hardware.sysfs import text, whole


def cgroups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's cgroups that bind `controller`, each with its parents: a limit of any of them binds.
    Inside a container the path may be that of the host: then only the mount's top is there."""
    found: list[Path] = []
    for line in text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        folder = top / path.strip("/")
        found += [one for one in (folder, *folder.parents) if one.is_relative_to(top) and one.is_dir()]
    return found


def quota_cores(group: Path) -> float | None:
    """How many processors' time the group may use; None without a limit of its own."""
    found = re.fullmatch(r"(\d+) (\d+)", text(group / "cpu.max"))
    quota, period = (int(found[1]), int(found[2])) if found else (
        whole(group / "cpu.cfs_quota_us"), whole(group / "cpu.cfs_period_us"))
    return quota / period if quota and period else None


def used_s(group: Path) -> float | None:
    """CPU seconds that all its processes used so far. Version 1 counts in the controller `cpuacct`, mounted with `cpu`
    or beside it."""
    if (found := re.search(r"^usage_usec (\d+)$", text(group / "cpu.stat"), re.MULTILINE)) is not None:
        return int(found[1]) / 1e6
    beside = Path(*("cpuacct" if part == "cpu" else part for part in group.parts))
    nanoseconds = whole(group / "cpuacct.usage") or whole(beside / "cpuacct.usage")
    return None if nanoseconds is None else nanoseconds / 1e9
