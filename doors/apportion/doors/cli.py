"""`apportion otlp`: the OTLP door as a process of its own, which an agent starts, or anybody."""

from __future__ import annotations

import argparse
import json
import re
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from apportion.client.layout import DEFAULT_DIRECTORY
from apportion.doors.door import Door
from apportion.doors.span_rings import SpanRings

if TYPE_CHECKING:
    from typing_extensions import Self

_REPORT_S: Final = 1.0
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):(\d{1,5})")
_LARGEST_PORT: Final = 65_535


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM, or with `--counts` until standard input ends; 2 for a bad address."""
    options = _parser().parse_args(argv)
    if options.http is None and options.grpc is None:
        sys.stderr.write("apportion otlp: name an address, such as --http 127.0.0.1:4318\n")
        return 2
    if not options.ring_dir.is_dir():
        sys.stderr.write(
            f"apportion otlp: {options.ring_dir} is no directory; start the agent first, or name "
            "its `ring_dir` with --ring-dir\n"
        )
        return 2
    rings = SpanRings(options.ring_dir, dict(options.devices))
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    door = Door(rings, options.tenant_attribute)
    try:
        with _Servers(door, options.http, options.grpc) as servers:
            _report({"listening": servers.addresses})
            if options.counts:
                threading.Thread(target=_until_input_ends, args=(stop,), daemon=True).start()
            while not stop.wait(_REPORT_S):
                if options.counts:
                    _report({"counts": dict(door.counts)})
    except OSError as error:
        sys.stderr.write(f"apportion otlp: {error}; choose another address\n")
        return 2
    finally:
        rings.close()
        for number, handler in before.items():
            signal.signal(number, handler)
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


def _until_input_ends(stop: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    stop.set()


def _report(fact: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(fact, sort_keys=True) + "\n")
    sys.stdout.flush()


def _pair(text: str) -> tuple[str, list[str]]:
    service, _, devices = text.partition("=")
    if not service or not all(devices.split("+")):
        message = f"{text!r}: say SERVICE=ID, or SERVICE=ID+ID"
        raise argparse.ArgumentTypeError(message)
    return service, devices.split("+")


def _address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2]) > _LARGEST_PORT:
        message = f"{text!r}: say a host and a port, such as 127.0.0.1:4318 or [::1]:4318"
        raise argparse.ArgumentTypeError(message)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="apportion otlp", description=__doc__)
    parser.add_argument("--ring-dir", type=Path, default=Path(DEFAULT_DIRECTORY))
    parser.add_argument(
        "--http", type=_address, metavar="HOST:PORT", help="as OTLP has it, port 4318"
    )
    parser.add_argument(
        "--grpc", type=_address, metavar="HOST:PORT", help="as OTLP has it, port 4317"
    )
    parser.add_argument(
        "--devices",
        type=_pair,
        action="append",
        default=[],
        metavar="SERVICE=ID[+ID...]",
        help="on which devices a service runs; the host's only GPU unless said",
    )
    parser.add_argument("--tenant-attribute", metavar="NAME", help="who asked, of span or resource")
    parser.add_argument("--counts", action="store_true", help="say counts on standard output")
    return parser
