"""The least that edged's daemon could be: Litestar with one route on uvicorn, with the same loop and HTTP parser.

    python -m bench.peers.bare_litestar PORT
"""

from __future__ import annotations

import sys

import uvicorn
from litestar import Litestar, get


@get("/health/ready")
async def ready() -> dict[str, str]:
    return {"status": "ready"}


def main() -> None:
    uvicorn.run(
        Litestar([ready], openapi_config=None), host="127.0.0.1", port=int(sys.argv[1]),
        loop="uvloop", http="httptools", access_log=False, log_level="warning",
    )


if __name__ == "__main__":
    main()
