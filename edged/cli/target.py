"""What a command works on: the daemon that runs, or the store of the effective settings where none does.

A daemon is looked for at the effective settings' socket, then at this user's, then at the system's. `--home` means
that store and no other: only a daemon that reads it counts.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from edged.cli.client import Client, DaemonStatus
from edged.cli.exit_codes import NoDaemon
from edged.cli.output import about
from edged.errors import Conflict
from edged.settings import SYSTEM_SOCKET, Origin, Settings, load_settings

CONNECT_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Running:
    client: Client
    status: DaemonStatus

    @property
    def home(self) -> Path:
        return Path(self.status.home)


@dataclass(frozen=True, slots=True)
class Target:
    """running: the daemon, if one was found. barred: sockets of daemons that this user may not talk to."""

    settings: Settings
    origins: dict[str, Origin]
    running: Running | None
    barred: tuple[Path, ...] = ()
    looked_at: tuple[Path, ...] = ()

    @property
    def home(self) -> Path:
        """Of the store that the daemon reads, or of the settings' one."""
        return self.running.home if self.running is not None else self.settings.home


def find(home: Path | None) -> Target:
    """Raises ConfigError where the settings are wrong."""
    settings, origins = load_settings({"home": home.expanduser().absolute() if home else None})
    candidates = [settings.socket] if home else [settings.socket, user_socket(), SYSTEM_SOCKET]
    barred, looked_at = [], []
    for candidate in dict.fromkeys(path for path in candidates if path is not None):
        looked_at.append(candidate)
        try:
            if not _answers(candidate):
                continue
        except PermissionError:
            barred.append(candidate)
            continue
        client = Client(candidate)
        try:
            status = client.status()
        except NoDaemon:
            continue
        if home and not _same(Path(status.home), settings.home):
            raise Conflict(f"the daemon at {candidate} reads {status.home}, not {settings.home}; set EDGED_SOCKET to "
                           "the socket of the one that does, or to off")
        return Target(settings, origins, Running(client, status), tuple(barred), tuple(looked_at))
    return Target(settings, origins, None, tuple(barred), tuple(looked_at))


def daemon(home: Path | None) -> Running:
    """For what only a daemon can do. Raises NoDaemon."""
    target = find(home)
    if target.running is None:
        raise none_runs(target)
    about(f"daemon at {target.running.client.socket}")
    return target.running


def none_runs(target: Target) -> NoDaemon:
    if target.barred:
        return NoDaemon(f"a daemon runs at {target.barred[0]}, but this user may not talk to it; join the group that "
                        "owns the socket")
    looked_at = " and ".join(map(str, target.looked_at)) or "no socket, since `socket` is off"
    return NoDaemon(f"no daemon runs (looked at {looked_at}); start one with `edged serve`")


def store_of(home: Path | None) -> Target:
    """For what changes or checks a store: through the daemon that runs, which is `running`, else on the settings'
    store. Says which. Raises Conflict where a daemon runs that reads another store than the settings name: nothing it
    serves would come from there."""
    target = find(home)
    if target.running is None:
        if target.barred:
            raise Conflict(
                f"a daemon runs at {target.barred[0]} and this user may not talk to it, so {target.settings.home} is "
                "not what it serves from; join the group that owns the socket, or name a store with --home")
        about(f"no daemon runs; working on the store {target.settings.home}")
        return target
    running = target.running
    named = target.origins["home"].kind != "default"
    if named and home is None and not _same(running.home, target.settings.home):
        raise Conflict(
            f"the running daemon ({running.client.socket}) reads {running.home}, not {target.settings.home}, which "
            f"{target.origins['home']} names: nothing it serves would come from there. Name the store with --home "
            "to work on it all the same, or take that setting away to work with the daemon")
    about(f"daemon at {running.client.socket}, which reads {running.home}")
    return target


def user_socket() -> Path:
    return platformdirs.user_data_path("edged", appauthor=False) / "edged.sock"


def _answers(path: Path) -> bool:
    """Raises PermissionError where there is a daemon for others."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(CONNECT_TIMEOUT_S)
    try:
        probe.connect(str(path))
    except PermissionError:
        raise
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


