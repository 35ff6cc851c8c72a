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

#: name, where its function is, group. Its docstring is its help. Of a family of commands the name has two words.
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
    ("train", "edged.cli.train:train", MODELS),
    ("list", "edged.cli.installed:list_models", MODELS),
    ("show", "edged.cli.show:show", MODELS),
    ("quality", "edged.cli.quality:quality", MODELS),
    ("activate", "edged.cli.versions:activate", MODELS),
    ("rollback", "edged.cli.versions:rollback", MODELS),
    ("rollout", "edged.cli.versions:rollout", MODELS),
    ("export", "edged.cli.export:export", MODELS),
    ("rm", "edged.cli.installed:rm", MODELS),
    ("verify", "edged.cli.upkeep:verify", MODELS),
    ("gc", "edged.cli.upkeep:gc", MODELS),
    ("purge", "edged.cli.upkeep:purge", MODELS),
    ("captured list", "edged.cli.captured:list_captured", MODELS),
    ("captured export", "edged.cli.captured:export", MODELS),
    ("captured purge", "edged.cli.captured:purge", MODELS),
    ("hardware", "edged.cli.hardware:hardware", MACHINE),
    ("bench", "edged.cli.bench:bench", MACHINE),
    ("tune", "edged.cli.tune:tune", MACHINE),
    ("engine list", "edged.cli.engine:list_engines", MACHINE),
    ("engine install", "edged.cli.engine:install_engine", MACHINE),
    ("engine remove", "edged.cli.engine:remove_engine", MACHINE),
    ("doctor", "edged.cli.doctor:doctor", MACHINE),
    ("config", "edged.cli.config:config", MACHINE),
    ("version", "edged.cli.about:version", MACHINE),
    ("completion", "edged.cli.about:completion", MACHINE),
)


FAMILIES = {
    "captured": "Answers that the operator has kept for training (`capture` in the settings or in models.toml).",
    "engine": "Engines of other builds, each in an environment of its own, whose interpreter runs its workers.",
}


def app() -> App:
    made = App(
        name="edged", version=VERSION, help_epilogue=_EXIT_CODES,
        help="Serve small language models on this machine behind an OpenAI-compatible API.",
        error_formatter=lambda error: f"edged: {error}",
    )
    families: dict[str, App] = {}
    for number, (name, path, group) in enumerate(COMMANDS):
        family, _, last = name.rpartition(" ")
        if family and family not in families:
            families[family] = App(name=family, help=FAMILIES[family], group=group, sort_key=number, version_flags=[])
            made.command(families[family])
        families.get(family, made).command(
            path, name=last, group=None if family else group, sort_key=number,
            help_epilogue="Exit codes: see `edged --help`.")
    made.register_install_completion_command("--install-completion", group=MACHINE, sort_key=len(COMMANDS))
    return made


def run(arguments: Sequence[str]) -> int:
    """The exit code. An error is one line on standard error."""
    made = app()
    if arguments in ([], ["--help"], ["-h"]):
        # The list of commands shows the first lines of their docstrings.
        for name, _, _ in COMMANDS:
            if " " not in name:
                made[name]
    elif arguments[0] in FAMILIES:
        for name, _, _ in COMMANDS:
            if name.startswith(f"{arguments[0]} "):
                made[arguments[0]][name.partition(" ")[2]]
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
