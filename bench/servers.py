"""Starts and stops what is measured: edged, llama.cpp's server in an environment of its own, and a bare Litestar.

Everything lives in the build folder: the peer's environment, edged's home for the bench, and one log for each server.
Every child is ended by the one who started it, also when a measurement fails.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.client import BenchError

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
#: Pinned: the peer must not change between two logs without a line that says so.
PEER_PACKAGE = "xllamacpp==2026.10.11549"


@dataclass
class Running:
    """A server that answers. process: its root, None where someone else started it and it cannot be seen."""

    url: str
    model: str
    process: psutil.Process | None
    facts: dict[str, str] = field(default_factory=dict)
    child: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        if self.child is not None:
            end(self.child)
            self.child = None


Launch = Callable[[], "Running"]


def end(child: subprocess.Popen[bytes], grace_s: float = 15) -> None:
    """Ends a child and what it left behind; its standard input is closed first, then it gets SIGTERM, then SIGKILL."""
    try:
        family = psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if child.stdin:
        child.stdin.close()
    child.terminate()
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for process in family:
        if process.is_running():
            process.kill()
    if child.stdout:
        child.stdout.close()


def spawn(
    name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None, *, pipe: bool = False
) -> subprocess.Popen[bytes]:
    """Starts a child with its output in build/bench-logs/NAME.log; pipe: its standard input and output are ours."""
    logs = BUILD / "bench-logs"
    logs.mkdir(parents=True, exist_ok=True)
    # An installed program has its bytecode beside it, whatever this shell says of writing it.
    env = {name: value for name, value in (env or os.environ).items() if name != "PYTHONDONTWRITEBYTECODE"}
    with (logs / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, env=env, stderr=log,
            stdin=subprocess.PIPE if pipe else subprocess.DEVNULL, stdout=subprocess.PIPE if pipe else log,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(child: subprocess.Popen[bytes], name: str, port: int, path: str, timeout_s: float = 60) -> None:
    """Asks every 5 ms until the answer is 200. A child that ends or is not ready in time is an error."""
    deadline = time.perf_counter() + timeout_s
    while time.perf_counter() < deadline:
        if child.poll() is not None:
            raise BenchError(f"{name} ended with code {child.returncode} in its start; see build/bench-logs/{name}.log")
        if _status(port, path) == 200:
            return
        time.sleep(0.005)
    end(child)
    raise BenchError(f"{name} was not ready within {timeout_s:g} s; see build/bench-logs/{name}.log")


def _status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def peer_python(environment: str = "bench-venv", package: str = PEER_PACKAGE, *, extra: str = "") -> Path:
    """The interpreter of a peer's environment, which is made if it is missing or holds another version. extra: of the
    package, to be installed with it."""
    folder = BUILD / environment
    python = folder / "bin" / "python"
    name, version = package.split("==")
    wanted = f"import importlib.metadata as m, sys; sys.exit(m.version({name!r}) != {version!r})"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if subprocess.run([str(python), "-c", wanted], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        asked = f"{name}[{extra}]=={version}" if extra else package
        installed = subprocess.run([str(python), "-m", "pip", "install", "--quiet", asked], check=False)
        if installed.returncode != 0:
            raise BenchError(f"pip could not install {package}; leave that peer out, or name one that runs already")
    return python


def start_peer(
    name: str, gguf: Path, *, rows: int, context: int, threads: int, options: str, template: str | None = None,
) -> Running:
    """options: a name of OPTIONS in peers/llama_server.py. template: a file beside that."""
    config = {"model": str(gguf), "rows": rows, "context": context, "threads": threads, "options": options,
              "template": template}
    script = Path(__file__).parent / "peers" / "llama_server.py"
    child = spawn(name, [peer_python(), script, json.dumps(config)], pipe=True)
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], 120)
    line = child.stdout.readline() if ready else b""
    if not line:
        end(child)
        raise BenchError(f"{name} did not start; see build/bench-logs/{name}.log")
    said = json.loads(line)
    return Running(said["url"], "default", psutil.Process(child.pid), said["facts"], child)


def start_bare() -> Running:
    port = free_port()
    child = spawn("bare-litestar", [sys.executable, "-m", "bench.peers.bare_litestar", str(port)])
    wait_ready(child, "bare-litestar", port, "/health/ready")
    return Running(f"http://127.0.0.1:{port}", "", psutil.Process(child.pid), child=child)


def attach(url: str, model: str) -> Running:
    """A server that someone else runs; its process is found by its port where the system lets us see it."""
    port = int(url.rstrip("/").rsplit(":", 1)[-1])
    listeners = [
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid
        and connection.laddr and connection.laddr.port == port
    ]
    return Running(url.rstrip("/"), model, psutil.Process(listeners[0]) if listeners else None, {"url": "given"})


class Edged:
    """edged of this environment over a home of the bench's own, so that no user's store or settings take part.

    rows, context and threads are what the peer gets, written with `more` of the entry's keys into a models.toml over
    the shipped catalog. version: of the model, instead of the active one. build: facts of the engine; by default those
    of llama-cpp-python. label: tells apart those that run at once over one home. settings: by name.
    """

    def __init__(
        self, model: str, *, rows: int, context: int, threads: int, home: str = "bench-home", version: str = "",
        build: dict[str, str] | None = None, label: str = "", more: str = "", settings: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.served = f"{model}@{version}" if version else model
        self._log = f"edged-{label}" if label else "edged"
        self.home = BUILD / home
        self.home.mkdir(parents=True, exist_ok=True)
        # what the console script runs, without asking where it was installed
        self._command = [sys.executable, "-c", "import sys; from edged.cli.main import main; sys.exit(main())"]
        name = f"{home}-{label}" if label else home
        models, config = BUILD / f"{name}-models.toml", BUILD / "bench-edged.toml"
        models.write_text(f"[models.{model}]\nrows = {rows}\ncontext = {context}\nthreads = {threads}\n{more}")
        config.write_text("# every setting at its default\n")
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("EDGED_")}
        self._env |= {"EDGED_HOME": str(self.home), "EDGED_MODELS": str(models), "EDGED_CONFIG": str(config)}
        # Commands over this home are to work on its store; a daemon's socket would send them to whichever runs.
        self._env |= {"EDGED_SOCKET": "off", **{f"EDGED_{key.upper()}": said for key, said in (settings or {}).items()}}
        # Asked before anything is timed: it takes a process that loads llama.cpp.
        self._build = edged_build() if build is None else build

    def take(self, folder: Path) -> None:
        """Put a folder into the bench's store, under its own name."""
        if self.run("pull", str(folder)).returncode != 0:
            raise BenchError(f"`edged pull` of the folder {folder.name} failed; its message is above")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """A command of edged over this home; what it says to people goes to ours."""
        command = [*self._command, *arguments]
        return subprocess.run(command, cwd=ROOT, env=self._env, stdout=subprocess.PIPE, check=False)

    def gguf(self) -> Path:
        """The model's GGUF in the bench's store, pulled into it if it is missing."""
        shown = self.run("show", self.model, "--json")
        if shown.returncode != 0:
            if self.run("pull", self.model).returncode != 0:
                raise BenchError(f"`edged pull {self.model}` failed; its message is above")
            shown = self.run("show", self.model, "--json")
        said = json.loads(shown.stdout)
        active = next(one for one in said["versions"] if one["version"] == said["active"])
        sha256 = next(file["sha256"] for file in active["files"] if file["path"] == active["file"])
        return self.home / "blobs" / f"sha256-{sha256}"

    def start(self) -> Running:
        port = free_port()
        child = spawn(self._log, [*self._command, "serve"], {**self._env, "EDGED_PORT": str(port)})
        wait_ready(child, self._log, port, "/health/ready")
        return Running(f"http://127.0.0.1:{port}", self.served, psutil.Process(child.pid), self._build, child)


def edged_build() -> dict[str, str]:
    """What llama-cpp-python of this environment says of its build, asked in a process of its own."""
    script = (
        "import llama_cpp; print(llama_cpp.__version__); "
        "print(' '.join(llama_cpp.llama_print_system_info().decode().split()))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    if asked.returncode != 0:
        return {"version": "llama-cpp-python is not installed"}
    version, flags = asked.stdout.strip().split("\n")[-2:]
    return {"version": f"llama-cpp-python {version}", "cpu flags": flags}


def commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"
