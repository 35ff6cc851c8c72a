"""`edged bench`: measures the versions of a model on this machine, and lets the fastest one serve."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec import Struct

from edged.cli.exit_codes import ExitCode
from edged.cli.hardware import Ranked, print_ranking, ranked
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, say
from edged.cli.subject import Subject, subject
from edged.cli.target import Target, store_of
from edged.daemon.process import TRIAL_COMMAND
from edged.daemon.proving import Proving
from edged.daemon.status import ModelStatus
from edged.daemon.trials import MEASURING_S, run_trial
from edged.errors import Conflict, EdgedError
from edged.hardware.choose import Row, chosen
from edged.hardware.fingerprint import fingerprint
from edged.hardware.providers import CPU
from edged.store.entries import Manifest
from edged.store.ranking import activated_by_hand, possible


class Benched(Struct, frozen=True, kw_only=True):
    """fingerprint: of this machine. failed: in words, what could not be measured. active: the version that serves now;
    activated: this command let it. outcome: in words."""

    name: str
    fingerprint: str
    ranking: list[Ranked]
    failed: list[str]
    active: str | None
    activated: bool
    outcome: str


def bench(
    name: Annotated[str, Parameter(help="An installed model, or an alias.")], /, *,
    keep: Annotated[bool, Parameter(help="Measure, and leave the version that serves.", negative="")] = False,
    seconds: Annotated[float, Parameter(help="For each figure; there are three of a version on a device.",
                                        validator=Number(gt=0, lte=600))] = 3.0,
    busy: Annotated[bool, Parameter(help="Also while the daemon has requests: they get slower, and so do the figures.",
                                    negative="")] = False,
    home: Home = None, json: Json = False,
) -> int:
    """Measure every installed version of a model on each device that can run it.

    One at a time; the figures are kept. Devices are also tested for whether they compute what the processor does.

    The choice follows the figures: the fastest version whose quality is good is activated, unless somebody activated
    one by hand.

    As in:

    ```
    edged bench smollm2-135m
    edged bench smollm2-135m --keep --json
    ```
    """
    target = store_of(home)
    found = subject(target, name)
    if not busy:
        refuse_while_busy(target)
    failed = asyncio.run(_measure(found, seconds))
    rows = found.ranking()
    activated, outcome = _follow(target, found, rows, keep=keep)
    if json:
        answer_json(Benched(
            name=found.name, fingerprint=fingerprint(found.facts), ranking=ranked(found, rows), failed=failed,
            active=found.active, activated=activated, outcome=outcome))
    else:
        print_ranking(ranked(found, rows))
        for each in failed:
            answer(f"not measured: {each}")
        answer(outcome)
    return ExitCode.OK if any(row.speed is not None for row in rows) else ExitCode.FAILED


def refuse_while_busy(target: Target) -> None:
    """What is loaded and idle takes memory only, so it is told and no reason to refuse."""
    if target.running is None:
        return
    status = target.running.client.status()
    if status.running or status.waiting:
        raise Conflict(f"the daemon has {status.running + status.waiting} requests: they would get slower, and the "
                       "figures wrong; try again when they have ended, or say --busy")
    if status.loaded:
        loaded, asked = ("1 model is", "it") if status.loaded == 1 else (f"{status.loaded} models are", "one of them")
        say(f"{loaded} loaded in the daemon; a request for {asked} meanwhile makes figures worse")


async def _measure(found: Subject, seconds: float) -> list[str]:
    """What could not be measured, and why."""
    proving = Proving(
        found.store, found.entry, found.facts, found.measured, trial_command=TRIAL_COMMAND, seconds=seconds, say=say,
        run=partial(run_trial, timeout_s=MEASURING_S + 60 * seconds))
    failed = []
    for row in possible(found.versions(), found.entry, found.facts, budget_bytes=found.budget_bytes):
        if not row.fits:
            continue
        manifest, place = row.variant, row.place
        try:
            if place.provider == CPU:
                await proving.measure(manifest, place)
            else:
                await proving.prove(manifest, place, measure=True)
        except EdgedError as error:
            failed.append(f"{manifest.name}@{manifest.version} on {place.provider}: {error.message}")
    return failed


def _follow(target: Target, found: Subject, rows: list[Row[Manifest]], *, keep: bool) -> tuple[bool, str]:
    """Whether another version serves now, and what became of the choice in words."""
    best, active = chosen(rows), found.active
    if best is None:
        return False, "no version can be served here; the reasons are above"
    versioned = f"{found.name}@{best.version}"
    if rows[0].speed is None:
        return False, f"nothing was measured, so {found.name} stays as it is"
    if best.version == active:
        return False, f"{versioned} is the best here and active already"
    if keep:
        return False, f"{versioned} is the best here; --keep leaves {active} active"
    if activated_by_hand(found.history):
        return False, (f"{versioned} is the best here, but somebody activated {active} by hand: "
                       f"`edged activate {versioned}` changes that")
    if target.running is not None:
        target.running.client.post("/edged/v1/activate", {"model": versioned, "by": "bench"}, ModelStatus)
    else:
        found.store.activate(found.name, best.version, by="bench")
    return True, f"{versioned} is the best here and serves from now on; `edged rollback {found.name}` goes back"
