"""A step loop in this thread with the fake engine: orders are timed by engine steps, and all it says is kept."""

from __future__ import annotations

import codecs
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from edged.engines.base import Generator, Logits, RowWork
from edged.engines.fake import FakeGenerator, Knobs
from edged.ipc.messages import Cancel, Events, Forget, FromWorker, Pause, Resume, Stats
from edged.types import (
    DEFAULT_SAMPLING,
    ChoiceEnd,
    Constraint,
    Delta,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    LoadSpec,
    SamplingParams,
    Started,
    TokenLogprob,
    TokenPrompt,
    Usage,
    WorkerStats,
)
from edged.worker.foreign import Foreign
from edged.worker.logprobs import token_logprobs
from edged.worker.loop import Loop
from edged.worker.orders import Closed, Noted, Order, Queued, Warm
from edged.worker.outbox import Outbox
from edged.worker.prepare import Prepare, Prepared
from edged.worker.sampler import Sampler
from edged.worker.speculation import Speculation

SPEC = LoadSpec(name="fake", version="1", digest="0", engine="fake", path="", file="fake.json")
LARGE_STASH_BYTES = 1 << 30
#: That every engine here has, with what its texts depend on.
ADAPTERS = {"pirate": 7, "poet": 8}
_numbers = itertools.count(1)


def request(
    tokens: Sequence[int], *, max_tokens: int | None = 8, temperature: float = 0.0, seed: int = 1, id: str = "",
    n: int = 1, stop: tuple[str, ...] = (), echo: bool = False, logprobs: int | None = None, client: str = "",
    adapter: str | None = None, constraint: Constraint | None = None, logit_bias: dict[int, float] | None = None,
) -> GenerateRequest:
    return GenerateRequest(
        id=id or f"r{next(_numbers)}", prompt=TokenPrompt(list(tokens)), max_tokens=max_tokens, n=n, stop=stop,
        sampling=SamplingParams(temperature=temperature, seed=seed, logit_bias=logit_bias), echo=echo,
        logprobs=logprobs, client=client, adapter=adapter, constraint=constraint,
    )


def words(count: int, seed: int = 0) -> list[int]:
    """Tokens of whole words."""
    return [260 + (seed * 7919 + place * place * 31 + place) % 41 for place in range(count)]


@dataclass
class Choice:
    text: str = ""
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: ChoiceEnd | None = None
    deltas: list[Delta] = field(default_factory=list)


@dataclass
class Outcome:
    """What one request said, in the order that is promised."""

    started: Started | None = None
    choices: dict[int, Choice] = field(default_factory=lambda: defaultdict(Choice))
    usage: Usage | None = None
    failed: Failed | None = None

    def add(self, event: Event) -> None:
        assert self.usage is None, f"{event} after the end"
        assert self.failed is None, f"{event} after the failure"
        match event:
            case Started():
                assert self.started is None
                self.started = event
            case Failed():
                self.failed = event
            case _:
                assert self.started is not None, f"{event} before Started"
                self._add_running(event)

    def _add_running(self, event: Event) -> None:
        match event:
            case Delta():
                choice = self.choices[event.index]
                assert choice.end is None, f"{event} after the end of its choice"
                choice.text += event.text
                choice.tokens += event.tokens
                choice.logprobs += event.logprobs
                choice.deltas.append(event)
            case ChoiceEnd():
                choice = self.choices[event.index]
                assert choice.end is None
                choice.end = event
            case Finished():
                assert all(choice.end is not None for choice in self.choices.values())
                self.usage = event.usage
            case _:
                raise AssertionError(event)

    @property
    def over(self) -> bool:
        return self.usage is not None or self.failed is not None

    @property
    def text(self) -> str:
        return self.choices[0].text


class CountingGenerator(FakeGenerator):
    """`steps` holds the count of tokens of each row of each step. Orders that are due come in while a step runs."""

    def __init__(self, knobs: Knobs, due: dict[int, list[Order[Prepared]]], inbox: list[Loop]) -> None:
        super().__init__(knobs, ADAPTERS)
        self.steps: list[list[int]] = []
        self.stashes = 0
        self._due, self._loop = due, inbox

    @property
    def computed(self) -> int:
        return sum(map(sum, self.steps))

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        for order in self._due.pop(len(self.steps), []):
            self._loop[0].inbox.put(order)
        self.steps.append([len(item.tokens) for item in work])
        return super().step(work)


class Record(Outbox):
    """Keeps what the loop says. When the loop is idle, the next orders come; with none left it is closed."""

    def __init__(self, due: dict[int, list[Order[Prepared]]], loops: list[Loop], generator: CountingGenerator) -> None:
        self.log: list[tuple[int, Event]] = []
        self.stats = WorkerStats()
        self._due, self._loops, self._generator = due, loops, generator
        self._steps_seen = -1

    def send(self, message: FromWorker) -> None:
        match message:
            case Events(events=events):
                self.events(events)
            case Stats(stats=stats):
                self.stats = stats
                self._idle()

    def events(self, events: list[Event]) -> None:
        self.log.extend((len(self._generator.steps), msgspec.structs.replace(event)) for event in events)

    def _idle(self) -> None:
        """Stats leave when the loop is idle, or after a second of work: in which steps were made, or it spins."""
        inbox, steps = self._loops[0].inbox, len(self._generator.steps)
        if not inbox.empty():
            return
        if self._due:
            for order in self._due.pop(min(self._due)):
                inbox.put(order)
        elif self.stats.running + self.stats.waiting:
            assert steps != self._steps_seen, "nothing moves, and something waits"
        else:
            inbox.put(Closed())
        self._steps_seen = steps


