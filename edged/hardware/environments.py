"""Interpreters for engines that cannot share one environment: `$EDGED_HOME/engines/<name>/`.

The builds of onnxruntime for CUDA, DirectML and others are all one module `onnxruntime`, as are all builds of
`llama_cpp`, so a worker runs under the interpreter whose environment has its engine's build. Such an environment is a
virtual one that holds only what differs: what it lacks it finds in the environment that edged itself is installed in,
which comes after its own on the path.

Made beside its place and renamed into it, so that an interrupted installation leaves none.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from edged.errors import BadReference, Conflict, InsufficientStorage, NotFound, SourceUnavailable
from edged.hardware.facts import Software

FOLDER = "engines"
_ABOUT = "environment.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")
#: A requirement of pip without anything that pip takes for an option, a path or an address.
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?([=<>!~]=?[A-Za-z0-9.*+!,<>=~-]+)?")
#: An installation takes at least this much while it is made.
LEAST_FREE_BYTES = 200 << 20


class Known(Struct, frozen=True):
    """What `edged engine install NAME` gets. needs: the machine it is for, for people. compiled: minutes of a compiler
    rather than a download."""

    packages: tuple[str, ...]
    needs: str
    compiled: Mapping[str, str] = {}


KNOWN: dict[str, Known] = {
    "cuda": Known(("onnxruntime-gpu", "onnxruntime-genai-cuda"), "an NVIDIA GPU with its driver and CUDA 12"),
    "directml": Known(("onnxruntime-directml", "onnxruntime-genai-directml"), "Windows with a DirectX 12 GPU"),
    "openvino": Known(("onnxruntime-openvino", "onnxruntime-genai"), "an Intel processor, GPU or NPU"),
    "qnn": Known(("onnxruntime-qnn", "onnxruntime-genai"), "a Qualcomm NPU"),
    "webgpu": Known(("onnxruntime-webgpu", "onnxruntime-genai"), "a GPU with Vulkan, Metal or Direct3D 12"),
    "llama-cuda": Known(("llama-cpp-python",), "an NVIDIA GPU, its driver and the CUDA toolkit to compile with",
                        {"CMAKE_ARGS": "-DGGML_CUDA=ON -DLLAVA_BUILD=OFF"}),
    "llama-vulkan": Known(("llama-cpp-python",), "a GPU with Vulkan, and Vulkan's headers and glslc to compile with",
                          {"CMAKE_ARGS": "-DGGML_VULKAN=ON -DLLAVA_BUILD=OFF"}),
    "llama-openblas": Known(("llama-cpp-python",), "OpenBLAS with its headers",
                            {"CMAKE_ARGS": "-DGGML_BLAS=ON -DGGML_BLAS_VENDOR=OpenBLAS -DLLAVA_BUILD=OFF"}),
}


class Environment(Struct, frozen=True, kw_only=True):
    """One that is installed. requirements: as pip was told. software: what its interpreter finds."""

    name: str
    requirements: tuple[str, ...]
    edged: str
    software: Software


def python_of(home: Path, name: str) -> Path:
    """The interpreter. Raises NotFound where there is no such environment."""
    python = home / FOLDER / checked_name(name) / "bin" / "python"
    if not python.exists():
        raise NotFound(f"there is no engine environment {name!r}; `edged engine install {name}` makes it, "
                       "`edged engine list` shows what there is")
    return python


def environments(home: Path) -> list[Environment]:
    """By name. One that cannot be read is left out."""
    found = []
    with contextlib.suppress(OSError):
        for folder in sorted((home / FOLDER).iterdir()):
            if _NAME.fullmatch(folder.name):
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    found.append(msgspec.json.decode((folder / _ABOUT).read_bytes(), type=Environment))
    return found


def install(
    home: Path, name: str, packages: Sequence[str], version: str, say: Callable[[str], None],
) -> Environment:
    """Make it, or make it anew. packages: requirements of pip; none means those of KNOWN. version: of edged. say: gets
    pip's lines.

    Raises BadReference, InsufficientStorage, SourceUnavailable with pip's reason.
    """
    checked_name(name)
    known = KNOWN.get(name)
    if not packages and known is None:
        raise BadReference(f"{name} is none of {', '.join(KNOWN)}; name the packages of your own with --package")
    requirements = tuple(packages) or (known.packages if known else ())
    for requirement in requirements:
        if not _REQUIREMENT.fullmatch(requirement):
            raise BadReference(f"{requirement[:80]!r} is no requirement like onnxruntime==1.31.0")
    top = home / FOLDER
    top.mkdir(mode=0o700, exist_ok=True)
    if shutil.disk_usage(top).free < LEAST_FREE_BYTES:
        raise InsufficientStorage(f"less than {LEAST_FREE_BYTES >> 20} MiB are free for an engine environment; free "
                                  "some with `edged gc` or `edged rm`")
    making = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=top))
    try:
        software = _make(making, requirements, known.compiled if known and not packages else {}, say)
        made = Environment(name=name, requirements=requirements, edged=version, software=software)
        (making / _ABOUT).write_bytes(msgspec.json.encode(made))
        _replace(making, top / name)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return made


def remove(home: Path, name: str) -> None:
    """Raises NotFound, and Conflict where a process runs under its interpreter."""
    python_of(home, name)
    folder = home / FOLDER / name
    if (pid := _user_of(folder)) is not None:
        raise Conflict(f"process {pid} runs under the engine environment {name}; unload its model first")
    going = folder.with_name(f".{name}-removed-{os.getpid()}")
    folder.rename(going)
    shutil.rmtree(going)


def checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadReference(f"{name[:80]!r} is no name of an engine environment: small letters, digits and . _ -")
    return name


def _make(
    folder: Path, requirements: Sequence[str], compiled: Mapping[str, str], say: Callable[[str], None],
) -> Software:
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    own = next((folder / "lib").glob("python*/site-packages"))
    # A line of a .pth file that begins with `import` is run: this one reads the .pth files there, too, as an editable
    # installation needs.
    shared = sysconfig.get_paths()["purelib"]
    (own / "edged-shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n")
    command = [
        sys.executable, "-m", "pip", "--python", str(python), "install", "--no-input", "--disable-pip-version-check",
        "--no-warn-script-location", "--progress-bar", "off", *requirements]
    environment = {**os.environ, **compiled, "PIP_REQUIRE_VIRTUALENV": "0"}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace")
    last: list[str] = []
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            last = [*last, line.strip()][-5:]
            say(line.rstrip())
    if process.wait() != 0:
        reason = next((line for line in reversed(last) if line.lower().startswith("error")), " ".join(last[-1:]))
        raise SourceUnavailable(f"pip could not install {' '.join(requirements)}: {reason[:300]}")
    told = subprocess.run([str(python), "-m", "edged.hardware.installed"], capture_output=True, check=False)
    if told.returncode != 0:
        raise SourceUnavailable("the environment was installed and edged does not start in it: "
                                + told.stderr.decode(errors="replace").strip()[-300:])
    return msgspec.json.decode(told.stdout, type=Software)


def _replace(made: Path, place: Path) -> None:
    """An older one of the name steps aside for a moment; who runs under it goes on."""
    old = place.with_name(f".{place.name}-old-{os.getpid()}")
    if place.exists():
        place.rename(old)
    made.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _user_of(folder: Path) -> int | None:
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or [""]
        if command[0].startswith(f"{folder}{os.sep}"):
            return int(process.pid)
    return None
