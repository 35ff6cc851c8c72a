"""`edged serve`: settings → log → store → sockets → catalog → daemon, each of which may end the start with one line.

This module and what it imports make up the serving process, which is to be small and quick to start: no cyclopts, no
rich (`edged.cli.main` sees to that), and the web framework only once everything that often goes wrong went right
(R12).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edged import logs
from edged.cli.exit_codes import ExitCode
from edged.errors import ConfigError, EdgedError
from edged.settings import (
    SYSTEM_CONFIG,
    Origin,
    SettingInfo,
    Settings,
    describe_settings,
    load_settings,
    require_keys,
)

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


def main(arguments: Sequence[str]) -> int:
    """The exit code; 0 when it was asked to stop."""
    flags = vars(parser().parse_args(arguments))
    session = flags.pop("session")
    try:
        return _serve(flags, session=session)
    except EdgedError as error:
        print(f"edged serve: {error}", file=sys.stderr)
        return ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.FAILED


def _serve(flags: dict[str, Any], *, session: bool) -> int:
    settings, origins = load_settings(flags)
    require_keys(settings, origins)
    logs.configure(settings.log_format, settings.log_level, log_prompts=settings.log_prompts)

    from edged.store import Store
    from edged.store.catalog import load_catalog

    store = Store(settings.home)
    with _listeners(settings, origins, session=session) as listeners:
        catalog = load_catalog(settings.models_file)

        from edged.cli import serving

        daemon = serving.Daemon(settings, store, catalog, listeners, config=_config_used(flags))
        return serving.run(daemon, until_input_ends=session)


@contextlib.contextmanager
def _listeners(settings: Settings, origins: dict[str, Origin], *, session: bool) -> Iterator[Any]:
    from edged.cli.listen import Listeners, listen_tcp, listen_unix

    listeners = Listeners()
    try:
        if not session:
            listeners.tcp = listen_tcp(settings.host, settings.port)
        if settings.socket is not None:
            try:
                listeners.unix = listen_unix(settings.socket)
            except ConfigError as error:
                # A home that cannot be written still serves (R10), as long as nobody asked for the socket.
                if origins["socket"].kind != "default" or _writable(settings.socket.parent) or session:
                    raise
                listeners.lacking = str(error)
        yield listeners
    finally:
        listeners.close()


def _writable(folder: Path) -> bool:
    try:
        return os.access(folder, os.W_OK) and not os.statvfs(folder).f_flag & os.ST_RDONLY
    except OSError as error:
        return error.errno not in (errno.EROFS, errno.EACCES)


def _config_used(flags: dict[str, Any]) -> Path | None:
    named = flags.get("config") or os.environ.get("EDGED_CONFIG")
    if named:
        return Path(named).expanduser()
    return SYSTEM_CONFIG if SYSTEM_CONFIG.exists() else None
