"""The log of the serving process: for people in a terminal, one JSON object a line elsewhere.

Each entry has what `structlog.contextvars` holds, such as the request's id. Texts of requests and answers are logged
only when the settings say so: the keys that may hold them are taken out here, whoever logs.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

LogFormat = Literal["console", "json", "auto"]

#: Keys of entries under which a prompt or an answer may be.
TEXT_KEYS = frozenset({"prompt", "prompts", "messages", "text", "content", "answer", "body"})


def forgo_rich() -> None:
    """Keep rich out of this process: structlog imports it where it can, for tracebacks in colour, and it costs a
    serving process 12 MiB and a tenth of its start. Call it before structlog is imported."""
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]


def chosen_format(said: LogFormat, stream: TextIO) -> Literal["console", "json"]:
    if said != "auto":
        return said
    return "console" if stream.isatty() else "json"


def configure(
    log_format: LogFormat = "auto", level: str = "info", *, log_prompts: bool = False, stream: TextIO | None = None
) -> None:
    """For structlog and for the standard library's loggers alike; of the latter's, warnings and worse."""
    import structlog

    out = stream if stream is not None else sys.stderr
    console = chosen_format(log_format, out) == "console"
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False) if console
        else structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not log_prompts:
        shared.append(_without_texts)
    last: list[Any] = [structlog.dev.ConsoleRenderer(colors=out.isatty() and not os.environ.get("NO_COLOR"))] \
        if console else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    ))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _without_texts(logger: object, method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in TEXT_KEYS & entry.keys():
        entry[key] = f"({len(str(entry[key]))} characters, not logged)"
    return entry
