"""The sockets that `edged serve` listens on, opened before anything is loaded: a start that cannot be fails at once.

They listen from here on, so that a client that comes while the daemon starts waits for it instead of being refused.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from edged.errors import ConfigError
from edged.store import locks

BACKLOG = 2048
SOCKET_MASK = 0o117
#: sockaddr_un.sun_path has 108 bytes, its end included; 104 on macOS.
PATH_BYTES = 103


@dataclass(slots=True)
class UnixListener:
    """`lock` is held as long as the daemon lives: a socket file whose lock is free is a dead one's."""

    path: Path
    socket: socket.socket
    lock: locks.Lock

    def close(self) -> None:
        """The file goes first, while the lock still says that it is ours."""
        self.path.unlink(missing_ok=True)
        self.socket.close()
        self.lock.release()


def listen_tcp(host: str, port: int) -> socket.socket:
    """Raises ConfigError."""
    bare = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise ConfigError(f"{host} is no address of this machine ({error.strerror}); use 127.0.0.1", key="host") \
            from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bare != "::"))
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from None
    return listener


def listen_unix(path: Path) -> UnixListener:
    """A socket file with mode 0660; one that a dead daemon left is replaced. Raises ConfigError."""
    if len(os.fsencode(path)) > PATH_BYTES:
        raise ConfigError(f"{path} is longer than the {PATH_BYTES} bytes that a socket may have; set another, or off",
                          key="socket")
    try:
        lock = locks.try_lock(path.with_name(path.name + ".lock"))
        if lock is None:
            raise ConfigError(f"another edged listens on {path}; stop that one, or give this one another --socket",
                              key="socket")
        try:
            return UnixListener(path, _bound(path), lock)
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be made ({os.strerror(error.errno or 0)}); set another, or off",
                          key="socket") from None


def _bound(path: Path) -> socket.socket:
    """The caller holds the lock."""
    if path.is_symlink() or path.exists():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path} is there and is no socket; move it away, or set another", key="socket")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(SOCKET_MASK)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"{host}:{port} is in use, perhaps by another edged; stop that one, or give this one "
                           "another --port", key="port")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError(f"this user may not listen on {host}:{port}; ports below 1024 need a privilege", key="port")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"{host} is no address of this machine; `ip address` lists those", key="host")
    return ConfigError(f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0)})", key="host")


def url_of(listener: socket.socket) -> str:
    """As a client on this machine would write it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(slots=True)
class Listeners:
    """lacking: why there is no Unix socket though there should be one."""

    tcp: socket.socket | None = None
    unix: UnixListener | None = None
    lacking: str | None = None

    @property
    def sockets(self) -> list[socket.socket]:
        return [each for each in (self.tcp, self.unix.socket if self.unix else None) if each is not None]

    @property
    def url(self) -> str | None:
        return url_of(self.tcp) if self.tcp else None

    @property
    def path(self) -> str | None:
        return str(self.unix.path) if self.unix else None

    def close(self) -> None:
        if self.tcp is not None:
            self.tcp.close()
        if self.unix is not None:
            self.unix.close()
