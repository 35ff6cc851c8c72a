"""trl's SFT trainer with three changes: the logits are computed only where a label is (trl does that on GPUs alone),
each example's loss counts by its weight, and the validation loss is the mean over tokens, whatever the batches are.

A distillation subclasses `FitTrainer` and overrides `compute_loss`; `scored` and `mean` are for it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from trl import SFTTrainer

from edged.errors import TrainingFailed
from training.fit.batches import IGNORED
from training.fit.order import order
from training.fit.totals import over_processes, total

#: Logits in 32 bits of one forward pass, above which trl's slower way takes over: in tiles, never whole in memory.
_MOST_LOGITS_BYTES = 1 << 30
_MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


@dataclass(frozen=True, slots=True)
class Scored:
    """The positions that have a label, of all rows of a batch in one list. logits: positions × vocabulary. labels,
    weights: positions. outputs: what the model returned, with these logits."""

    logits: Any
    labels: Any
    weights: Any
    outputs: Any


class Order(torch.utils.data.Sampler):  # type: ignore[misc]
    """The training examples in the order of `epoch`, which the callback sets before each pass: a pass that is gone on
    with after a kill has the order it began with. (accelerate sets the epoch of samplers that have `set_epoch`, but not
    through all its wrappers after a resume.)"""

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.epoch = 0
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed

    def __iter__(self) -> Iterator[int]:
        return iter(order(self._lengths, self._batch_size, self._seed, self.epoch))

    def __len__(self) -> int:
        return len(self._lengths)


class InOrder:
    """Of a trainer whose training set has a column `length`, and whose checkpoints are its own. Comes before the
    trainer among the bases."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        trainer: Any = self
        if not hasattr(self, "order"):
            self.order = Order(list(trainer.train_dataset["length"]), trainer.args.per_device_train_batch_size,
                               trainer.args.seed)
        return self.order

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights by the names that they have in memory. transformers would write experts that it holds as one tensor
        apart, under names that no checkpoint is gone on with by, and the experts would be the base's again."""
        trainer: Any = self
        if not isinstance(trainer.model, PreTrainedModel):
            super()._save(output_dir, state_dict)  # type: ignore[misc]
            return
        trainer.model.save_pretrained = functools.partial(trainer.model.save_pretrained, save_original_format=False)
        try:
            super()._save(output_dir, state_dict)  # type: ignore[misc]
        finally:
            del trainer.model.save_pretrained


class FitTrainer(InOrder, SFTTrainer):  # type: ignore[misc]
    control: Any
    #: Of the validation split: never packed.
    eval_collator: Any

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        """Mean cross entropy of the labels, in nats, each times its weight."""
        losses, weights = self._token_losses(model, inputs)
        return self.mean(losses * weights, num_items_in_batch)

    def mean(self, losses: Any, num_items_in_batch: Any = None) -> Any:
        """Of one value a label; over all labels of the step, in all its batches and processes, where the trainer gives
        their number."""
        if num_items_in_batch is None:
            return losses.sum() / max(1, losses.numel())
        scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return losses.sum() * scale / torch.as_tensor(num_items_in_batch).clamp(min=1)

    def scored(self, model: Any, inputs: dict[str, Any], *, of: Any = None, **more: Any) -> Scored:
        """The logits at the labels' positions. model: called, perhaps wrapped for several devices; `of`: the model
        itself, None: the one that is trained. more: for the model's forward, `output_hidden_states=True` and such."""
        wanted = wanted_positions(inputs["labels"])
        outputs = outputs_at(model, self.model if of is None else of, inputs, wanted, **more)
        return Scored(outputs.logits[0], inputs["labels"][:, 1:][wanted[:, :-1]],
                      inputs["weights"][:, 1:][wanted[:, :-1]], outputs)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None,
                 metric_key_prefix: str = "eval") -> dict[str, float]:
        """Mean cross entropy over all labels of the validation split, without weights."""
        data = eval_dataset if eval_dataset is not None else self.eval_dataset
        lengths = list(data["length"])
        by_length = sorted(range(len(data)), key=lambda index: lengths[index])
        size = self.args.per_device_eval_batch_size
        batches = [by_length[start:start + size] for start in range(0, len(data), size)]
        own = torch.zeros(2, dtype=torch.float64)
        self.model.eval()
        with torch.no_grad():
            for batch in batches[self.args.process_index::self.args.world_size]:
                inputs = self._prepare_inputs(self.eval_collator([data[index] for index in batch]))
                losses, _ = self._token_losses(self.model, inputs)
                own += torch.tensor([total(losses), losses.numel()], dtype=torch.float64)
        summed = over_processes(own, self.accelerator)
        metrics = {f"{metric_key_prefix}_loss": float(summed[0] / summed[1].clamp(min=1))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _token_losses(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """(cross entropy, weight) of every label."""
        wanted = wanted_positions(inputs["labels"])
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        if int(wanted.sum()) * vocabulary * 4 <= _MOST_LOGITS_BYTES:
            scored = self.scored(model, inputs)
            return cross_entropy(scored.logits.float(), scored.labels, reduction="none"), scored.weights
        outputs = model(**model_inputs(inputs), labels=inputs["labels"], fused_lm_head=True)
        return -outputs.log_probs[wanted[:, :-1]], inputs["weights"][:, 1:][wanted[:, :-1]]


def model_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: inputs[name] for name in _MODEL_INPUTS if name in inputs} | {"use_cache": False}


def wanted_positions(labels: Any) -> Any:
    """rows × length, true where the next token is a label."""
    wanted = torch.zeros_like(labels, dtype=torch.bool)
    wanted[:, :-1] = labels[:, 1:] != IGNORED
    return wanted


def outputs_at(model: Any, of: Any, inputs: dict[str, Any], wanted: Any, **more: Any) -> Any:
    """The model's outputs with logits of 1 × wanted positions × vocabulary: the last layer's states are gathered just
    before the head, so the model's own scaling and capping of logits stay. of: the unwrapped model."""
    def gather(_: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
        return (states[0][wanted][None], *states[1:])

    with of.get_output_embeddings().register_forward_pre_hook(gather):
        outputs = model(**model_inputs(inputs), **more)
    if outputs.logits.shape[:2] != (1, int(wanted.sum())):
        raise TrainingFailed(f"{type(of).__name__} does not compute its logits from the last states alone; edged "
                             "cannot train it")
    return outputs
