"""Manifests, the active pointer and the history of each name: `manifests/<name>/<version>.json`, `active`, `history`.

The pointer is a file of one version, replaced by one rename. A manifest without a pointer to it in its name's folder
is an earlier or later version; a name without a pointer is not installed (its pull died before the last step).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec

from edged.errors import BadReference, ConfigError, CorruptFile, ModelNotFound
from edged.store import files, history
from edged.store.entries import MANIFEST_SCHEMA, ActivatedBy, Activation, FileEntry, Manifest
from edged.store.paths import (
    LEAST_VERSION_DIGITS,
    MANIFEST_SUFFIX,
    VERSION_DIGITS,
    Layout,
    checked_digest,
    checked_relative,
    checked_version,
    name_of,
)
from edged.store.schema import decode_manifest


def digest_of(entries: Iterable[FileEntry]) -> str:
    """sha256 over the sorted (path, sha256) pairs, each as `path NUL sha256 LF` in UTF-8; 64 hex digits."""
    total = hashlib.sha256()
    for path, sha256 in sorted((entry.path, entry.sha256) for entry in entries):
        total.update(f"{path}\0{sha256}\n".encode())
    return total.hexdigest()


def check(manifest: Manifest) -> None:
    """Raise CorruptFile or RefusedFile unless the manifest is one that this store may hold."""
    checked_digest(manifest.digest)
    paths = [checked_relative(entry.path) for entry in manifest.files]
    for entry in manifest.files:
        checked_digest(entry.sha256)
    folded = sorted(path.casefold() for path in paths)
    doubled = any(a == b or b.startswith(a + "/") for a, b in pairwise(folded))
    if (
        not paths or doubled or manifest.file not in paths or manifest.digest != digest_of(manifest.files)
        or manifest.version != manifest.digest[:VERSION_DIGITS] or manifest.schema > MANIFEST_SCHEMA
    ):
        raise CorruptFile(
            f"the manifest of {manifest.name}@{manifest.version} does not fit its own files; "
            f"`edged pull {manifest.name}` writes it anew"
        )


class Manifests:
    """Reads at any time; writes only while the caller holds the store's lock."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def names(self) -> list[str]:
        """Installed names, sorted: those with an active version that is here."""
        found = []
        for segment in self._segments():
            name = name_of(segment)
            version = self.pointer(name)
            if version is not None and self._layout.manifest(name, version).is_file():
                found.append(name)
        return sorted(found)

    def active(self, name: str) -> str:
        if (version := self.pointer(name)) is None:
            raise not_installed(name)
        return version

    def read(self, name: str, version: str | None = None) -> Manifest:
        version = self.active(name) if version is None else checked_version(version)
        path = self._layout.manifest(name, version)
        try:
            manifest = decode_manifest(path.read_bytes())
        except FileNotFoundError as error:
            raise ModelNotFound(f"there is no version {version} of {name!r}; `edged show {name}` lists them") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptFile(f"the manifest of {name}@{version} is damaged; `edged pull {name}` mends it") from error
        except ConfigError as error:
            raise CorruptFile(f"the manifest of {name}@{version} cannot be used: {error}; upgrade edged, or "
                              f"`edged pull {name}` again") from error
        if manifest.name != name or manifest.version != version:
            raise not_installed(name)
        check(manifest)
        return manifest

    def versions(self, name: str) -> list[str]:
        try:
            found = sorted(self._layout.versions(name).glob(f"*{MANIFEST_SUFFIX}"))
        except OSError:
            return []
        return [path.name.removesuffix(MANIFEST_SUFFIX) for path in found]

    def full_version(self, name: str, said: str) -> str:
        """The one version that begins with what was said, 4 digits at least. Raises ModelNotFound and, where several
        do, BadReference; both list what is here."""
        versions = self.versions(name)
        found = [version for version in versions if version.startswith(said)]
        if len(found) == 1 and len(said) >= LEAST_VERSION_DIGITS:
            return found[0]
        if not versions:
            raise not_installed(name)
        if found:
            raise BadReference(f"{name}@{said} may mean {' or '.join(found)}; say more of its digits", param="model")
        active = self.pointer(name)
        here = ", ".join(f"{version} (active)" if version == active else version for version in versions)
        raise ModelNotFound(f"there is no version {said[:80]!r} of {name}; here are {here}", param="model")

    def everything(self) -> Iterator[tuple[str, str]]:
        """(name, version) of every manifest file, active or not, of names without a pointer too."""
        for segment in self._segments():
            name = name_of(segment)
            for version in self.versions(name):
                yield name, version

    def write(self, manifest: Manifest) -> None:
        check(manifest)
        files.make_folder(self._layout.versions(manifest.name))
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        files.publish_bytes(self._layout.manifest(manifest.name, manifest.version), data, self._layout.tmp)

    def activate(self, name: str, version: str, by: ActivatedBy) -> None:
        """The rename of the pointer is what counts; a history without it means nothing."""
        self.read(name, version)
        known = self.history(name)
        extended = history.extended(known, version, time.time(), by)
        if extended != known:
            files.publish_bytes(self._layout.history(name), history.encode(extended), self._layout.tmp)
        files.publish_bytes(self._layout.active(name), f"{version}\n".encode(), self._layout.tmp)

    def history(self, name: str) -> tuple[Activation, ...]:
        """Oldest first; the last one is of the active version."""
        try:
            recorded = history.decode(self._layout.history(name).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            recorded = ()
        try:
            active_since = self._layout.active(name).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            active_since = 0.0
        return history.effective(recorded, self.pointer(name), active_since)

    def remove(self, name: str, version: str) -> None:
        """The pointer goes first when it points here: a name never points at what is not there."""
        if self.pointer(name) == version:
            files.remove(self._layout.active(name))
            files.sync_folder(self._layout.versions(name))
        files.remove(self._layout.manifest(name, version))
        if not self.versions(name) and self.pointer(name) is None:
            files.remove_tree(self._layout.versions(name))

    def _segments(self) -> list[str]:
        try:
            return sorted(path.name for path in self._layout.manifests.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []

    def pointer(self, name: str) -> str | None:
        try:
            version = self._layout.active(name).read_text(encoding="ascii", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return checked_version(version)
        except BadReference:
            return None


def not_installed(name: str) -> ModelNotFound:
    return ModelNotFound(
        f"the model {name!r} is not installed; `edged list` shows what is, `edged models` what can be pulled")
