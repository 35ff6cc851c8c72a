"""The direction of imports that edged/DESIGN.md draws, and what the daemon must never load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
#: A module may import from its own layer and those before it. First match wins.
LAYERS = [
    ("edged.errors", 0), ("edged.types", 0), ("edged.version", 0),
    ("edged.task", 1), ("edged.ipc", 1), ("edged.settings", 1), ("edged.setting_kinds", 1), ("edged.toml_file", 1),
    ("edged.hardware", 1), ("edged.logs", 1),
    ("edged.store", 2), ("edged.engines", 2),
    ("edged.worker", 3), ("edged.daemon", 3),
    ("edged.api", 4),
    ("edged.cli", 5),
    ("converters", 3), ("training", 3),
]
NATIVE = {"llama_cpp", "onnxruntime", "onnxruntime_genai", "tokenizers", "llguidance", "torch", "transformers"}
#: Each engine file, and the only native library it may import; llguidance is the worker's, in one file.
ENGINE_LIBRARIES = {
    "edged.engines.llama_library": {"llama_cpp"},
    "edged.engines.hf_passages": {"tokenizers"},
    "edged.engines.ort_session": {"onnxruntime"}, "edged.engines.ort_adapters": {"onnxruntime"},
    "edged.engines.genai": {"onnxruntime_genai"},
    "edged.engines.hf_vocab": {"tokenizers"}, "edged.worker.constraint": {"llguidance"},
}
#: Neighbours of one layer that must not know each other: only frames, or the layer above, connect them.
PEERS = {("edged.daemon", "edged.worker"), ("edged.worker", "edged.daemon"), ("edged.store", "edged.engines"),
         ("edged.engines", "edged.store"), ("edged.worker", "edged.store"), ("edged.daemon", "edged.engines")}
#: KV that outlives a worker is files of the store, which only workers read and write: these two modules meet.
ACQUAINTED = {("edged.worker.kv_disk", "edged.store.kv"), ("edged.worker.kv_disk", "edged.store.kv_format")}


def modules() -> Iterator[tuple[str, set[str]]]:
    for package in ("edged", "converters", "training"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, imports(file)


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def layer(name: str) -> int | None:
    for prefix, number in LAYERS:
        if name == prefix or name.startswith(prefix + "."):
            return number
    return None


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_every_module_belongs_to_a_layer() -> None:
    homeless = [name for name, _ in modules() if layer(name) is None and "." in name]
    assert homeless == []


def test_imports_point_downwards() -> None:
    upward = [
        f"{name} imports {imported}"
        for name, found in modules() for imported in sorted(found)
        if (own := layer(name)) is not None and (other := layer(imported)) is not None and other > own
    ]
    assert upward == []


def test_daemon_worker_store_and_engines_do_not_know_each_other() -> None:
    across = [
        f"{name} imports {imported}"
        for name, found in modules() for imported in sorted(found) for importer, forbidden in PEERS
        if within(name, importer) and within(imported, forbidden)
        and not any(name == one and within(imported, other) for one, other in ACQUAINTED)
    ]
    assert across == []


def test_native_libraries_are_imported_by_their_engine_file_alone() -> None:
    wrong = []
    for name, found in modules():
        native = {imported.partition(".")[0] for imported in found} & NATIVE
        if within(name, "edged") and native - ENGINE_LIBRARIES.get(name, set()):
            wrong.append((name, native))
    assert wrong == []


def test_the_daemon_loads_no_native_inference_library_and_no_numpy() -> None:
    code = (
        "import sys, edged.api.app, edged.daemon.router, edged.cli.serve\n"
        f"print(sorted(set({sorted(NATIVE | {'numpy'})!r}) & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert shown.strip() == "[]"
