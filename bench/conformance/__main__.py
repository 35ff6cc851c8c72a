"""`python -m bench.conformance`: every endpoint and field of edged's contract, asked of a server from outside.

    python -m bench.conformance http://127.0.0.1:8343 --model smollm2-135m
    python -m bench.conformance --peers edged llama-server llama-cpp-python --out bench/CONFORMANCE.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape

from bench.client import BenchError
from bench.conformance import peers as started
from bench.conformance import suite
from bench.conformance.outcome import Row, Verdict
from bench.conformance.server import Server
from bench.conformance.suite import Report
from bench.servers import BUILD

app = App(name="conformance", help=__doc__, version_flags=[])
screen = Console(highlight=False, soft_wrap=True, stderr=True)
_COLOURS = {Verdict.WORKS: "green", Verdict.REFUSED: "cyan", Verdict.SILENT: "bold red", Verdict.BROKEN: "red"}
#: What each peer did, so that a few rows can be asked again.
KEPT = BUILD / "conformance"
Many = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]


@app.default
def main(
    url: str | None = None, /, *, model: str | None = None, context: int = started.CONTEXT, key: str = "none",
    embedder: str | None = None, reranker: str | None = None, peers: Many = (), only: Many = (),
    kept: bool = False, out: Path | None = None,
) -> None:
    """Ask one server, or start several and ask each.

    Parameters
    ----------
    url
        Of a server that runs already.
    model
        Its name there; by default the first one that it lists.
    context
        Tokens of its context.
    key
        Sent as a bearer token.
    embedder, reranker
        Names of models for embeddings and for reranking; without them these rows are not asked.
    peers
        Servers to start: edged, llama-server, llama-cpp-python, foundry-local.
    only
        Patterns of rows, such as "*completions stop*".
    kept
        Start and ask nobody: the table of what the peers did before.
    out
        Where the table goes; by default to the standard output.
    """
    reports = []
    if url is not None:
        with closing(Server(url.rstrip("/"), model or "", context, embedder, reranker, key)) as server:
            server.model = model or server.ask("/v1/models", None, method="GET")["data"][0]["id"]
            reports.append(Report(url, server.model, suite.run(server, only, told)))
    if kept:
        reports += [suite.kept(name, KEPT) for name in peers]
    for name in () if kept else peers:
        screen.print(f"[bold]{name}[/]")
        with started.PEERS[name]() as (server, version), closing(server):
            def keep(row: Row, name: str = name, version: str = version) -> None:
                # One by one, so that a run that is broken off has not been for nothing.
                told(row)
                Report(name, version, [row]).keep(KEPT)

            reports.append(Report(name, version, suite.run(server, only, keep)).keep(KEPT))
    if not reports:
        raise BenchError("name the address of a server, or --peers")
    text = page(reports)
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text)


def told(row: Row) -> None:
    screen.print(f"[{_COLOURS.get(row.verdict, 'dim')}]{row.verdict:17}[/] {escape(f'{row.area}  {row.name}')}  "
                 f"[dim]{escape(row.note)}[/]")


def page(reports: Sequence[Report]) -> str:
    return _PAGE.format(
        command=" ".join(["python -m bench.conformance", *sys.argv[1:]]), date=f"{datetime.now(UTC):%Y-%m-%d}",
        servers="\n".join(f"- **{report.name}**: {report.facts}" for report in reports), table=suite.table(reports))


_PAGE = """# Who does what they are asked

Every endpoint and field of edged's contract, asked of each server from outside by `bench/conformance`, on {date}:

    {command}

{servers}

*Works*: the effect was seen, not only a 200. *Refused*: a 4xx that names the field or says what is wrong, which is the
right answer where a model or a server cannot do it. *Silently wrong*: answered with 200 as if all were well, and it was
not done. *Fails*: a 5xx, no answer, or a 4xx that does not tell what it is about. –: there is no such route. ·: not
asked, or asked on too busy a machine to judge. ° marks what is edged's own or an extension of some servers, which
another one need not know; dropping it without a word is still told here.

{table}"""


if __name__ == "__main__":
    try:
        app()
    except BenchError as error:
        sys.exit(str(error))
