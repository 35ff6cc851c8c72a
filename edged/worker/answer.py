"""From logits to the events of one choice: sample, log-probabilities, text, stop strings, end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class Taken:
    """tokens: that come next. accepted: how many of them the draft had foreseen; refused: the next one it had was
    another. end: the answer is over."""

    tokens: list[int] = field(default_factory=list)
    accepted: int = 0
    refused: bool = False
    delta: Delta | None = None
    end: End | None = None


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

    def take(self, logits: Logits, draft: Sequence[int] = ()) -> Taken:
        """logits: [1 + len(draft), vocab], after the last token and after each of the draft. Each token is chosen from
        the logits after the one before it, as without a draft, for as long as what was chosen is what the draft says.
        Of a draft that is one token with certainty this accepts it with the model's own probability, and what comes in
        its place is drawn from what is left: the rule of Leviathan et al. 2023, by which the text's distribution is the
        model's; and since a draw depends on seed and position alone, it is also the same text.

        What comes next is the token chosen and those that the constraint then forces, up to the one that ends the
        answer. Raises EngineError for logits that are no numbers, InvalidRequest or Internal where the constraint
        fails."""
        taken, parts = Taken(), Parts()
        while taken.end is None and not taken.refused and taken.accepted == (first := len(taken.tokens)):
            self._take_next(logits[first], taken, parts)
            for token, foreseen in zip(taken.tokens[first:], draft[first:], strict=False):
                if token != foreseen:
                    taken.refused = True
                    break
                taken.accepted += 1
        if taken.end is None:
            taken.delta = self._delta(parts)
        return taken

    def _take_next(self, logits: Logits, taken: Taken, parts: Parts) -> None:
        """logits: [vocab]. Adds what comes next to `taken` and `parts`; with the end, the delta of all of it."""
        chosen = self._chooser.next(logits, self.completion_tokens)
        left = len(chosen)
        for token, scores in chosen:
            left -= 1
            taken.tokens.append(token)
            self.completion_tokens += 1
            self._unsent_tokens += 1
            if token in self._vocab.end:
                taken.delta, taken.end = self._join(parts), End("stop")
                return
            if self._request.logprobs is not None:
                self._logprobs.append((self._telling.produced_chars, self._entry(token, scores)))
            thought = self._telling.thinking
            more, matched = self._telling.push(token)
            joined(parts, more)
            self.reasoning_tokens += thought or self._telling.thinking
            if matched is not None:
                taken.delta, taken.end = self._delta(parts, last=True), End("stop", matched)
                return
            if self.completion_tokens >= self._room:
                break
        if not left and self._chooser.complete:
            taken.delta, taken.end = self._join(parts), End("stop")
        elif self.completion_tokens >= self._room:
            taken.delta, taken.end = self._join(parts), End("length")

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
