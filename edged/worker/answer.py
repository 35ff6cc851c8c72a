"""From logits to the events of one choice: sample, log-probabilities, text, stop strings, end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from edged.engines.base import Logits, Vocab
from edged.types import ChatPrompt, ChoiceEnd, Delta, FinishReason, TokenLogprob
from edged.worker.chooser import Chooser
from edged.worker.formats.parts import Parts, joined
from edged.worker.logprobs import token_logprobs
from edged.worker.prepare import Prepared
from edged.worker.telling import Telling


@dataclass(frozen=True, slots=True)
class End:
    reason: FinishReason
    stop: str | None = None


class Answer:
    """Owned by the loop. A token's log-probability is sent with the event that tells the token's first character, or
    once it is certain that none does, as of the marks around a call: the log-probabilities of an answer are those of
    all its tokens."""

    def __init__(self, prepared: Prepared, index: int, vocab: Vocab, seed: int) -> None:
        request = prepared.request
        self._request = request
        self._index = index
        self._vocab = vocab
        self._prompt = prepared.tokens
        # The answer to a chat is a text of its own; a completion goes on with the text of its prompt.
        chat = isinstance(request.prompt, ChatPrompt) and not request.prompt.continued
        # What a constraint holds from its first byte on is told to the byte.
        self._chooser = Chooser(prepared, index, vocab, seed)
        first = request.echo or (chat and not self._chooser.exact)
        self._telling = Telling(vocab, prepared.speech, request.stop, first=first)
        self._room = prepared.max_length - len(prepared.tokens)
        self._logprobs: deque[tuple[int, TokenLogprob]] = deque()
        self._unsent_tokens = 0
        self._echoed: list[TokenLogprob] = []
        self.completion_tokens = 0
        self.reasoning_tokens = 0

    def echo_logprobs(self, first: int, logits: Logits) -> None:
        """A piece of the prompt: logits[i] come after its token `first + i`. What was seen before is passed over: after
        a preemption the piece may be computed again. Raises EngineError for logits that are no numbers."""
        if not self._echoed:
            self._echoed.append(self._logprob_entry(self._prompt[0], None, []))
        for position, row in enumerate(logits[: max(len(self._prompt) - first - 1, 0)], start=first + 1):
            if position == len(self._echoed):
                self._echoed.append(self._entry(self._prompt[position], row))

    def start(self) -> Delta | None:
        """The echoed prompt, if it was asked for."""
        if not self._request.echo:
            return None
        shown = self._telling.echo(self._prompt)
        return Delta(self._request.id, self._index, shown, 0, list(self._echoed))

    @property
    def echoed(self) -> list[TokenLogprob]:
        return self._echoed

    def share_echo(self, leader: Answer) -> None:
        """The prompt is the same for every choice."""
        self._echoed = leader.echoed

    def take(self, logits: Logits) -> tuple[list[int], Delta | None, End | None]:
        """logits: [vocab], after the last token. Returns the tokens that come next: the one chosen and those that the
        constraint then forces, up to the one that ends the answer; what can be shown; and whether that ends it. Raises
        EngineError for logits that are no numbers, InvalidRequest or Internal where the constraint fails."""
        tokens: list[int] = []
        parts = Parts()
        chosen = self._chooser.next(logits, self.completion_tokens)
        for token, scores in chosen:
            tokens.append(token)
            self.completion_tokens += 1
            self._unsent_tokens += 1
            if token in self._vocab.end:
                return tokens, self._join(parts), End("stop")
            if self._request.logprobs is not None:
                self._logprobs.append((self._telling.produced_chars, self._entry(token, scores)))
            thought = self._telling.thinking
            more, matched = self._telling.push(token)
            joined(parts, more)
            self.reasoning_tokens += thought or self._telling.thinking
            if matched is not None:
                return tokens, self._delta(parts, last=True), End("stop", matched)
            if self.completion_tokens >= self._room:
                break
        if len(tokens) == len(chosen) and self._chooser.complete:
            return tokens, self._join(parts), End("stop")
        if self.completion_tokens >= self._room:
            return tokens, self._join(parts), End("length")
        return tokens, self._delta(parts), None

    def rest(self) -> Delta | None:
        """What is held back, for an answer that is over though no token said so."""
        return self._join(Parts())

    def end(self, end: End) -> ChoiceEnd:
        called = end.reason == "stop" and end.stop is None and self._telling.called
        return ChoiceEnd(self._request.id, self._index, "tool_calls" if called else end.reason, end.stop)

    def _join(self, parts: Parts) -> Delta | None:
        """`parts` and all that is held back."""
        rest, matched = self._telling.finish()
        return self._delta(joined(parts, rest), all_logprobs=matched is None, last=True)

    def _delta(self, parts: Parts, *, all_logprobs: bool = False, last: bool = False) -> Delta | None:
        settled = self._telling.settled_chars
        entries = []
        while self._logprobs and (all_logprobs or self._logprobs[0][0] < settled):
            entries.append(self._logprobs.popleft()[1])
        if not (parts.content or parts.reasoning or parts.calls or entries or (last and self._unsent_tokens)):
            return None
        tokens, self._unsent_tokens = self._unsent_tokens, 0
        return Delta(self._request.id, self._index, parts.content, tokens, entries, parts.reasoning, parts.calls)

    def _entry(self, token: int, logits: Logits | None) -> TokenLogprob:
        if logits is None:  # forced: there was no other
            return self._logprob_entry(token, 0.0, [(token, 0.0)] if self._request.logprobs else [])
        chosen, top = token_logprobs(np.asarray(logits), token, self._request.logprobs or 0)
        return self._logprob_entry(token, chosen, top)

    def _logprob_entry(self, token: int, logprob: float | None, top: list[tuple[int, float]]) -> TokenLogprob:
        raw = self._vocab.piece(token)
        return TokenLogprob(
            token, raw.decode(errors="replace"), raw, logprob,
            [(other, (data := self._vocab.piece(other)).decode(errors="replace"), data, value) for other, value in top],
        )
