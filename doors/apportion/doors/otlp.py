"""`apportion otlp`: the OTLP door as a process of its own, which an agent starts, or anybody."""

from __future__ import annotations

import argparse
import re
import socket
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from apportion.doors.door import Door
from apportion.doors.process import (
    REPORT_S,
    add_options,
    rings_of,
    say_counts,
    say_listening,
    until_stopped,
)

if TYPE_CHECKING:
    from typing_extensions import Self

_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):(\d{1,5})")
_LARGEST_PORT: Final = 65_535


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM, or with `--counts` until standard input ends; 2 for a bad address."""
    options = _parser().parse_args(argv)
    if options.http is None and options.grpc is None:
        sys.stderr.write("apportion otlp: name an address, such as --http 127.0.0.1:4318\n")
        return 2
    try:
        rings = rings_of(options)
    except ValueError as error:
        sys.stderr.write(f"apportion otlp: {error}\n")
        return 2
    door = Door(rings, options.tenant_attribute)
    try:
        with (
            until_stopped(with_input=options.counts) as stop,
            _Servers(door, options.http, options.grpc) as servers,
        ):
            say_listening(servers.addresses)
            while not stop.wait(REPORT_S):
                if options.counts:
                    say_counts(lambda: door.counts)
    except OSError as error:
        sys.stderr.write(f"apportion otlp: {error}; choose another address\n")
        return 2
    finally:
        rings.close()
    return 0


class _Servers:
    """The two servers, of which either may be off."""

    def __init__(self, door: Door, http: str | None, grpc_address: str | None) -> None:
        self._door, self._http, self._grpc = door, http, grpc_address
        self.addresses: dict[str, str] = {}
        self._ends: list[threading.Thread] = []
        self._uvicorn: uvicorn.Server | None = None
        self._grpc_server: Any = None

    def __enter__(self) -> Self:
        if self._http is not None:
            self._start_http(self._http)
        if self._grpc is not None:
            from apportion.doors.otlp_grpc import create_server  # noqa: PLC0415 - loads 30 MB

            server, port = create_server(self._door, self._grpc)
            server.start()
            self._grpc_server = server
            self.addresses["grpc"] = f"{self._grpc.rpartition(':')[0]}:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True
        if self._grpc_server is not None:
            self._grpc_server.stop(1.0).wait()
        for thread in self._ends:
            thread.join(3.0)

    def _start_http(self, address: str) -> None:
        from apportion.doors.otlp_http import create_app  # noqa: PLC0415 - as above

        host, _, port = address.rpartition(":")
        try:
            listening = socket.create_server(
                (host.strip("[]"), int(port)),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=128,
            )
        except OSError as error:
            message = f"cannot listen on {address}: {error.strerror or error}"
            raise OSError(message) from error
        config = uvicorn.Config(
            create_app(self._door),
            access_log=False,
            log_config=None,
            lifespan="off",
            limit_concurrency=64,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        bound, number = listening.getsockname()[:2]
        self.addresses["http"] = f"{bound}:{number}"
        self._uvicorn = server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        self._ends.append(thread)


def _address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2]) > _LARGEST_PORT:
        message = f"{text!r}: say a host and a port, such as 127.0.0.1:4318 or [::1]:4318"
        raise argparse.ArgumentTypeError(message)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="apportion otlp", description=__doc__)
    parser.add_argument(
        "--http", type=_address, metavar="HOST:PORT", help="as OTLP has it, port 4318"
    )
    parser.add_argument(
        "--grpc", type=_address, metavar="HOST:PORT", help="as OTLP has it, port 4317"
    )
    parser.add_argument("--tenant-attribute", metavar="NAME", help="who asked, of span or resource")
    add_options(parser)
    return parser
