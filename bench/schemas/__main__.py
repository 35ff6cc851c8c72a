"""`python -m bench.schemas`: does what a server writes under a JSON schema satisfy it, and what does it refuse?

    python -m bench.schemas --peers edged llama-server --out bench/SCHEMAS.md
    python -m bench.schemas --peers edged edged-onnx onnxruntime-genai llama-server --onnx FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from bench import pipes, servers
from bench.client import BenchError
from bench.conformance import peers as started
from bench.conformance.outcome import Broken
from bench.schemas.cases import DECLARED, PROGRAMS, SUITE, Case, cases
from bench.schemas.judging import Answer, Verdict, judge

AT_ONCE, MAX_TOKENS, TIMEOUT_S = 8, 120, 150
#: Without the schema: nothing but the constraint makes an answer valid. Without the wish a small model runs on.
SAID = 'Answer with very short JSON, one word for each text, such as {"a": "b"}.'
app = App(name="schemas", help=__doc__, version_flags=[])
Ask = Callable[[Case], Answer]


@dataclass(frozen=True)
class Report:
    """seen: of each schema that was asked, by its number, the verdict and its note."""

    name: str
    version: str
    seen: dict[int, tuple[Verdict, str]]


@app.default
def main(
    *, peers: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("edged", "llama-server"),
    onnx: Path | None = None, count: int | None = None, seconds: float = 90, seed: int = 4, out: Path | None = None,
) -> None:
    """Ask each server the same schemas in the same order.

    Parameters
    ----------
    peers
        edged, edged-onnx, onnxruntime-genai, llama-server.
    onnx
        Folder of the same model, for the two in the middle.
    count
        Of the schemas only so many.
    seconds
        For each server; after that no further schema is begun, and the table says how many were asked.
    out
        Where the page goes; by default to the standard output.
    """
    asked = cases(seed, generated=150, suite=130, declared=40)[:count]
    reports = []
    for name in peers:
        with _ready(name, onnx) as (ask, is_version):
            began_s = time.perf_counter()
            with ThreadPoolExecutor(1 if name == "onnxruntime-genai" else AT_ONCE) as pool:
                answers = pool.map(lambda case, ask=ask, end_s=began_s + seconds: _asked(ask, case, end_s), asked)
                seen = {number: judge(asked[number].schema, one) for number, one in enumerate(answers) if one}
            reports.append(Report(name, is_version, seen))
        sys.stderr.write(f"{name}: {len(seen)} in {time.perf_counter() - began_s:.0f} s\n")
    text = page(reports, asked)
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text)


def _asked(ask: Ask, case: Case, end_s: float) -> Answer | None:
    return ask(case) if time.perf_counter() < end_s else None


@contextmanager
def _ready(name: str, onnx: Path | None) -> Iterator[tuple[Ask, str]]:
    """Somebody to ask, and which version it is."""
    if name in ("edged-onnx", "onnxruntime-genai") and onnx is None:
        raise BenchError(f"--onnx must name a folder of the model for {name}")
    if name == "onnxruntime-genai" and onnx:
        with _guidance(onnx.resolve()) as ready:
            yield ready
        return
    made = {"edged": lambda: started.edged(AT_ONCE), "llama-server": lambda: started.llama_server(AT_ONCE),
            "edged-onnx": lambda: started.edged(AT_ONCE, onnx and onnx.resolve())}
    if name not in made:
        raise BenchError(f"{name} is none of {', '.join(made)}, onnxruntime-genai")
    with made[name]() as (server, is_version), closing(server):
        server.wait(TIMEOUT_S)

        def ask(case: Case) -> Answer:
            held = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": case.schema}}
            body = server.chat_body(SAID, max_tokens=MAX_TOKENS, seed=1, response_format=held)
            try:
                reply = server.send("POST", "/v1/chat/completions", body)
                if reply.status != 200:
                    return Answer(reply.status, reply.message)
                choice = reply.json["choices"][0]
                return Answer(200, choice["message"]["content"] or "", choice["finish_reason"])
            except Broken as error:
                return Answer(0, error.note)

        yield ask, is_version


@contextmanager
def _guidance(folder: Path) -> Iterator[tuple[Ask, str]]:
    """A child process, since a schema may end it; then another one is begun."""
    name = "onnxruntime-genai-guidance"

    def begin() -> Any:
        child = servers.spawn(name, [sys.executable, "-m", "bench.peers.genai_guidance", folder], pipe=True)
        return child, pipes.read(child, name)

    child, facts = begin()

    def ask(case: Case) -> Answer:
        nonlocal child
        asked = {"said": SAID, "schema": case.schema, "max_tokens": MAX_TOKENS}
        try:
            child.stdin.write(json.dumps(asked).encode() + b"\n")
            child.stdin.flush()
            return Answer(**pipes.read(child, name, timeout_s=TIMEOUT_S))
        except (BenchError, OSError):
            ended = child.poll()
            servers.end(child)
            child, _ = begin()
            return Answer(0, "no answer in time s" if ended is None else f"the process ended with {ended}")

    try:
        yield ask, f"{facts['version']}, set_guidance, one at a time, {folder.name}"
    finally:
        servers.end(child)


def page(reports: Sequence[Report], asked: Sequence[Case]) -> str:
    kinds = Counter(case.name.split()[0] for case in asked)
    counts = {report.name: Counter(verdict for verdict, _ in report.seen.values()) for report in reports}
    rows = [["", "asked", *Verdict],
            *([report.name, len(report.seen), *(counts[report.name][verdict] for verdict in Verdict)]
              for report in reports)]
    return _PAGE.format(
        command=" ".join(["python -m bench.schemas", *sys.argv[1:]]), date=f"{datetime.now(UTC):%Y-%m-%d}",
        count=len(asked), generated=kinds["generated"], suite=kinds["suite"], suite_package=SUITE,
        declared=kinds[DECLARED], declared_package=f"{DECLARED} {version(DECLARED)}", programs=kinds["program"],
        programs_package=PROGRAMS, judge=version("jsonschema"), at_once=AT_ONCE, max_tokens=MAX_TOKENS,
        timeout_s=TIMEOUT_S,
        servers="\n".join(f"- **{report.name}**: {report.version}" for report in reports), table=_table(rows),
        refused=_table([["", "by keyword", "otherwise"], *map(_refusals, reports)]),
        failed="\n".join(_failures(report, asked) for report in reports))


def _table(rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _refusals(report: Report) -> list[str]:
    by = [Counter(_short(note, 90) for seen, note in report.seen.values() if seen is verdict)
          for verdict in (Verdict.REFUSED, Verdict.VAGUE)]
    return [report.name, *(", ".join(f"`{note}` {count}" for note, count in one.most_common()) or "–" for one in by)]


def _failures(report: Report, asked: Sequence[Case]) -> str:
    found = [f"- {verdict}, {asked[number].name} – {_short(note, 160)}" for number, (verdict, note) in
             sorted(report.seen.items()) if verdict in (Verdict.INVALID, Verdict.ERROR, Verdict.UNJUDGED)]
    return "\n".join([f"\n### {report.name}\n", *(found or ["None."])])


def _short(note: str, length: int) -> str:
    return " ".join(note.replace("`", "'").split())[:length]


_PAGE = """# JSON schemas: who writes what they demand

    {command}

{date}; SmolLM2-135M-Instruct, {at_once} at once, temperature 0, at most {max_tokens} tokens. {count} schemas:
{generated} generated by a seed, {suite} of the JSON-Schema-Test-Suite for 2020-12 (in `{suite_package}`; those on which
the judge agrees with the suite), {declared} of models that `{declared_package}` declares, all in mixed order; at last
{programs} of programs' configuration files (in `{programs_package}`), each of which may occupy a whole server. Where
fewer were asked than there are, the time for that server was over. The model is asked for very
short JSON and does not see the schema: nothing but the constraint makes an answer valid.

{servers}

{table}

*Valid*, *INVALID*: an answer that ended by itself does, or does not, satisfy its schema, as `jsonschema {judge}` sees
it, formats included. *Cut*: ended by the token limit. *Refused*: a 4xx, or for
onnxruntime-genai an exception; *by keyword* where it names a word of the schema. *Error*: a 5xx, or no answer in
{timeout_s} s. *Not judged*: the judge failed.

## Refused

{refused}

## INVALID, errors, and what could not be judged
{failed}
"""


if __name__ == "__main__":
    try:
        app()
    except BenchError as error:
        sys.exit(str(error))
