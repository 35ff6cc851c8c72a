"""Wheels made on the spot, for a folder that pip takes for an index (PIP_NO_INDEX, PIP_FIND_LINKS)."""

from __future__ import annotations

import zipfile
from pathlib import Path


def wheel(index: Path, dist: str, files: dict[str, bytes], *, links: tuple[str, ...] = ()) -> Path:
    """A wheel whose code, were it ever run, would leave a mark: its __init__ writes a file."""
    name = dist.replace("-", "_")
    path = index / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        canary = f"open({str(index / 'ran')!r}, 'w')"
        for inside, data in {f"{name}/__init__.py": canary.encode(), **files}.items():
            archive.writestr(inside, data)
        for inside in links:
            link = zipfile.ZipInfo(inside)
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path
