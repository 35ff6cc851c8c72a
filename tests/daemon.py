"""`edged serve` as a process of its own, with a home of its own, for tests that need the whole daemon.

    with Daemon(tmp_path) as daemon:
        daemon.pull_fake("tiny", step_ms=1)
        httpx.get(daemon.base_url + "/v1/models")
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.models import fake_folder

ROOT = Path(__file__).parents[1]
EDGED = (sys.executable, "-m", "edged.cli.main")
START_LIMIT_S = 30.0
STOP_LIMIT_S = 20.0


def environment(folder: Path, **more: str) -> dict[str, str]:
    """One in which nothing of the user's is read or written, and no daemon of theirs is found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGED_", "XDG_", "HF_"))}
    return {**kept, "HOME": str(folder), "EDGED_HOME": str(folder / "home"), "NO_COLOR": "1", **more}


class Daemon:
    """folder: where home, models.toml, sources of fake models and the log go. settings: by name, as flags."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.models_file = folder / "models.toml"
        self.log_file = folder / "daemon.log"
        self.environment = environment(folder)
        self._settings = {"port": 0, "log_format": "json", **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self.listening: dict[str, Any] = {}

    def __enter__(self) -> Daemon:
        if self._process is None:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        left = self.stop()
        assert not left, f"outlived their daemon: {left}"

    def start(self, **more: str) -> None:
        """Returns once it listens. more: of its environment. Raises AssertionError with its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.models_file.exists():
            self.models_file.write_text("")
        said = {"models_file": self.models_file, **self._settings}
        flags = [f"--{name.replace('_', '-')}={_written(value)}" for name, value in said.items()]
        with self.log_file.open("ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(
                [*EDGED, "serve", *flags], cwd=ROOT, env={**self.environment, **more}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)
        self.listening = self.wait_for_log("listening", after=begin)

    def stop(self) -> list[str]:
        """SIGTERM, and SIGKILL to all that is left. Returns the command lines of children that outlived it."""
        if self._process is None:
            return []
        children = self.children()
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_LIMIT_S)
        self._process.kill()
        self._process.wait()
        self._process = None
        _, left = psutil.wait_procs(children, timeout=3)
        found = [" ".join(child.cmdline()) for child in left]
        for child in left:
            child.kill()
        return found

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def base_url(self) -> str:
        return str(self.listening["url"])

    @property
    def socket(self) -> Path:
        return Path(self.listening["socket"])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def workers(self) -> list[psutil.Process]:
        found = []
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "edged.worker" in child.cmdline():
                    found.append(child)
        return found

    def pull_fake(self, name: str, **knobs: Any) -> None:
        """Installs a model of the fake engine by the command line. knobs: of fake.json."""
        source = fake_folder(self.folder / "sources" / name, **knobs)
        told = self.edged("pull", str(source))
        assert told.returncode == 0, told.stderr

    def edged(self, *arguments: str, input: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        """A command that finds this daemon. more: of its environment."""
        return subprocess.run([*EDGED, *arguments], cwd=ROOT, env={**self.environment, **more}, text=True,
                              capture_output=True, timeout=60, check=False, input=input)

    def json(self, *arguments: str) -> Any:
        """What a command prints with --json. Raises AssertionError when it fails."""
        told = self.edged(*arguments, "--json")
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout)

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        entries = []
        for line in self.log_file.read_bytes()[after:].splitlines():
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
        return entries

    def wait_for_log(self, event: str, *, after: int = 0, limit_s: float = START_LIMIT_S) -> dict[str, Any]:
        """The first entry of that name past byte `after` of the log."""
        for _ in until(limit_s):
            for entry in self.log(after):
                if entry.get("event") == event:
                    return entry
            if self._process is not None and self._process.poll() is not None:
                break
        raise AssertionError(f"no {event} in the log:\n{self.log_file.read_text()[-4000:]}")


def until(limit_s: float, every_s: float = 0.02) -> Iterator[None]:
    """Turns until the limit; leave the loop when what is waited for is there."""
    ends_s = time.monotonic() + limit_s
    while time.monotonic() < ends_s:
        yield
        time.sleep(every_s)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
