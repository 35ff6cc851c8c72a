"""`edged tune`: measures which options serve a model fastest on this machine, and keeps them."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec import Struct

from edged.cli.bench import refuse_while_busy
from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, say, table
from edged.cli.subject import Subject, subject
from edged.cli.target import Target, store_of
from edged.daemon.process import TRIAL_COMMAND
from edged.daemon.spec import task_of
from edged.daemon.status import ModelStatus
from edged.daemon.trials import MEASURING_S
from edged.daemon.tuning import Report, Tried, Tuner
from edged.daemon.turns import open_turns
from edged.errors import Conflict, DeviceUnavailable, ModelNotFound, UnsupportedTask
from edged.hardware.fingerprint import fingerprint
from edged.hardware.place import Place
from edged.hardware.processors import Processors, shares
from edged.hardware.tuning import UNSETTLING, Part
from edged.store.entries import Manifest
from edged.types import Tuning

#: For how long it looks whether the machine is busy, and cores that others may use all the same.
LOOK_S, QUIET_CORES = 0.5, 0.3


class Tuned(Struct, frozen=True, kw_only=True):
    """fingerprint: of this machine. defaults: tokens a second with the engine's own options. tuning: what is kept, None
    after a reset."""

    name: str
    version: str
    provider: str
    fingerprint: str
    defaults: dict[Part, float]
    tried: list[Tried]
    tuning: Tuning | None
    outcome: str


def tune(
    name: Annotated[str, Parameter(help="An installed model, or an alias; its active version is tuned.")], /, *,
    seconds: Annotated[float, Parameter(help="That it may take in all.", validator=Number(gt=0, lte=3600))] = 50.0,
    reset: Annotated[bool, Parameter(help="Forget what was measured, and serve with the engine's own options.",
                                     negative="")] = False,
    busy: Annotated[bool, Parameter(help="Also while the daemon has requests, or other programs use the processors: "
                                         "the figures get wrong.", negative="")] = False,
    home: Home = None, json: Json = False,
) -> int:
    """Find the options that serve a model fastest here: threads, batch sizes, attention, KV, waiting.

    Each is measured in turns with the engine's own, and kept only where it is faster beyond noise. What is kept serves
    from the next load on, except where models.toml names the same option.

    As in:

    ```
    edged tune smollm2-135m
    edged tune smollm2-135m --reset
    ```
    """
    target = store_of(home)
    found = subject(target, name)
    manifest, place = _where(found)
    if reset:
        report, outcome = None, _reset(found, manifest, place)
    else:
        if not busy:
            refuse_while_busy(target)
            _refuse_on_a_busy_machine()
        report = _measure(found, manifest, place, seconds)
        outcome = _outcome(report) + _loaded(target, manifest)
    if json:
        answer_json(Tuned(
            name=found.name, version=manifest.version, provider=place.provider, fingerprint=fingerprint(found.facts),
            defaults=report.defaults if report else {}, tried=report.tried if report else [],
            tuning=report.tuning if report else None, outcome=outcome))
    else:
        if report is not None:
            _print(report)
        answer(outcome)
    return ExitCode.OK


def _where(found: Subject) -> tuple[Manifest, Place]:
    """The active version, where it is served. Raises ModelNotFound, UnsupportedTask, DeviceUnavailable."""
    if found.active is None:
        raise ModelNotFound(f"no version of {found.name} is active; `edged activate` makes one")
    rows = [row for row in found.ranking() if row.variant.version == found.active]
    manifest = rows[0].variant
    if task_of(manifest, found.entry) != "generate":
        raise UnsupportedTask(f"{found.name} writes no text: there are no tokens a second to measure")
    if (row := next((row for row in rows if row.fits), None)) is None:
        raise DeviceUnavailable(f"{found.name} cannot be served here: {'; '.join(row.reason for row in rows)}")
    return manifest, row.place


def _refuse_on_a_busy_machine() -> None:
    machine = Processors()
    before = machine.read()
    time.sleep(LOOK_S)
    used = max((share.foreign for share in shares(before, machine.read())), default=0.0)
    if used > QUIET_CORES:
        raise Conflict(f"other programs use {used:.1f} processors, so the figures would be wrong; try again when it is "
                       "quiet, or say --busy")


def _measure(found: Subject, manifest: Manifest, place: Place, seconds: float) -> Report:
    tuner = Tuner(found.store, found.entry, found.facts, found.measured, trial_command=TRIAL_COMMAND, seconds=seconds,
                  open_turns=partial(open_turns, timeout_s=MEASURING_S), say=say)
    return asyncio.run(tuner.tune(manifest, place))


def _reset(found: Subject, manifest: Manifest, place: Place) -> str:
    forgotten = found.measured.forget_tuning(manifest.digest, place.key)
    if forgotten is None:
        return f"nothing was measured for {found.name}@{manifest.version} on {place.provider}"
    return f"forgotten: {forgotten.words()}; the next load is with the engine's own options"


def _print(report: Report) -> None:
    there = report.defaults
    rows = [("defaults", "", _rate(there["decode"]), _rate(there["decode_many"]), _rate(there["prefill"]), "", "")]
    rows += [(one.option, _value(one.value), _rate(one.decode), _rate(one.decode_many), _rate(one.prefill),
              f"{one.gain:.2f} x" if one.gain is not None else "-", one.note) for one in report.tried]
    answer(table(("OPTION", "VALUE", "ONE STREAM", "EIGHT", "PREFILL", "FASTER", ""), rows))


def _outcome(report: Report) -> str:
    if not report.tuning.chosen:
        return "the engine's own options are the fastest here, as far as it was measured"
    price = ", at which greedy text may depend on the requests beside it at near-ties" if any(
        name in UNSETTLING for name in report.tuning.chosen) else ""
    return f"kept: {report.tuning.words()}{price}"


def _loaded(target: Target, manifest: Manifest) -> str:
    """What is loaded goes on as it is."""
    if target.running is None:
        return ""
    status = target.running.client.get(f"/edged/v1/models/{manifest.name}", ModelStatus)
    if status.version != manifest.version or status.device is None:
        return ""
    return f"; it is loaded and takes that over at its next load: `edged unload {manifest.name}`"


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rate(tokens_per_s: float | None) -> str:
    if tokens_per_s is None:
        return "-"
    return f"{tokens_per_s:.0f}" if tokens_per_s >= 10 else f"{tokens_per_s:.1f}"
