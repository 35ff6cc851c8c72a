"""What may stand in a `models.toml`: the structs of `edged.store.entries`, with bounds, and unknown keys refused.

Entries themselves have no bounds, because manifests of other versions hold them too. A test keeps the field names the
same as theirs.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from edged.store.lineage import Target
from edged.types import EngineName, Task

_Text = Annotated[str, Meta(min_length=1, max_length=2000)]
_Count = Annotated[int, Meta(ge=1, le=2**53)]
_Context = Annotated[int, Meta(ge=16, le=2**31 - 1)]
_Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="64 hex digits in lower case")]
#: As `org/repo:Q4_K_M` at the longest; no `@`, that begins a version.
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"
_Share = Annotated[float, Meta(ge=0, le=1)]
_PositiveShare = Annotated[float, Meta(gt=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]

_Bias = Annotated[
    dict[Annotated[int, Meta(ge=0)], Annotated[float, Meta(ge=-100, le=100)]],
    Meta(description="a table of token ids and numbers from -100 to 100"),
]


class SamplingTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _PositiveShare | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: _Share | None = None
    typical_p: _PositiveShare | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: _Bias | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None


class HubTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="hub", tag_field="from"):
    repo: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$", description="owner/name")]
    files: Annotated[tuple[_Text, ...], Meta(min_length=1)]
    revision: _Text = "main"


class PartTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    dist: _Text
    version: _Text
    path: _Text
    sha256: _Sha256 | None = None


class PackageTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="package", tag_field="from"):
    parts: Annotated[tuple[PartTable, ...], Meta(min_length=1)]
    file: _Text | None = None


class LocalTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="local", tag_field="from"):
    path: _Text


class VariantTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    engine: EngineName
    precision: _Text
    source: HubTable | PackageTable | LocalTable
    size: _Count | None = None
    sha256: _Sha256 | None = None
    target: Target = "cpu"


_VersionStart = Annotated[str, Meta(pattern=r"^[0-9a-f]{4,12}$", description="the first digits of a version")]


class PromptFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """file: relative to the catalog's."""

    file: _Text


_WarmPrompt = Annotated[
    Annotated[str, Meta(min_length=1)] | PromptFile, Meta(description='a text, or { file = "prompt.txt" }')]


class ModelTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[models.NAME]`; every key may be missing, so that a user's file can change one key of a shipped model."""

    title: str = ""
    parameters: _Count | None = None
    kv_bytes_per_token: _Count | None = None
    license: _Text | None = None
    variants: tuple[VariantTable, ...] = ()
    context: _Context | None = None
    trained_context: _Context | None = None
    rows: Annotated[int, Meta(ge=1, le=256)] | None = None
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    chat_template: Annotated[str, Meta(min_length=1)] | None = None
    sampling: SamplingTable = SamplingTable()
    options: dict[str, Any] = {}
    keep_alive_s: Annotated[float, Meta(ge=-1, le=1e9)] | None = None
    pin: bool = False
    note: _Text | None = None
    unverified: bool = False
    task: Task | None = None
    dimensions: tuple[Annotated[int, Meta(ge=1, le=2**16)], ...] = ()
    require: Target | None = None
    fall_back: bool = False
    environment: Annotated[str, Meta(min_length=1, max_length=41)] | None = None
    convert: tuple[_Text, ...] = ()
    candidate: _VersionStart | None = None
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    speculation: bool = True
    draft: _Text | None = None
    warm_prompts: Annotated[tuple[_WarmPrompt, ...], Meta(max_length=32, description="a list of at most 32")] = ()
    capture: bool | None = None
