"""What the other commands' machinery (help, shell completion) knows of `edged serve`, whose process does without it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from edged.settings import SettingInfo, describe_settings


def serve(**flags: Any) -> int:
    """Serve the installed models over HTTP, on TCP and on a Unix socket."""
    raise AssertionError("edged.cli.main gives `serve` to edged.cli.serve")


def _parameter(info: SettingInfo) -> inspect.Parameter:
    kind: Any = Path if info.type == "a path" else Literal[info.choices] if info.choices else str
    return inspect.Parameter(
        info.name, inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[kind, Parameter(name=info.flag, help=info.description)])


serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_parameter(info) for info in describe_settings()], return_annotation=int)
serve.__annotations__ = {info.name: _parameter(info).annotation for info in describe_settings()}
