# mypy: disable-error-code="import-untyped"
"""A fine-tuning by Olive's own pass, LoRA or DoRA, where the recipe says `through = "olive"`.

Olive drives transformers' trainer itself: its checkpoints are gone on with, and what it prints is the live loss. What
it has no word for is refused, or told where it only does less.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from converters.quiet import quietly
from edged.errors import InvalidRequest, TrainingFailed
from edged.store import files
from training.examples import Example
from training.fit import history
from training.fit.arguments import SCHEDULES
from training.fit.plan import plan
from training.fit.precision import Precision
from training.recipe import Finetune, beyond_olive
from training.run import Moment, Tell, digest

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_FOLDER = "olive"


def require(how: Finetune, examples: Sequence[Example]) -> None:
    """Raises InvalidRequest for what Olive's pass cannot do."""
    impossible = beyond_olive(how)
    if len({each.weight for each in examples}) > 1:
        impossible.append("weights of examples")
    if impossible:
        raise InvalidRequest(f"through = \"olive\" cannot be had with {', '.join(impossible)}; say through = \"trl\"")


def tune(
    base: Path, key: str, tokenizer: Any, how: Finetune, folder: Path, *, train: Sequence[Example],
    validation: Sequence[Example], computed: Precision, seed: int, tell: Tell,
) -> tuple[Path, list[history.Row]]:
    """key: of the base, wherever it lies. Returns the folder of the adapter as peft wrote it, and the loss curve.
    Raises InvalidRequest, TrainingFailed."""
    require(how, train)
    if how.patience:
        tell(Moment(stage=folder.name, note="Olive does not end early: patience is not used. The best checkpoint is "
                                            "kept all the same"))
    work = folder / _FOLDER
    learned, checked = _items(tokenizer, train, how), _items(tokenizer, validation, how)
    _begin(work, digest(how, seed, key, learned, checked))
    for name, items in (("train", learned), ("validation", checked)):
        files.publish_bytes(work / f"{name}.json", msgspec.json.encode(items), work)
    planned = plan(len(train), how)

    def receive(line: str) -> None:
        """The trainer prints each point of the curve."""
        figures = _figures(line)
        if (done := figures.pop("epoch", None)) is not None and ("loss" in figures or "validation_loss" in figures):
            tell(Moment(stage=folder.name, what="training", figures=figures,
                        fraction=min(1.0, done * planned.epoch_steps / planned.steps)))

    with quietly(receive):
        _run(base, how, work, {
            "max_steps": planned.steps, "logging_steps": planned.log_every, "save_steps": planned.check_every,
            "eval_steps": planned.check_every, "warmup_steps": planned.warmup_steps},
            computed=computed, seed=seed)
    adapter = work / "model" / "adapter"
    if not (adapter / "adapter_model.safetensors").exists():
        raise TrainingFailed("Olive ended without an adapter; say through = \"trl\"")
    rows = history.rows(_state(work)["log_history"])
    history.write(folder, rows)
    return adapter, rows


def _run(
    base: Path, how: Finetune, work: Path, times: dict[str, int], *, computed: Precision, seed: int,
) -> None:
    import datasets
    from olive.hardware.accelerator import AcceleratorSpec
    from olive.model import HfModelHandler
    from olive.package_config import OlivePackageConfig
    from transformers import set_seed

    from training.finetune.adapter import linear_modules
    from training.finetune.olive_data import data_config
    from training.fit.precision import device

    set_seed(seed)
    # Olive puts the data into the cache of `datasets`: not where other programs of this user look.
    datasets.config.HF_DATASETS_CACHE = work / "cache"
    on_cpu = device() == "cpu"
    spec = AcceleratorSpec("cpu", "CPUExecutionProvider") if on_cpu else AcceleratorSpec("gpu", "CUDAExecutionProvider")
    settings = {
        "r": how.rank, "alpha": how.alpha, "lora_dropout": how.dropout, "torch_dtype": _DTYPES[computed],
        "device_map": None if on_cpu else "auto",
        "target_modules": linear_modules(base) if isinstance(how.targets, str) else list(how.targets),
        "train_data_config": data_config(work / "train.json"),
        "eval_data_config": data_config(work / "validation.json"),
        "training_args": {
            "output_dir": str(work / "checkpoints"), "gradient_checkpointing": how.checkpointing,
            "per_device_train_batch_size": how.batch_size, "per_device_eval_batch_size": how.batch_size,
            "gradient_accumulation_steps": how.accumulation, "learning_rate": how.learning_rate,
            "lr_scheduler_type": SCHEDULES[how.schedule], "weight_decay": how.weight_decay,
            "max_grad_norm": how.max_grad_norm, "optim": "adamw_torch", "seed": seed, "data_seed": seed,
            "use_cpu": on_cpu, "disable_tqdm": True, "eval_strategy": "steps", "logging_strategy": "steps",
            "save_strategy": "steps", "save_total_limit": 2, "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss", "greater_is_better": False, "dataloader_num_workers": 0,
            "include_num_input_tokens_seen": "non_padding", "remove_unused_columns": False, **times},
    }
    kind = OlivePackageConfig.load_default_config().import_pass_module("LoRA" if how.method == "lora" else "DoRA")
    config = kind.generate_config(spec, settings, disable_search=True)
    try:
        kind(spec, config).run(HfModelHandler(model_path=str(base)), str(work / "model"))
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise TrainingFailed(f"Olive cannot fine-tune this model: {str(error)[:300]}; say through = \"trl\"") from error


def _items(tokenizer: Any, examples: Sequence[Example], how: Finetune) -> list[dict[str, list[int]]]:
    from training.encode import encoded

    found = (encoded(tokenizer, each, completion_only=how.completion_only) for each in examples)
    return [{"input_ids": each.input_ids, "labels": each.labels} for each in found]


def _begin(work: Path, identity: str) -> None:
    """Afterwards only whole checkpoints of this very training are there; the trainer writes its state last."""
    mark = work / "fit.txt"
    if work.exists() and not (mark.exists() and mark.read_text() == identity):
        files.remove(mark)
        files.remove_tree(work)
    files.make_folder(work)
    files.publish_bytes(mark, identity.encode(), work)
    made = work / "checkpoints"
    if made.exists():
        for each in made.glob("checkpoint-*"):
            try:
                json.loads((each / "trainer_state.json").read_bytes())
            except (OSError, ValueError):
                shutil.rmtree(each)
        if not list(made.glob("checkpoint-*")):
            # Olive refuses a folder that is not empty and has none.
            shutil.rmtree(made)


def _state(work: Path) -> dict[str, Any]:
    newest = max((work / "checkpoints").glob("checkpoint-*"), key=lambda each: int(each.name.rpartition("-")[2]))
    state: dict[str, Any] = json.loads((newest / "trainer_state.json").read_bytes())
    return state


def _figures(line: str) -> dict[str, float]:
    """Of a line as transformers' PrinterCallback writes it: a dict of Python, numbers as texts. Empty of others."""
    if not line.startswith("{"):
        return {}
    try:
        read = ast.literal_eval(line)
        named = {"eval_loss": "validation_loss"}
        return {named.get(name, name): float(read[name])
                for name in ("loss", "eval_loss", "learning_rate", "epoch") if name in read}
    except (ValueError, SyntaxError, TypeError):
        return {}
