"""Errors of a child process, as exceptions again."""

from __future__ import annotations

from edged.errors import EdgedError, revived
from edged.ipc.messages import LoadRefused
from edged.store.entries import JobFailed
from edged.types import Failed


def revive(failed: Failed | LoadRefused | JobFailed) -> EdgedError:
    return revived(failed.message, status=failed.status, type=failed.type, retry=failed.retry, code=failed.code,
                   param=getattr(failed, "param", None))
