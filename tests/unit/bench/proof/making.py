"""Records as runs would have left them."""

from __future__ import annotations

from bench.proof.forms import COMMON, ONNX, SAME, Form
from bench.proof.record import Record, Sample, SceneRecord


def form(recipe: str | None, engine: str = "llama", **changed: object) -> Form:
    fields: dict[str, object] = {
        "recipe": recipe, "version": f"version of {recipe}", "engine": engine, "precision": "Q4_0",
        "file": "model.gguf", "size_bytes": 90_000_000, "bytes_of_token": 80_000_000}
    return Form(**{**fields, **changed})  # type: ignore[arg-type]


def samples(side: str, figure: str, *values: float) -> list[Sample]:
    return [Sample(side=side, round=turn, figures={figure: value}, server_cores=1.9, foreign_cores=0.01)
            for turn, value in enumerate(values)]


def scene(name: str, *groups: list[Sample], **changed: object) -> SceneRecord:
    fields: dict[str, object] = {"name": name, "when": "2030-01-02 03:04 UTC", "commit": "abcdef0", "rounds": 3}
    return SceneRecord(**{**fields, "samples": [one for group in groups for one in group], **changed})  # type: ignore[arg-type]


def record(*scenes: SceneRecord, **changed: object) -> Record:
    fields: dict[str, object] = {
        "when": "2030-01-02 03:04 UTC", "commit": "abcdef0", "digest": "0123456789ab", "quick": False,
        "machine": {"cpu": "a processor, 2 cores"}, "settings": {"threads": "2"},
        "forms": [form(SAME), form(COMMON, precision="Q4_K_M"),
                  form(ONNX, "ort", precision="int4", bytes_of_token=127_000_000, own_choice=True)],
        "scenes": {one.name: one for one in scenes}}
    return Record(**{**fields, **changed})  # type: ignore[arg-type]
