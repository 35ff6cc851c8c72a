"""Interpreters for engines that cannot share one environment: `$EDGED_HOME/engines/<name>/`.

The builds of onnxruntime for CUDA, DirectML and others are all one module `onnxruntime`, as are all builds of
`llama_cpp`, so a worker runs under the interpreter whose environment has its engine's build. Such an environment is a
virtual one that holds only what differs: what it lacks it finds in the environment that edged itself is installed in,
which comes after its own on the path. It therefore belongs to that installation of edged, and may be moved with its
home. `edged.hardware.environment_making` makes and removes them.
"""

from __future__ import annotations

import contextlib
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from edged.errors import BadReference, DeviceUnavailable, NotFound
from edged.hardware.facts import Software

FOLDER = "engines"
ABOUT = "environment.json"
#: What people call the one that edged itself runs in.
BUILT_IN = "built-in"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")


class Known(Struct, frozen=True):
    """What `edged engine install NAME` gets. needs: the machine it is for, for people. versions: of which package of
    edged's own a package must have the version, since edged is written for that one. compiled: what the compiler of
    the one package is told, where it is to be another build of what edged has itself."""

    packages: tuple[str, ...]
    needs: str
    versions: Mapping[str, str] = {}
    compiled: Mapping[str, str] = {}


_GENAI = "onnxruntime-genai"
_LLAMA = "llama-cpp-python"
KNOWN: dict[str, Known] = {
    "cuda": Known(("onnxruntime-gpu", f"{_GENAI}-cuda"), "an NVIDIA GPU with its driver and CUDA 12",
                  {f"{_GENAI}-cuda": _GENAI}),
    "directml": Known(("onnxruntime-directml", f"{_GENAI}-directml"), "Windows with a DirectX 12 GPU",
                      {f"{_GENAI}-directml": _GENAI}),
    "openvino": Known(("onnxruntime-openvino",), "an Intel processor, GPU or NPU"),
    "qnn": Known(("onnxruntime-qnn",), "a Qualcomm NPU"),
    "webgpu": Known(("onnxruntime-webgpu",), "a GPU with Vulkan, Metal or Direct3D 12"),
    "llama-cuda": Known((_LLAMA,), "an NVIDIA GPU, its driver and the CUDA toolkit to compile with", {_LLAMA: _LLAMA},
                        {"CMAKE_ARGS": "-DGGML_CUDA=ON -DLLAVA_BUILD=OFF"}),
    "llama-vulkan": Known((_LLAMA,), "a GPU with Vulkan, and Vulkan's headers and glslc to compile with",
                          {_LLAMA: _LLAMA}, {"CMAKE_ARGS": "-DGGML_VULKAN=ON -DLLAVA_BUILD=OFF"}),
    "llama-openblas": Known((_LLAMA,), "OpenBLAS with its headers", {_LLAMA: _LLAMA},
                            {"CMAKE_ARGS": "-DGGML_BLAS=ON -DGGML_BLAS_VENDOR=OpenBLAS -DLLAVA_BUILD=OFF"}),
}


class Environment(Struct, frozen=True, kw_only=True):
    """One that is installed. requirements: as pip was told; edged: the version that made it. software: what its
    interpreter found then. shared: folders of the installation of edged that it leans on. known: the requirements are
    those of KNOWN, not of a person."""

    name: str
    requirements: tuple[str, ...]
    edged: str
    software: Software
    shared: tuple[str, ...]
    known: bool = False


def folder_of(home: Path, name: str) -> Path:
    """Raises BadReference for what is no name."""
    return home / FOLDER / checked_name(name)


def checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadReference(f"{name[:80]!r} is no name of an engine environment: small letters, digits and . _ -")
    if name == BUILT_IN:
        raise BadReference(f"{BUILT_IN} is the environment that edged itself is installed in; choose another name")
    return name


def names(home: Path) -> list[str]:
    """Of all that are there, broken ones too."""
    with contextlib.suppress(OSError):
        return sorted(path.name for path in (home / FOLDER).iterdir() if _NAME.fullmatch(path.name))
    return []


def environments(home: Path) -> list[Environment]:
    """By name, those that can be used as far as their files tell."""
    found = []
    for name in names(home):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            if broken(home, about := read(home, name)) is None:
                found.append(about)
    return found


def read(home: Path, name: str) -> Environment:
    """Raises OSError and MsgspecError where it does not tell what it is."""
    return msgspec.json.decode((folder_of(home, name) / ABOUT).read_bytes(), type=Environment)


def broken(home: Path, about: Environment) -> str | None:
    """Why it cannot be used any more, in words; None where its files are as they should be. No process is started."""
    folder = folder_of(home, about.name)
    if not (folder / "bin" / "python").exists():
        return f"the Python that it was made with is gone ({os.path.realpath(folder / 'bin' / 'python')})"
    if not own_packages(folder).is_dir():
        version = ".".join(map(str, sys.version_info[:2]))
        return f"it was made for another Python than {version}, which edged runs under now"
    if os.path.realpath(shared()[0]) not in map(os.path.realpath, about.shared):
        return f"it leans on the edged installed in {', '.join(about.shared)}, and this one is installed elsewhere"
    return None


def trouble(home: Path, name: str) -> str | None:
    """Why the environment of this name cannot be used, and what to do, as one sentence without its end; None where it
    can. Raises BadReference."""
    if not folder_of(home, name).exists():
        return f"there is no engine environment {name!r}; `{install_command(name)}` makes it"
    try:
        about = read(home, name)
    except (OSError, msgspec.MsgspecError):
        return f"the engine environment {name} is damaged; `{install_command(name)}` makes it anew"
    why = broken(home, about)
    return None if why is None else unusable(about, why)


def unusable(about: Environment, why: str) -> str:
    return f"the engine environment {about.name} cannot be used: {why}; `{install_command(about.name, about)}` makes " \
        "it anew"


def python_of(home: Path, name: str) -> Path:
    """The interpreter. Raises NotFound where there is no such environment, DeviceUnavailable where it is broken."""
    if (why := trouble(home, name)) is not None:
        raise DeviceUnavailable(why) if folder_of(home, name).exists() else NotFound(why)
    return folder_of(home, name) / "bin" / "python"


def install_command(name: str, about: Environment | None = None) -> str:
    """What makes it, or makes it anew. about: as it was made, where that is known."""
    if about is None:
        packages: tuple[str, ...] = () if name in KNOWN else ("REQUIREMENT",)
    else:
        packages = () if about.known else about.requirements
    return " ".join([f"edged engine install {name}", *(f"--package {package}" for package in packages)])


def own_packages(folder: Path) -> Path:
    """Of an environment of the Python that edged runs under."""
    return folder / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"


def shared() -> list[str]:
    """The folders that this process finds installed packages in."""
    return list(dict.fromkeys(_package_folders()))


def _package_folders() -> Iterator[str]:
    paths = sysconfig.get_paths()
    candidates = [paths["purelib"], paths["platlib"]]
    if site.ENABLE_USER_SITE:
        candidates.append(site.getusersitepackages())
    yield from (path for path in candidates if os.path.isdir(path))
