from __future__ import annotations

import importlib
import inspect

import pytest

from edged.cli import serve_flags, serve_help
from edged.cli.commands import COMMANDS, app
from edged.cli.exit_codes import MEANINGS, ExitCode
from edged.settings import describe_settings

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("path", [path for _, path, _ in COMMANDS if "serve_help" not in path and "about" not in path])
def test_every_command_explains_itself_with_an_example(path: str) -> None:
    module, _, name = path.partition(":")
    told = inspect.getdoc(getattr(importlib.import_module(module), name))
    assert told is not None
    assert told.splitlines()[0].endswith(".")
    assert "\nedged " in told or "| edged " in told


def test_every_setting_is_a_flag_of_serve_and_known_to_the_shells() -> None:
    flags = {option for action in serve_flags.parser()._actions for option in action.option_strings}
    script = app().generate_completion(shell="bash")
    for info in describe_settings():
        assert info.flag in flags
        assert info.flag in script
    assert set(inspect.signature(serve_help.serve).parameters) == {info.name for info in describe_settings()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_known_to_the_shells(shell: str) -> None:
    script = app().generate_completion(shell=shell)  # type: ignore[arg-type]
    for name, _, _ in COMMANDS:
        assert all(word in script for word in name.split())


def test_every_exit_code_is_explained() -> None:
    assert set(MEANINGS) == set(ExitCode)
