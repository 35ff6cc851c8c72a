"""Errors of a child process, as exceptions again."""

from __future__ import annotations

from collections.abc import Iterator

from edged.errors import EdgedError, Internal, InvalidRequest
from edged.ipc.messages import LoadRefused
from edged.store.entries import JobFailed
from edged.types import Failed


def _classes(root: type[EdgedError]) -> Iterator[type[EdgedError]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)


def revive(failed: Failed | LoadRefused | JobFailed) -> EdgedError:
    """The class of the error tree whose status, type and retry are those that the child said, the nearest by code."""
    same = [
        kind for kind in _classes(EdgedError)
        if (kind.status, kind.type, kind.retry) == (failed.status, failed.type, failed.retry)
    ]
    same.sort(key=lambda kind: kind.default_code != failed.code)
    kind = same[0] if same else InvalidRequest if failed.status < 500 else Internal
    return kind(failed.message, param=getattr(failed, "param", None), code=failed.code)
