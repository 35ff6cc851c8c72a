"""Libraries of conversions print, warn, draw bars and phone home; a job's standard output is for its progress lines."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator

#: To be in the environment before any of those libraries is imported: no bars, no hub, no telemetry.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OLIVE_DISABLE_TELEMETRY": "1", "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Lines:
    """Stands for standard output; hands on whole lines. What the receiver prints goes to the real one."""

    encoding = "utf-8"

    def __init__(self, receive: Callable[[str], None]) -> None:
        self._receive = receive
        self._stdout = sys.stdout
        self._begun = ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        with contextlib.redirect_stdout(self._stdout):
            for line in whole:
                self._receive(line)
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False


@contextlib.contextmanager
def quietly(receive: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Within it, lines that Python code prints go to `receive`, warnings and log records below errors nowhere. For one
    thread of a process of its own: standard output, warnings and logging belong to the whole process."""
    os.environ.update(ENVIRONMENT)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(Lines(receive)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
