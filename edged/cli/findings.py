"""What `edged doctor` looks at. Each check is a function of what it needs and yields findings; none raises."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from edged.cli.installed import Statuses
from edged.cli.listen import listen_tcp
from edged.cli.target import Target
from edged.errors import EdgedError
from edged.hardware import fit
from edged.hardware.facts import Facts
from edged.hardware.place import places
from edged.hardware.providers import CPU
from edged.settings import SYSTEM_CONFIG, Origin, Settings, describe_settings, require_keys
from edged.store.captured import is_captured
from edged.store.catalog import load_catalog
from edged.store.entries import ModelEntry
from edged.version import VERSION

LOW_DISK_BYTES = 2 * fit.GIB
LOW_MEMORY_BYTES = fit.GIB
DEFAULT_MODEL_LINE = "`edged pull smollm2-135m` fetches a small one to try out, `edged models` shows what fits"


class Finding(Struct, frozen=True, kw_only=True):
    """level: `problem` makes the exit code 1. mend: what to do; empty where all is well."""

    level: Literal["good", "note", "problem"]
    what: str
    mend: str = ""


def good(what: str) -> Finding:
    return Finding(level="good", what=what)


def note(what: str, mend: str) -> Finding:
    return Finding(level="note", what=what, mend=mend)


def problem(what: str, mend: str) -> Finding:
    return Finding(level="problem", what=what, mend=mend)


def engines(facts: Facts) -> Iterator[Finding]:
    software = facts.software
    if software.llama_backends:
        yield good(f"llama.cpp {software.versions.get('llama-cpp-python', '?')} ({', '.join(software.llama_backends)})")
    if software.ort_providers:
        yield good(f"ONNX Runtime {software.versions.get('onnxruntime', '?')} ({', '.join(software.ort_providers)})")
    for engine, package in (("llama", "llama-cpp-python"), ("ort", "onnxruntime")):
        if not software.runs(engine):
            yield problem(f"the {engine} engine is not installed", f"`pip install {package}` into edged's environment")


def devices(facts: Facts) -> Iterator[Finding]:
    """facts: with the engine environments."""
    for place in places(facts, "llama", CPU):
        if place.refused is not None and place.device is not None and facts.software.runs("llama"):
            yield note(f"{place.device.name} runs no GGUF model: {place.refused}", "until then the processor does")


def environments(settings: Settings) -> Iterator[Finding]:
    """Those that are installed, each asked whether it runs, and those that the catalog names."""
    from edged.cli.engine import outdated
    from edged.hardware.environment_making import state
    from edged.hardware.environments import install_command, names

    here = names(settings.home)
    for name in here:
        about, why = state(settings.home, name)
        if about is None or why is not None:
            yield problem(*_split(why or f"the engine environment {name} is damaged"))
        elif (old := outdated(about)) is not None:
            yield note(*_split(old))
        else:
            yield good(f"engine environment {name}: {', '.join(about.requirements)}")
    with contextlib.suppress(EdgedError):
        for entry in load_catalog(settings.models_file).current.models.values():
            if entry.environment is not None and entry.environment not in here:
                yield problem(f"{entry.name} is to be served from the engine environment {entry.environment}, and "
                              "there is none", f"`{install_command(entry.environment)}` makes it")


def _split(sentence: str) -> tuple[str, str]:
    what, _, mend = sentence.rpartition("; ")
    return what, mend


def memory(facts: Facts, settings: Settings) -> Iterator[Finding]:
    usable, available = fit.usable_bytes(facts.memory), facts.memory.available
    if settings.memory_bytes is not None and settings.memory_bytes > usable:
        yield problem(f"memory_bytes is {fit.readable(settings.memory_bytes)}, but models can have "
                      f"{fit.readable(usable)} here", "set it lower, or take it away: then it is measured")
    if available < LOW_MEMORY_BYTES:
        yield note(f"only {fit.readable(available)} of memory are free now",
                   "end what uses it, or unload a model (`edged ps`, `edged unload NAME`)")
    else:
        yield good(f"{fit.readable(available)} of memory free, {fit.readable(usable)} at most for models")


def catalog(settings: Settings) -> Iterator[Finding]:
    try:
        found = load_catalog(settings.models_file).current
    except EdgedError as error:
        yield problem(f"the catalog: {error}", "mend that line; a running daemon keeps the catalog it has")
        return
    own = settings.models_file
    yield good(f"{len(found.models)} models in the catalog"
               + (f", with {own} over the shipped ones" if own is not None and own.exists() else ""))


def keys(settings: Settings, origins: Mapping[str, Origin]) -> Iterator[Finding]:
    try:
        require_keys(settings, dict(origins))
    except EdgedError as error:
        yield problem(str(error), "set api_keys, or host to 127.0.0.1; `edged serve` does not start before")
    if settings.api_keys and not settings.admin_keys:
        yield note("there are api_keys and no admin_keys", "the admin routes are then for the Unix socket only; set "
                   "admin_keys to manage this machine over the network")


def capture(target: Target) -> Iterator[Finding]:
    """Whose answers are kept for training, and whether a program looks at them before; by the daemon that runs, whose
    flags only it knows, or by the settings."""
    from edged.daemon.redaction import require_program

    settings = target.settings
    try:
        require_program(settings, target.origins)
    except EdgedError as error:
        yield problem(str(error), "`edged serve` does not start before")
    on, redact, days = _captured(settings), list(settings.capture_redact), settings.capture_days
    if target.running is not None:
        with contextlib.suppress(EdgedError):
            said = target.running.client.get("/edged/v1/config", dict[str, Any])
            redact, days = said["capture_redact"], said["capture_days"]
            models = target.running.client.get("/edged/v1/models", Statuses).models
            on = sorted(model.name for model in models if model.captured and model.alias_of is None)
    if on:
        yield note(f"answers of {', '.join(on)} are captured in {target.home / 'captured'} with what was asked, for "
                   f"{days:g} days, " + (f"redacted by {redact[0]}" if redact else
                                         "as they are: nothing redacts them (`capture_redact`)"),
                   "tell those who use them; `edged captured purge` forgets them, `capture` in the settings or in "
                   "models.toml ends it")


def _captured(settings: Settings) -> list[str]:
    catalogued: Mapping[str, ModelEntry] = {}
    with contextlib.suppress(EdgedError):
        catalogued = load_catalog(settings.models_file).current.models
    return sorted(name for name in {*settings.capture, *catalogued}
                  if is_captured(name, settings, catalogued.get(name)))


def secret_files(config: Path | None, origins: Mapping[str, Origin]) -> Iterator[Finding]:
    """A configuration file with secrets that others can read."""
    secret = [info.name for info in describe_settings() if info.secret and origins[info.name].kind == "file"]
    if config is None or not secret or not config.exists():
        return
    if config.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        yield problem(f"{config} holds {', '.join(secret)} and every user can read it", f"chmod o-rwx {config}")


def home(settings: Settings) -> Iterator[Finding]:
    path = settings.home
    if not path.exists():
        yield note(f"there is no store at {path} yet", "the first pull makes it")
        return
    status = path.stat()
    if status.st_mode & 0o077:
        yield problem(f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o})", f"chmod 700 {path}")
    if status.st_uid != os.getuid():
        yield note(f"{path} belongs to another user", "commands that change it go through the daemon, or need that "
                   "user")
    elif not os.access(path, os.W_OK):
        yield note(f"{path} cannot be written", "what is installed can be served; a pull needs to write it")


def disk(settings: Settings) -> Iterator[Finding]:
    path = settings.home
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free < LOW_DISK_BYTES:
        yield problem(f"only {fit.readable(free)} free on the disk of {settings.home}",
                      "`edged gc` removes what no model needs, `edged rm NAME` a model")
    else:
        yield good(f"{fit.readable(free)} free on the disk of {settings.home}")


def installed_models(settings: Settings) -> Iterator[Finding]:
    """Every version has every file, by its size; `edged verify` also hashes them."""
    from edged.store import Store

    if not settings.home.exists():
        return
    try:
        store = Store(settings.home)
        versions = store.manifests.everything()
    except (EdgedError, OSError) as error:
        yield problem(f"the store cannot be read: {error}", "see to its file modes, or set EDGED_HOME to another")
        return
    broken = 0
    for name, version in versions:
        try:
            lacking = [entry.path for entry in store.manifest(name, version).files
                       if not _whole(store.layout.blob(entry.sha256), entry.size)]
        except EdgedError as error:
            lacking = [str(error)]
        if lacking:
            broken += 1
            yield problem(f"{name}@{version} is not whole: {', '.join(lacking)}", f"`edged pull {name}` mends it")
    if not versions:
        yield note("no model is installed", DEFAULT_MODEL_LINE)
    elif not broken:
        names = store.names()
        yield good(f"{len(names)} models installed: {', '.join(names)}")


def _whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def daemon(target: Target) -> Iterator[Finding]:
    for path in target.barred:
        yield problem(f"a daemon runs at {path} and this user may not talk to it", "join the group that owns the "
                      "socket (`sudo usermod -aG edged $USER`, then log in again)")
    if target.running is None:
        if not target.barred:
            yield note("no daemon runs", "`edged serve` starts one")
            yield from _port(target.settings)
        return
    status, settings = target.running.status, target.settings
    yield good(f"a daemon runs at {target.running.client.socket} (process {status.pid}, home {status.home}, "
               f"{', '.join(status.addresses) or 'no address'})")
    if status.version != VERSION:
        yield problem(f"the daemon is edged {status.version}, this command is {VERSION}", "restart the daemon")
    if not status.ready:
        yield note("the daemon is starting or stopping", "wait a moment")
    if os.path.realpath(status.home) != os.path.realpath(settings.home):
        yield note(f"the daemon reads {status.home}; the settings here name {settings.home}",
                   "commands work on the daemon's store; --home names another")
    mode = stat.S_IMODE(target.running.client.socket.stat().st_mode)
    if mode & 0o007:
        yield problem(f"every user can use the socket {target.running.client.socket} (mode {mode:04o})",
                      f"chmod 660 {target.running.client.socket}")


def _port(settings: Settings) -> Iterator[Finding]:
    if settings.port == 0:
        return
    try:
        listen_tcp(settings.host, settings.port).close()
    except EdgedError as error:
        yield problem(str(error), "`edged serve` does not start before")


def config_file(named: str | None) -> Path | None:
    if named:
        return Path(named).expanduser()
    return SYSTEM_CONFIG if SYSTEM_CONFIG.exists() else None
