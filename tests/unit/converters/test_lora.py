"""What peft saves, read as numbers; and what cannot be served beside a model, refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from converters import gguf_lora, lora
from converters.gguf_lora import Base
from edged.engines.genai_config import ADAPTERS_GRAPH
from edged.errors import CorruptFile, RefusedFile
from edged.store import select
from tests.lora_folders import LINEAR, lora_folder

pytestmark = pytest.mark.unit

KEY = "model.layers.0.self_attn.k_proj"
SHAPES = {LINEAR: (64, 64), KEY: (32, 64)}
BASE = Base(architecture="llama", layers=2, heads=4, kv_heads=2,
            shapes={"blk.0.attn_q.weight": (64, 64), "blk.0.attn_k.weight": (32, 64), "blk.0.attn_norm.weight": (64,)})


def tensors(file: Path) -> dict[str, Any]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}


def alpha(file: Path) -> float:
    return float(gguf.GGUFReader(file).fields["adapter.lora.alpha"].contents())


@pytest.mark.parametrize(("said", "scale"), [
    ({"lora_alpha": 16}, 4.0), ({"lora_alpha": 16, "use_rslora": True}, 16 / math.sqrt(4)),
    ({"alpha_pattern": {"q_proj": 2}}, 0.5), ({"alpha_pattern": {r".*\.layers\.0\..*": 2}}, 0.5),
    ({"alpha_pattern": {"v_proj": 2}}, 2.0),
])
def test_scales_are_those_of_peft(tmp_path: Path, said: dict[str, Any], scale: float) -> None:
    [pair] = lora.read(lora_folder(tmp_path, **said)).values()
    assert (pair.rank, pair.scale) == (4, scale)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_widened_exactly(tmp_path: Path, kind: torch.dtype) -> None:
    lora_folder(tmp_path)
    a, b = torch.randn(4, 64).to(kind), torch.randn(64, 4).to(kind)
    save_file({f"base_model.model.{LINEAR}.lora_A.weight": a, f"base_model.model.{LINEAR}.lora_B.weight": b},
              tmp_path / "adapter_model.safetensors")
    pair = lora.read(tmp_path)[LINEAR]
    assert np.array_equal(pair.a, a.float().numpy())
    assert np.array_equal(pair.b, b.float().numpy())


@pytest.mark.parametrize(("said", "word"), [
    ({"peft_type": "IA3"}, "IA3"), ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING"), ({"bias": "all"}, "biases"),
    ({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"init_lora_weights": "pissa"}, "pissa"), ({"init_lora_weights": "olora"}, "olora"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out"), ({"alora_invocation_tokens": [1]}, "activated"),
    ({"auto_mapping": {"parent_library": "evil"}}, "evil"), ({"layer_replication": [[0, 1]]}, "layer_replication"),
])
def test_what_is_more_than_a_lora_is_refused_by_name(tmp_path: Path, said: dict[str, Any], word: str) -> None:
    with pytest.raises(RefusedFile, match=word):
        lora.read(lora_folder(tmp_path, **said))


def test_a_new_embedding_is_refused_rather_than_left_out(tmp_path: Path) -> None:
    lora_folder(tmp_path)
    save_file({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 512)},
              tmp_path / "adapter_model.safetensors")
    with pytest.raises(RefusedFile, match="embed_tokens"):
        lora.read(tmp_path)


@pytest.mark.parametrize("damage", ["half", "unfit", "cut", "no-alpha"])
def test_a_damaged_one_is_named(tmp_path: Path, damage: str) -> None:
    lora_folder(tmp_path)
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    a, b = torch.zeros(4, 64), torch.zeros(64, 8 if damage == "unfit" else 4)
    names = [f"base_model.model.{LINEAR}.lora_{half}.weight" for half in "AB"]
    save_file(dict(zip(names[:1] if damage == "half" else names, (a, b), strict=False)), file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    if damage == "no-alpha":
        config.write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    with pytest.raises(CorruptFile):
        lora.read(tmp_path)


def test_one_alpha_is_written_as_it_is_and_different_ones_go_into_b(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    pairs = lora.read(lora_folder(tmp_path / "one", shapes={KEY: (32, 64)}))
    gguf_lora.write(pairs, BASE, out, "one")
    gguf_lora.check(out, BASE)
    assert alpha(out) == 8.0
    plain = np.array(tensors(out)["blk.0.attn_k.weight.lora_b"])
    pairs = lora.read(lora_folder(tmp_path / "two", shapes={KEY: (32, 64), LINEAR: (64, 64)},
                                  alpha_pattern={"q_proj": 2}))
    gguf_lora.write(pairs, BASE, out, "two")
    assert alpha(out) == 0.0
    assert np.allclose(tensors(out)["blk.0.attn_k.weight.lora_b"], 2.0 * plain)


def test_rows_of_query_and_key_lie_as_those_of_the_base_do(tmp_path: Path) -> None:
    """(first half, second half) of each head → pairs."""
    out = tmp_path / "out.gguf"
    pairs = lora.read(lora_folder(tmp_path, shapes={KEY: (32, 64)}))
    gguf_lora.write(pairs, BASE, out, "one")
    rows = tensors(out)["blk.0.attn_k.weight.lora_b"]
    assert np.array_equal(rows[:4], pairs[KEY].b[[0, 8, 1, 9]])
    assert np.array_equal(tensors(out)["blk.0.attn_k.weight.lora_a"], pairs[KEY].a)


@pytest.mark.parametrize("shapes", [{LINEAR: (64, 128)}, {LINEAR.replace("0", "5"): (64, 64)}, {"encoder.x": (64, 64)}])
def test_one_of_another_model_is_refused(tmp_path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(RefusedFile, match="trained for another model"):
        gguf_lora.write(lora.read(lora_folder(tmp_path, shapes=shapes)), BASE, tmp_path / "out.gguf", "x")


def test_a_base_whose_layout_is_not_known_is_refused_with_what_to_do(tmp_path: Path) -> None:
    base = Base(architecture="mamba", layers=2, heads=4, kv_heads=2, shapes=BASE.shapes)
    with pytest.raises(RefusedFile, match="convert_lora_to_gguf"):
        gguf_lora.write(lora.read(lora_folder(tmp_path)), base, tmp_path / "out.gguf", "x")


def made_gguf(path: Path, *, kind: str = "adapter", architecture: str = "llama", tensor: str = "blk.0.attn_q.weight",
              rows: int = 64) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    writer.add_tensor(f"{tensor}.lora_a", np.zeros((4, 64), np.float32))
    writer.add_tensor(f"{tensor}.lora_b", np.zeros((rows, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("said", "word"), [
    ({"kind": "model"}, "no LoRA"), ({"architecture": "qwen2"}, "qwen2"), ({"tensor": "blk.9.attn_q.weight"}, "blk.9"),
    ({"rows": 32}, "another model"),
])
def test_a_ready_gguf_is_checked_against_the_base_too(tmp_path: Path, said: dict[str, Any], word: str) -> None:
    gguf_lora.check(made_gguf(tmp_path / "good.gguf"), BASE)
    with pytest.raises(RefusedFile, match=word):
        gguf_lora.check(made_gguf(tmp_path / "bad.gguf", **said), BASE)


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(CorruptFile, match=r"bad\.gguf"):
        gguf_lora.check(tmp_path / "bad.gguf", BASE)


def test_store_and_engine_mean_the_same_graph() -> None:
    assert select.ADAPTERS_GRAPH == ADAPTERS_GRAPH
