"""What happens at which step of a fit: when it logs, evaluates, saves and ends, as the plan says; and what it tells."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from edged.errors import TrainingFailed
from training.fit import checkpoints, history
from training.fit.plan import Plan, exhausted
from training.run import Moment, Tell


class Flow(TrainerCallback):  # type: ignore[misc]
    """Of one call of `fit`. The trainer's log (`state.log_history`) is the curve: it is saved with each checkpoint and
    comes back with it, and everything here is computed from it."""

    def __init__(self, plan: Plan, folder: Path, tell: Tell, *, patience: int, validates: bool,
                 on_evaluation: Callable[[int, float], None] | None) -> None:
        self._plan, self._folder, self._tell = plan, folder, tell
        self._patience, self._validates, self._on_evaluation = patience, validates, on_evaluation
        self._began_s = time.monotonic()
        #: Of earlier starts.
        self._before_s = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._began_s = time.monotonic()
        self._before_s = max((each.get("seconds", 0.0) for each in state.log_history), default=0.0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **more: Any) -> None:
        self.order.epoch = state.global_step // self._plan.epoch_steps

    #: The training data's sampler; set by `fit` once the trainer has it.
    order: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        control.should_log = self._plan.logs(state.global_step)
        checks = self._plan.checks(state.global_step)
        control.should_evaluate, control.should_save = checks and self._validates, checks
        return control

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        logged = state.log_history[-1]
        logged["seconds"] = round(self._before_s + time.monotonic() - self._began_s, 3)
        row = history.row(logged)
        if row is None:
            return
        for name, value in (("loss", row.loss), ("validation loss", row.validation_loss)):
            if value is not None and not math.isfinite(value):
                raise TrainingFailed(f"the {name} is {value} after step {row.step}: the training diverged. Lower "
                                     "learning_rate or raise warmup_share, and run the stage again")
        if not state.is_world_process_zero:
            return
        rows = history.rows(state.log_history)
        history.write(self._folder, rows)
        figures = {name: value for name, value in (
            ("loss", row.loss), ("validation_loss", row.validation_loss), ("learning_rate", row.learning_rate),
            ("tokens_per_second", history.rate(rows))) if value is not None}
        self._tell(Moment(stage=self._folder.name, what="training", fraction=row.step / self._plan.steps,
                          figures=figures | row.figures | {"step": float(row.step)}))

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        losses = [loss for _, loss in history.validation(history.rows(state.log_history))]
        if exhausted(losses, self._patience) and state.global_step < self._plan.steps:
            control.should_training_stop = True
            if state.is_world_process_zero:
                self._tell(Moment(stage=self._folder.name, note=f"the validation loss has not become better for "
                                  f"{self._patience} evaluations; the training ends early"))
        if self._on_evaluation is not None and state.is_world_process_zero:
            self._on_evaluation(state.global_step, losses[-1])
        return control

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Every process has written its part once all are here."""
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            checkpoints.mark_whole(checkpoints.at(self._folder, state.global_step))
            best = history.best_step(history.rows(state.log_history), state.global_step)
            checkpoints.keep(self._folder, {state.global_step, best})
