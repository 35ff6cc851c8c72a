"""What a conversion never takes: code, pickles, models that are no originals, adapters of other models. Pure.

The libraries that convert see only the files chosen here (PROMISES T2, T4, T5): no Python file, no pickle and no
configuration that names code ever lies in a folder that they read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from converters.tensors import INDEX, WHOLE, TensorInfo
from edged.errors import RefusedFile
from edged.store import kinds
from edged.store.select import TRAINING_FILE

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CONFIG = "config.json"
TEMPLATE = "chat_template.jinja"

#: Beside the weights: configuration, tokenizer, template, licence.
_TEXTS = (".json", ".jinja", ".txt", ".model")
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
#: Kinds of adapters that peft can merge into the weights; the others are prompts or change the computation.
_MERGEABLE = frozenset({
    "LORA", "ADALORA", "LOHA", "LOKR", "OFT", "BOFT", "IA3", "VERA", "HRA", "FOURIERFT", "BONE", "MISS", "RANDLORA",
    "SHIRA", "C3A", "ROAD", "WAVEFT", "DELORA",
})
#: peft puts its own wrapper around the base model's names.
WRAPPER = "base_model.model."
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(?:\.weight)?$")


def model_files(names: Collection[str]) -> list[str]:
    """Of the top level of a Hugging Face folder or repository: the weights in safetensors and what goes with them,
    sorted. Raises RefusedFile where there is no such model."""
    if ADAPTER_CONFIG in names and CONFIG not in names:
        raise RefusedFile("this is an adapter, not a model; convert its base model, and give this one as --adapter")
    if CONFIG not in names:
        raise RefusedFile("there is no config.json: a Hugging Face model has one, beside *.safetensors and a tokenizer")
    weights = [name for name in names if name == WHOLE] or [name for name in names if _SHARD.fullmatch(name)]
    if not weights:
        raise RefusedFile(_no_safetensors(names))
    shards = {match[1] for name in weights if (match := _SHARD.fullmatch(name))}
    if shards and len(weights) != int(min(shards)):
        raise RefusedFile(f"{len(weights)} of {int(min(shards))} files of weights are here; get the model again")
    beside = [name for name in names if _goes_along(name) and (name != INDEX or shards)]
    return sorted([*weights, *beside])


def adapter_files(names: Collection[str]) -> list[str]:
    """Of a PEFT adapter's folder or repository. Raises RefusedFile."""
    if ADAPTER_CONFIG not in names:
        raise RefusedFile(f"there is no {ADAPTER_CONFIG}: a PEFT adapter has one, beside {ADAPTER_WEIGHTS}")
    if ADAPTER_WEIGHTS not in names:
        pickle = next((name for name in sorted(names) if name.startswith("adapter_model.")), None)
        raise RefusedFile(
            f"{pickle} is a pickle, which can run code; save the adapter as safetensors "
            "(`save_pretrained(…)` of a current peft does)" if pickle else f"there is no {ADAPTER_WEIGHTS}")
    return sorted(name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, TEMPLATE, TRAINING_FILE) if name in names)


def check_config(path: str, data: bytes) -> dict[str, Any]:
    """A JSON file of a model that is to be converted. Raises RefusedFile where it names code, or says that the weights
    are quantized already. Returns it; {} where it is a list or the like."""
    if path == CONFIG and kinds.check_json(path, data) is not None:
        raise RefusedFile(
            f"{path} needs code that comes with the model (auto_map), which is never run. Where transformers knows "
            "this architecture itself, take the key auto_map out of the file")
    if path != CONFIG and (why := kinds.check_json(path, data)) is not None:
        raise RefusedFile(f"{path} is refused: {why}")
    value = json.loads(data)
    if any(key == "trust_remote_code" and said for key, said in kinds.items(value)):
        raise RefusedFile(f"{path} asks for trust_remote_code, and code that comes with a model is never run")
    if path != CONFIG or not isinstance(value, dict):
        return value if isinstance(value, dict) else {}
    if (quantized := value.get("quantization_config")) is not None:
        how = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise RefusedFile(f"the weights are quantized already ({how or 'quantization_config'}); a conversion starts "
                          "from the original in 16 or 32 bits")
    if not isinstance(value.get("model_type"), str):
        raise RefusedFile(f"{path} names no model_type, so nobody knows what model this is")
    return value


