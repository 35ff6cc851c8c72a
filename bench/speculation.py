"""What drafts are worth on this machine: the same requests in one process with and without them, in turn.

    python -m bench.speculation llama MODEL.gguf
    python -m bench.speculation ort FOLDER [--streams 1 4] [--rounds 5] [--draft MODEL.gguf]

For each work: steps of the engine for each token, accepted tokens of those proposed, and medians of whole latency with
their ratio, on over off. Rounds alternate which comes first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edged import engines
from edged.engines.base import Generator, Logits, RowWork
from edged.ipc.messages import FromWorker
from edged.types import ChatPrompt, DraftSpec, Event, Failed, Finished, GenerateRequest, LoadSpec, SamplingParams
from edged.worker.loop import Loop
from edged.worker.orders import Closed, Queued
from edged.worker.outbox import Outbox
from edged.worker.prepare import Prepare
from edged.worker.service import speculation_for
from edged.worker.speculation import Speculation

TEXT = (
    "Order 4711 was placed on 12 March by the office in Trondheim: twelve boxes of printer paper, three monitor arms, "
    "one standing desk in oak, and forty metres of network cable. Delivery is to the second floor, room 214, between "
    "nine and eleven in the morning. The lift is out of service until the end of the month, so bring two people. "
    "The invoice goes to accounts, with the order number in the subject. Contact is the caretaker, on extension 5520."
)
WORKS = {
    "repeat": (f"Repeat this text word for word, and nothing else:\n\n{TEXT}", 130),
    "edit": (f"Write this text again with Trondheim replaced by Bergen, and nothing else:\n\n{TEXT}", 130),
    "extract": (f"List every thing that was ordered, each on a line, as it is written:\n\n{TEXT}", 60),
    "free": ("Write a story about a lighthouse keeper who finds a letter.", 130),
}


class Ended(Outbox):
    """Closes the loop once so many requests have ended."""

    def __init__(self, requests: int) -> None:
        self.left = requests
        self.tokens = 0
        self.loop: Loop

    def send(self, message: FromWorker) -> None:
        pass

    def events(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Failed):
                raise SystemExit(f"a request failed: {event.message}")
            if isinstance(event, Finished):
                self.tokens += event.usage.completion_tokens
                self.left -= 1
        if not self.left:
            self.loop.inbox.put(Closed())


class Counted:
    """The engine, whose steps are counted once the prompts are read."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.caps, self.vocab = generator.caps, generator.vocab
        self.trim, self.fork, self.close = generator.trim, generator.fork, generator.close
        self.stash, self.unstash, self.set_threads = generator.stash, generator.unstash, generator.set_threads
        self.steps = 0

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        self.steps += any(item.logits for item in work)
        return self._generator.step(work)


@dataclass
class Run:
    seconds: float
    steps: int
    tokens: int


def run(generator: Generator, prepare: Prepare, work: str, streams: int, speculation: Speculation | None) -> Run:
    prompt, tokens = WORKS[work]
    counted, ended = Counted(generator), Ended(streams)
    loop = ended.loop = Loop(counted, ended, stash_limit_bytes=0, tokens_per_s=400.0, speculation=speculation)
    for number in range(streams):
        # Each a text of its own, so that rows share no more than they would among users.
        message = {"role": "user", "content": f"{number + 1}. {prompt}"}
        request = GenerateRequest(id=str(number), prompt=ChatPrompt(messages=[message]), max_tokens=tokens,
                                  sampling=SamplingParams(temperature=0.0))
        loop.inbox.put(Queued(prepare(request), time.monotonic()))
    began_s = time.perf_counter()
    loop.run()
    seconds = time.perf_counter() - began_s
    for row in range(generator.caps.rows):
        generator.trim(row, 0)
    return Run(seconds, counted.steps, ended.tokens)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m bench.speculation")
    arguments.add_argument("engine", choices=("llama", "ort"))
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--draft", type=Path, help="a GGUF of the same vocabulary")
    arguments.add_argument("--streams", type=int, nargs="+", default=[1])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    said = arguments.parse_args()
    folder, file = (said.model, "genai_config.json") if said.engine == "ort" else (said.model.parent, said.model.name)
    draft = said.draft and DraftSpec(name="draft", engine="llama", path=str(said.draft.parent), file=said.draft.name)
    spec = LoadSpec(name="model", version="1", digest="0" * 64, engine=said.engine, path=str(folder), file=file,
                    context=2048, rows=8, draft=draft)
    loaded = engines.load(spec, lambda fraction: None)
    generator = loaded.generator
    prepare = Prepare(spec, generator.caps, generator.vocab)
    print("| work | streams | steps a token, off | on | accepted of proposed | off, s | on, s | on / off |")
    print("|---|---|---|---|---|---|---|---|")
    for streams in said.streams:
        for work in said.works:
            # As in a worker that serves nothing but this: what the first round learns the others know.
            speculation = speculation_for(spec, loaded, tokens_per_s=400.0)
            runs: dict[bool, list[Run]] = {False: [], True: []}
            for number in range(said.rounds):
                for on in (False, True) if number % 2 else (True, False):
                    runs[on].append(run(generator, prepare, work, streams, speculation if on else None))
            off_s, on_s = (statistics.median(one.seconds for one in runs[on]) for on in (False, True))
            off, on = (sum(one.steps for one in runs[on]) / sum(one.tokens for one in runs[on]) * streams
                       for on in (False, True))
            ratio = statistics.median(b.seconds / a.seconds for a, b in zip(runs[False], runs[True], strict=True))
            told = f"{speculation.accepted_tokens} of {speculation.proposed_tokens}" if speculation else "-"
            print(f"| {work} | {streams} | {off:.2f} | {on:.2f} | {told} | {off_s:.2f} | {on_s:.2f} | {ratio:.2f} |",
                  flush=True)
    prepare.close()


if __name__ == "__main__":
    main()
