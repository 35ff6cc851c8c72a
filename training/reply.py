"""What a model said to one prompt, wherever it runs: behind an endpoint (`training.endpoint`) or here
(`training.local_model`)."""

from __future__ import annotations

from msgspec import Struct

from training.examples import Message


class TokenChoice(Struct, frozen=True, omit_defaults=True):
    """One token of an answer with its log-probability (natural), and the likeliest alternatives by text."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Reply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """message: the assistant's, its calls as OpenAI writes them. finish_reason: stop, length or tool_calls; endpoints
    have others, or none. Counts of tokens are None where an endpoint does not tell them. seconds: from the request to
    the last token; of a batch, the whole batch's time shared out equally. first_token_s: None where nobody waited for
    it. logprobs: where they were asked for and given. served: what answered, as the endpoint names it: of edged its
    name and version, of others the model in the answer, which may be more exact than what was asked for."""

    message: Message
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    first_token_s: float | None = None
    logprobs: tuple[TokenChoice, ...] | None = None
    served: str | None = None
