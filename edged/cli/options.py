"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Home = Annotated[Path | None, Parameter(name="--home", help="Work on the store in this folder, whatever daemon runs.")]
Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON, for scripts.")]
