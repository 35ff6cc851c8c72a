"""Makes and removes engine environments, with venv and pip.

One is made beside its place and renamed into it, under a lock of its name: an interrupted installation leaves none,
and what it left beside is cleared by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

import edged
from edged.errors import BadReference, Conflict, InsufficientStorage, NotFound, SourceUnavailable
from edged.hardware.environments import (
    ABOUT,
    FOLDER,
    KNOWN,
    Environment,
    Known,
    checked_name,
    folder_of,
    own_packages,
    read,
    shared,
    trouble,
    unusable,
)
from edged.hardware.facts import Software
from edged.hardware.installed import installed

#: A requirement of pip without anything that pip takes for an option, a path or an address.
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?([=<>!~]=?[A-Za-z0-9.*+!,<>=~-]+)?")
#: An installation takes at least this much while it is made.
LEAST_FREE_BYTES = 200 << 20
#: What pip says of the packages that the environment is there to replace.
_EXPECTED = re.compile(
    r"ERROR: pip's dependency resolver|\S+ \S+ requires .*, but you have .* which is incompatible\.$"
    r"|\s+(Attempting uninstall|Found existing installation|Not uninstalling|Can't uninstall)")
#: To say what is installed takes a fraction of a second.
_INSPECT_TIMEOUT_S = 60


def install(
    home: Path, name: str, packages: Sequence[str], version: str, say: Callable[[str], None],
) -> Environment:
    """Make it, or make it anew. packages: requirements of pip; none means those of KNOWN. version: of edged. say: gets
    pip's lines.

    Raises BadReference; Conflict where a process runs under the one that is there; InsufficientStorage;
    SourceUnavailable with pip's reason.
    """
    place = folder_of(home, name)
    known = KNOWN.get(name, Known((), ""))
    if not packages and not known.packages:
        raise BadReference(f"{name} is none of {', '.join(KNOWN)}; name the packages of your own with --package")
    for requirement in packages:
        if not _REQUIREMENT.fullmatch(requirement):
            raise BadReference(f"{requirement[:80]!r} is no requirement like onnxruntime==1.31.0")
    requirements = tuple(packages) or known_requirements(known, installed().versions)
    compiled: Mapping[str, str] = {} if packages else known.compiled
    place.parent.mkdir(mode=0o700, exist_ok=True)
    with _alone(home, name, say):
        if shutil.disk_usage(place.parent).free < LEAST_FREE_BYTES:
            raise InsufficientStorage(f"less than {LEAST_FREE_BYTES >> 20} MiB are free for an engine environment; "
                                      "free some with `edged gc` or `edged rm`")
        _require_idle(place)
        making = _beside(place, "new")
        shutil.rmtree(making, ignore_errors=True)
        try:
            _begin(making)
            _pip(making, requirements, compiled, say)
            made = Environment(name=name, requirements=requirements, edged=version, software=inspect(making),
                               shared=tuple(shared()), known=not packages)
            (making / ABOUT).write_bytes(msgspec.json.encode(made))
            _require_idle(place)
            _replace(making, place)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return made


def known_requirements(known: Known, own: Mapping[str, str]) -> tuple[str, ...]:
    """own: versions of edged's own packages."""
    return tuple(f"{package}=={own[same]}" if (same := known.versions.get(package, "")) in own else package
                 for package in known.packages)


def remove(home: Path, name: str) -> None:
    """A broken one too. Raises NotFound, and Conflict where a process runs under its interpreter."""
    place = folder_of(home, name)
    if not place.parent.is_dir():
        raise _nothing(name)
    with _alone(home, name, lambda line: None):
        if not place.exists():
            raise _nothing(name)
        _require_idle(place)
        going = _beside(place, "old")
        shutil.rmtree(going, ignore_errors=True)
        place.rename(going)
        shutil.rmtree(going)


def _nothing(name: str) -> NotFound:
    return NotFound(f"there is no engine environment {name!r}; `edged engine list` shows what there is")


def inspect(folder: Path) -> Software:
    """What an environment's interpreter finds, told by itself. Raises SourceUnavailable where edged does not start in
    it, with the reason."""
    try:
        told = subprocess.run([str(folder / "bin" / "python"), "-P", "-m", "edged.hardware.installed"],
                              capture_output=True, check=False, timeout=_INSPECT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceUnavailable(f"its Python does not run: {error}") from error
    if told.returncode != 0:
        lines = told.stderr.decode(errors="replace").strip().splitlines()
        raise SourceUnavailable(f"edged does not start in it: {lines[-1][:300] if lines else told.returncode}")
    return msgspec.json.decode(told.stdout, type=Software)


def state(home: Path, name: str) -> tuple[Environment | None, str | None]:
    """What it is, with the software that it finds now, and why it cannot be used, as `trouble` says it: unlike there,
    its interpreter is run as well."""
    why = trouble(home, name)
    try:
        about = read(home, name)
    except (OSError, msgspec.MsgspecError):
        return None, why
    if why is None:
        try:
            about = replace(about, software=inspect(folder_of(home, name)))
        except SourceUnavailable as error:
            why = unusable(about, error.message)
    return about, why


@contextlib.contextmanager
def _alone(home: Path, name: str, say: Callable[[str], None]) -> Iterator[None]:
    """One at a time for each name; the kernel drops the lock of a process that is killed."""
    descriptor = os.open(home / FOLDER / f".{checked_name(name)}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process installs {name} just now; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _beside(place: Path, what: str) -> Path:
    """No name of an environment begins with a dot."""
    return place.with_name(f".{place.name}.{what}")


def _begin(folder: Path) -> None:
    """One without packages of its own."""
    venv.create(folder, with_pip=False, symlinks=True)
    # A line of a .pth file that begins with `import` is run: these read the .pth files there, too, as an editable
    # installation needs. Last comes where edged itself is, which may be installed nowhere.
    (own_packages(folder) / "edged-shared.pth").write_text(
        "".join(f"import site; site.addsitedir({path!r})\n" for path in shared())
        + f"{Path(edged.__file__).resolve().parent.parent}\n")


def _pip(folder: Path, requirements: Sequence[str], compiled: Mapping[str, str], say: Callable[[str], None]) -> None:
    # Another build of a version that is here already: for pip nothing would be left to do, and a wheel of its cache
    # would be of the builds that it made before.
    again = ("--force-reinstall", "--no-deps", "--no-cache-dir", *(
        f"--no-binary={requirement.partition('==')[0]}" for requirement in requirements)) if compiled else ()
    command = [
        sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-input",
        "--disable-pip-version-check", "--no-warn-script-location", "--progress-bar=off", *again, *requirements]
    process = subprocess.Popen(
        command, env={**os.environ, **compiled, "PIP_REQUIRE_VIRTUALENV": "0"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    last: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if not _EXPECTED.match(line):
                last = [*last, line.strip()][-5:]
                say(line.rstrip())
        code = process.wait()
    finally:
        process.kill()
        process.communicate()
    if code != 0:
        reason = next((line for line in reversed(last) if line.lower().startswith("error")), " ".join(last[-1:]))
        raise SourceUnavailable(f"pip could not install {' '.join(requirements)}: {reason[:300]}")


def _replace(made: Path, place: Path) -> None:
    """An older one of the name steps aside for a moment."""
    old = _beside(place, "old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    made.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _require_idle(place: Path) -> None:
    """What runs there imports from it at any time."""
    import psutil

    folder = os.path.realpath(place)
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or [""]
        if os.path.realpath(os.path.dirname(command[0])) == os.path.join(folder, "bin"):
            raise Conflict(f"process {process.pid} runs under the engine environment {place.name}; unload its model "
                           "first")
