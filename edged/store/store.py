"""The store: what is installed on this machine, under one home folder that many processes may use at once.

Readers take no lock: everything is published by rename. Writers hold the store's lock for moments; a pull of hours
holds leases on its blobs instead. State lives on disk only; a Store object may be made at any time, in any process.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from edged.errors import Conflict, CorruptFile, EdgedError, InsufficientStorage, ModelNotFound
from edged.store import collect, folders, history, locks, schema, space, verify
from edged.store.blobs import Receiver
from edged.store.entries import ActivatedBy, Activation, Collected, Damage, Manifest, with_accepted_loss
from edged.store.kv import forget_model
from edged.store.manifests import Manifests, check, not_installed
from edged.store.paths import Layout


class Lease:
    """Keeps one version of a model, and its folder, from removal by any process, until `release` or this process's
    end."""

    def __init__(self, *held: locks.Lock) -> None:
        self._held = held

    def release(self) -> None:
        for lock in self._held:
            lock.release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class Store:
    def __init__(self, home: Path) -> None:
        """Make `home` (mode 0700) where there is none. Raises ConfigError when it cannot be used, or was written by a
        newer edged: then nothing in it is touched. One of an older edged is migrated."""
        self.home = home
        self.layout = Layout(home)
        self.manifests = Manifests(self.layout)
        schema.prepare(self.layout)

    def names(self) -> list[str]:
        """Installed models, sorted."""
        return self.manifests.names()

    def manifest(self, name: str, version: str | None = None) -> Manifest:
        """The active version, or the one that begins with `version` (4 digits at least). Raises ModelNotFound,
        CorruptFile; BadReference where several begin so."""
        return self.manifests.read(name, None if version is None else self.manifests.full_version(name, version))

    def versions(self, name: str) -> list[Manifest]:
        """Every version that is here, oldest first. Raises ModelNotFound when there is none."""
        found = [self.manifests.read(name, version) for version in self.manifests.versions(name)]
        if not found:
            raise not_installed(name)
        return sorted(found, key=lambda manifest: (manifest.created, manifest.version))

    def active(self, name: str) -> str:
        return self.manifests.active(name)

    def history(self, name: str) -> tuple[Activation, ...]:
        """Its activations, oldest first, the last 100 of them; the last one is of the active version. Raises
        ModelNotFound."""
        self.active(name)
        return self.manifests.history(name)

    def publish(self, manifest: Manifest, *, activate: bool = True, by: ActivatedBy = "pull") -> None:
        """Make a version installed, whole or not at all; its blobs are here already and, until this returns, leased by
        a Receiver. Raises CorruptFile when one is missing or has another size."""
        check(manifest)
        with self._locked():
            for entry in manifest.files:
                try:
                    size = self.layout.blob(entry.sha256).stat().st_size
                except FileNotFoundError:
                    size = None
                if size != entry.size:
                    raise CorruptFile(f"{entry.path} of {manifest.name} is not whole in the store; pull it again")
            self.manifests.write(manifest)
            if activate:
                self.manifests.activate(manifest.name, manifest.version, by)

    def amend(self, manifest: Manifest) -> None:
        """Say more of a version that is here: the same files, so the same digest, with another quality and the like.
        Raises ModelNotFound, CorruptFile; Conflict where its files are others, or the store cannot be written;
        InsufficientStorage."""
        with self._changing():
            here = self.manifests.read(manifest.name, manifest.version)
            if (here.digest, here.files, here.file) != (manifest.digest, manifest.files, manifest.file):
                raise Conflict(f"{manifest.name}@{manifest.version} has other files; publish it as a new version")
            self.manifests.write(manifest)

    def activate(self, name: str, version: str, by: ActivatedBy = "activate") -> str:
        """Roll forward or back: one atomic rename. version: or a beginning of it. Returns the version. Where somebody
        activates one that its gate refused, its quality says from then on that the loss was accepted. Raises
        ModelNotFound, CorruptFile, BadReference; Conflict where the store cannot be written; InsufficientStorage."""
        with self._changing():
            manifest = self.manifest(name, version)
            if by == "activate" and manifest.verdict is not None and not manifest.verdict.passed:
                self.manifests.write(with_accepted_loss(manifest))
            self.manifests.activate(name, manifest.version, by)
            return manifest.version

    def rollback(self, name: str) -> str:
        """Activate what was active before, and return it; one after another walks further back. Raises ModelNotFound,
        CorruptFile; Conflict where nothing is left to go back to, or the store cannot be written; InsufficientStorage.
        """
        with self._changing():
            version = self.before(name)
            self.manifests.activate(name, version, "rollback")
            return version

    def before(self, name: str) -> str:
        """The version that a roll-back would go to. Raises ModelNotFound, and Conflict where there is none."""
        version = history.before(self.history(name), self.manifests.versions(name))
        if version is None:
            raise Conflict(f"no version of {name} that is here was active before {self.active(name)}; "
                           f"`edged activate {name}@VERSION` takes any that `edged show {name}` lists")
        return version

    def remove(self, name: str, version: str | None = None) -> None:
        """Take a version away, or all of them. Its blobs go with the next `collect`. Raises ModelNotFound; Conflict
        while any process serves it, or when it is active and others are not: activate one of those first."""
        with self._locked(), contextlib.ExitStack() as held:
            version = None if version is None else self.manifests.full_version(name, version)
            manifests = [self.manifest(name, version)] if version is not None else self.versions(name)
            if version is not None and len(self.versions(name)) > 1 and self.manifests.pointer(name) == version:
                raise Conflict(
                    f"{version} is the active version of {name}; activate another one first, or remove {name} whole"
                )
            for manifest in manifests:
                if (lock := locks.try_lock(self.layout.use_lock(name, manifest.version))) is None:
                    raise Conflict(f"{name}@{manifest.version} is in use; `edged unload {name}` first")
                held.enter_context(lock)
            for manifest in manifests:
                self.manifests.remove(name, manifest.version)
            self._forget_kv({manifest.digest for manifest in manifests})

    def folder(self, manifest: Manifest) -> Path:
        """The model's folder, complete, ready for an engine; hold a lease. Raises CorruptFile."""
        return folders.complete(self.layout, manifest)

    def lease(self, manifest: Manifest) -> Lease:
        """Raises ModelNotFound when the version was removed meanwhile."""
        lease = Lease(
            locks.lease(self.layout.use_lock(manifest.name, manifest.version)),
            locks.lease(self.layout.model_lock(manifest.digest)),
        )
        if not self.layout.manifest(manifest.name, manifest.version).is_file():
            lease.release()
            raise ModelNotFound(f"{manifest.name}@{manifest.version} was removed; `edged pull {manifest.name}`")
        return lease

    def receiver(self) -> Receiver:
        """For those who bring blobs: pulls and conversions. Keep it open until `publish` has returned."""
        return Receiver(self.layout)

    def collect(self, *, parts_older_than_s: float = collect.PARTS_OLDER_THAN_S) -> Collected:
        """Remove what no manifest names, no lease holds and no pull needs; unfinished downloads when nobody has gone
        on with them for that long."""
        with self._locked():
            return collect.collect(self.layout, self.manifests, parts_older_than_s)

    def verify(self, name: str | None = None, progress: Callable[[str, int, int], None] | None = None) -> list[Damage]:
        """Hash every file again (of one model, or of all). Damaged blobs are quarantined: the next pull mends them.
        progress: path, bytes hashed, bytes in all."""
        names = self.names() if name is None else [name]
        wanted = [manifest for each in names for manifest in self.versions(each)]
        return verify.verify(self.layout, wanted, self._locked, progress)

    def usage(self) -> int:
        """Bytes of all blobs, unfinished downloads and KV files."""
        total = 0
        for top in (self.layout.blobs, self.layout.tmp, self.layout.kv):
            for folder, _, names in os.walk(top):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        total += Path(folder, name).lstat().st_size
        return total

    def _forget_kv(self, digests: set[str]) -> None:
        """Of what no version has any more. One that cannot be read may be anything: then `collect` does it."""
        with contextlib.suppress(EdgedError):
            named = {self.manifests.read(name, version).digest for name, version in self.manifests.everything()}
            for digest in digests - named:
                forget_model(self.layout, digest)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """The store's lock. What the disk refuses is told in words."""
        try:
            with self._locked():
                yield
        except OSError as error:
            if space.is_full(error):
                raise InsufficientStorage(
                    "the disk of the store is full, so all serves as before; `edged gc` frees what no model uses"
                ) from error
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise Conflict(f"the store cannot be written ({error.strerror}), so all serves as before") from error
            raise

    def _locked(self) -> locks.Lock:
        return schema.locked(self.layout)
