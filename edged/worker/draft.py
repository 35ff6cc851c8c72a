"""A draft model: a second, smaller one of the same vocabulary in the same worker, which says what it would write next.

It has rows of its own, which follow those of the sequences: what a row holds beyond the common beginning is cut off,
what it lacks is read first. What it proposes is greedy; whether that comes is for the served model to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from edged import engines
from edged.engines.base import EngineError, Facts, Generator, RowWork, Threads, Vocab
from edged.errors import LoadFailed
from edged.types import LoadSpec
from edged.worker.acceptance import LONGEST_DRAFT
from edged.worker.prefix import common_prefix
from edged.worker.sequence import Sequence

#: Tokens of a sequence that are read in one tick at most, so that a long prompt delays no step by much.
CATCH_UP_TOKENS = 128
#: Engines round vocabularies up to a multiple with tokens that nothing writes.
MOST_UNWRITTEN = 128
_NEWEST = 0.2

log = structlog.get_logger("worker")


@dataclass(slots=True, eq=False)
class _Row:
    """tokens: whose KV it holds. follows: the sequence that it had last; the first `common` tokens are known to be
    that sequence's."""

    number: int
    tokens: list[int] = field(default_factory=list)
    follows: Sequence | None = None
    common: int = 0
    used_at: int = 0


class DraftRows:
    """Owner of the draft model's rows. token_s: what a token of a draft takes, a moving average."""

    def __init__(self, generator: Generator, vocab_size: int, *, token_s: float,
                 clock: Callable[[], float] = time.perf_counter) -> None:
        """vocab_size: of the served model; token_s: as it was when the draft model was warmed up."""
        self._generator = generator
        self._vocab_size = vocab_size
        self._rows = [_Row(number) for number in range(generator.caps.rows)]
        self._clock = clock
        self._uses = 0
        self._failed = False
        self.token_s = token_s

    def propose(self, wanted: list[tuple[Sequence, int]]) -> list[list[int]]:
        """For each sequence so many tokens; fewer, or none, where the draft model has no room, has not read it yet, or
        has failed: then it is not asked again."""
        drafts: list[list[int]] = [[] for _ in wanted]
        if self._failed or not wanted:
            return drafts
        try:
            self._propose(wanted, drafts)
        except EngineError as error:
            log.error("draft_model_failed", reason=str(error))
            self._failed = True
        return drafts

    def close(self) -> None:
        self._generator.close()

    def set_threads(self, threads: Threads) -> None:
        """At most so many, where the engine can set them."""
        own = self._generator.caps.threads
        if own is not None and self._generator.caps.sets_threads:
            self._generator.set_threads(Threads(min(own.decode, threads.decode), min(own.batch, threads.batch)))

    def _propose(self, wanted: list[tuple[Sequence, int]], drafts: list[list[int]]) -> None:
        caps = self._generator.caps
        busy = [sequence for sequence, _ in wanted]
        rows: dict[int, _Row] = {}
        room = caps.kv_tokens
        for index, (sequence, count) in enumerate(wanted):
            need = len(sequence.tokens) + count
            if need <= min(room, caps.context) and (row := self._row_of(sequence, busy)) is not None:
                self._follow(row, sequence)
                rows[index] = row
                room -= need
        most = min(CATCH_UP_TOKENS, caps.step_tokens)
        lacking = {index: wanted[index][0].tokens[len(row.tokens):][:most] for index, row in rows.items()}
        self._make_room(sum(map(len, lacking.values())) + sum(wanted[index][1] for index in rows), list(rows.values()))
        began_s, only_drafts = self._clock(), all(len(tokens) <= LONGEST_DRAFT + 1 for tokens in lacking.values())
        while lacking:
            nexts = self._compute({rows[index]: tokens for index, tokens in lacking.items()})
            for index, token in zip(list(lacking), nexts, strict=True):
                sequence, count = wanted[index]
                row = rows[index]
                if len(row.tokens) >= len(sequence.tokens):
                    drafts[index].append(token)
                row.common = min(len(row.tokens), len(sequence.tokens))
                if drafts[index] and len(drafts[index]) < count:
                    lacking[index] = [token]
                else:
                    del lacking[index]
        if only_drafts and (made := sum(map(len, drafts))):
            self.token_s += _NEWEST * ((self._clock() - began_s) / made - self.token_s)

    def _compute(self, lacking: dict[_Row, list[int]]) -> list[int]:
        """Append tokens to rows, in as few steps as the engine allows. Returns the likeliest token after each."""
        caps = self._generator.caps
        steps: list[list[_Row]] = []
        together: list[_Row] = []
        room = caps.step_tokens
        for row, tokens in lacking.items():
            if len(tokens) > 1 and not caps.mixed_step:
                steps.append([row])
                continue
            if len(tokens) > room:
                steps.append(together)
                together, room = [], caps.step_tokens
            together.append(row)
            room -= len(tokens)
        found: dict[_Row, int] = {}
        for step in [*steps, together]:
            if step:
                results = self._generator.step([RowWork(row.number, lacking[row], 1) for row in step])
                for row, logits in zip(step, results, strict=True):
                    row.tokens += lacking[row]
                    found[row] = int(logits[-1][:self._vocab_size].argmax())
        return [found[row] for row in lacking]

    def _row_of(self, sequence: Sequence, busy: list[Sequence]) -> _Row | None:
        """The one it had; else, of those that no sequence of this tick has, one whose sequence has ended, with the most
        in common with it, or the one unused for longest."""
        self._uses += 1
        found = next((row for row in self._rows if row.follows is sequence), None)
        if found is None:
            free = [row for row in self._rows if row.follows not in busy]
            if not free:
                return None

            def better(row: _Row) -> tuple[bool, int, int]:
                ended = row.follows is None or row.follows.row is None
                common = common_prefix(row.tokens, sequence.tokens, min(len(row.tokens), len(sequence.tokens)))
                return ended, common if ended else 0, -row.used_at

            found = max(free, key=better)
            found.follows, found.common = sequence, 0
        found.used_at = self._uses
        return found

    def _follow(self, row: _Row, sequence: Sequence) -> None:
        """Cut off what is not the sequence's. Its last token stays to be computed, for the logits after it."""
        limit = min(len(row.tokens), len(sequence.tokens) - 1)
        known = min(row.common, limit)
        kept = known + common_prefix(row.tokens[known:], sequence.tokens[known:limit], limit - known)
        if kept < len(row.tokens):
            del row.tokens[self._generator.trim(row.number, kept):]
        row.common = len(row.tokens)

    def _make_room(self, tokens: int, sparing: list[_Row]) -> None:
        others = sorted((row for row in self._rows if row not in sparing and row.tokens), key=lambda row: row.used_at)
        held = sum(len(row.tokens) for row in self._rows)
        for row in others:
            if held + tokens <= self._generator.caps.kv_tokens:
                return
            held -= len(row.tokens)
            self._generator.trim(row.number, 0)
            row.tokens, row.common, row.follows = [], 0, None


