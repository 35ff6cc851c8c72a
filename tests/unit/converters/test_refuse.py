"""What a conversion never takes (PROMISES T4, T5)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import refuse
from converters.tensors import TensorInfo
from edged.errors import RefusedFile

pytestmark = pytest.mark.unit

MODEL = ["config.json", "model.safetensors", "tokenizer.json"]
LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "auto_mapping": None, "megatron_config": None,
        "megatron_core": "megatron.core"}


def info(*shape: int) -> TensorInfo:
    return TensorInfo(dtype="F32", shape=shape, size_bytes=4)


def test_a_model_is_its_safetensors_and_the_texts_beside_them() -> None:
    assert refuse.model_files([
        *MODEL, "chat_template.jinja", "tokenizer.model", "LICENSE", "merges.txt", "README.md", "pytorch_model.bin",
        "modeling_x.py", "model.gguf", "model.onnx", ".hidden.json", "consolidated.safetensors", "optimizer.pt",
        "adapter_config.json", "adapter_model.safetensors", "model.safetensors.index.json",
    ]) == sorted([*MODEL, "chat_template.jinja", "tokenizer.model", "LICENSE", "merges.txt"])


def test_all_shards_are_taken_or_none() -> None:
    shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    index = "model.safetensors.index.json"
    assert refuse.model_files(["config.json", index, *shards]) == sorted(["config.json", index, *shards])
    with pytest.raises(RefusedFile, match="2 of 3 files of weights"):
        refuse.model_files(["config.json", index, *shards[:2]])


@pytest.mark.parametrize(("names", "why"), [
    (["config.json", "pytorch_model.bin"], r"a pickle \(pytorch_model\.bin\)"),
    (["config.json", "model.pt"], "pickle"),
    (["config.json", "model.pth", "tokenizer.json"], "only safetensors"),
    (["config.json"], "no weights in safetensors"),
    (["model.safetensors"], r"no config\.json"),
    (["adapter_config.json", "adapter_model.safetensors"], "--adapter"),
    ([], r"no config\.json"),
])
def test_no_safetensors_no_conversion(names: list[str], why: str) -> None:
    with pytest.raises(RefusedFile, match=why):
        refuse.model_files(names)


@pytest.mark.parametrize(("names", "why"), [
    (["adapter_config.json", "adapter_model.bin"], r"adapter_model\.bin is a pickle"),
    (["adapter_config.json", "adapter_model.pt"], "pickle"),
    (["adapter_config.json"], "no adapter_model"),
    (["adapter_model.safetensors"], "no adapter_config"),
])
def test_an_adapter_is_safetensors_or_refused(names: list[str], why: str) -> None:
    with pytest.raises(RefusedFile, match=why):
        refuse.adapter_files(names)


def test_of_an_adapter_only_what_is_merged_is_taken() -> None:
    assert refuse.adapter_files([
        "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "chat_template.jinja",
        "tokenizer.json", "training_args.bin", "evil.py",
    ]) == ["adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"]


@pytest.mark.parametrize(("name", "said", "why"), [
    ("config.json", {"auto_map": {"AutoModel": "modeling_canary.Model"}}, r"auto_map.*never run"),
    ("config.json", {"text_config": {"auto_map": {}}}, "auto_map"),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tok.T", None]}}, "auto_map"),
    ("config.json", {"model_type": "llama", "trust_remote_code": True}, "trust_remote_code"),
    ("generation_config.json", {"a": [{"trust_remote_code": 1}]}, "trust_remote_code"),
    ("genai_config.json", {"custom_ops_library": "x.so"}, "native code"),
    ("config.json", {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, r"already \(gptq\)"),
    ("config.json", {"architectures": ["X"]}, "model_type"),
])
def test_configuration_that_names_code_or_no_original_is_refused(name: str, said: object, why: str) -> None:
    with pytest.raises(RefusedFile, match=why):
        refuse.check_config(name, json.dumps(said).encode())


def test_a_plain_configuration_is_taken() -> None:
    said = {"model_type": "llama", "trust_remote_code": False, "note": "auto_map"}
    assert refuse.check_config("config.json", json.dumps(said).encode()) == said
    assert refuse.check_config("vocab.json", b"[1, 2]") == {}


@pytest.mark.parametrize(("said", "why"), [
    ({"auto_map": {"x": "y"}}, "auto_map"),
    ({"auto_mapping": {"base_model_class": "M", "parent_library": "transformers_modules.evil.modeling"}}, "to import"),
    ({"auto_mapping": {"parent_library": "os"}}, r"to import \(os\)"),
    ({"megatron_config": {"a": 1}, "megatron_core": "evil_module"}, r"to import \(evil_module\)"),
    ({"peft_type": "PREFIX_TUNING"}, "cannot be merged"),
    ({"peft_type": None}, "cannot be merged"),
    ({"alora_invocation_tokens": [1]}, "cannot be merged"),
])
def test_an_adapter_that_names_a_module_or_cannot_be_merged_is_refused(said: dict[str, object], why: str) -> None:
    with pytest.raises(RefusedFile, match=why):
        refuse.check_adapter_config("adapter_config.json", json.dumps({**LORA, **said}).encode())


def test_an_adapter_as_peft_writes_it_is_taken() -> None:
    refuse.check_adapter_config("adapter_config.json", json.dumps(LORA).encode())
    named = {**LORA, "auto_mapping": {"base_model_class": "LlamaForCausalLM",
                                      "parent_library": "transformers.models.llama.modeling_llama"}}
    refuse.check_adapter_config("adapter_config.json", json.dumps(named).encode())


PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
BASE = {"model.layers.0.self_attn.q_proj.weight": info(64, 32), "model.embed_tokens.weight": info(512, 32)}


def pair(down: TensorInfo, up: TensorInfo) -> dict[str, TensorInfo]:
    return {f"{PREFIX}.lora_A.weight": down, f"{PREFIX}.lora_B.weight": up}


def test_an_adapter_that_fits_is_taken() -> None:
    refuse.check_fits(pair(info(4, 32), info(64, 4)), BASE, "a")
    refuse.check_fits({"base_model.model.model.embed_tokens.lora_embedding_A": info(4, 512),
                       "base_model.model.model.embed_tokens.lora_embedding_B": info(32, 4)}, BASE, "a")
    refuse.check_fits({"base_model.model.other_kind": info(3)}, BASE, "a")


@pytest.mark.parametrize("adapter", [
    pair(info(4, 33), info(64, 4)), pair(info(4, 32), info(65, 4)),
    {"base_model.model.model.layers.9.q_proj.lora_A.weight": info(4, 32)},
    {"base_model.model.model.embed_tokens.lora_embedding_A": info(4, 513)},
    {"base_model.model.model.embed_tokens.weight": info(600, 32)},
    {"base_model.model.model.embed_tokens.modules_to_save.weight": info(600, 32)},
], ids=["in", "out", "no layer", "vocabulary", "embedding", "saved module"])
def test_an_adapter_of_another_model_is_refused(adapter: dict[str, TensorInfo]) -> None:
    with pytest.raises(RefusedFile, match="the adapter mine was trained for another model"):
        refuse.check_fits(adapter, BASE, "mine")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=20))
def test_any_json_is_taken_or_refused(said: object) -> None:
    for check in (refuse.check_config, refuse.check_adapter_config):
        for name in ("config.json", "adapter_config.json"):
            try:
                check(name, json.dumps(said).encode())
            except RefusedFile:
                continue
