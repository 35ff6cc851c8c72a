"""`fit`: weights are fitted to examples, from wherever an earlier process was killed.

    <folder>/checkpoints/     `training.fit.checkpoints`
    <folder>/logs/            TensorBoard
    <folder>/history.jsonl    the loss curve, `training.fit.history`
    <folder>/curve.png        the same, drawn
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from edged.errors import InvalidRequest, TrainingFailed
from edged.store import files
from training.examples import Example
from training.fit import checkpoints, history
from training.fit.curve import draw
from training.fit.history import Row, best_step
from training.fit.order import packs
from training.fit.plan import Plan, exhausted, plan
from training.fit.quiet import quiet
from training.recipe import Fit
from training.run import Tell, digest

#: Rows of packed examples are at least so long (tokens), where the model's context is.
_PACK_TOKENS = 1024
#: Of checkpoints: another one is not gone on with.
_FORM = 2


class Fitted(Struct, frozen=True, kw_only=True):
    """What a fit came to. The model that was given has the weights of best_step, that of the least validation loss (the
    last one without validation). steps: that were made. train_loss, validation_loss: at best_step, mean cross entropy a
    token in nats; None where it was not taken. seconds, tokens: of all starts together. examples: learned from, each
    once."""

    steps: int
    seconds: float
    tokens: int
    examples: int
    train_loss: float | None
    validation_loss: float | None
    best_step: int
    stopped_early: bool
    history: list[Row]


def fit(  # noqa: PLR0917
    model: Any, tokenizer: Any, train: Sequence[Example], validation: Sequence[Example], how: Fit, folder: Path, *,
    seed: int, tell: Tell, trainer: type | None = None,
    on_evaluation: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Fits the trainable weights of a causal language model of transformers or peft, in place. Goes on with the
    checkpoints in `folder` where they are of this very fit: same examples, same settings, same weights to begin with.

    trainer: a subclass of `training.fit.trainer.FitTrainer`. on_evaluation: told (step, validation loss) of every
    evaluation that is made; what it raises ends the fit and comes out of here. Moments are told with the folder's name
    as stage.

    Raises InvalidRequest where there is nothing to learn from or packing would mix examples, DeviceUnavailable of a
    precision that this machine cannot compute, TrainingFailed where the training diverges."""
    from training.encode import encoded
    from training.fit.batches import Item, Packed, Padded, check_boundaries
    from training.fit.trainer import FitTrainer

    def items(examples: Sequence[Example], mean_weight: float) -> list[Item]:
        found = ((encoded(tokenizer, each, completion_only=how.completion_only), each.weight) for each in examples)
        return [{"input_ids": list(both.input_ids), "labels": list(both.labels), "length": len(both.input_ids),
                 "weight": weight / mean_weight} for both, weight in found]

    if not train:
        raise InvalidRequest("there is no example to learn from; see data/report.json for what was dropped")
    learned = items(train, sum(each.weight for each in train) / len(train))
    checked = items(validation, 1.0)
    filling = padding(tokenizer)
    collator: Any = Padded(filling)
    rows: list[Item] = learned
    if how.packing:
        if wrong := check_boundaries(model, model.config.get_text_config().vocab_size):
            raise InvalidRequest(f"packing = true cannot be used with this model: {wrong}; say packing = false")
        rows, collator = _packed(learned, model), Packed(filling)
    return run(
        trainer or FitTrainer, model, tokenizer, how, folder, rows=rows, checked=checked, collator=collator,
        eval_collator=Padded(filling), examples=len(train), seed=seed, tell=tell, on_evaluation=on_evaluation)


