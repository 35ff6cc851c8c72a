"""The rows of the table: which figure of which sides is compared, and what it must reach.

Where a title does not say "same GGUF", edged serves the form of its own choice, and llama-server Q4_0 unless the title
names Q4_K_M. Goals are those that the project set itself before anything was measured. A row without a goal is printed
beside one that has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bench.compare import Better

LLAMA = ("llama-default", "llama-tuned")
DRAFTING = (*LLAMA, "llama-ngram")
REUSING = (*LLAMA, "llama-reuse")


@dataclass(frozen=True)
class Row:
    """of: `ratio` of the subject's figure to that of the peer whose own is best, or `figure`, the subject's own, beside
    which those of peers are printed."""

    title: str
    scene: str
    figure: str
    unit: str
    better: Better
    subject: str
    peers: tuple[str, ...] = ()
    goal: float | None = None
    of: Literal["ratio", "figure"] = "ratio"


def _both(row: Row) -> tuple[Row, Row]:
    """Of edged's own choice of a form, and the same of the peer's own file."""
    return row, replace(row, title=f"{row.title}, same GGUF", subject="edged-same")


ROWS: tuple[Row, ...] = (
    Row("decode, same GGUF", "single", "decode", "tok/s", "higher", "edged-same", DRAFTING, 1.00),
    Row("decode, same GGUF, nobody drafting", "single", "decode", "tok/s", "higher", "edged-plain", LLAMA, 1.00),
    Row("8 streams, same GGUF", "streams", "rate", "tok/s", "higher", "edged-same", REUSING, 1.3),
    Row("8 streams, same GGUF, prompts of 256", "streams-256", "rate", "tok/s", "higher", "edged-same", LLAMA),
    Row("decode, Q4_0", "single", "decode", "tok/s", "higher", "edged", DRAFTING, 1.1),
    Row("decode, Q4_K_M", "single", "decode", "tok/s", "higher", "edged", ("llama-k_m",), 1.5),
    Row("prefill, Q4_0", "single", "prefill", "tok/s", "higher", "edged", DRAFTING, 1.2),
    Row("prefill, Q4_K_M", "single", "prefill", "tok/s", "higher", "edged", ("llama-k_m",), 1.5),
    Row("8 streams, Q4_0", "streams", "rate", "tok/s", "higher", "edged", REUSING, 2.0),
    Row("8 streams, Q4_0, prompts of 256", "streams-256", "rate", "tok/s", "higher", "edged", LLAMA),
    Row("8 streams, Foundry Local", "streams", "rate", "tok/s", "higher", "edged", ("foundry",), 1.7),
    Row("8 streams, Foundry Local, prompts of 256", "streams-256", "rate", "tok/s", "higher", "edged", ("foundry",)),
    *_both(Row("8 clients, one system prompt, cold: first token", "shared", "first-ms", "ms", "lower", "edged",
               ("llama-tuned", "llama-reuse"), 0.25)),
    *_both(Row("after a restart, from ready: first token", "restart", "first-ms", "ms", "lower", "edged",
               ("llama-tuned", "llama-reuse"), 0.10)),
    *_both(Row("after a restart, from launch: first token", "restart", "launched-ms", "ms", "lower", "edged",
               ("llama-tuned", "llama-reuse"), 0.10)),
    *_both(Row("agents in turn: computed of new tokens", "agents", "computed-share", "x", "lower", "edged",
               ("llama-default", "llama-reuse"), 1.05, of="figure")),
    Row("JSON by schema alone", "structured", "schema", "s", "lower", "edged", REUSING, 0.6),
    *_both(Row("JSON by schema and tool calls", "structured", "seconds", "s", "lower", "edged", REUSING, 0.6)),
    *_both(Row("rewriting and extraction", "repeating", "seconds", "s", "lower", "edged", LLAMA, 0.7)),
    Row("rewriting and extraction, n-gram drafts", "repeating", "seconds", "s", "lower", "edged", ("llama-ngram",)),
    *_both(Row("long prompt beside four streams: worst gap", "long-prompt", "gap-ms", "ms", "lower", "edged", REUSING,
               300, of="figure")),
    *_both(Row("decode beside one foreign thread", "foreign", "rate-1", "tok/s", "higher", "edged", LLAMA, 2.0)),
    *_both(Row("decode beside two foreign threads", "foreign", "rate-2", "tok/s", "higher", "edged", LLAMA, 2.0)),
    Row("two foreign threads, peer with one thread", "foreign", "rate-2", "tok/s", "higher", "edged",
        ("llama-1-thread",)),
    Row("fraction of the roofline", "single", "roofline", "x", "higher", "edged", LLAMA, 0.7, of="figure"),
    Row("fraction of the roofline, llama.cpp engine", "single", "roofline", "x", "higher", "edged-plain", LLAMA, 0.7,
        of="figure"),
    Row("24 models in memory for three: failures", "rotation", "failed", "", "lower", "edged-many", goal=0,
        of="figure"),
    Row("24 models: load and first answer", "rotation", "load-ms", "ms", "lower", "edged-many", of="figure"),
    Row("daemon's CPU a token, 64 streams", "daemon", "daemon-us", "µs", "lower", "edged-fake", goal=100, of="figure"),
)
