"""A recipe's fit in the words of transformers' trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.fit.checkpoints import FOLDER
from training.fit.plan import Plan
from training.fit.precision import device, precision
from training.recipe import Fit

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def arguments(how: Fit, planned: Plan, folder: Path, seed: int, settings: dict[str, Any]) -> Any:
    """SFTConfig, or DPOConfig where the settings have `beta`. Logging, evaluation and saving are off here: the callback
    `training.fit.flow.Flow` decides them. Raises DeviceUnavailable."""
    from trl import DPOConfig, SFTConfig

    computed = precision(how.precision)
    own = settings if "beta" in settings else {"dataset_kwargs": {"skip_prepare_dataset": True}, **settings}
    made = (DPOConfig if "beta" in settings else SFTConfig)(
        output_dir=str(folder / FOLDER), max_steps=planned.steps, per_device_train_batch_size=how.batch_size,
        per_device_eval_batch_size=how.batch_size, gradient_accumulation_steps=how.accumulation,
        learning_rate=how.learning_rate, lr_scheduler_type=SCHEDULES[how.schedule], warmup_steps=planned.warmup_steps,
        weight_decay=how.weight_decay, max_grad_norm=how.max_grad_norm, activation_checkpointing=how.checkpointing,
        bf16=computed == "bf16", fp16=computed == "fp16", use_cpu=device() == "cpu", seed=seed, data_seed=seed,
        logging_strategy="no", eval_strategy="no", save_strategy="no", logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        dataloader_num_workers=0, max_length=None, ddp_find_unused_parameters=False, **own)
    # Of several cards that one process sees the trainer would take all, each with a share of the batch: those are asked
    # for by `devices`.
    made._n_gpu = min(made.n_gpu, 1)
    return made
