"""`edged doctor`: facts of this machine, what is wrong, and how to mend it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

from msgspec import Struct

from edged.cli import findings
from edged.cli.exit_codes import ExitCode
from edged.cli.findings import Finding
from edged.cli.hardware import machine
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, styled
from edged.cli.target import find
from edged.errors import EdgedError
from edged.hardware.facts import Facts
from edged.hardware.probe import probe, with_environments
from edged.version import VERSION

_MARKS = {"good": ("ok", "32"), "note": ("note", "33"), "problem": ("PROBLEM", "31")}


class Report(Struct, frozen=True, kw_only=True):
    version: str
    python: str
    facts: Facts
    findings: list[Finding]


def doctor(*, home: Home = None, json: Json = False) -> int:
    """Tell the facts of this machine, what is wrong with settings, store and daemon, and how to mend it.

    Ends with 1 where there is a problem; notes are none.

    As in:

    ```
    edged doctor
    edged doctor --json | jq '.findings[] | select(.level == "problem")'
    ```
    """
    report = Report(version=VERSION, python=platform.python_version(), facts=probe(), findings=[])
    report.findings.extend(_findings(report.facts, home))
    if json:
        answer_json(report)
    else:
        for line in _facts(report):
            answer(line)
        answer("`edged hardware NAME` ranks the versions of a model for this machine, `edged bench NAME` measures them")
        answer("")
        for each in report.findings:
            mark, colour = _MARKS[each.level]
            answer(f"{styled(mark.ljust(7), colour)}  {each.what}")
            if each.mend:
                answer(f"         {each.mend}")
    bad = any(each.level == "problem" for each in report.findings)
    return ExitCode.FAILED if bad else ExitCode.OK


def _findings(facts: Facts, home: Home) -> Iterator[Finding]:
    yield from findings.engines(facts)
    try:
        target = find(home)
    except EdgedError as error:
        yield findings.problem(str(error), "nothing else can be checked before that is right; `edged config` shows "
                               "all settings")
        return
    settings = target.settings
    yield from findings.secret_files(findings.config_file(os.environ.get("EDGED_CONFIG")), target.origins)
    yield from findings.keys(settings, target.origins)
    yield from findings.catalog(settings)
    yield from findings.environments(settings)
    yield from findings.devices(with_environments(facts, settings.home))
    yield from findings.memory(facts, settings)
    yield from findings.capture(target)
    yield from findings.disk(settings)
    yield from findings.home(settings)
    yield from findings.installed_models(settings)
    yield from findings.daemon(target)


def _facts(report: Report) -> Iterator[str]:
    facts = report.facts
    yield f"edged {report.version}, Python {report.python}, {facts.system} {facts.architecture}" \
        + (f", {facts.board}" if facts.board else "")
    yield from machine(facts)
