"""A file or folder of this machine, copied or reflinked, never linked: its owner may rewrite it.

Regular files only (PROMISES T16): what an entry is, is asked before it is opened, and again of the opened file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from edged.errors import RefusedFile
from edged.store import clone, kinds, onnx_paths, select, space, trained
from edged.store.blobs import PIECE_BYTES, Part, Receiver, key_of
from edged.store.entries import FileEntry, LocalSource
from edged.store.lineage import Training
from edged.store.paths import checked_relative
from edged.store.report import Report
from edged.store.sources import Fetched, Wanted

_MOST_FILES = 10_000


def fetch(source: LocalSource, wanted: Wanted, receiver: Receiver, report: Report) -> Fetched:
    """Raises RefusedFile where something is no regular file, or no model."""
    root = Path(os.path.realpath(Path(source.path).expanduser()))
    if not root.exists():
        raise RefusedFile(f"there is no file or folder {source.path}")
    if root.is_dir():
        listed = _listed(root, report)
        chosen = select.choose(listed, wanted.quant)
    else:
        _regular_size(root, source.path)
        if (why := kinds.why_not(root.name)) is not None:
            raise RefusedFile(f"{root.name} is refused: {why}")
        listed = {root.name: root}
        chosen = select.choose(listed, wanted.quant)
    sizes = {path: _regular_size(listed[path], path) for path in chosen.files}
    report.total(sum(sizes.values()))
    space.require(receiver.home, sum(sizes.values()))
    for path in filter(onnx_paths.is_graph, chosen.files):
        _check_graph(path, root, listed[path], chosen.files)
    files = []
    for path in chosen.files:
        if (why := kinds.look_into(path, sizes[path], listed[path].read_bytes)) is not None:
            report.note(f"{path} is not taken: {why}")
            continue
        report.stage("copying", path)
        files.append(_copied(path.removeprefix(chosen.root), listed[path], sizes[path], receiver, report))
    return Fetched(
        LocalSource(path=str(root)), wanted.engine or chosen.engine, wanted.precision or chosen.precision,
        chosen.file.removeprefix(chosen.root), tuple(files), _training(listed, chosen.root),
    )


def _training(listed: dict[str, Path], root: str) -> Training | None:
    """Raises RefusedFile where what the folder says of it is nothing of the kind."""
    real = listed.get(root + select.TRAINING_FILE)
    if real is None:
        return None
    with _opened(real, select.TRAINING_FILE) as stream:
        return trained.decode(stream.read(trained.MOST_BYTES + 1))


def _listed(root: Path, report: Report) -> dict[str, Path]:
    """Relative path → real path, of the kinds that edged takes. A link may lead to elsewhere in the folder, not out."""
    listed: dict[str, Path] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted((*names, *(name for name in folders if kinds.is_weights(name)))):
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if (why := kinds.why_not(relative)) is not None:
                if not name.startswith("."):
                    report.note(f"{relative} is not taken: {why}")
                continue
            checked_relative(relative)
            real = Path(os.path.realpath(path))
            if not real.is_relative_to(root):
                raise RefusedFile(f"{relative} is a link that leads out of the folder; copy the file itself there")
            listed[relative] = real
            if len(listed) > _MOST_FILES:
                raise RefusedFile(f"the folder holds more than {_MOST_FILES} files; point to the model's own folder")
    return listed


def _check_graph(path: str, root: Path, real: Path, members: tuple[str, ...]) -> None:
    """Its weights lie in the folder, and nowhere else under another name (PROMISES T6)."""
    with _opened(real, path) as graph:
        weights = onnx_paths.check(path, graph, members)
    for member in sorted(weights):
        status = (root / member).lstat()
        if stat.S_ISLNK(status.st_mode):
            raise RefusedFile(f"{member}, where {path} has its weights, is a link; copy the file itself there")
        if status.st_nlink > 1:
            raise RefusedFile(f"{member}, where {path} has its weights, has {status.st_nlink} hard links, so it is a "
                              "file of another place too; copy it (`cp` without -l)")


def _opened(real: Path, shown: str) -> BinaryIO:
    """What it is, is asked again of the opened file."""
    stream = os.fdopen(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    try:
        _checked_regular(os.fstat(stream.fileno()), shown)
    except RefusedFile:
        stream.close()
        raise
    return stream


def _regular_size(path: Path, shown: str) -> int:
    try:
        status = path.lstat()
    except OSError as error:
        raise RefusedFile(f"{shown} cannot be read: {error.strerror}") from error
    return _checked_regular(status, shown)


def _checked_regular(status: os.stat_result, shown: str) -> int:
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    what = next(
        (word for is_it, word in (
            (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"),
            (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISLNK, "a link that leads nowhere"),
        ) if is_it(status.st_mode)), "something odd",
    )
    raise RefusedFile(f"{shown} is {what}; a model is made of regular files only")


def _copied(path: str, real: Path, size: int, receiver: Receiver, report: Report) -> FileEntry:
    def fill(part: Part) -> None:
        with _opened(real, path) as stream:
            if clone.share_blocks(stream.fileno(), part.fd):
                part.rehash()
                report.add(part.size)
                return
            while piece := stream.read(PIECE_BYTES):
                part.write(piece)
                report.add(len(piece))

    blob = receiver.receive(key_of("local", str(real)), fill)
    if blob.size != size:
        raise RefusedFile(f"{path} changed while it was copied; pull again when its owner is done")
    return FileEntry(path=path, size=blob.size, sha256=blob.sha256)
