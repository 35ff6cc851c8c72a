"""All checks against one server, and servers side by side in a table."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.conformance import completions, edges, other_wires, sampling, shapes, structured
from bench.conformance.outcome import CHECKS, Check, Row, Verdict, outcome
from bench.conformance.server import Server

_ORDER = [module.__name__ for module in (sampling, shapes, structured, completions, other_wires, edges)]
_SIGNS = {
    Verdict.WORKS: "works", Verdict.REFUSED: "refused", Verdict.SILENT: "**silently wrong**",
    Verdict.BROKEN: "fails", Verdict.ABSENT: "–", Verdict.SKIPPED: "·",
}


class Report(Struct):
    """name: a column's head. facts: versions, as the server or its package says them."""

    name: str
    facts: str
    rows: list[Row] = []

    def keep(self, folder: Path) -> Report:
        """Written beside other servers' reports; rows that were not asked this time stay as they were."""
        file = folder / f"{self.name}.json"
        fresh = {(row.area, row.name): row for row in self.rows}
        before = msgspec.json.decode(file.read_bytes(), type=Report).rows if file.exists() else []
        rows = {(row.area, row.name): row for row in before} | fresh
        asked = [(one.area, one.name) for one in ordered()]
        whole = Report(self.name, self.facts, [rows[row] for row in asked if row in rows])
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(whole))
        return whole


def kept(name: str, folder: Path) -> Report:
    """As it was written last."""
    return msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=Report)


def ordered() -> list[Check]:
    return sorted(CHECKS, key=lambda one: _ORDER.index(one.run.__module__))


def run(server: Server, only: Sequence[str] = (), told: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """only: patterns for `AREA NAME`; all checks without any. told: hears each row as it comes."""
    rows = []
    for one in ordered():
        if only and not any(fnmatch.fnmatch(f"{one.area} {one.name}", pattern) for pattern in only):
            continue
        row = outcome(one, server)
        rows.append(row)
        told(row)
    return rows


def table(reports: Sequence[Report]) -> str:
    """Markdown: counts, then every row, then what was seen where it was not well."""
    lines = ["| | " + " | ".join(report.name for report in reports) + " |", "|---|" + "---|" * len(reports)]
    counts = [Counter(row.verdict for row in report.rows) for report in reports]
    lines += [f"| {verdict} | " + " | ".join(str(count[verdict]) for count in counts) + " |"
              for verdict in Verdict if any(count[verdict] for count in counts)]
    area = None
    found = [{(row.area, row.name): row for row in report.rows} for report in reports]
    for first in reports[0].rows:
        if first.area != area:
            area = first.area
            lines += ["", f"## {area}", "| | " + " | ".join(report.name for report in reports) + " |",
                      "|---|" + "---|" * len(reports)]
        asked = [rows.get((first.area, first.name)) for rows in found]
        cells = [_SIGNS[row.verdict if row else Verdict.SKIPPED] for row in asked]
        lines.append(f"| {_cell(first.name)}{'°' if first.own else ''} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_notes(reports)]) + "\n"


def _notes(reports: Sequence[Report]) -> list[str]:
    lines = []
    for report in reports:
        told = [row for row in report.rows if row.verdict in (Verdict.SILENT, Verdict.BROKEN)]
        if told:
            lines += [f"## What was seen of {report.name}", *(
                f"- {row.area}, {row.name}: {row.verdict}. {_cell(row.note)}" for row in told), ""]
    return lines


def _cell(text: str) -> str:
    """Markdown's signs as they are."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