def load_draft(spec: LoadSpec, served: Generator, facts: Facts) -> DraftRows:
    """The draft model of `spec`, warm, in what memory the served one has left. Raises LoadFailed where it has another
    vocabulary, and what engines raise."""
    draft = spec.draft
    assert draft is not None
    memory_bytes = max(spec.memory_bytes - facts.weights_bytes - facts.kv_bytes, 1) if spec.memory_bytes else 0
    try:
        loaded = engines.load(LoadSpec(
            name=draft.name, version=spec.version, digest=spec.digest, engine=draft.engine, path=draft.path,
            file=draft.file, rows=served.caps.rows, threads=spec.threads, memory_bytes=memory_bytes,
        ), lambda fraction: None)
    except ImportError as error:
        raise LoadFailed(f"{spec.name} runs in an environment without the engine {draft.engine} of its draft model "
                         f"{draft.name}; name a draft for {spec.engine}, or none") from error
    generator = loaded.generator
    if (difference := vocabulary_difference(served.vocab, generator.vocab)) is not None:
        generator.close()
        raise LoadFailed(
            f"{draft.name} cannot draft for {spec.name}: {difference}. Name a smaller model of the same family as "
            f"`draft` in models.toml, or none")
    return DraftRows(generator, served.vocab.size, token_s=_warm_up(generator))


def vocabulary_difference(served: Vocab, draft: Vocab) -> str | None:
    """In words; None where a token means the same to both."""
    if abs(served.size - draft.size) > MOST_UNWRITTEN:
        return f"it has {draft.size} tokens, not {served.size}"
    for token in range(min(served.size, draft.size)):
        if served.piece(token) != draft.piece(token):
            return f"its token {token} is {draft.written(token)!r}, not {served.written(token)!r}"
    return None


def _warm_up(generator: Generator) -> float:
    """Seconds of a token."""
    seconds = 0.0
    for _ in range(2):
        began_s = time.perf_counter()
        generator.step([RowWork(0, [0], 1)])
        seconds = time.perf_counter() - began_s
    generator.trim(0, 0)
    return seconds
