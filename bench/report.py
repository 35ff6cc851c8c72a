"""What a run says: comparisons as a table for people, everything as JSON for machines, a section for LOG.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.compare import CONFIDENCE, METRICS, Comparison, compare
from bench.rounds import FOREIGN_CORES, Sample

HEAD = ("figure", "unit", "{subject}", "{peer}", "ratio", "interval", "goal", "verdict")
#: Columns of output that is no terminal.
WIDTH = 160


@dataclass(frozen=True)
class Run:
    """Everything about one run but its figures. machine and sides hold only what may be published: no paths, names of
    hosts or addresses. sides: facts of each side by name, the subject's first. goals: of ratios by peer and metric, for
    peers that are not measured by the goals of METRICS."""

    when: str
    workloads: str
    rounds: int
    commit: str
    machine: dict[str, str]
    settings: dict[str, str]
    sides: dict[str, dict[str, str]]
    quick: bool
    complaints: list[str]
    goals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def comparisons(
    samples: Sequence[Sample], subject: str, goals: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, list[Comparison]]:
    """By peer, metrics in the order of METRICS; only those of which both sides have the same rounds."""
    found: dict[str, list[Comparison]] = {}
    peers = dict.fromkeys(sample.side for sample in samples if sample.side != subject)
    for peer in peers:
        for metric in METRICS:
            mine, theirs = (_series(samples, metric.name, side) for side in (subject, peer))
            shared = sorted(mine.keys() & theirs.keys())
            if shared:
                aimed = replace(metric, goal=goals[peer].get(metric.name)) if goals and peer in goals else metric
                pair = compare(aimed, [mine[turn] for turn in shared], [theirs[turn] for turn in shared])
                found.setdefault(peer, []).append(pair)
    return found


def _series(samples: Sequence[Sample], metric: str, side: str) -> dict[int, float]:
    return {sample.round: sample.value for sample in samples if (sample.metric, sample.side) == (metric, side)}


def cells(comparison: Comparison) -> tuple[str, ...]:
    """One row of the table, without the heading's placeholders."""
    metric = comparison.metric
    goal, verdict = "", comparison.verdict or ""
    if metric.limit is not None:
        goal = f"≤ {metric.limit:g} {metric.unit}"
    elif metric.goal is not None:
        goal = f"{'≥' if metric.better == 'higher' else '≤'} {metric.goal:g}"
    return (
        metric.title, metric.unit, f"{comparison.subject:.4g}", f"{comparison.peer:.4g}", f"{comparison.ratio:.3f}",
        f"{comparison.low:.3f} … {comparison.high:.3f}", goal, verdict,
    )


def noise(samples: Sequence[Sample]) -> dict[str, float | int]:
    """How disturbed the run was: samples while others used the machine, the most they used, the client's own cores."""
    timed = [sample.cpu for sample in samples if sample.cpu]
    if not timed:
        return {}
    return {
        "timed samples": len(timed),
        "disturbed samples": sum(sample.disturbed for sample in samples),
        "foreign cores, median": round(median(cpu.foreign_cores for cpu in timed), 3),
        "foreign cores, most": round(max(cpu.foreign_cores for cpu in timed), 3),
        "client cores, median": round(median(cpu.client_cores for cpu in timed), 3),
        "client cores, most": round(max(cpu.client_cores for cpu in timed), 3),
    }


def remarks(run: Run, samples: Sequence[Sample]) -> list[str]:
    """What a reader must know before believing the table."""
    said = list(run.complaints)
    heard = noise(samples)
    if heard.get("disturbed samples"):
        said.insert(0, (
            f"DISTURBED: during {heard['disturbed samples']} of {heard['timed samples']} measurements others used more "
            f"than {FOREIGN_CORES:g} cores; absolute figures mean little, ratios are rough"
        ))
    rows = [row for rows in comparisons(samples, next(iter(run.sides)), run.goals).values() for row in rows]
    least = min((row.confidence for row in rows), default=1.0)
    if least < CONFIDENCE:
        said.insert(0, f"FEW ROUNDS: intervals hold the true ratio with {least:.1%} only; five rounds give 93.8%")
    if run.quick:
        said.insert(0, "QUICK: small workloads; proves the harness, not the speed")
    return said


def show(console: Console, run: Run, samples: Sequence[Sample]) -> None:
    subject = next(iter(run.sides))
    for peer, rows in comparisons(samples, subject, run.goals).items():
        table = Table(title=f"{subject} ÷ {peer}", title_justify="left")
        for head in HEAD:
            table.add_column(
                escape(head.format(subject=subject, peer=peer)),
                justify="right" if head in HEAD[2:6] else "left", overflow="fold",
            )
        for row in rows:
            table.add_row(*cells(row))
        console.print(table, soft_wrap=False)
    for side, facts in run.sides.items():
        for name, fact in facts.items():
            console.print(f"{side}: {name}: {fact}", markup=False, highlight=False)
    for name, value in [*run.settings.items(), *noise(samples).items()]:
        console.print(f"{name}: {value}", markup=False, highlight=False)
    for remark in remarks(run, samples):
        console.print(remark, style="bold", markup=False, highlight=False)


def document(run: Run, samples: Sequence[Sample]) -> dict[str, Any]:
    subject = next(iter(run.sides))
    rows = {
        peer: [asdict(row) | {"verdict": row.verdict} for row in rows]
        for peer, rows in comparisons(samples, subject, run.goals).items()
    }
    return asdict(run) | {
        "noise": noise(samples), "comparisons": rows,
        "samples": [asdict(sample) | {"disturbed": sample.disturbed} for sample in samples],
    }


def save(folder: Path, run: Run, samples: Sequence[Sample]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{run.when.replace(' UTC', 'Z').replace(' ', 'T').replace(':', '')}.json"
    path.write_text(json.dumps(document(run, samples), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def section(run: Run, samples: Sequence[Sample]) -> str:
    """Markdown for LOG.md."""
    subject = next(iter(run.sides))
    lines = [f"## {run.when}, commit {run.commit}", ""]
    lines += [f"**{remark}**\n" for remark in remarks(run, samples)]
    for peer, rows in comparisons(samples, subject, run.goals).items():
        head = [column.format(subject=subject, peer=peer) for column in HEAD]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
        lines.append("")
    lines.append(f"- workloads {run.workloads}, {run.rounds} rounds, interleaved; ratio: median of the rounds' ratios")
    lines += [f"- {name}: {value}" for name, value in {**run.machine, **run.settings, **noise(samples)}.items()]
    lines += [f"- {side}: {name}: {fact}" for side, facts in run.sides.items() for name, fact in facts.items()]
    return "\n".join([*lines, ""])


def append(log: Path, run: Run, samples: Sequence[Sample]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write("\n" + section(run, samples))
