"""The libraries of training warn, draw bars and phone home; what a person should know is told in moments."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

from converters.quiet import ENVIRONMENT

#: peft, trl and Olive use names that transformers is about to drop.
_OLD_NAMES = ".*gradient_checkpointing.* is deprecated"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Standard output stays as it is, unlike in `converters.quiet.quietly`: moments are shown there. Best entered
    before those libraries are imported, which read their environment then."""
    os.environ.update(ENVIRONMENT)
    from datasets.utils import logging as of_datasets
    from transformers.utils import logging as of_transformers

    before = of_transformers.get_verbosity(), of_datasets.get_verbosity()
    of_transformers.set_verbosity_error()
    of_datasets.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_OLD_NAMES, category=FutureWarning)
            yield
    finally:
        of_transformers.set_verbosity(before[0])
        of_datasets.set_verbosity(before[1])
