"""Fields that chat and completions turn into a GenerateRequest in the same way, and the rules between fields."""

from __future__ import annotations

from typing import Any

from edged.api.fields import SAMPLING
from edged.errors import InvalidRequest
from edged.types import SamplingParams


def sampling(said: dict[str, Any]) -> SamplingParams:
    return SamplingParams(**{name: said[name] for name in SAMPLING if name in said})


def max_tokens(said: dict[str, Any]) -> int | None:
    old, new = said.get("max_tokens"), said.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        raise InvalidRequest(
            "`max_tokens` and `max_completion_tokens` are the same limit and differ here; send one of them.",
            param="max_tokens",
        )
    return old if new is None else new


def top_logprobs(said: dict[str, Any]) -> int | None:
    """Of chat: None without logprobs, else how many of the most likely tokens are wanted."""
    if not said.get("logprobs"):
        if "top_logprobs" in said:
            raise InvalidRequest("`top_logprobs` needs `logprobs` to be true.", param="top_logprobs")
        return None
    return said.get("top_logprobs", 0)  # type: ignore[no-any-return]


def usage_wanted(said: dict[str, Any], ignored: list[str]) -> bool:
    """Whether the stream ends with its usage."""
    if "stream_options" not in said:
        return False
    if not said.get("stream"):
        raise InvalidRequest("`stream_options` needs `stream` to be true.", param="stream_options")
    options = said["stream_options"]
    ignored.extend(options.ignored)
    return bool(options.values.get("include_usage", False))