@dataclass
class Played:
    requests: dict[str, Outcome]
    log: list[tuple[int, Event]]
    stats: WorkerStats
    generator: CountingGenerator

    def __getitem__(self, id: str) -> Outcome:
        return self.requests[id]

    def step_of(self, kind: type[Event], id: str) -> int:
        """Steps made when the first event of this kind came."""
        return next(step for step, event in self.log if isinstance(event, kind) and event.id == id)


Timed = tuple[int, GenerateRequest | Cancel | Pause | Resume | Forget | Warm[Prepared] | Noted | Closed]


def play(
    orders: Iterable[Timed | GenerateRequest], knobs: Knobs | None = None, *,
    stash_limit_bytes: int = LARGE_STASH_BYTES, ram_bytes: int = 0,
    speculation: Callable[[FakeGenerator], Speculation] | None = None,
    foreign: Callable[[Generator], Foreign] | None = None, engine: type[CountingGenerator] = CountingGenerator,
) -> Played:
    """Runs a loop to the end of all requests. A number is the engine step during which the order comes. foreign: what
    watches the machine for the engine."""
    due: dict[int, list[Order[Prepared]]] = {}
    loops: list[Loop] = []
    generator = engine(knobs or Knobs(), due, loops)
    record = Record(due, loops, generator)
    prepare = Prepare(SPEC, generator.caps, _WITHOUT_TEMPLATE)
    for entry in orders:
        step, order = (-1, entry) if isinstance(entry, GenerateRequest) else entry
        if isinstance(order, GenerateRequest):
            due.setdefault(step, []).append(Queued(prepare(order), 0.0))
        else:
            due.setdefault(step, []).append(order)
    loops.append(Loop(generator, record, stash_limit_bytes=stash_limit_bytes, tokens_per_s=1e6,
                      ram_bytes=ram_bytes, speculation=speculation and speculation(generator),
                      foreign=foreign and foreign(generator)))
    loops[0].run()
    requests: dict[str, Outcome] = defaultdict(Outcome)
    for _, event in record.log:
        requests[event.id].add(event)
    return Played(requests, record.log, record.stats, generator)


_WITHOUT_TEMPLATE = FakeGenerator(Knobs()).vocab
_WITHOUT_TEMPLATE.chat_template = None


@dataclass(frozen=True)
class Expected:
    text: str
    tokens: int
    reason: str
    stop: str | None
    logprobs: tuple[tuple[int, float | None], ...]


@lru_cache(maxsize=4096)
def alone(
    prompt: tuple[int, ...], *, max_tokens: int | None, temperature: float, seed: int, index: int,
    stop: tuple[str, ...], echo: bool, context: int, adapter: str | None = None,
    end_chance: int = 40,
) -> Expected:
    """What one choice must say, without scheduler, rows, pieces, deltas: each token from the whole text so far."""
    vocab = _WITHOUT_TEMPLATE
    engine = FakeGenerator(Knobs(context=context, rows=1, end_chance=end_chance), ADAPTERS)
    params = SamplingParams(temperature=temperature, seed=seed).over(DEFAULT_SAMPLING)
    sampler = Sampler(params, seed=seed, choice=index, prompt=prompt, vocab_size=vocab.size)
    logits = engine.step([RowWork(0, prompt, len(prompt), adapter)])[0]
    scores: list[tuple[int, float | None]] = [(prompt[0], None)] if echo else []
    if echo:
        scores += [(token, token_logprobs(row, token, 0)[0]) for token, row in zip(prompt[1:], logits, strict=False)]
    before = b"".join(map(vocab.piece, prompt)).removeprefix(b" ") if echo else b""
    echoed = whole(before)
    limit = max_tokens if max_tokens is not None else context - len(prompt)
    answer: list[tuple[int, int, float]] = []
    data, count, reason, matched = before, 0, "length", None
    while count < limit and matched is None:
        token = sampler.sample(logits[-1], count)
        count += 1
        if token in vocab.end:
            reason = "stop"
            break
        answer.append((len(whole(data)), token, token_logprobs(logits[-1], token, 0)[0]))
        # An echoed prompt and its answer are one text, whose first space the tokenizer put there.
        data += vocab.piece(token).removeprefix(b" ") if echo and not data else vocab.piece(token)
        matched = first_stop(whole(data)[len(echoed):], stop)
        logits = engine.step([RowWork(0, [token], 1, adapter)])[0] if count < limit and matched is None else logits
    text = shown(data)
    if matched is not None:
        reason, (end, matched_text) = "stop", matched
        text = text[: len(echoed) + end]
        answer = [entry for entry in answer if entry[0] < len(text)]
        matched = (end, matched_text)
    scores += [(token, score) for _, token, score in answer]
    return Expected(text, count, reason, matched[1] if matched else None, tuple(scores))


def shown(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def whole(data: bytes) -> str:
    """Without the bytes of a character that is not complete."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


def first_stop(text: str, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """Where the text ends by a stop string, and which: the first that is complete, of several the longest."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return end - len(longest), longest
    return None
