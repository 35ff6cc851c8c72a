"""A hub repository: its revision pinned to a commit, its files chosen, fetched and checked.

huggingface_hub gives addresses, headers, the shape of metadata and the meaning of errors; the requests themselves go
through `HubClient`, for the reasons told there. Files kept with LFS or Xet have their sha256 in the metadata; small
files that git holds have git's own hash, which is checked instead (and ours is computed).
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from huggingface_hub import ModelInfo, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status
from huggingface_hub.utils._validators import validate_repo_id

from edged.errors import BadReference, ModelNotFound, RefusedFile, SourceUnavailable
from edged.store import kinds, onnx_paths, select, space
from edged.store.blobs import Blob, Part, Receiver, key_of
from edged.store.entries import FileEntry, HubSource
from edged.store.paths import checked_digest, checked_relative
from edged.store.report import Report
from edged.store.sources import Fetched, Wanted
from edged.store.sources.transfer import HubClient, HubSettings
from edged.types import EngineName

_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Its constructor has no types.
_model_info: Callable[..., ModelInfo] = ModelInfo
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """sha256: of LFS files; git_sha1: of others, over `blob SIZE NUL` and the bytes."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True, slots=True)
class HubPlan:
    """source: pinned. root: what falls away from the paths."""

    source: HubSource
    engine: EngineName
    precision: str
    file: str
    root: str
    files: tuple[RemoteFile, ...]


def plan(source: HubSource, wanted: Wanted, client: HubClient, hub: HubSettings, report: Report) -> HubPlan:
    """Ask the hub what there is, and choose. Raises ModelNotFound, SourceUnavailable, RefusedFile."""
    commit, listed = listing(source, client, hub)
    everything = [path for path in listed if _is_taken(path, source.files, report)]
    paths = [path for path in everything if _matches(path, source.files)]
    if wanted.engine is None:
        chosen = select.choose(paths, wanted.quant)
        engine, precision, file, root, names = chosen.engine, chosen.precision, chosen.file, chosen.root, chosen.files
    else:
        engine, names = wanted.engine, tuple(paths)
        file = select.entry_of(engine, paths)
        root = _common_root(file, paths)
        precision = select.precision_of(engine, file, paths)
    pinned = HubSource(repo=source.repo, files=tuple(sorted(names)), revision=commit)
    return HubPlan(
        pinned, engine, wanted.precision or precision, file, root, tuple(listed[name] for name in sorted(names)),
    )


def fetch(plan: HubPlan, client: HubClient, hub: HubSettings, receiver: Receiver, report: Report) -> Fetched:
    """Small files and graphs first, so that what is refused for its content is refused before the gigabytes come."""
    total_bytes = sum(file.size for file in plan.files)
    missing_bytes = sum(
        max(0, file.size - receiver.resumable(_key(plan, file))) for file in plan.files
        if file.sha256 is None or receiver.have(file.sha256, file.size) is None
    )
    space.require(receiver.home, missing_bytes)
    report.total(total_bytes)
    entries: list[FileEntry] = []
    members = {file.path for file in plan.files}
    for file in sorted(plan.files, key=_weight_of):
        report.stage("downloading", file.path)
        done_bytes = report.done_bytes
        url = hf_hub_url(plan.source.repo, file.path, revision=plan.source.revision, endpoint=hub.endpoint)
        blob = _received(url, _key(plan, file), file, client, receiver=receiver, report=report)
        report.at(done_bytes + file.size)
        if (why := kinds.look_into(file.path, file.size, partial(receiver.read, blob))) is not None:
            report.note(f"{file.path} is not taken: {why}")
            continue
        if onnx_paths.is_graph(file.path):
            with receiver.open(blob) as graph:
                onnx_paths.check(file.path, graph, members)
        entries.append(FileEntry(path=file.path.removeprefix(plan.root), size=blob.size, sha256=blob.sha256))
    return Fetched(
        plan.source, plan.engine, plan.precision, plan.file.removeprefix(plan.root),
        tuple(sorted(entries, key=lambda entry: entry.path)),
    )


def _weight_of(file: RemoteFile) -> tuple[bool, bool, str]:
    return not file.path.endswith(".json"), not onnx_paths.is_graph(file.path), file.path


