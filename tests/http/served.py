"""The daemon behind its API on a free port and a Unix socket: `python -m tests.http.served HOME KEY=VALUE…`

Prints one line of JSON, {"port": …, "socket": …}, when it accepts requests.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from edged.api.app import create_app
from edged.api.server import server_config
from edged.daemon.jobs import Jobs
from edged.daemon.metrics import Metrics
from edged.daemon.router import Router
from edged.settings import Settings
from edged.store import Store
from edged.store.catalog import load_catalog


class Announcing(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        tcp, unix = sockets or []
        print(json.dumps({"port": tcp.getsockname()[1], "socket": unix.getsockname()}), flush=True)


async def serve(home: Path, said: dict[str, Any]) -> None:
    settings = Settings(home=home, models_file=home / "models.toml", **said)
    store, metrics = Store(home), Metrics()
    router = Router(settings, store, load_catalog(settings.models_file), metrics)
    jobs = Jobs(settings, metrics)
    tcp = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(settings.socket))
    unix.listen()
    await router.start()
    await Announcing(server_config(create_app(router, settings, jobs, metrics, store), settings)).serve([tcp, unix])
    await jobs.close()
    await router.kill()


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[2:])
    asyncio.run(serve(Path(sys.argv[1]), {key: json.loads(value) for key, value in given.items()}))
