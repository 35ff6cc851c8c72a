"""All commands but `serve`: what there is, without loading any of it, and how each ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group

from edged.cli.exit_codes import MEANINGS, ExitCode, code_of
from edged.cli.output import say
from edged.errors import EdgedError
from edged.version import VERSION

_EXIT_CODES = "Exit codes:\n\n" + "\n".join(f"- {int(code)}: {meaning}" for code, meaning in MEANINGS.items())

SERVING = Group("Serving", sort_key=1)
MODELS = Group("Models", sort_key=2)
MACHINE = Group("This machine", sort_key=3)

#: name, where its function is, group. Its docstring is its help.
COMMANDS: tuple[tuple[str, str, Group], ...] = (
    ("serve", "edged.cli.serve_help:serve", SERVING),
    ("run", "edged.cli.run:run", SERVING),
    ("ps", "edged.cli.loaded:ps", SERVING),
    ("load", "edged.cli.loaded:load", SERVING),
    ("unload", "edged.cli.loaded:unload", SERVING),
    ("jobs", "edged.cli.jobs:jobs", SERVING),
    ("models", "edged.cli.catalog:models", MODELS),
    ("pull", "edged.cli.pull:pull", MODELS),
    ("convert", "edged.cli.convert:convert", MODELS),
    ("list", "edged.cli.installed:list_models", MODELS),
    ("show", "edged.cli.installed:show", MODELS),
    ("rm", "edged.cli.installed:rm", MODELS),
    ("verify", "edged.cli.upkeep:verify", MODELS),
    ("gc", "edged.cli.upkeep:gc", MODELS),
    ("doctor", "edged.cli.doctor:doctor", MACHINE),
    ("config", "edged.cli.config:config", MACHINE),
    ("version", "edged.cli.about:version", MACHINE),
    ("completion", "edged.cli.about:completion", MACHINE),
)


def app() -> App:
    made = App(
        name="edged", version=VERSION, help_epilogue=_EXIT_CODES,
        help="Serve small language models on this machine behind an OpenAI-compatible API.",
        error_formatter=lambda error: f"edged: {error}",
    )
    for number, (name, path, group) in enumerate(COMMANDS):
        made.command(path, name=name, group=group, sort_key=number, help_epilogue="Exit codes: see `edged --help`.")
    made.register_install_completion_command("--install-completion", group=MACHINE, sort_key=len(COMMANDS))
    return made


def run(arguments: Sequence[str]) -> int:
    """The exit code. An error is one line on standard error."""
    made = app()
    if arguments in ([], ["--help"], ["-h"]):
        # The list of commands shows the first lines of their docstrings.
        for name, _, _ in COMMANDS:
            made[name]
    try:
        returned = made(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return ExitCode.USAGE
    except EdgedError as error:
        say(f"edged: {error}")
        return code_of(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough of it; what is still in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except OSError as error:
        say(f"edged: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return ExitCode.FAILED
    return int(returned or 0)
