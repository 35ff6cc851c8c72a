"""An encoder of transformers as ONNX, in 32 bits, by torch's exporter: token vectors of an embedding model (pooling and
normalisation stay configuration, which the engine reads), logits of a reranker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converters.quiet import quietly
from converters.recipe import Recipe
from edged.errors import ConversionFailed, InvalidRequest, RefusedFile
from edged.types import Task

GRAPH = "model.onnx"
_FOR = {"embed": "embeddings", "rerank": "reranking"}
#: Shape of what the exporter is shown; both dimensions stay free.
_EXAMPLE = (2, 16)
#: What goes along with the graph: it describes the model to the engine.
_BESIDE = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
           "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")


def task_of(hf_folder: Path) -> Task:
    """What a Hugging Face folder is for: `embed` where sentence-transformers made it, `rerank` where its head sorts."""
    config = json.loads((hf_folder / "config.json").read_bytes())
    named = config.get("architectures")
    if isinstance(named, list) and any(str(one).endswith("ForSequenceClassification") for one in named):
        return "rerank"
    return "embed" if (hf_folder / "modules.json").is_file() else "generate"


def require_recipe(recipe: Recipe, task: Task, adapters: int) -> None:
    """Raises InvalidRequest where it makes nothing of such a model."""
    if task == "generate":
        return
    if recipe.format != "onnx" or recipe.target != "cpu" or recipe.precision != "fp32" or recipe.passes:
        raise InvalidRequest(
            f"this is a model for {_FOR[task]}, of which recipe {recipe.name} makes nothing; take --recipe cpu-fp32")
    if adapters:
        raise InvalidRequest(f"adapters are not merged into models for {_FOR[task]}; merge them with peft first")


def export(hf_folder: Path, out: Path, task: Task, progress: Callable[[float, str | None], None]) -> None:
    """Makes the folder `out`. Blocks, in a process of its own. Raises ConversionFailed, RefusedFile."""
    if not (hf_folder / "tokenizer.json").is_file():
        raise RefusedFile("there is no tokenizer.json; save the tokenizer as a fast one (`save_pretrained` does)")
    out.mkdir(parents=True)
    progress(0.1, "reading the model")
    with quietly(lambda line: None):
        _export_graph(hf_folder, out / GRAPH, task)
    for name in _BESIDE:
        if (hf_folder / name).is_file():
            shutil.copyfile(hf_folder / name, out / name)
    for folder in module_folders(hf_folder):
        (out / folder).mkdir(exist_ok=True)
        shutil.copyfile(hf_folder / folder / "config.json", out / folder / "config.json")
    progress(1.0, None)


def module_folders(hf_folder: Path) -> list[str]:
    """Folders of modules that have a configuration, as modules.json names them. Raises RefusedFile."""
    file = hf_folder / "modules.json"
    if not file.is_file():
        return []
    found = []
    for module in json.loads(file.read_bytes()):
        path = str(module.get("path", ""))
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise RefusedFile(f"modules.json has a {kind} after the model, which this conversion does not carry over")
        if path and (hf_folder / path / "config.json").is_file():
            found.append(path)
    return found


def encoder_of(hf_folder: Path, task: Task) -> tuple[Any, str]:
    """The model in 32 bits, and which of its outputs is wanted."""
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification

    kind: Any = AutoModelForSequenceClassification if task == "rerank" else AutoModel
    model = kind.from_pretrained(hf_folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True,
                                 use_safetensors=True).eval()
    return model, "logits" if task == "rerank" else "last_hidden_state"


def _export_graph(hf_folder: Path, file: Path, task: Task) -> None:
    import torch

    model, output = encoder_of(hf_folder, task)
    names = ["input_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 0):
        names.append("token_type_ids")

    class Wanted(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.model(**dict(zip(names, inputs, strict=True)))[output]
            return result

    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    example = tuple(torch.ones(_EXAMPLE, dtype=torch.int64) for _ in names)
    try:
        program = torch.onnx.export(
            Wanted(), example, dynamo=True, input_names=names, output_names=[output],
            dynamic_shapes=((free,) * len(names),))
        assert program is not None
        program.save(str(file), external_data=True)
    except Exception as error:
        raise ConversionFailed(f"torch could not export the model: {str(error).splitlines()[0][:300]}") from error
