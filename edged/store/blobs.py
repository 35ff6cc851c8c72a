"""Content-addressed files: `blobs/sha256-<64 hex>`, whole or not there.

A `Receiver` belongs to one pull. It takes bytes into `tmp/part-<key>`, hashes them as they come, and publishes them
under their hash. From before it looks for a blob until it is closed, it holds a lease on that blob's digest, so that
the garbage collector of another process leaves alone what no manifest names yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edged.errors import SourceUnavailable
from edged.store import files, locks, space
from edged.store.paths import Layout

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    sha256: str
    size: int


def key_of(*words: str) -> str:
    """A name, 64 hex digits, for what is being fetched, the same in every process that fetches it."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def hash_file(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """progress: called with the count of bytes of each piece."""
    total = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(PIECE_BYTES):
            total.update(piece)
            if progress is not None:
                progress(len(piece))
    return total.hexdigest()


class Part:
    """A file that is being received; only the holder of its tmp lock has one. `size` bytes are here already."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._out = files.OutFile(path, keep=resume)
        self._hash = hashlib.sha256()
        for piece in self._out.pieces():
            self._hash.update(piece)

    @property
    def size(self) -> int:
        return self._out.size

    @property
    def fd(self) -> int:
        """For a clone of another file's blocks; `rehash` afterwards."""
        return self._out.fd

    def write(self, data: bytes) -> None:
        self._out.write(data)
        self._hash.update(data)

    def pieces(self) -> Iterator[bytes]:
        """What was received, from its beginning."""
        return self._out.pieces()

    def restart(self) -> None:
        """Forget all that was received."""
        self._out.truncate(0)
        self._hash = hashlib.sha256()

    def rehash(self) -> None:
        """The file was filled behind our back, by a clone."""
        self._out.size = 0
        self._hash = hashlib.sha256()
        for piece in self._out.pieces():
            self._hash.update(piece)
            self._out.size += len(piece)

    def finish(self) -> Blob:
        self._out.sync()
        return Blob(self._hash.hexdigest(), self.size)

    def close(self) -> None:
        self._out.close()


class Receiver:
    """Context manager; one thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._leases = ExitStack()
        self._leased: set[str] = set()

    @property
    def home(self) -> Path:
        return self._layout.home

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *exc: object) -> None:
        self._leases.close()

    def have(self, sha256: str, size: int | None = None) -> Blob | None:
        """The blob, if it is here with that size; it stays here until the receiver is closed."""
        self._lease(sha256)
        try:
            found = self._layout.blob(sha256).stat().st_size
        except FileNotFoundError:
            return None
        return Blob(sha256, found) if size is None or size == found else None

    def resumable(self, key: str) -> int:
        """How many bytes of it are here from an interrupted pull. Another process may be adding to them."""
        try:
            return self._layout.part(key).stat().st_size
        except FileNotFoundError:
            return 0

    def receive(
        self,
        key: str,
        fill: Callable[[Part], None],
        *,
        sha256: str | None = None,
        size: int | None = None,
        resume: bool = False,
        waiting: Callable[[], None] | None = None,
    ) -> Blob:
        """Have `fill` write the rest of the file and publish it.

        resume: where fill can go on from what an earlier pull left, and sha256 is known to check the whole against;
        fill may then fail, and what it wrote is kept for a later pull. Without it, nothing is kept. waiting: called
        while another process receives the same. Raises SourceUnavailable for wrong bytes, OSError where the disk is
        full; in both cases the part is gone.
        """
        path = self._layout.part(key)
        with locks.lock(self._layout.tmp_lock(path), waiting=waiting):
            if sha256 is not None and (there := self.have(sha256, size)) is not None:
                files.remove(path)
                return there
            try:
                return self._fill(path, fill, sha256, size, resume=resume and sha256 is not None)
            except OSError as error:
                if space.is_full(error):
                    files.remove(path)
                raise
            finally:
                if not resume:
                    files.remove(path)

    def read(self, blob: Blob) -> bytes:
        """The whole of a small file that is here."""
        return self._layout.blob(blob.sha256).read_bytes()

    def open(self, blob: Blob) -> BinaryIO:
        return self._layout.blob(blob.sha256).open("rb")

    @contextmanager
    def scratch(self, key: str) -> Iterator[Path]:
        """An empty folder in tmp/ for another program to write into; ours alone until the end, gone after it."""
        path = self._layout.unpacking(key)
        with locks.lock(self._layout.tmp_lock(path)):
            if path.exists():
                files.remove_tree(path)
            files.make_folder(path)
            try:
                yield path
            finally:
                files.remove_tree(path)

    def _fill(
        self, path: Path, fill: Callable[[Part], None], sha256: str | None, size: int | None, *, resume: bool,
    ) -> Blob:
        part = Part(path, resume=resume)
        try:
            resumed = part.size > 0
            if size is not None and part.size > size:
                part.restart()
            fill(part)
            blob = part.finish()
            if resumed and sha256 is not None and blob.sha256 != sha256:
                # What an earlier pull left here was bad (a power loss leaves zeros): once more, from the beginning.
                part.restart()
                fill(part)
                blob = part.finish()
        finally:
            part.close()
        if (sha256 is not None and blob.sha256 != sha256) or (size is not None and blob.size != size):
            files.remove(path)
            raise SourceUnavailable(
                f"the source sent other bytes than it announced: {blob.size} bytes with sha256 {blob.sha256[:12]}…, "
                f"not {size if size is not None else 'as many'} bytes with {(sha256 or 'any')[:12]}…; "
                "nothing was installed, pull again"
            )
        self._lease(blob.sha256)
        target = self._layout.blob(blob.sha256)
        if target.is_file() and target.stat().st_size == blob.size:
            files.remove(path)
        else:
            files.rename(path, target)
        return blob

    def _lease(self, sha256: str) -> None:
        if sha256 not in self._leased:
            self._leases.enter_context(locks.lease(self._layout.blob_lock(sha256)))
            self._leased.add(sha256)
