"""One process of several that fine-tune together: `python -m training.finetune.launched RECIPE FOLDER`, as accelerate
starts it. The first one writes lines of `training.finetune.launch.Said`."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import msgspec

from converters.child import die_with_parent, explained, failed_by
from training.finetune.launch import Said
from training.recipe import load_recipe
from training.run import Moment, Run


def main() -> int:
    # The launcher is killed with the run, and says nothing to its processes then.
    die_with_parent(os.getppid())
    first = os.environ.get("RANK", "0") == "0"

    def say(said: Said) -> None:
        if first:
            print(msgspec.json.encode(said).decode(), flush=True)

    def tell(moment: Moment) -> None:
        say(Said(moment=moment))

    from training.finetune.stage import finetuned
    from training.fit.quiet import quiet

    try:
        recipe, file = load_recipe(Path(sys.argv[1]))
        with quiet():
            say(Said(trained=finetuned(Run(Path(sys.argv[2]), recipe, file), tell)))
    except Exception as error:
        traceback.print_exc()
        say(Said(failed=failed_by(explained("finetune", error))))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
