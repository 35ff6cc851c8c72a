"""What is served answers the same test items as what was trained: what merging, conversion and quantization lost.

The daemon is asked over HTTP, as any client asks it; the version is named, so that one which its gate holds back is
measured too.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from edged.store import Store
from training import opened
from training.deploy.beside import SERVED, artifact, served_name, subject_beside
from training.deploy.stage import Deployed, Version, wanted
from training.evaluate.results import Difference, Evaluated
from training.evaluate.subject import Subject
from training.export.stage import Exported
from training.models import base_folder
from training.run import Moment, Run, Tell, digest
from training.served import Loaded, serving
from training.stage import StageKind

#: Of the subject that a training left, as `training.evaluate.stage` names it.
_TRAINED = ("trained", "student")


class Checked(Struct, frozen=True, kw_only=True):
    """Of one training. recipe: its name. gained: from what it began from to what is served; lost: from what was trained
    to what is served, both by the primary metric. report: absolute."""

    recipe: str
    primary: str
    gained: Difference | None
    lost: Difference | None
    report: str


class ServedAs(Struct, frozen=True, kw_only=True):
    """reference: what was asked. own: a daemon was started for it. evaluated: of a single training; those of members
    are in their own runs."""

    reference: str
    device: str | None
    own: bool
    checked: tuple[Checked, ...]
    evaluated: Evaluated | None = None


def key(run: Run) -> str:
    """An evaluation that is made again leaves nothing of what was measured here, which lies in its folder."""
    return digest("served", run.key("deploy"), [
        (each.key("evaluate"), each.ended_at("evaluate")) for each in opened.members(run) or (run,)])


def run_served(run: Run, tell: Tell) -> ServedAs:
    """Raises Conflict where a model cannot be loaded, Internal where no daemon starts."""
    from training.evaluate.evaluation import evaluate
    from training.evaluate.stage import subjects_here

    deployed = run.value("deploy", Deployed)
    runs = opened.members(run) or (run,)
    with serving(run.path("served") / "daemon.log") as server:
        if not server.own:
            tell(Moment(stage="served", note="measured on the daemon that runs: what else it does meanwhile makes "
                                             "times longer"))
        loaded = {}
        for version in deployed.versions:
            tell(Moment(stage="served", what=f"loading {version.reference}"))
            loaded[version.reference] = server.load(version.reference)
        checked, last = [], None
        for each in runs:
            here = subjects_here(each)
            there = [_subject(each, deployed, version, server.base_url, loaded[version.reference])
                     for version in deployed.versions]
            beside = [subject_beside(said, server, Path(deployed.home)) for said in each.recipe.evaluate.beside]
            last = evaluate(each, tell, [*here[:1], *beside, *here[1:], *there], stage="served")
            checked.append(_checked(each, last, here))
    first = loaded[deployed.version.reference]
    return ServedAs(reference=deployed.version.reference, device=first.device, own=server.own, checked=tuple(checked),
                    evaluated=last if not run.recipe.members else None)


def _subject(run: Run, deployed: Deployed, version: Version, base_url: str, loaded: Loaded) -> Subject:
    first = version == deployed.version
    exported = run.value("export", Exported)
    made = run.folder / exported.folder
    keeps = exported.kind == "adapter"
    store = Store(Path(deployed.home))
    loads = artifact(store.manifest(version.name, version.version), store)
    return Subject(
        name=served_name(None if first else version.conversion), kind="endpoint", base_url=base_url,
        title="served" if first else f"served ({version.conversion})", model=version.reference,
        served_adapter=deployed.adapters.get(run.recipe.name), folder=base_folder(run) if keeps else made,
        adapter=made if keeps else None, artifact=loads, loaded=loaded,
        identity=version.digest, precision=version.precision)


def _checked(run: Run, evaluated: Evaluated, here: list[Subject]) -> Checked:
    trained = next(subject.name for subject in here if subject.name in _TRAINED)

    def difference(before: str) -> Difference | None:
        compared = evaluated.comparison(before, SERVED)
        return compared.differences.get(evaluated.primary) if compared is not None else None

    return Checked(recipe=run.recipe.name, primary=evaluated.primary, gained=difference(here[0].name),
                   lost=difference(trained), report=str(run.folder / evaluated.report))


SERVED_STAGE = StageKind("served", wanted, key, run_served)
