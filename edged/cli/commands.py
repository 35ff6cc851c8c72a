"""All commands but `serve`: what there is, without loading any of it, and how each ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group

from edged.cli.exit_codes import MEANINGS, ExitCode, code_of
from edged.cli.output import say
from edged.errors import EdgedError
from edged.version import VERSION

_EXIT_CODES = "Exit codes: " + "; ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items()) + "."

SERVING = Group("Serving", sort_key=1)
MODELS = Group("Models", sort_key=2)
MACHINE = Group("This machine", sort_key=3)

#: name, where its function is, group. Its docstring is its help.
COMMANDS: tuple[tuple[str, str, Group], ...] = (
    ("pull", "edged.cli.pull:pull", MODELS),
)


def app() -> App:
    made = App(
        name="edged", version=VERSION, help_epilogue=_EXIT_CODES,
        help="Serve small language models on this machine behind an OpenAI-compatible API.",
        error_formatter=lambda error: f"edged: {error}",
    )
    for name, path, group in COMMANDS:
        made.command(path, name=name, group=group)
    return made


def run(arguments: Sequence[str]) -> int:
    """The exit code. An error is one line on standard error."""
    try:
        returned = app()(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return ExitCode.USAGE
    except EdgedError as error:
        say(f"edged: {error}")
        return code_of(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough of it.
        sys.stderr.close()
        return ExitCode.OK
    return int(returned or 0)
