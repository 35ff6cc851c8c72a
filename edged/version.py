"""The version of edged that runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("edged")
except PackageNotFoundError:
    #: A source tree that was not installed.
    VERSION = "0+source"
