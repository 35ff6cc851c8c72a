"""The command `edged`."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Exits with one of `edged.cli.exit_codes`."""
    try:
        sys.exit(_run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


def _run(arguments: list[str]) -> int:
    """The serving process loads nothing of the other commands."""
    if arguments[:1] == ["serve"]:
        # Imports make garbage of nothing and look for it all the time; `serving` turns it on again once it serves.
        gc.disable()
        from edged.logs import forgo

        forgo()
        from edged.cli.serve import main as serve

        return serve(arguments[1:])
    from edged.cli.commands import run

    return run(arguments)


if __name__ == "__main__":
    main()
