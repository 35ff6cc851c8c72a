"""What `edged train` starts runs none of the code that lies beside a recipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edged.cli.train import run_child

pytestmark = pytest.mark.unit


def test_a_python_file_in_the_folder_where_it_is_started_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "torch_of_another.py").write_text("open('it-ran', 'w')")
    monkeypatch.chdir(tmp_path)
    # A grandchild too: stages start processes of their own.
    script = ("import subprocess, sys; "
              "sys.exit(subprocess.run([sys.executable, '-c', 'import torch_of_another']).returncode)")
    assert run_child([sys.executable, "-c", script], os.environ) == 1
    assert not (tmp_path / "it-ran").exists()
