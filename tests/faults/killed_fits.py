"""A program: fits of one tiny model, each in a child that ends as it is told, forked from a process that has imported
the heavy libraries once.

    killed_fits.py FOLDER

It makes the model in FOLDER.

Each line of standard input is `FOLDER HOW COUNT`; each line out the exit code. HOW: `none`; `step`: SIGKILL once step
COUNT is told; `save`: SIGKILL in the middle of the COUNT-th file that torch writes; `file`: SIGKILL just before the
COUNT-th operation that edged makes on files.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import trl.trainer.sft_trainer  # noqa: F401

from edged.store import files
from tests.training_examples import numbers
from training.finetune.adapter import start
from training.fit.fit import fit
from training.models import tokenizer_of
from training.recipe import Finetune
from training.run import Moment

HOW = Finetune(epochs=3.0, batch_size=4, accumulation=2, learning_rate=5e-3, dropout=0.1, evaluations=6, patience=0,
               precision="fp32", rank=4)


def run(base: Path, folder: Path, how: str, count: int) -> None:
    left = count

    def due() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def tell(moment: Moment) -> None:
        if how == "step" and moment.figures.get("step", 0) >= count:
            die()

    def watch(operation: files.Operation) -> None:
        if how == "file" and due():
            die()

    whole_save = torch.save

    def save(value: Any, path: Any, **more: Any) -> None:
        whole_save(value, path, **more)
        if how == "save" and due():
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    torch.save = save
    files.watch = watch
    model = start(base, HOW, "fp32", 0)
    fitted = fit(model, tokenizer_of(base), numbers(0, 40), numbers(40, 48), HOW, folder, seed=0, tell=tell)
    model.save_pretrained(folder / "model")
    (folder / "steps.txt").write_text(str(fitted.steps))


def main() -> None:
    # What libraries print, onnxruntime-genai's builder at its import, goes elsewhere.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from tests.real.tiny_model import make_hf

    torch.set_num_threads(1)
    base = make_hf(Path(sys.argv[1]))
    for line in sys.stdin:
        folder, how, count = line.split()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(base, Path(folder), how, int(count))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    main()
