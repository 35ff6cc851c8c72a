"""Recipes of conversions: what to make of a model, as data. The shipped ones lie beside this file in `recipes/`, one
for each target and precision; a user's own is a TOML file anywhere, which may begin from another one:

    base = "cpu-int4"        # a shipped recipe, or a path beside this file; the keys below go over its keys
    [builder]
    block_size = 64
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edged.errors import ConfigError
from edged.store.catalog_errors import explain
from edged.store.lineage import QualityLimits, Target
from edged.toml_file import TomlFile, nearest, read_toml

_SHIPPED = Path(__file__).parent / "recipes"
_MAX_BASES = 8

Option = str | bool | int | float
Format = Literal["onnx", "gguf"]


class WeightRule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first rule that fits a matrix is its; one that none fits stays in 32 bits.

    match: a regular expression, found in the name of its node (`/model/layers.0/mlp/up_proj/MatMul`). layers: `middle`
    leaves out the first and the last eighth of the layers, which bear less. bits: 32 leaves the weights as they are.
    block: weights that share a scale.
    """

    bits: Literal[4, 8, 32]
    block: Literal[16, 32, 64, 128] = 32
    match: str = ""
    layers: Literal["all", "middle"] = "all"


class Recipe(Struct, frozen=True, kw_only=True):
    """name: of the file, without `.toml`. precision: of the weights (`int4`, `Q4_K_M`), a name for people and manifests
    too. calibrates: it reads text. refused: why nothing can be made by it here, None where it can.

    Of ONNX: passes: Olive's passes over the Hugging Face model before the graph is built, in order, each a table of
    `type` and its configuration. builder: extra options of onnxruntime-genai's builder. weights: what becomes of each
    matrix that is still in 32 bits once the graph is built; without it, and after passes, the builder makes
    `precision`. smooth: make channels
    more alike before (`converters.graph_smooth`). positions: a second graph that gives logits at the wanted positions
    only (`converters.positions`).

    Of GGUF: imatrix: weigh each weight by the activations it meets in the calibration text.
    """

    name: str
    title: str
    format: Format
    target: Target
    precision: str
    limits: QualityLimits
    calibrates: bool = False
    refused: str | None = None
    passes: tuple[dict[str, Any], ...] = ()
    builder: dict[str, Option] = {}
    weights: tuple[WeightRule, ...] = ()
    smooth: bool = False
    positions: bool = False
    imatrix: bool = False


_Text = Annotated[str, Meta(min_length=1, max_length=2000)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class _LimitsTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    perplexity_ratio: Annotated[float, Meta(gt=0, le=1000)] | None = None
    top1_agreement: _Share | None = None
    kl_divergence: Annotated[float, Meta(ge=0, le=1000)] | None = None
    task_accuracy_drop: _Share | None = None


class _RecipeTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may stand in a recipe's file; every key may be missing where `base` gives it."""

    base: _Text | None = None
    title: _Text | None = None
    format: Format | None = None
    target: Target | None = None
    precision: _Text | None = None
    limits: _LimitsTable = _LimitsTable()
    calibrates: bool = False
    refused: _Text | None = None
    passes: tuple[dict[str, Any], ...] = ()
    builder: dict[str, Option] = {}
    weights: tuple[WeightRule, ...] = ()
    smooth: bool = False
    positions: bool = False
    imatrix: bool = False


def shipped() -> list[str]:
    """Names of the recipes that come with edged, sorted."""
    return sorted(file.stem for file in _SHIPPED.glob("*.toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by its name, or a TOML file by its path. Raises ConfigError with file, line, column and key, and
    what would be right."""
    file = read_toml(_file_of(name_or_path, Path.cwd()))
    values = _with_bases(file, [])
    for key in ("title", "format", "precision"):
        if key not in values:
            raise file.mistake((), f"lacks {key}; give it, or begin from another recipe: base = \"cpu-int4\"")
    limits = values.get("limits", {})
    for key in ("perplexity_ratio", "top1_agreement", "kl_divergence"):
        if key not in limits:
            raise file.mistake(("limits",), f"lacks {key} in [limits], what the gate asks of this precision")
    target = values.setdefault("target", "cpu")
    values.setdefault("positions", values["format"] == "onnx" and target == "cpu")
    return msgspec.convert({**values, "name": file.path.stem}, Recipe)


def _file_of(name_or_path: str, beside: Path) -> Path:
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        return beside / Path(name_or_path).expanduser()
    if name_or_path not in (names := shipped()):
        raise ConfigError(
            f"there is no recipe {name_or_path}{nearest(name_or_path, names)} (shipped: {', '.join(names)}; "
            "or give the path of a TOML file of your own)"
        )
    return _SHIPPED / f"{name_or_path}.toml"


def _with_bases(file: TomlFile, above: list[Path]) -> dict[str, Any]:
    """The file's values over those of its base."""
    try:
        msgspec.convert(file.values, _RecipeTable)
    except msgspec.ValidationError as error:
        raise explain(error, file, (), _RecipeTable) from None
    for number, one in enumerate(file.values.get("passes", ())):
        if not isinstance(one.get("type"), str):
            raise file.mistake(("passes", number), "lacks type, the name of a pass of Olive")
    for number, rule in enumerate(file.values.get("weights", ())):
        try:
            re.compile(rule.get("match", ""))
        except re.error as error:
            raise file.mistake(
                ("weights", number, "match"), f"not a regular expression: {error}", at_value=True) from None
    values = {key: value for key, value in file.values.items() if key != "base"}
    if (base := file.values.get("base")) is None:
        return values
    if len(above) == _MAX_BASES:
        raise file.mistake(("base",), "is a loop, or a chain of too many recipes", at_value=True)
    try:
        below = _with_bases(read_toml(_file_of(base, file.path.parent)), [*above, file.path])
    except ConfigError as error:
        if error.file is None:
            raise file.mistake(("base",), str(error), at_value=True) from None
        raise
    return _over(below, values)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables are merged by key, anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged
