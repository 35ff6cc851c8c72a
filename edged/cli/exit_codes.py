"""The exit codes of every command, and which error ends with which."""

from __future__ import annotations

from enum import IntEnum

from edged.errors import ConfigError, Conflict, EdgedError, InvalidRequest, NotFound


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NO_DAEMON = 4
    REFUSED = 5
    NOT_GOOD_ENOUGH = 6
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "it failed; standard error says why",
    ExitCode.USAGE: "the command line, the settings or the catalog are wrong, or the daemon refused what was asked",
    ExitCode.NOT_FOUND: "there is no such model",
    ExitCode.NO_DAEMON: "no daemon can be reached",
    ExitCode.REFUSED: "the state does not allow it: in use, or another store than the running daemon's",
    ExitCode.NOT_GOOD_ENOUGH: "a conversion lost more than its recipe allows: it is kept, not served",
    ExitCode.INTERRUPTED: "interrupted by ctrl-C",
}


class NoDaemon(EdgedError):
    """No daemon answers where one was looked for."""

    status = 503
    default_code = "no_daemon"


def code_of(error: EdgedError) -> ExitCode:
    """Errors of a daemon come as the class that has their code, so that it does not matter who found them."""
    match error:
        case NoDaemon():
            return ExitCode.NO_DAEMON
        case NotFound():
            return ExitCode.NOT_FOUND
        case Conflict():
            return ExitCode.REFUSED
        case ConfigError() | InvalidRequest():
            return ExitCode.USAGE
    return ExitCode.FAILED
