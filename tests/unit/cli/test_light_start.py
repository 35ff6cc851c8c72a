from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edged.logs import FORGONE

pytestmark = pytest.mark.unit

#: What a start had loaded at some time, and what other commands need.
NOT_NEEDED = {*FORGONE, "argparse", "attrs", "cyclopts", "httpx", "httpx2", "huggingface_hub", "jinja2",
              "platformdirs", "prompt_toolkit", "psutil", "pydantic", "tree_sitter"}


def test_a_daemon_that_is_ready_has_loaded_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    code = (
        "import sys; from edged.logs import forgo; forgo()\n"
        "from pathlib import Path\n"
        "from edged.cli import serve, serving\n"
        "from edged.cli.listen import Listeners\n"
        "settings, _ = serve.load_settings()\n"
        "store, catalog = serving.Store(settings.home), serving.CatalogFile(None, Path('empty.toml'))\n"
        "serving.Daemon(settings, store, catalog, Listeners(), config=None)\n"
        f"print(sorted(name for name in {sorted(NOT_NEEDED)!r} if sys.modules.get(name)))"
    )
    (tmp_path / "empty.toml").write_text("")
    environment = {"PATH": "/usr/bin:/bin", "EDGED_HOME": str(tmp_path), "EDGED_MODELS": "off",
                   "PYTHONPATH": str(Path(__file__).parents[3])}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert ran.stdout.strip() == "[]"
