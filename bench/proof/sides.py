"""Who is asked: edged in several forms and its peers, each a server of its own, started when a scene needs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import version as version_of
from pathlib import Path

from bench import pipes, servers
from bench.client import Answer, Burst
from bench.engines_ort import FOUNDRY_PACKAGE, variant
from bench.proof.forms import COMMON, ONNX, SAME, Form, folder_of
from bench.rounds import Side
from bench.servers import BUILD, Edged, Running, edged_build
from bench.workloads import Workload

MODEL = "smollm2-135m"
HOME = "proof-home"
#: Of every server: rows for the most streams that are asked for, context for the longest prompt with its answer.
ROWS = 8
CONTEXT = 4096

#: Ended after each measurement: it holds gigabytes, and what its threads do while nobody asks is not ours to trust.
RESTLESS = ("foundry",)
#: For llama-server: the model's own template knows no tools, and without that its calls are not held to anything. What
#: it makes of chats without tools is the same.
TEMPLATE = "chatml_with_tools.jinja"

#: By name, as the report calls them.
TITLES = {
    "edged": "edged, its own choice",
    "edged-same": "edged, Q4_0",
    "edged-plain": "edged, Q4_0, no speculation",
    "edged-fake": "edged, fake engine",
    "edged-many": "edged, many models",
    "llama-default": "llama-server Q4_0",
    "llama-tuned": "llama-server Q4_0, tuned",
    "llama-reuse": "llama-server Q4_0, prefix reuse",
    "llama-ngram": "llama-server Q4_0, n-gram drafts",
    "llama-1-thread": "llama-server Q4_0, one thread",
    "llama-k_m": "llama-server Q4_K_M, tuned",
    "foundry": "Foundry Local",
    "machine": "the machine",
}


@cache
def _build() -> dict[str, str]:
    """Of both engines; asked once, since it takes a process that loads llama.cpp."""
    said = edged_build()
    return said | {"version": f"{said['version']}, onnxruntime {version_of('onnxruntime')}"}


def edged_of(threads: int, *, label: str = "", version: str = "", more: str = "") -> Edged:
    """The one whose store holds the forms; commands run on it."""
    return Edged(MODEL, rows=ROWS, context=CONTEXT, threads=threads, home=HOME, label=label, version=version,
                 more=more, build=_build())


class Sides:
    """forms: of the model, in the store of `edged_of`. Sides are made once; only those that a scene asks for run."""

    def __init__(self, forms: Sequence[Form], threads: int) -> None:
        self._forms = {form.recipe: form for form in forms}
        self._threads = threads
        self._store = edged_of(threads)
        self._made: dict[str, Side] = {}

    def get(self, name: str) -> Side:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def only(self, names: Sequence[str]) -> None:
        """Ends all others."""
        for name, side in self._made.items():
            if name not in names:
                side.down()

    def drop(self, name: str) -> None:
        """Ends it, whatever state it is in; it is made anew when it is asked for again."""
        side = self._made.pop(name, None)
        if side is not None:
            side.down()

    def _make(self, name: str) -> Side:
        title, same = TITLES[name], self._forms[SAME].version
        match name:
            case "edged":
                return Side(title, edged_of(self._threads, label="own").start)
            case "edged-same":
                return Side(title, edged_of(self._threads, label="same", version=same).start)
            case "edged-plain":
                return Side(title, edged_of(
                    self._threads, label="plain", version=same, more="speculation = false\n").start)
            case "edged-fake":
                return Side(title, lambda: fake(self._threads).start())
            case "foundry":
                return Side(title, self._foundry, pipes.ask)
            case "machine" | "edged-many":
                return Side(title, lambda: Running("", "", None), _nothing)
            case "llama-k_m":
                return Side(title, self._llama("k_m", COMMON, "tuned"))
            case "llama-1-thread":
                return Side(title, self._llama("1-thread", SAME, "tuned", threads=1))
        return Side(title, self._llama(name.removeprefix("llama-"), SAME, name.removeprefix("llama-")))

    def _llama(self, label: str, recipe: str, options: str, threads: int | None = None) -> Callable[[], Running]:
        form = self._forms[recipe]
        return partial(
            servers.start_peer, f"llama-server-{label}", folder_of(self._store, form.version) / form.file, rows=ROWS,
            context=CONTEXT, threads=threads or self._threads, options=options, template=TEMPLATE)

    def _foundry(self) -> Running:
        """With edged's threads, which is faster than what it takes by itself."""
        folder = folder_of(self._store, self._forms[ONNX].version)
        config = {"path": str(variant(folder, "proof", self._threads))}
        python = servers.peer_python("foundry-venv", FOUNDRY_PACKAGE)
        return pipes.start("foundry-local", [python, servers.ROOT / "bench" / "peers" / "foundry.py"], config)


def fake(threads: int) -> Edged:
    """A model of the fake engine with rows for 64 streams, in a store of its own; its answers are as long as asked."""
    folder = BUILD / "proof-fake"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fake.json").write_text(json.dumps({"end_chance": 0, "context": 4096}))
    edged = Edged("proof-fake", rows=64, context=2048, threads=threads, home="proof-fake-home", label="fake", build={})
    edged.take(folder)
    return edged


def _nothing(running: Running, workload: Workload, first: int) -> Burst:
    return Burst([Answer(sent_s=0, first_s=0, last_s=0, events=0, prompt_tokens=0, cached_tokens=0,
                         completion_tokens=0, text="")], 0, 0)


def forget_kv(home: Path) -> None:
    """What the daemons of earlier runs left of the same prompts, which would make them warm."""
    for left in (home / "kv").glob("*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


