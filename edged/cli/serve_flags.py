"""The flags of `edged serve`: one for each setting. Loaded only where there are any, which a service has not."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from edged.cli.exit_codes import ExitCode
from edged.settings import SettingInfo, describe_settings

EPILOG = """\
Each setting is also a key of the configuration file (/etc/edged/edged.toml, or the file that EDGED_CONFIG or --config
names) and a variable; flags go over variables, variables over the file. `edged config` shows what is in force.

SIGTERM and ctrl-C stop it: requests in flight may end within --grace-s, a second signal ends them at once.
SIGHUP reads models.toml again; where that has a mistake, the catalog in force stays.

examples:
  edged serve
  edged serve --port 9000 --keep-alive-s -1
  EDGED_API_KEYS=secret edged serve --host 0.0.0.0 --allowed-hosts box.example.org
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.USAGE, f"edged serve: {message}; see `edged serve --help`\n")


def parser() -> argparse.ArgumentParser:
    made = _Parser(
        prog="edged serve", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG,
        description="Serve the installed models over HTTP, on TCP and on a Unix socket.",
    )
    made.add_argument("--config", metavar="FILE", help="configuration file [EDGED_CONFIG; /etc/edged/edged.toml]")
    made.add_argument(
        "--session", action="store_true",
        help="serve on the Unix socket only, and stop when standard input ends (what `edged run` starts)")
    made.add_argument(
        "--temporary", action="store_true",
        help="load no model that was in memory before, and let none come back later: for a daemon that a program "
             "starts for a while (--session is so too)")
    for info in describe_settings():
        _add(made, info)
    return made


def _add(to: argparse.ArgumentParser, info: SettingInfo) -> None:
    told = f"{info.description} [{info.environment[0]}; {info.default or 'none'}]".replace("%", "%%")
    if info.type == "true or false":
        to.add_argument(info.flag, nargs="?", const="true", choices=("true", "false"), help=told)
    else:
        metavar = info.type.removeprefix("a ").removeprefix("one of ").replace(", ", "|").replace(" ", "-").upper()
        to.add_argument(info.flag, metavar=metavar.lower() if info.choices else metavar, help=told)


def read_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """By name: `config`, `session`, `temporary`, and each setting; None where not given. A mistake ends the process."""
    return vars(parser().parse_args(arguments))
