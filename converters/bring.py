"""Files of a model or an adapter, from a folder of this machine or a hub repository, into the job's folder.

Texts are copied, so that what was checked is what the libraries read. Weights in a folder of this machine are linked
to, not copied: they are large, and `Linked` tells whether their owner changed them meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
from msgspec import Struct

from converters.child import Tell
from edged.errors import Conflict, RefusedFile
from edged.store import clone, files, kinds
from edged.store.blobs import Receiver, hash_file
from edged.store.entries import FileEntry, HubSource, JobProgress
from edged.store.paths import Layout
from edged.store.report import Report
from edged.store.sources import hub
from edged.store.sources.hub import HubPlan, RemoteFile
from edged.store.sources.transfer import HubClient, HubSettings

STAGE = "source"

#: Of sentence-transformers: its modules have configurations in folders of their own.
MODULES = "modules.json"

#: Which files of those at the top level, by name. Raises RefusedFile.
Choose = Callable[[Collection[str]], list[str]]
#: Looks into a text. Raises RefusedFile.
Check = Callable[[str, bytes], object]


class Linked(Struct, frozen=True, kw_only=True):
    """A file that is used where it lies, as it was when its digest was taken."""

    path: str
    size: int
    mtime_ns: int
    inode: int


class Brought(Struct, frozen=True, kw_only=True):
    """revision: of a repository, the commit."""

    files: tuple[FileEntry, ...]
    linked: tuple[Linked, ...] = ()
    revision: str | None = None

    def sha256_of(self, path: str) -> str:
        return next(entry.sha256 for entry in self.files if entry.path == path)


class Listing(Struct, frozen=True, kw_only=True):
    """A folder or a repository before anything of it is brought. sizes: of the chosen files."""

    title: str
    sizes: dict[str, int]
    folder: Path | None = None
    remote: tuple[RemoteFile, ...] = ()
    source: HubSource | None = None


def list_folder(folder: Path, choose: Choose) -> Listing:
    """Raises RefusedFile where it is no folder, or `choose` does."""
    root = Path(os.path.realpath(folder))
    if not root.is_dir():
        raise RefusedFile(f"there is no folder {folder}")
    names = choose(sorted(os.listdir(root)))
    if MODULES in names:
        names += sorted(file.relative_to(root).as_posix() for file in root.glob("*/config.json"))
    sizes = {name: _regular(root, name).st_size for name in names}
    return Listing(title=str(folder), sizes=sizes, folder=root)


def list_repository(
    repo: str, revision: str | None, choose: Choose, client: HubClient, settings: HubSettings,
) -> Listing:
    """Raises ModelNotFound, SourceUnavailable, RefusedFile."""
    asked = HubSource(repo=repo, files=("*",), revision=revision or "main")
    commit, listed = hub.listing(asked, client, settings)
    names = choose(sorted(path for path in listed if "/" not in path))
    if MODULES in names:
        names += sorted(path for path in listed if _is_of_module(path))
    pinned = HubSource(repo=repo, files=tuple(names), revision=commit)
    return Listing(
        title=f"{repo}@{commit}", sizes={name: listed[name].size for name in names},
        remote=tuple(listed[name] for name in names), source=pinned)


def bring_folder(listing: Listing, out: Path, check: Check, tell: Tell) -> Brought:
    """Texts are checked before any weights are read."""
    assert listing.folder is not None
    root = listing.folder
    out.mkdir(mode=files.FOLDER_MODE, parents=True)
    entries: list[FileEntry] = []
    linked: list[Linked] = []
    report = _Bytes(tell, sum(listing.sizes.values()))
    for name in sorted(listing.sizes, key=lambda name: (kinds.is_weights(name), name)):
        status = _regular(root, name)
        real = Path(os.path.realpath(root / name))
        if kinds.is_weights(name):
            sha256 = hash_file(real, report.add)
            seen = _linked(real, status)
            changed(seen)
            (out / name).symlink_to(real)
            linked.append(seen)
        else:
            data = _read_text(real, name, status.st_size)
            if name.lower().endswith(".json"):
                check(name, data)
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_bytes(data)
            sha256 = hash_file(out / name, report.add)
        entries.append(FileEntry(path=name, size=status.st_size, sha256=sha256))
    return Brought(files=_sorted(entries), linked=tuple(linked))


def bring_repository(
    listing: Listing, out: Path, check: Check, tell: Tell, *, client: HubClient, settings: HubSettings, layout: Layout,
) -> Brought:
    """Through the store's blobs, so that a download that broke off is gone on with; then hard links to those."""
    assert listing.source is not None
    report = Report(lambda moment: tell(msgspec.structs.replace(moment, stage=STAGE)))
    out.mkdir(mode=files.FOLDER_MODE, parents=True)
    entries: list[FileEntry] = []
    for weights in (False, True):
        part = tuple(file for file in listing.remote if kinds.is_weights(file.path) == weights)
        plan = HubPlan(listing.source, "ort", "", "", "", part)
        with Receiver(layout) as receiver:
            fetched = hub.fetch(plan, client, settings, receiver, report)
            for entry in fetched.files:
                _link(layout.blob(entry.sha256), out / entry.path)
        if missing := {file.path for file in part} - {entry.path for entry in fetched.files}:
            raise RefusedFile(f"{min(missing)} of {listing.title} needs code that comes with the model (auto_map), "
                              "which is never run")
        if not weights:
            for entry in fetched.files:
                if entry.path.lower().endswith(".json"):
                    check(entry.path, (out / entry.path).read_bytes())
        entries.extend(fetched.files)
    return Brought(files=_sorted(entries), revision=listing.source.revision)


def changed(linked: Linked) -> None:
    """Raises Conflict where a file is not any more what it was."""
    path = Path(linked.path)
    try:
        same = _linked(path, path.lstat()) == linked
    except OSError:
        same = False
    if not same:
        raise Conflict(f"{path.name} was changed while it was converted; convert it again when its owner is done")


def _regular(root: Path, name: str) -> os.stat_result:
    """A link may lead to elsewhere in the folder, not out."""
    real = Path(os.path.realpath(root / name))
    if not real.is_relative_to(root):
        raise RefusedFile(f"{name} is a link that leads out of the folder; copy the file itself there")
    try:
        status = real.lstat()
    except OSError as error:
        raise RefusedFile(f"{name} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise RefusedFile(f"{name} is no regular file; a model is made of those only")
    return status


def _linked(path: Path, status: os.stat_result) -> Linked:
    return Linked(path=str(path), size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


def _read_text(real: Path, name: str, size: int) -> bytes:
    if size > kinds.JSON_BYTES:
        raise RefusedFile(f"{name} has {size} bytes, which is too long for what it says it is")
    with open(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
        return stream.read(kinds.JSON_BYTES + 1)


def _is_of_module(path: str) -> bool:
    return path.count("/") == 1 and path.endswith("/config.json")


def _link(blob: Path, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    try:
        files.link(blob, path)
    except OSError:
        clone.copy(blob, path)


def _sorted(entries: list[FileEntry]) -> tuple[FileEntry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.path))


class _Bytes:
    """Bytes that were read, told now and then."""

    def __init__(self, tell: Tell, total_bytes: int) -> None:
        self._report = Report(lambda moment: tell(JobProgress(
            stage=STAGE, done_bytes=moment.done_bytes, total_bytes=total_bytes)))

    def add(self, count: int) -> None:
        self._report.add(count)
