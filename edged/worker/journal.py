"""The worker's log: JSON lines on stderr, which the daemon reads."""

from __future__ import annotations

import sys
from typing import Any

from edged.logs import forgo


def journal() -> Any:
    """Configured at the first call. It takes a tenth of a worker's start, so modules that are imported before the
    weights are read ask for it when they have something to say."""
    forgo()
    import structlog

    if not structlog.is_configured():
        structlog.configure(
            processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info,
                        structlog.processors.JSONRenderer()],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
    return structlog.get_logger("worker")
