"""`python -m infra.scripted_model`: the scripted model as a process of its own."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from infra.scripted_model.journal import Journal
from infra.scripted_model.server import BrokenOff, Options, make_app


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Prints one line when it listens."""
    given = _parser().parse_args(arguments)
    keep_breaks_out_of_the_log()
    app = make_app(
        Journal(given.log), Options(is_demo=given.demo, latency_s=given.latency_ms / 1000)
    )
    config = uvicorn.Config(
        app,
        host=given.host,
        port=given.port,
        uds=given.uds,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    _AnnouncedServer(config).run()
    return 0


class _AnnouncedServer(uvicorn.Server):
    """Says where it listens, so that port 0 is of use."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup()
        if self.started:
            print(f"scripted model listens on {self._address()}", flush=True)

    def _address(self) -> str:
        if self.config.uds:
            return f"unix:{self.config.uds}"
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"


def keep_breaks_out_of_the_log() -> None:
    """Connections broken on purpose are no news."""
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], BrokenOff))
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.scripted_model",
        description="A scripted stand-in for the Messages API (infra/scripted_model/script.py).",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8099, help="0: any free port")
    parser.add_argument("--uds", metavar="PATH", help="listen on a Unix socket instead")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append every request as JSON")
    parser.add_argument("--demo", action="store_true", help="show a tour to ordinary prompts")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="wait before every message")
    return parser


if __name__ == "__main__":
    sys.exit(main())
