"""How many steps a fit takes, and what happens at which of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.recipe import Fit

#: Points of the curve of the training loss.
_POINTS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """steps: changes of the weights in all. epoch_steps: of them in one pass over the data. check_every: steps between
    evaluations with a checkpoint each. log_every: between points of the training loss."""

    steps: int
    epoch_steps: int
    check_every: int
    log_every: int
    warmup_steps: int

    def checks(self, step: int) -> bool:
        """The validation loss is taken and a checkpoint written after this step."""
        return step % self.check_every == 0 or step == self.steps

    def logs(self, step: int) -> bool:
        """Always where it checks too: a mean over steps on both sides of a checkpoint would differ after a kill."""
        return step % self.log_every == 0 or self.checks(step)


def plan(rows: int, how: Fit) -> Plan:
    """rows: examples, or rows of packed ones, of one epoch."""
    batches = math.ceil(math.ceil(rows / how.batch_size) / how.devices)
    epoch_steps = max(1, math.ceil(batches / how.accumulation))
    steps = math.ceil(how.epochs * epoch_steps)
    if how.max_steps is not None:
        steps = min(steps, how.max_steps)
    return Plan(
        steps=steps, epoch_steps=epoch_steps, check_every=math.ceil(steps / how.evaluations),
        log_every=max(1, steps // _POINTS), warmup_steps=math.ceil(how.warmup_share * steps))


def best(losses: Sequence[float]) -> int:
    """The index of the least validation loss, the first of equal ones."""
    return min(range(len(losses)), key=lambda index: losses[index])


def exhausted(losses: Sequence[float], patience: int) -> bool:
    """The validation loss has not become better for so many evaluations. patience 0: never."""
    return patience > 0 and bool(losses) and len(losses) - 1 - best(losses) >= patience
