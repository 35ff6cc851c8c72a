"""How many tokens a request may use: the model's context, or less where it says so itself."""

from __future__ import annotations

from typing import NamedTuple

from edged.errors import ContextLengthExceeded


class ContextLimit(NamedTuple):
    """said: the beginning of a sentence, for what does not fit. Programs know it by OpenAI's words (litellm: "this
    model's maximum context length is")."""

    tokens: int
    said: str


def context_limit(asked: int | None, here: int) -> ContextLimit:
    """asked: `context` of the request. Raises ContextLengthExceeded where the model has less."""
    if asked is None:
        return ContextLimit(here, f"This model's maximum context length is {here} tokens")
    if asked > here:
        raise ContextLengthExceeded(
            f"`num_ctx` is {asked}, and this model's context is {here} tokens here. Ask for {here} at most, or give it "
            "more as `context` in models.toml.", param="num_ctx",
        )
    return ContextLimit(asked, f"`num_ctx` is {asked} tokens")