@quiet()
def run(
    kind: type, model: Any, tokenizer: Any, how: Fit, folder: Path, *, rows: list[Any], checked: list[Any],
    collator: Any, eval_collator: Any, examples: int, seed: int, tell: Tell,
    on_evaluation: Callable[[int, float], None] | None = None, settings: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
) -> Fitted:
    """The loop under `fit` and `training.fit.preferences`. kind: of trl's trainers, in order of length. rows, checked:
    items with a column `length`, for the collators. settings: of the trainer's own configuration; more: arguments of
    the trainer."""
    from accelerate import PartialState
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback

    from training.fit.arguments import arguments
    from training.fit.flow import Flow
    from training.fit.precision import device

    planned = plan(len(rows), how)
    # Whoever asks first decides what it is, and without `cpu` several processes on a processor know of none other.
    state = PartialState(cpu=device() == "cpu")
    identity = digest(_FORM, kind.__name__, how, seed, _digest(rows), _digest(checked), fingerprint(model), settings)
    if state.is_main_process:
        checkpoints.begin(folder, identity)
    state.wait_for_everyone()
    newest = checkpoints.newest(folder)
    log = checkpoints.log_of(newest) if newest is not None else []
    if not _ended(newest, log, planned, how.patience):
        flow = Flow(planned, folder, tell, patience=how.patience, validates=bool(checked), on_evaluation=on_evaluation)
        trainer: Any = kind(
            model=model, args=arguments(how, planned, folder, seed, settings or {}), processing_class=tokenizer,
            data_collator=collator, train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(checked) if checked else None, **(more or {}))
        trainer.eval_collator = eval_collator
        flow.order = trainer._get_train_sampler()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(flow)
        if state.is_main_process:
            trainer.add_callback(_tensorboard(folder / "logs", newest))
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
        log = trainer.state.log_history
    made = history.rows(log)
    steps = max((each.step for each in made), default=0)
    chosen = best_step(made, steps)
    load_weights(model, checkpoints.at(folder, chosen))
    if state.is_main_process:
        history.write(folder, made)
        draw(made, folder)
    return summed(made, planned, examples)


def fingerprint(model: Any) -> str:
    """Of the weights to begin with: name, shape and the first values of each. Another base or another seed differs in
    nearly all of them."""
    found = hashlib.sha256()
    for name, weight in model.named_parameters():
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype} {weight.requires_grad} "
                     f"{weight.detach().flatten()[:16].float().tolist()}\n".encode())
    return found.hexdigest()[:32]


def load_weights(model: Any, checkpoint: Path) -> None:
    """Those of a checkpoint into the model that it is of. Raises TrainingFailed where they are not all its weights."""
    from safetensors.torch import load_file

    weights = {name: tensor for file in sorted(checkpoint.glob("*.safetensors"))
               for name, tensor in load_file(file).items()}
    if hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, weights, adapter_name="default")
    else:
        missing, unknown = model.load_state_dict(weights, strict=False)
        # Tied weights are saved once.
        here = model.state_dict()
        loaded = {here[name].data_ptr() for name in weights if name in here}
        if lost := [*unknown, *(name for name in missing if here[name].data_ptr() not in loaded)]:
            raise TrainingFailed(f"{checkpoint} holds other weights than {type(model).__name__} has (as {lost[0]}); "
                                 "edged cannot train this model whole, only an adapter of it")


def _ended(newest: Path | None, log: list[dict[str, Any]], planned: Plan, patience: int) -> bool:
    """An earlier process did all of it, and was killed before it said so."""
    if newest is None:
        return False
    losses = [loss for _, loss in history.validation(history.rows(log))]
    return checkpoints.step_of(newest) >= planned.steps or exhausted(losses, patience)


def summed(made: list[Row], planned: Plan, examples: int) -> Fitted:
    """A curve that has ended, in figures."""
    steps = max((each.step for each in made), default=0)
    chosen = best_step(made, steps)
    at_best = [each for each in made if each.step <= chosen]
    return Fitted(
        steps=steps, best_step=chosen, stopped_early=steps < planned.steps, history=made, examples=examples,
        seconds=max((each.seconds or 0.0 for each in made), default=0.0),
        tokens=max((each.tokens or 0 for each in made), default=0),
        train_loss=next((each.loss for each in reversed(at_best) if each.loss is not None), None),
        validation_loss=next((loss for step, loss in history.validation(made) if step == chosen), None))


def _packed(items: list[Any], model: Any) -> list[Any]:
    lengths = [item["length"] for item in items]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", _PACK_TOKENS)
    capacity = max(*lengths, min(_PACK_TOKENS, context)) if len(lengths) > 1 else lengths[0]
    return [{"parts": [items[index] for index in row], "length": sum(lengths[index] for index in row)}
            for row in packs(lengths, capacity)]


def padding(tokenizer: Any) -> int:
    """The token that fills rows up. Masked everywhere, so any token would do."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(found or 0)


def _digest(items: list[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(items)).hexdigest()


def _tensorboard(folder: Path, newest: Path | None) -> Any:
    """Points after the checkpoint that is gone on with are taken back: TensorBoard shows no step twice."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    if newest is None and folder.exists():
        files.remove_tree(folder)
    files.make_folder(folder)
    return TensorBoardCallback(SummaryWriter(
        str(folder), purge_step=None if newest is None else checkpoints.step_of(newest) + 1))
