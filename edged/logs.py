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


#: What libraries import where it is installed, and a serving process never uses: rich (structlog, for tracebacks in
#: colour; 12 MiB), watchfiles (uvicorn, to reload on edits) and annotated_types (Litestar, for bounds of query
#: parameters). Together more than a tenth of the start.
FORGONE = ("rich", "watchfiles", "annotated_types")


def forgo() -> None:
    """Keep them out of this process. Call it before anything else is imported."""
    for name in FORGONE:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


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
