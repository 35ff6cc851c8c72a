"""The forms of one model that are measured, made by `edged convert` in the bench's own store and kept there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench.client import BenchError
from bench.proof.weights import bytes_of_token
from bench.servers import Edged
from edged.store import Store

#: Of the catalog's GGUF: its weights are brought back to 32 bits first, so all forms have lost what that one lost.
RECIPES = ("gguf-q4_0", "gguf-q4_k_m-imatrix", "cpu-int4")
SAME, COMMON, ONNX = RECIPES


class Form(Struct, frozen=True, kw_only=True):
    """One version in the store. recipe: None for the one that was pulled. perplexity_ratio, top1, kl: what the gate
    measured against 32 bits, None where nothing was. own_choice: edged serves it by the model's name."""

    recipe: str | None
    version: str
    engine: str
    precision: str
    file: str
    size_bytes: int
    bytes_of_token: int
    perplexity_ratio: float | None = None
    top1: float | None = None
    kl: float | None = None
    passed: bool | None = None
    own_choice: bool = False


def prepare(edged: Edged, say: Callable[[str], None]) -> list[Form]:
    """Makes what is missing."""
    if edged.run("show", edged.model).returncode != 0 and edged.run("pull", edged.model).returncode != 0:
        raise BenchError(f"`edged pull {edged.model}` failed; its message is above")
    have = {form.recipe: form.version for form in _forms(edged)}
    source = f"{edged.model}@{have[None]}"
    for recipe in RECIPES:
        if recipe not in have:
            say(f"making {recipe}, a minute or two; kept for the next run")
            edged.run("convert", source, "--recipe", recipe)
    missing = set(RECIPES) - {form.recipe for form in _forms(edged)}
    if missing:
        raise BenchError(f"`edged convert` did not make {', '.join(sorted(missing))}; its messages are above")
    return _forms(edged)


def choose(edged: Edged, say: Callable[[str], None], seconds: float, *, tune: bool) -> list[Form]:
    """Lets edged measure all of them for so many seconds a figure and take one by itself, and with `tune` look for
    options for that one. What earlier runs measured is forgotten: the machine may have been busy."""
    (edged.home / "measured.json").unlink(missing_ok=True)
    say(edged.run("bench", edged.model, "--seconds", str(seconds)).stdout.decode().strip())
    if tune:
        say(edged.run("tune", edged.model).stdout.decode().strip())
    return _forms(edged)


def folder_of(edged: Edged, version: str) -> Path:
    """Where the version's files lie in the store."""
    store = Store(edged.home)
    [manifest] = [each for each in store.versions(edged.model) if each.version == version]
    return store.folder(manifest)


def _forms(edged: Edged) -> list[Form]:
    said = json.loads(edged.run("show", edged.model, "--json").stdout)
    newest: dict[str | None, dict[str, Any]] = {}
    for version in said["versions"]:
        newest[(version["conversion"] or {}).get("recipe")] = version
    return [_form(edged, recipe, version, said["active"]) for recipe, version in newest.items()]


def _form(edged: Edged, recipe: str | None, version: dict[str, Any], active: str) -> Form:
    quality = version["quality"] or {}
    graph = "model.onnx" if version["engine"] == "ort" else version["file"]
    return Form(
        recipe=recipe, version=version["version"], engine=version["engine"], precision=version["precision"],
        file=version["file"], size_bytes=sum(file["size"] for file in version["files"]),
        bytes_of_token=bytes_of_token(folder_of(edged, version["version"]) / graph),
        perplexity_ratio=quality["perplexity"] / quality["reference_perplexity"] if quality else None,
        top1=quality.get("top1_agreement"), kl=quality.get("kl_divergence"),
        passed=not quality["lacking"] if quality else None, own_choice=version["version"] == active)
