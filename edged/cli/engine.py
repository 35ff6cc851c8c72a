"""`edged engine list`, `install` and `remove`: interpreters for engines that cannot share one environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, say, table
from edged.cli.target import Target, store_of
from edged.hardware.environments import KNOWN, Environment, environments, install, remove
from edged.hardware.facts import Software
from edged.hardware.installed import installed
from edged.store import Store
from edged.version import VERSION

Name = Annotated[str, Parameter(help="Of the environment: cuda, openvino, llama-vulkan, … or one of your own.")]


def list_engines(*, home: Home = None, json: Json = False) -> int:
    """List the engine environments, the built-in one first, and what else could be installed.

    As in:

    ```
    edged engine list
    ```
    """
    found = [_built_in(), *environments(_home(store_of(home)))]
    if json:
        answer_json(found)
        return ExitCode.OK
    answer(table(("NAME", "PACKAGES", "LLAMA.CPP", "ONNX RUNTIME"), [
        (each.name, ", ".join(each.requirements) or "edged's own", ", ".join(each.software.llama_backends) or "-",
         ", ".join(each.software.ort_providers) or "-") for each in found]))
    here = {each.name for each in found}
    for name, known in KNOWN.items():
        if name not in here:
            answer(f"{name} can be installed; it needs {known.needs}")
    return ExitCode.OK


def install_engine(
    name: Name, /, *,
    package: Annotated[list[str] | None, Parameter(help="A requirement of pip, such as onnxruntime==1.31.1, instead of "
                                                        "the known ones; may be said more than once.",
                                                   negative=())] = None,
    home: Home = None, json: Json = False,
) -> int:
    """Make an environment for an engine, or make it anew. Takes pip's index and cache, and holds only what differs.

    A model is served by it where its build alone has the device, or where `environment = "NAME"` of the model's table
    in models.toml says so.

    As in:

    ```
    edged engine install cuda
    edged engine install ort-1.31 --package onnxruntime==1.31.1
    ```
    """
    made = install(_home(store_of(home)), name, package or [], VERSION, (lambda line: None) if json else say)
    if json:
        answer_json(made)
    else:
        answer(f"installed {made.name}: " + ", ".join(_differing(made)))
    return ExitCode.OK


def remove_engine(name: Name, /, *, home: Home = None, json: Json = False) -> int:
    """Remove an engine environment. One that a loaded model runs under is refused.

    As in:

    ```
    edged engine remove cuda
    ```
    """
    remove(_home(store_of(home)), name)
    if json:
        answer_json({"removed": name})
    else:
        answer(f"removed {name}")
    return ExitCode.OK


def _built_in() -> Environment:
    return Environment(name="built-in", requirements=(), edged=VERSION, software=installed())


def _differing(made: Environment) -> list[str]:
    own: Software = installed()
    return [f"{name} {version}" for name, version in sorted(made.software.versions.items())
            if own.versions.get(name) != version]


def _home(target: Target) -> Path:
    """Of the store that the running daemon reads, made where there is none."""
    return Store(target.running.home if target.running else target.settings.home).home
