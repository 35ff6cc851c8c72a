"""`edged engine list`, `install` and `remove`: interpreters for engines that cannot share one environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec import Struct

from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, say, table
from edged.cli.target import Target, store_of
from edged.hardware.environment_making import install, remove, state
from edged.hardware.environments import BUILT_IN, KNOWN, Environment, install_command, names
from edged.hardware.facts import Software
from edged.hardware.installed import installed
from edged.store import Store
from edged.version import VERSION

Name = Annotated[str, Parameter(help="Of the environment: cuda, openvino, llama-vulkan, … or one of your own.")]


class Listed(Struct, frozen=True, kw_only=True):
    """trouble: why it cannot be used, or what speaks against it; None where all is well."""

    name: str
    requirements: tuple[str, ...]
    software: Software
    usable: bool
    trouble: str | None = None


def list_engines(*, home: Home = None, json: Json = False) -> int:
    """List the engine environments, the built-in one first, and what else could be installed.

    As in:

    ```
    edged engine list
    ```
    """
    store = _home(store_of(home))
    own = Listed(name=BUILT_IN, requirements=(), software=installed(), usable=True)
    found = [own, *(_listed(store, name) for name in names(store))]
    if json:
        answer_json(found)
        return ExitCode.OK
    answer(table(("NAME", "PACKAGES", "LLAMA.CPP", "ONNX RUNTIME", "STATE"), [
        (each.name, ", ".join(each.requirements) or ("edged's own" if each is own else "?"), _llama(each.software),
         _ort(each.software), "ready" if each.usable else "broken") for each in found]))
    for each in found:
        if each.trouble:
            answer(each.trouble)
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


def _listed(home: Path, name: str) -> Listed:
    about, why = state(home, name)
    if about is None:
        return Listed(name=name, requirements=(), software=Software(), usable=False, trouble=why)
    return Listed(name=name, requirements=about.requirements, software=about.software, usable=why is None,
                  trouble=why or outdated(about))


def outdated(about: Environment) -> str | None:
    """Another edged made it, with the packages that went with that one."""
    if about.edged == VERSION:
        return None
    return f"{about.name} was made by edged {about.edged}; `{install_command(about.name, about)}` makes it anew"


def _llama(software: Software) -> str:
    backends = ", ".join(software.llama_backends)
    return f"{software.versions.get('llama-cpp-python', '?')} ({backends})" if backends else "-"


def _ort(software: Software) -> str:
    # Of an environment with another build, that one: edged's own is found too.
    version = next((version for name, version in sorted(software.versions.items(), reverse=True) if name.startswith(
        "onnxruntime") and not name.startswith(("onnxruntime-genai", "onnxruntime-ep"))), "?")
    return f"{version} ({', '.join(software.ort_providers)})" if software.ort_providers else "-"


def _differing(made: Environment) -> list[str]:
    own: Software = installed()
    return [f"{name} {version}" for name, version in sorted(made.software.versions.items())
            if own.versions.get(name) != version]


def _home(target: Target) -> Path:
    """Of the store that the running daemon reads, made where there is none."""
    return Store(target.running.home if target.running else target.settings.home).home
