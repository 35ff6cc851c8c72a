"""The command `edged`."""

from __future__ import annotations

import sys


def main() -> None:
    """Exits with one of `edged.cli.exit_codes`. The serving process loads nothing of the other commands."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:
        from edged.logs import forgo_rich

        forgo_rich()
        from edged.cli.serve import main as serve

        sys.exit(serve(arguments[1:]))
    from edged.cli.commands import run

    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
