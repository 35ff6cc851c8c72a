"""`edged serve`: settings → log → store → sockets → catalog → daemon, each of which may end the start with one line.

This module and what it imports make up the serving process, which is to be small and quick to start: no cyclopts, no
rich (`edged.cli.main` sees to that), and the web framework only once everything that often goes wrong went right
(R12).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edged import logs
from edged.cli.exit_codes import ExitCode
from edged.errors import ConfigError, EdgedError
from edged.settings import SYSTEM_CONFIG, Origin, Settings, load_settings, require_keys


def main(arguments: Sequence[str]) -> int:
    """The exit code; 0 when it was asked to stop."""
    flags: dict[str, Any] = {}
    if arguments:
        from edged.cli.serve_flags import read_flags

        flags = read_flags(arguments)
    session = flags.pop("session", False)
    temporary = flags.pop("temporary", False) or session
    try:
        return _serve(flags, session=session, temporary=temporary)
    except EdgedError as error:
        print(f"edged serve: {error}", file=sys.stderr)
        return ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.FAILED


def _serve(flags: dict[str, Any], *, session: bool, temporary: bool) -> int:
    settings, origins = load_settings(flags)
    require_keys(settings, origins)
    if settings.capture_redact:
        from edged.daemon.redaction import require_program

        require_program(settings, origins)
    logs.configure(settings.log_format, settings.log_level, log_prompts=settings.log_prompts)

    from edged.store import Store
    from edged.store.catalog import load_catalog

    store = Store(settings.home)
    with _listeners(settings, origins, session=session) as listeners:
        catalog = load_catalog(settings.models_file)

        from edged.cli import serving

        daemon = serving.Daemon(settings, store, catalog, listeners, config=_config_used(flags),
                                temporary=temporary)
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