def open_client(hub: HubSettings) -> HubClient:
    headers = build_hf_headers(token=False, library_name="edged")
    return HubClient(hub, {name.lower(): value for name, value in headers.items() if name.lower() != "authorization"})


def listing(source: HubSource, client: HubClient, hub: HubSettings) -> tuple[str, dict[str, RemoteFile]]:
    """The commit that the revision is now, and every file of it."""
    try:
        validate_repo_id(source.repo)
    except HFValidationError as error:
        raise BadReference(f"{source.repo[:80]!r} is no hub repository; it is org/repo") from error
    url = f"{hub.endpoint}/api/models/{source.repo}/revision/{quote(source.revision, safe='')}"
    response, body = client.get_json(url, {"blobs": "true"})
    where = f"{source.repo} on the hub"
    try:
        hf_raise_for_status(response)
    except GatedRepoError as error:
        raise SourceUnavailable(
            f"{where} is gated: accept its terms there with your account, and set HF_TOKEN to a token of it"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"{where} has no revision {source.revision}") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"there is no {where}, or it is private: check the spelling, or set HF_TOKEN to a token that may read it"
        ) from error
    except HfHubHTTPError as error:
        hint = ": HF_TOKEN is not a token that it knows" if response.status_code in (401, 403) else ""
        raise SourceUnavailable(f"the hub answered {response.status_code} for {source.repo}{hint}") from error
    try:
        info: ModelInfo = _model_info(**json.loads(body))
        if not _COMMIT.fullmatch(info.sha or ""):
            raise ValueError(f"{info.sha!r} is no commit")
        return str(info.sha), {
            file.path: file for file in (_remote_file(sibling) for sibling in info.siblings or [])
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceUnavailable(f"the hub's answer about {source.repo} makes no sense: {str(error)[:120]}") from error


def _remote_file(sibling: RepoSibling) -> RemoteFile:
    path, lfs = sibling.rfilename, sibling.lfs
    size = lfs.size if lfs else sibling.size
    if not isinstance(path, str) or not isinstance(size, int) or size < 0:
        raise ValueError(f"{str(path)[:80]!r} has size {str(size)[:20]!r}")
    return RemoteFile(path, size, checked_digest(lfs.sha256) if lfs else None, None if lfs else sibling.blob_id)


def _is_taken(path: str, patterns: tuple[str, ...], report: Report) -> bool:
    """Names that would not stay inside the folder end the pull: such a hub means harm. Kinds that edged does not take
    are skipped, with a word where a person would miss them; one that was asked for by name ends the pull too."""
    checked_relative(path)
    why = kinds.why_not(path)
    if why is None:
        return True
    if path in patterns:
        raise RefusedFile(f"{path} is refused: {why}")
    if not path.rsplit("/", 1)[-1].startswith("."):
        report.note(f"{path} is not taken: {why}")
    return False


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(
        path == pattern or (_GLOB.search(pattern) is not None and fnmatch.fnmatchcase(path, pattern))
        for pattern in patterns
    )


def _common_root(file: str, paths: list[str]) -> str:
    """The entry file's folder, where everything chosen lies in it."""
    root = file[: file.rfind("/") + 1]
    return root if all(path.startswith(root) for path in paths) else ""


def _key(plan: HubPlan, file: RemoteFile) -> str:
    if file.sha256 is not None:
        return key_of("sha256", checked_digest(file.sha256))
    return key_of("hub", plan.source.repo, plan.source.revision, file.path)


def _received(
    url: str, key: str, file: RemoteFile, client: HubClient, *, receiver: Receiver, report: Report,
) -> Blob:
    before_bytes = report.done_bytes

    def fill(part: Part) -> None:
        report.at(before_bytes + part.size)
        client.fetch(url, file.path, file.size, part, report)
        if file.git_sha1 is not None and _git_sha1(part, file.size) != file.git_sha1:
            raise SourceUnavailable(f"the hub sent other bytes of {file.path} than its commit holds; pull again")

    return receiver.receive(
        key, fill, sha256=file.sha256, size=file.size, resume=file.sha256 is not None,
        waiting=lambda: report.stage("waiting", file.path),
    )


def _git_sha1(part: Part, size: int) -> str:
    total = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    for piece in part.pieces():
        total.update(piece)
    return total.hexdigest()
