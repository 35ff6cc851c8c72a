"""Real chat templates, which come in packages: trl carries those of the families people use (Llama 3, Qwen 2.5 and 3,
Gemma, Phi 3, DeepSeek R1 distilled, gpt-oss, …), llama-cpp-python Mistral's. The files are read, no code of trl is
run."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

TRL = "trl==1.16.0"


def templates_of_packages(folder: Path) -> dict[str, str]:
    """By name. folder: for what is downloaded."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder), TRL],
        check=True, timeout=100,
    )
    (wheel,) = folder.glob("*.whl")
    found: dict[str, str] = {}
    with ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".jinja"):
                found[Path(name).stem] = archive.read(name).decode()
    return found | _of_llama_cpp_python()


def _of_llama_cpp_python() -> dict[str, str]:
    """Its string constants named …_CHAT_TEMPLATE, read without importing it."""
    spec = find_spec("llama_cpp")
    assert spec
    assert spec.origin
    module = ast.parse((Path(spec.origin).parent / "llama_chat_format.py").read_text())
    found: dict[str, str] = {}
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(source))):
                if name.endswith("_CHAT_TEMPLATE"):
                    found[name.removesuffix("_CHAT_TEMPLATE").removesuffix("_INSTRUCT").lower()] = source
    return found
