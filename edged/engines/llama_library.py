"""llama.cpp's functions as llama-cpp-python declares them, without the package around them: its `__init__` imports a
server's worth of Python, a quarter of what a worker imported in all, of which nothing is used here."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

__all__ = ["lib", "library_version"]

_PACKAGE = "llama_cpp"


def _functions() -> object:
    """The submodule, under a package whose `__init__` did not run and that is forgotten again: who wants the whole
    package can still import it."""
    if _PACKAGE in sys.modules:
        return importlib.import_module(f"{_PACKAGE}.llama_cpp")
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
    sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(f"{_PACKAGE}.llama_cpp")
    finally:
        del sys.modules[_PACKAGE]


if TYPE_CHECKING:
    import llama_cpp.llama_cpp as lib
else:
    lib = _functions()


@cache
def library_version() -> str:
    """Of llama-cpp-python. Its `__init__` says it; importlib.metadata would import a parser of e-mail for it."""
    written = (Path(lib.__file__).parent / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', written, re.MULTILINE)
    return found[1] if found else "unknown"