def check_adapter_config(path: str, data: bytes) -> None:
    """Raises RefusedFile where merging it would import a module that is named in it, or where it cannot be merged."""
    if (why := kinds.check_json(path, data)) is not None:
        raise RefusedFile(f"{path} is refused: {why}")
    value = json.loads(data)
    kind = value.get("peft_type") if isinstance(value, dict) else None
    if kind not in _MERGEABLE:
        raise RefusedFile(f"{path}: an adapter of type {str(kind)[:40]} cannot be merged into weights; LoRA and the "
                          "like can")
    mapping = value.get("auto_mapping") or {}
    library = str(mapping.get("parent_library", "transformers")) if isinstance(mapping, dict) else "?"
    if library.split(".")[0] != "transformers" or value.get("megatron_config"):
        named = library if library.split(".")[0] != "transformers" else str(value.get("megatron_core"))
        raise RefusedFile(f"{path} names a module to import ({named[:80]}); code that comes with a model is never run")
    if value.get("alora_invocation_tokens"):
        raise RefusedFile(f"{path}: an activated LoRA works after its invocation only, so it cannot be merged")


def check_adapter_json(path: str, data: bytes) -> None:
    """Any JSON file of those that `adapter_files` chose. Raises RefusedFile."""
    if path == ADAPTER_CONFIG:
        check_adapter_config(path, data)


def check_fits(adapter: Mapping[str, TensorInfo], base: Mapping[str, TensorInfo], title: str) -> None:
    """Raises RefusedFile where an adapter was trained for another model: its LoRA pairs and replaced weights have other
    shapes than the base's. Other kinds of adapters are checked by peft when they are loaded."""
    known = 0
    for name, tensor in adapter.items():
        inner = name.removeprefix(WRAPPER)
        if (lora := LORA.fullmatch(inner)) is None:
            whole = base.get(inner.replace(".modules_to_save.", ".").replace(".base_layer.", "."))
            if whole is not None and len(tensor.shape) == len(whole.shape) and tensor.shape != whole.shape:
                raise RefusedFile(_other_model(title, inner, tensor.shape, whole.shape))
            continue
        weight = base.get(lora["module"] + ".weight")
        if weight is None or len(weight.shape) != 2 or len(tensor.shape) != 2:
            continue
        known += 1
        # A is [rank, in] and B [out, rank] of a weight [out, in]; of an embedding [vocabulary, width] they are [rank,
        # vocabulary] and [width, rank].
        rows, columns = reversed(weight.shape) if lora["embedding"] else weight.shape
        fits = tensor.shape[1] == columns if lora["half"] == "A" else tensor.shape[0] == rows
        if not fits:
            raise RefusedFile(_other_model(title, inner, tensor.shape, weight.shape))
    if any(LORA.fullmatch(name.removeprefix(WRAPPER)) for name in adapter) and not known:
        raise RefusedFile(f"the adapter {title} was trained for another model: none of its layers is in this base")


def _goes_along(name: str) -> bool:
    if name in (ADAPTER_CONFIG, WHOLE) or name.startswith(".") or kinds.why_not(name) is not None:
        return False
    lower = name.lower()
    return lower.endswith(_TEXTS) or is_licence(name)


def is_licence(name: str) -> bool:
    return name.partition(".")[0].upper() in ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY") \
        and kinds.why_not(name) is None


def _no_safetensors(names: Collection[str]) -> str:
    pickles = sorted(name for name in names if kinds.is_pickle(name))
    if pickles:
        return (f"the weights are a pickle ({pickles[0]}), which can run code; only safetensors are taken: load them "
                "where you trust them and `save_pretrained` them again")
    return "there are no weights in safetensors (model.safetensors, or model-00001-of-…); there is: " + (
        ", ".join(sorted(names)[:20]) or "nothing")


def _other_model(title: str, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    return (f"the adapter {title} was trained for another model: its {name[:120]} is {list(shape)}, and the base has "
            f"{list(wanted)} there")
