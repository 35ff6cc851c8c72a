"""What a run has come to: for people and for scripts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from msgspec import Struct

from training import opened
from training.deploy.stage import Deployed
from training.run import Run, StageName

#: Which text of a stage's folder tells what it made.
_TEXTS: dict[StageName, tuple[StageName, str]] = {
    "data": ("data", "report.txt"), "evaluate": ("evaluate", "table.txt"), "served": ("evaluate", "table.txt"),
}


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """folder: of the run. reports: pages to open. deployed: what serves. good: nothing was held back. text: for
    people."""

    folder: str
    text: str
    reports: tuple[str, ...] = ()
    deployed: Deployed | None = None
    good: bool = True

    def words(self) -> str:
        return self.text


def outcome(run: Run, names: Sequence[StageName]) -> Outcome:
    """names: of the stages that were asked for; the last one that has something to tell does."""
    parts: list[str] = []
    reports: list[str] = []
    for each in opened.members(run) or (run,):
        told = [_TEXTS[name] for name in names if name in _TEXTS and each.ended(_TEXTS[name][0])]
        if told:
            stage, file = told[-1]
            with contextlib.suppress(FileNotFoundError):
                title = f"{each.recipe.name}\n" if run.recipe.members else ""
                parts.append(title + (each.path(stage) / file).read_text().rstrip())
            if (report := each.path(stage) / "report.html").exists():
                reports.append(str(report))
    deployed = run.value("deploy", Deployed) if "deploy" in names and run.ended("deploy") else None
    if deployed is not None:
        parts.append("\n".join(deployed_in_words(deployed)))
    parts.append("\n".join([*(f"report: {report}" for report in reports), f"run: {run.folder}"]))
    return Outcome(folder=str(run.folder), text="\n\n".join(parts), reports=tuple(reports), deployed=deployed,
                   good=deployed is None or not deployed.version.held_back)


def deployed_in_words(deployed: Deployed) -> list[str]:
    said = []
    for version in deployed.versions:
        if version.held_back:
            said.append(f"{version.reference} is kept, not served: {'; '.join(version.held_back)}. Another conversion "
                        f"may lose less; `edged activate {version.reference}` serves it all the same")
        elif version is deployed.version and deployed.active:
            adapters = f" with the adapters {', '.join(deployed.adapters.values())}" if deployed.adapters else ""
            said.append(f"{version.name} is served from {version.reference} ({version.engine} {version.precision})"
                        f"{adapters}; `edged run {version.name}` asks it, `edged rollback {version.name}` goes back")
        else:
            said.append(f"{version.reference} ({version.engine} {version.precision}) is kept beside it; "
                        f"`edged activate {version.reference}` serves it")
    return said
