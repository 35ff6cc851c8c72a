"""How a training ends: exit codes, as `edged` has them."""

from __future__ import annotations

from edged.errors import ConfigError, Conflict, EdgedError, Internal, InvalidRequest, NotFound

OK, FAILED, USAGE, NOT_FOUND, REFUSED, NOT_GOOD_ENOUGH, INTERRUPTED = 0, 1, 2, 3, 5, 6, 130


def code_of(error: EdgedError) -> int:
    """As `edged.cli.exit_codes`, which is above this layer; a test holds the two together."""
    match error:
        case NotFound():
            return NOT_FOUND
        case Conflict():
            return REFUSED
        case ConfigError() | InvalidRequest():
            return USAGE
    return FAILED


def of_files(error: OSError) -> Internal:
    where = f": {error.filename}" if error.filename else ""
    return Internal(f"{error.strerror or error}{where}; mend that and run the same command again")

