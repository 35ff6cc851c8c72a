"""The table of a record: for a terminal, and as a section of LOG.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.proof.judge import Judgement, bandwidth, judge
from bench.proof.perform import disturbed
from bench.proof.record import Record
from bench.proof.rows import ROWS
from bench.proof.scenes import SCENES
from bench.proof.sides import TITLES

HEAD = ("work", "edged's", "best peer", "its figure", "ratio or figure", "interval", "goal", "verdict")
FORMS_HEAD = ("form", "engine", "size, MB", "read a token, MB", "perplexity ratio", "top-1", "KL", "gate")


def judged(record: Record) -> list[Judgement]:
    return [judge(record, row) for row in ROWS if row.scene in record.scenes]


def cells(one: Judgement) -> tuple[str, ...]:
    row = one.row
    sign = "≥" if row.better == "higher" else "≤"
    unit = row.unit if row.of == "figure" else "x"
    value = "–" if one.value is None else f"{one.value:.3g} {unit}".rstrip()
    between = "" if one.low is None or one.high is None or one.rounds < 2 else f"{one.low:.3g} … {one.high:.3g}"
    goal = "" if row.goal is None else f"{sign} {row.goal:g} {unit}".rstrip()
    sure = one.sure or one.verdict == "failed" or row.goal is None
    verdict = one.verdict if sure else f"{one.verdict} (not in every round)"
    return (
        row.title, _figure(one.subject, row.unit), TITLES[one.best] if one.best else "", _figure(one.peer, row.unit),
        value, between, goal, verdict)


def _figure(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.4g} {unit}".rstrip()


def forms(record: Record) -> list[tuple[str, ...]]:
    return [(
        f"{form.precision}{' (own choice)' if form.own_choice else ''}", form.engine, f"{form.size_bytes / 1e6:.1f}",
        f"{form.bytes_of_token / 1e6:.1f}", _or_dash(form.perplexity_ratio, ".3f"), _or_dash(form.top1, ".1%"),
        _or_dash(form.kl, ".4f"), {True: "passes", False: "misses", None: "not measured"}[form.passed],
    ) for form in record.forms]


def _or_dash(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)


def remarks(record: Record) -> list[str]:
    """What a reader must know before believing the table."""
    said = []
    if record.quick:
        said.append("QUICK: small workloads; proves the harness, not the speed")
    if count := disturbed(record):
        total = sum(len(scene.samples) for scene in record.scenes.values())
        said.append(f"DISTURBED: during {count} of {total} measurements others used the machine; ratios are rough")
    left_out = [scene.name for scene in SCENES if scene.name not in record.scenes]
    if left_out:
        said.append(f"not run: {', '.join(left_out)}")
    commits = {scene.commit for scene in record.scenes.values()}
    if len(commits) > 1:
        said.append(f"scenes of several commits: {', '.join(sorted(commits))}")
    said += [f"{one.row.title}: {one.reason}" for one in judged(record) if one.reason]
    return list(dict.fromkeys(said))


def details(record: Record) -> list[str]:
    """Every figure of every side, medians."""
    said = []
    for scene in record.scenes.values():
        sides = dict.fromkeys(sample.side for sample in scene.samples)
        for side in sides:
            own = [sample for sample in scene.samples if sample.side == side]
            names = dict.fromkeys(figure for sample in own for figure in sample.figures)
            figures = ", ".join(f"{name} {median(scene.series(side, name).values()):.4g}" for name in names)
            said.append(f"{scene.name}, {TITLES[side]}: {figures}")
        said += [f"{scene.name}: {note}" for note in scene.notes]
    return said


def facts(record: Record) -> list[str]:
    most = bandwidth(record)
    said = [f"digest {record.digest}; ratio: median of the rounds' ratios; best peer: the one whose own median is best"]
    said += [f"{name}: {value}" for name, value in {**record.machine, **record.settings}.items()]
    if most is not None:
        said.append(f"memory bandwidth: {most / 1e9:.1f} GB/s, read by all cores; bytes read a token: all "
                    "weights but an untied table of embeddings; KV is not counted")
    said.append(f"scenes took {sum(scene.seconds for scene in record.scenes.values()) / 60:.0f} minutes")
    return said


def show(console: Console, record: Record) -> None:
    for title, head, lines in (("edged ÷ best peer", HEAD, [cells(one) for one in judged(record)]),
                               ("forms of the model", FORMS_HEAD, forms(record))):
        table = Table(title=title, title_justify="left")
        for name in head:
            table.add_column(name, overflow="fold")
        for line in lines:
            table.add_row(*line)
        console.print(table, soft_wrap=False)
    for said in (*details(record), *facts(record)):
        console.print(said, markup=False, highlight=False)
    for said in remarks(record):
        console.print(said, style="bold", markup=False, highlight=False)


def section(record: Record) -> str:
    """Markdown for LOG.md."""
    lines = [f"## {record.when}, commit {record.commit}: edged against the best of each peer", ""]
    lines += [f"**{said}**\n" for said in remarks(record)]
    lines += _markdown(HEAD, [cells(one) for one in judged(record)])
    lines += _markdown(FORMS_HEAD, forms(record))
    lines += [f"- {said}" for said in (*facts(record), *details(record))]
    lines += [f"- {TITLES[side]}: {name}: {fact}" for side, said in record.facts.items() for name, fact in said.items()]
    return "\n".join([*lines, ""])


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|",
            *("| " + " | ".join(line) + " |" for line in lines), ""]


def append(log: Path, record: Record) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write("\n" + section(record))
