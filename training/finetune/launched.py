"""One process of several that fine-tune together: `python -m training.finetune.launched BEGIN`, as accelerate
starts it. BEGIN: path of a `training.finetune.launch.Begin`. The first one writes lines of
`training.finetune.launch.Said`.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import msgspec

from converters.child import die_with_parent, explained, failed_by
from training.finetune.launch import Begin, Said
from training.run import Moment


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
        begin = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Begin)
        with quiet():
            say(Said(trained=finetuned(begin.run(), tell)))
    except Exception as error:
        traceback.print_exc()
        say(Said(failed=failed_by(explained("finetune", error))))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
