"""`edged version` and `completion`."""

from __future__ import annotations

import platform
from typing import Annotated, Literal

from cyclopts import Parameter

from edged.cli.exit_codes import ExitCode
from edged.cli.options import Json
from edged.cli.output import answer, answer_json
from edged.hardware.installed import installed
from edged.version import VERSION


def version(*, json: Json = False) -> int:
    """Print the version of edged, of Python and of the engines."""
    versions = {"edged": VERSION, "python": platform.python_version(), **installed().versions}
    if json:
        answer_json(versions)
    else:
        answer("\n".join(f"{name} {each}" for name, each in versions.items()))
    return ExitCode.OK


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="The shell that it is for.")], /,
) -> int:
    """Print the completion script of a shell. `edged --install-completion` puts it in place.

    As in:

    ```
    source <(edged completion bash)
    edged completion fish > ~/.config/fish/completions/edged.fish
    ```
    """
    from edged.cli.commands import app

    answer(app().generate_completion(shell=shell))
    return ExitCode.OK
