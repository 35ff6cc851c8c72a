"""From a request to token ids: template, tokenizer, and the checks that need them. Runs beside the step loop."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from edged.engines.base import Capabilities, Vocab
from edged.errors import AdapterNotFound, ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from edged.types import (
    DEFAULT_SAMPLING,
    ChatPrompt,
    GenerateRequest,
    LoadSpec,
    Rendered,
    SamplingParams,
    TextPrompt,
)
from edged.worker.chat import Chat, Turn
from edged.worker.constraint import Compiled, Constraints
from edged.worker.context_limit import context_limit
from edged.worker.fill import gap_tokens
from edged.worker.formats.enforce import Enforced
from edged.worker.telling import PLAIN, Speech
from edged.worker.template import Child

log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can run: its prompt as tokens, every sampling field set, the length it may grow to. speech: how
    its answer is read. compiled: what it must be."""

    request: GenerateRequest
    tokens: list[int]
    sampling: SamplingParams
    max_length: int
    speech: Speech = PLAIN
    compiled: Compiled | None = None


class Prepare:
    """Thread-safe; raises an EdgedError for a request that cannot run."""

    def __init__(self, spec: LoadSpec, caps: Capabilities, vocab: Vocab, *, child: Child | None = None) -> None:
        """child: a renderer that was started in advance. Raises LoadFailed for a template that cannot be used."""
        self._name = spec.name
        self._caps = caps
        self._vocab = vocab
        self._log_prompts = spec.log_prompts
        self._defaults = spec.sampling.over(DEFAULT_SAMPLING)
        self._constraints = Constraints(vocab)
        source = spec.chat_template or vocab.chat_template
        self._chat = Chat(source, vocab, child=child) if source else None
        if child is not None and not source:
            child.close()

    @property
    def chat(self) -> bool:
        return self._chat is not None

    def __call__(self, request: GenerateRequest) -> Prepared:
        if request.adapter is not None and request.adapter not in self._caps.adapters:
            # It may have waited for another version of the model.
            raise AdapterNotFound(self._name, request.adapter, self._caps.adapters)
        sampling = request.sampling.over(self._defaults)
        for token in sampling.logit_bias or ():
            if not 0 <= token < self._vocab.size:
                raise InvalidRequest(
                    f"logit_bias names token {token}; this model's tokens are 0 to {self._vocab.size - 1}",
                    param="logit_bias",
                )
        if request.echo and request.logprobs is not None and not self._caps.all_logits:
            raise UnsupportedParameter(
                "this model's graph gives no log-probabilities of the prompt; leave out `echo`, or `logprobs` and "
                "`best_of`", param="logprobs",
            )
        turn = self._turn(request)
        tokens, _ = self._prompt(request, turn)
        if not tokens:
            raise InvalidRequest("the prompt is empty; send at least one token", param=_prompt_field(request))
        longest = self._max_length(request, len(tokens))
        return Prepared(request, tokens, sampling, longest, turn.speech, self._compiled(request, turn))

    def rendered(self, request: GenerateRequest) -> Rendered:
        """For a request that wants its prompt only: whether an answer would have room is not asked."""
        tokens, text = self._prompt(request, self._turn(request))
        return Rendered(request.id, tokens, text, [self._vocab.written(token) for token in tokens])

    def resident_bytes(self) -> int:
        """Of the processes for templates."""
        return self._chat.resident_bytes() if self._chat is not None else 0

    def close(self) -> None:
        if self._chat is not None:
            self._chat.close()

    def _turn(self, request: GenerateRequest) -> Turn:
        """Of a prompt that is no chat: one without text, whose answer is read as it is."""
        if not isinstance(request.prompt, ChatPrompt):
            return Turn("", enforced=None if request.constraint is None else Enforced(request.constraint))
        if self._chat is None:
            raise UnsupportedParameter(
                "this model has no chat template; use /v1/completions, or set its `chat_template` in models.toml",
                param="messages",
            )
        return self._chat(request)

    def _compiled(self, request: GenerateRequest, turn: Turn) -> Compiled | None:
        for enforced in (turn.enforced, turn.looser):
            try:
                return self._compile(enforced)
            except InvalidRequest as error:
                error.param = error.param or ("tools" if request.constraint is None else request.constraint_field)
                refusal = error
            if turn.looser is None:
                break
        raise refusal

    def _compile(self, enforced: Enforced | None) -> Compiled | None:
        if enforced is None:
            return None
        return self._constraints.compile(
            enforced.rule, after=enforced.after, optional=enforced.optional, budget=enforced.budget)

    def _prompt(self, request: GenerateRequest, turn: Turn) -> tuple[list[int], str]:
        """Its tokens, and the text that they are."""
        prompt = request.prompt
        if isinstance(prompt, ChatPrompt):
            self._log(request, turn.text)
            return self._vocab.tokenize(turn.text, special=True, bos=False), turn.text
        if isinstance(prompt, TextPrompt) and prompt.suffix is not None:
            self._log(request, f"{prompt.text}{prompt.suffix}")
            return self._gap(prompt.text, prompt.suffix, bos=prompt.bos)
        if isinstance(prompt, TextPrompt):
            self._log(request, prompt.text)
            return self._vocab.tokenize(prompt.text, special=True, bos=prompt.bos), prompt.text
        for token in prompt.tokens:
            if not 0 <= token < self._vocab.size:
                raise InvalidRequest(
                    f"the prompt holds token {token}; this model's tokens are 0 to {self._vocab.size - 1}",
                    param="prompt",
                )
        text = b"".join(map(self._vocab.written, prompt.tokens)).decode(errors="replace")
        self._log(request, text)
        return list(prompt.tokens), text

    def _gap(self, before: str, after: str, *, bos: bool) -> tuple[list[int], str]:
        if self._vocab.fill is None:
            raise UnsupportedParameter(
                "this model has no tokens for the gap before a `suffix`; leave it out, or take a code model",
                param="suffix",
            )
        tokens = gap_tokens(self._vocab, self._vocab.fill, before, after, bos=bos)
        return tokens, b"".join(map(self._vocab.written, tokens)).decode(errors="replace")

    def _log(self, request: GenerateRequest, prompt: str) -> None:
        if self._log_prompts:
            log.info("prompt", request_id=request.id, prompt=prompt)

    def _max_length(self, request: GenerateRequest, prompt_tokens: int) -> int:
        context, limit = context_limit(request.context, self._caps.context)
        answer = 1 if request.max_tokens is None else request.max_tokens
        if request.to_context_end:
            answer = min(answer, 1)
        if prompt_tokens + answer > context:
            asked = f"{prompt_tokens} in the {_prompt_field(request)}"
            if request.max_tokens is not None and not request.to_context_end:
                asked += f" and {answer} in the answer"
            raise ContextLengthExceeded(
                f"{limit}, and the request needs {prompt_tokens + answer} ({asked}). "
                "Shorten the messages, or ask for a shorter answer.",
                param=_prompt_field(request),
            )
        return context if request.max_tokens is None else min(prompt_tokens + request.max_tokens, context)


def _prompt_field(request: GenerateRequest) -> str:
    return "messages" if isinstance(request.prompt, ChatPrompt) else "prompt"
