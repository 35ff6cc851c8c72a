"""The one place that turns names, versions, digests and relative paths into paths of the store.

Nothing that came over a wire reaches the file system except through here (PROMISES T1): a digest is exactly 64
lower-case hex digits, a version 12, a name becomes one segment, a relative path stays below its folder.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import quote, unquote

from edged.errors import BadReference, RefusedFile

_DIGEST = re.compile(r"[0-9a-f]{64}")
VERSION_DIGITS = 12
#: So many first digits name a version where no other begins with them.
LEAST_VERSION_DIGITS = 4
_VERSION = re.compile(rf"[0-9a-f]{{{VERSION_DIGITS}}}")
_SEGMENT_BYTES = 240
_PATH_BYTES = 1024

FOLDERS = ("blobs", "manifests", "models", "kv", "jobs", "tmp", "locks")
MANIFEST_SUFFIX = ".json"


def checked_digest(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise RefusedFile(f"{digest[:80]!r} is no sha256: it must be exactly 64 lower-case hex digits")
    return digest


def checked_version(version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise BadReference(f"{version[:80]!r} is no version: it is 12 hex digits, see `edged list`")
    return version


def segment_of(name: str) -> str:
    """A model name as one path segment, reversible by `name_of`: everything but letters, digits, `_`, `-`, `~` and
    inner dots is percent-encoded, so `org/repo:Q4_K_M` is `org%2Frepo%3AQ4_K_M` and no name is `.` or hidden."""
    try:
        encoded = quote(name, safe="")
    except UnicodeEncodeError as error:
        raise BadReference(f"the model name {name[:80]!r} is not valid text") from error
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if not encoded or len(encoded) > _SEGMENT_BYTES:
        raise BadReference(f"a model name has 1 to {_SEGMENT_BYTES} characters, {name[:80]!r} has {len(encoded)}")
    return encoded


def name_of(segment: str) -> str:
    return unquote(segment)


def checked_relative(path: str) -> str:
    """A file's path inside a model's folder: forward slashes, below the folder, no odd characters."""
    parts = path.split("/")
    wrong = (
        not path
        or "\\" in path
        or not path.isprintable()
        or any(part in ("", ".", "..") for part in parts)
        or any(len(part.encode(errors="replace")) > _SEGMENT_BYTES for part in parts)
        or len(path.encode(errors="replace")) > _PATH_BYTES
    )
    if wrong:
        raise RefusedFile(f"the file name {path[:80]!r} would not stay inside the model's folder; edged refuses it")
    return path


class Layout:
    """Where things are below `home`. Pure: asks the file system nothing."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.blobs = home / "blobs"
        self.manifests = home / "manifests"
        self.models = home / "models"
        self.kv = home / "kv"
        self.jobs = home / "jobs"
        self.responses = home / "responses"
        self.captured = home / "captured"
        self.tmp = home / "tmp"
        self.locks = home / "locks"
        self.schema = home / "schema.json"
        self.store_lock = self.locks / "store"
        #: Held by the daemon that owns loaded.json.
        self.loaded_lock = self.locks / "loaded"
        #: Held by the conversion that runs: a machine does one at a time.
        self.convert_lock = self.locks / "convert"

    def blob(self, digest: str) -> Path:
        return self.blobs / f"sha256-{checked_digest(digest)}"

    def versions(self, name: str) -> Path:
        return self.manifests / segment_of(name)

    def manifest(self, name: str, version: str) -> Path:
        return self.versions(name) / f"{checked_version(version)}{MANIFEST_SUFFIX}"

    def active(self, name: str) -> Path:
        return self.versions(name) / "active"

    def history(self, name: str) -> Path:
        return self.versions(name) / "history"

    def captured_of(self, name: str) -> Path:
        return self.captured / segment_of(name)

    def model(self, digest: str) -> Path:
        return self.models / checked_digest(digest)

    def model_file(self, digest: str, path: str) -> Path:
        return self.model(digest) / checked_relative(path)

    def part(self, key: str) -> Path:
        """An unfinished download. key: 64 hex digits that name what is downloaded."""
        return self.tmp / f"part-{checked_digest(key)}"

    def unpacking(self, key: str) -> Path:
        """A folder to fetch wheels into."""
        return self.tmp / f"wheel-{checked_digest(key)}"

    def use_lock(self, name: str, version: str) -> Path:
        """Shared by those who serve this version under this name: it is not removed."""
        return self.locks / f"use-{hashlib.sha256(f'{name}@{checked_version(version)}'.encode()).hexdigest()}"

    def model_lock(self, digest: str) -> Path:
        """Shared by those who have the model's folder open: it is not collected."""
        return self.locks / f"model-{checked_digest(digest)}"

    def blob_lock(self, digest: str) -> Path:
        """Shared by pulls that count on the blob: it is not collected."""
        return self.locks / f"blob-{checked_digest(digest)}"

    def tmp_lock(self, entry: Path) -> Path:
        """Held by the process that works on an entry of tmp/."""
        return self.locks / f"tmp-{entry.name}"

    def job_lock(self, folder: Path) -> Path:
        """Held by the process that has the job of this folder of jobs/, and by its stages."""
        return self.locks / f"job-{folder.name}"

    def pull_lock(self, key: str) -> Path:
        return self.locks / f"pull-{checked_digest(key)}"
