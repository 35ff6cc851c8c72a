"""edged and its peers, each started with the same GGUF, context and threads, and ended again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path

from bench import pipes, servers
from bench.client import BenchError
from bench.conformance.server import Server
from bench.engines_ort import FOUNDRY_PACKAGE

MODEL = "smollm2-135m"
CONTEXT = 1024
ROWS = 4
THREADS = 2
LLAMA_CPP_PYTHON = "llama-cpp-python==0.3.36"
#: A folder that Foundry Local can load: the same model, made by `edged convert … --recipe cpu-int4` and exported.
ONNX_FOLDER = "EDGED_BENCH_ONNX"


def gguf() -> Path:
    return servers.Edged(MODEL, rows=ROWS, context=CONTEXT, threads=THREADS, build={}).gguf()


@contextmanager
def edged(rows: int = ROWS, onnx: Path | None = None) -> Iterator[tuple[Server, str]]:
    """The server, and which version it is. onnx: a folder to be served, instead of the GGUF."""
    model, home = (onnx.name, "bench-onnx-home") if onnx else (MODEL, "bench-home")
    made = servers.Edged(model, rows=rows, context=CONTEXT, threads=THREADS, home=home, build={})
    if onnx:
        made.take(onnx)
    else:
        made.gguf()
    runtime = "onnxruntime" if onnx else "llama-cpp-python"
    running = made.start()
    try:
        yield Server(running.url, model, CONTEXT), f"{servers.commit()}, {runtime} {version(runtime)}"
    finally:
        running.stop()


@contextmanager
def llama_server(rows: int = ROWS) -> Iterator[tuple[Server, str]]:
    running = servers.start_peer(
        "llama-server", gguf(), rows=rows, context=CONTEXT, threads=THREADS, options="default")
    try:
        yield Server(running.url, running.model, CONTEXT), running.facts["version"]
    finally:
        running.stop()


@contextmanager
def llama_cpp_python() -> Iterator[tuple[Server, str]]:
    """Its server computes one request at a time, and log-probabilities only with all logits kept."""
    python = servers.peer_python("llama-cpp-python-venv", LLAMA_CPP_PYTHON, extra="server")
    port = servers.free_port()
    child = servers.spawn("llama-cpp-python", [
        python, "-m", "llama_cpp.server", "--model", gguf(), "--n_ctx", str(CONTEXT), "--n_threads", str(THREADS),
        "--port", str(port), "--model_alias", MODEL, "--logits_all", "true"])
    try:
        servers.wait_ready(child, "llama-cpp-python", port, "/v1/models")
        yield Server(f"http://127.0.0.1:{port}", MODEL, CONTEXT), LLAMA_CPP_PYTHON.replace("==", " ")
    finally:
        servers.end(child)


@contextmanager
def foundry() -> Iterator[tuple[Server, str]]:
    """Foundry Local's web service. It loads ONNX folders only, so it serves another form of the same model."""
    folder = os.environ.get(ONNX_FOLDER)
    if folder is None:
        raise BenchError(f"foundry-local needs an ONNX folder of the model: set {ONNX_FOLDER} to one")
    python = servers.peer_python("foundry-venv", FOUNDRY_PACKAGE)
    script = Path(servers.__file__).parent / "peers" / "foundry_server.py"
    config = {"path": str(Path(folder).resolve()), "port": servers.free_port()}
    # What the model was trained for: the service knows no setting for it.
    context = json.loads((Path(folder) / "genai_config.json").read_text())["model"]["context_length"]
    child = servers.spawn("foundry-local", [python, script, json.dumps(config)], pipe=True)
    try:
        said = pipes.read(child, "foundry-local", 120)
        yield Server(said["url"], said["model"], context), said["facts"]["version"]
    finally:
        servers.end(child)


PEERS: dict[str, Callable[[], AbstractContextManager[tuple[Server, str]]]] = {
    "edged": edged, "llama-server": llama_server, "llama-cpp-python": llama_cpp_python,
    "foundry-local": foundry}
