"""Folders as peft saves a LoRA in, made without peft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

LINEAR = "model.layers.0.self_attn.q_proj"


def lora_folder(
    path: Path, *, seed: int = 1, rank: int = 4, shapes: dict[str, tuple[int, int]] | None = None, **config: Any,
) -> Path:
    """shapes: of the base's weights, [out, in], by module. config: more of adapter_config.json."""
    path.mkdir(parents=True, exist_ok=True)
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "bias": "none", "task_type": "CAUSAL_LM", **config}
    (path / "adapter_config.json").write_text(json.dumps(said))
    random = np.random.default_rng(seed)
    tensors = {}
    for module, (rows, columns) in (shapes or {LINEAR: (64, 64)}).items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = random.normal(size=(rank, columns)).astype(np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = random.normal(size=(rows, rank)).astype(np.float32)
    save_file(tensors, path / "adapter_model.safetensors")
    return path
