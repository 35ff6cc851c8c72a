"""One of edged's engines without scheduler and daemon: prompts one after another in pieces, then all rows together.

    python -m bench.peers.engine '{"engine": "ort", "path": "…", "file": "…", "rows": 16, …}'

The keys are those of edged.types.LoadSpec, the protocol is in bench/pipes.py.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from bench.workloads import CONTROL_TOKENS
from edged.engines import load
from edged.engines.base import Generator, Logits, RowWork
from edged.types import LoadSpec


def main() -> None:
    config = json.loads(sys.argv[1])
    spec = LoadSpec(name="bench", version="1", digest="0" * 64, **config)
    loaded = load(spec, lambda fraction: None)
    facts = loaded.facts
    said = {"version": facts.engine_version, "device": facts.device, "threads": str(config["threads"])}
    print(json.dumps({"facts": said}), flush=True)
    for line in sys.stdin:
        burst = json.loads(line)
        answers = generate(loaded.generator, burst["prompts"], burst["answer_tokens"])
        print(json.dumps({"answers": answers}), flush=True)


def generate(generator: Generator, prompts: list[str], count: int) -> list[dict[str, Any]]:
    began_s = time.perf_counter()
    last, answers = [], []
    for row, prompt in enumerate(prompts):
        tokens = generator.vocab.tokenize(prompt, special=False, bos=True)
        piece_tokens = generator.caps.step_tokens
        for first in range(0, len(tokens), piece_tokens):
            piece = tokens[first:first + piece_tokens]
            [logits] = generator.step([RowWork(row, piece, int(first + len(piece) == len(tokens)))])
        last.append(best(logits))
        answers.append({"prompt_tokens": len(tokens), "completion_tokens": count,
                        "first_s": time.perf_counter() - began_s})
    for _ in range(count - 1):
        work = [RowWork(row, [token], 1) for row, token in enumerate(last)]
        last = [best(logits) for logits in generator.step(work)]
    for row, answer in enumerate(answers):
        answer["last_s"] = time.perf_counter() - began_s
        generator.trim(row, 0)
    return answers


def best(logits: Logits) -> int:
    """The likeliest token that the workloads do not forbid."""
    free = len(CONTROL_TOKENS)
    return free + int(logits[-1, free:].argmax())


if __name__ == "__main__":
    main()
