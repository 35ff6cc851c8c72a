"""Stands in for `training.search.worker`: trials without a model, whose loss is known by their settings.

    python -m tests.stand_in_trials

`finetune.learning_rate` is best at 1e-3; loss falls over four evaluations. A rank tells it to misbehave: 30 fails, 31
dies, 32 hangs for ever where the environment has EDGED_TEST_HANGS.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading

from training.search.messages import Answer, Begin, Ended, Evaluated, Failed, Live, Pruned, Try
from training.search.worker import Channel

EVALUATIONS = 4
HANGS = "EDGED_TEST_HANGS"


def loss_of(learning_rate: float) -> float:
    return 1 + abs(math.log10(learning_rate) + 3)


def main() -> None:
    channel = Channel(sys.stdin.buffer, sys.stdout.buffer)
    assert isinstance(channel.get(), Begin)
    while True:
        asked = channel.get()
        assert isinstance(asked, Try)
        channel.send(_made(asked, channel))


def _made(asked: Try, channel: Channel) -> Ended | Pruned | Failed:
    rank = asked.settings.get("finetune.rank")
    loss = loss_of(float(asked.settings["finetune.learning_rate"]))
    if rank == 30:
        return Failed("no room for rank 30")
    if rank == 31:
        print("this is the last that I say", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 32 and HANGS in os.environ:
        threading.Event().wait()
    channel.send(Live(0.5, {"loss": loss}))
    for evaluation in range(1, EVALUATIONS + 1):
        channel.send(Evaluated(evaluation, loss * (2 - evaluation / EVALUATIONS)))
        answer = channel.get()
        assert isinstance(answer, Answer)
        if not answer.go_on:
            return Pruned()
    return Ended(loss, {"seconds": 0.1})


if __name__ == "__main__":
    main()
