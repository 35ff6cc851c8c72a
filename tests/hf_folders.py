"""Hugging Face folders of a few bytes: for tests that look at files and load no model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

CONFIG: dict[str, object] = {"model_type": "llama", "max_position_embeddings": 128}


def weights(**shapes: tuple[int, ...]) -> bytes:
    """Zeros in safetensors; by default one matrix of 8 × 4."""
    return save({name: np.zeros(shape, dtype=np.float32) for name, shape in (shapes or {"model.w": (8, 4)}).items()})


def hf_files(**config: object) -> dict[str, bytes]:
    return {
        "config.json": json.dumps({**CONFIG, **config}).encode(), "model.safetensors": weights(),
        "tokenizer.json": b"{}", "LICENSE": b"a licence",
    }


def lora_files(**config: object) -> dict[str, bytes]:
    return {
        "adapter_config.json": json.dumps({"peft_type": "LORA", **config}).encode(),
        "adapter_model.safetensors": weights(**{
            "base_model.model.model.w.lora_A.weight": (2, 4), "base_model.model.model.w.lora_B.weight": (8, 2)}),
    }


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
