"""What every answer says of itself: tokens used, and which engine, device and model it came from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.types import Usage

if TYPE_CHECKING:
    from edged.daemon.status import Served


class PromptDetails(Struct, frozen=True):
    cached_tokens: int


class CompletionDetails(Struct, frozen=True):
    reasoning_tokens: int = 0


class UsageBody(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails = CompletionDetails()


def usage_body(usage: Usage) -> UsageBody:
    return UsageBody(
        usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens,
        PromptDetails(usage.cached_tokens), CompletionDetails(usage.reasoning_tokens),
    )


def fingerprint(served: Served) -> str:
    """Names engine, device and the model's digest: what a seed's text depends on."""
    device = re.sub(r"[^A-Za-z0-9]+", "-", served.device).strip("-").lower()
    return f"{served.engine}-{device}-{served.digest[:12]}"
