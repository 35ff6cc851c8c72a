"""What is known of one HTTP request while it is answered, and what all routes share."""

from __future__ import annotations

import itertools
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from litestar.types import HTTPScope, Scope

from edged.api.auth import NOBODY, Caller
from edged.api.limits import Limits, header
from edged.api.wire import OPENAI, Wire

if TYPE_CHECKING:
    from edged.daemon.jobs import Jobs
    from edged.daemon.metrics import Metrics
    from edged.daemon.responses import Responses
    from edged.daemon.router import Router
    from edged.settings import Settings
    from edged.store import Store

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Services:
    router: Router
    settings: Settings
    jobs: Jobs
    metrics: Metrics
    store: Store
    responses: Responses
    limits: Limits
    #: Where this daemon listens, as a person would type it.
    addresses: Sequence[str] = ()


@dataclass(slots=True)
class Exchange:
    """One owner: the task that answers the request. `status` is what log and metrics tell; an error in the middle of
    a stream sets it after the 200 has gone out. `model` is an installed model's name or empty. may_capture:
    False where the client will not have the answer kept for training; captured: it will be, if it ends well."""

    request_id: str
    wire: Wire = OPENAI
    received_at: float = field(default_factory=time.monotonic)
    caller: Caller = NOBODY
    model: str = ""
    status: int = 0
    started: bool = False
    may_capture: bool = True
    captured: bool = False


#: Of a request: any value but `on` keeps its answer from being captured. Of an answer: `on` says that it is captured.
CAPTURE_HEADER = b"edged-capture"


def may_capture(scope: HTTPScope) -> bool:
    """Also where a proxy has added a header to the client's: each must allow it."""
    return all(value == b"on" for name, value in scope["headers"] if name == CAPTURE_HEADER)


def request_id(scope: HTTPScope) -> str:
    """The client's x-request-id if it is fit for logs and headers, else a fresh one."""
    said = header(scope, b"x-request-id")
    return said if said is not None and _SANE_ID.fullmatch(said) else f"req-{uuid.uuid4().hex}"


def generation_id(exchange: Exchange) -> str:
    """Unique in the daemon, also where two requests came with the same x-request-id."""
    return f"{exchange.request_id}-{next(_numbers)}"


def exchange_of(scope: Scope) -> Exchange:
    return cast(Exchange, scope["state"]["exchange"])
