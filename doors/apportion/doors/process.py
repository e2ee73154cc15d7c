"""What every door's process does: its options, its signals, its counts on standard output."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from apportion.client import id_hashing
from apportion.client.layout import DEFAULT_DIRECTORY
from apportion.doors.span_rings import SpanRings

REPORT_S: Final = 1.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of all doors."""
    parser.add_argument("--ring-dir", type=Path, default=Path(DEFAULT_DIRECTORY))
    parser.add_argument(
        "--devices",
        type=_devices,
        action="append",
        default=[],
        metavar="SERVICE=ID[+ID...]",
        help="on which devices a service runs; the host's only GPU unless said",
    )
    parser.add_argument(
        "--model",
        type=pair,
        action="append",
        default=[],
        metavar="SERVICE=NAME",
        help="the model of a service's requests that name none",
    )
    parser.add_argument(
        "--id-key-file",
        metavar="FILE",
        help="keep request ids and tenants as hashes by the key in it (default: "
        f"${id_hashing.KEY_FILE})",
    )
    parser.add_argument(
        "--hashed-ids",
        metavar="KINDS",
        help=f"which of {','.join(id_hashing.KINDS)} (default: ${id_hashing.HASHED}, or both)",
    )
    parser.add_argument("--counts", action="store_true", help="say counts on standard output")


def rings_of(options: argparse.Namespace) -> SpanRings:
    """The rings that the options ask for.

    Raises:
        ValueError: they cannot be as the options say; a sentence that says what to do.
    """
    if not options.ring_dir.is_dir():
        message = (
            f"{options.ring_dir} is no directory; start the agent first, or name its `ring_dir` "
            "with --ring-dir"
        )
        raise ValueError(message)
    environ = dict(os.environ)
    if options.hashed_ids is not None:
        environ[id_hashing.HASHED] = options.hashed_ids
    ids = id_hashing.HashedIds()
    ids.configure(environ, options.id_key_file)
    problem = ids.problem() if ids.on else None
    if problem is not None:
        raise ValueError(problem)
    return SpanRings(options.ring_dir, dict(options.devices), dict(options.model), ids)


@contextmanager
def until_stopped(*, with_input: bool) -> Generator[threading.Event]:
    """An event that SIGTERM and SIGINT set, and where asked for the end of standard input."""
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    if with_input:
        threading.Thread(target=_until_input_ends, args=(stop,), daemon=True).start()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say_listening(addresses: Mapping[str, str]) -> None:
    """By its first line an agent knows that the door is open."""
    _say({"listening": addresses})


def say_counts(counts: Callable[[], Mapping[str, int]]) -> None:
    """What has become of what came so far."""
    _say({"counts": dict(counts())})


def pair(text: str) -> tuple[str, str]:
    """`SERVICE=VALUE`, as argparse wants it."""
    service, _, value = text.partition("=")
    if not service or not value:
        message = f"{text!r}: say SERVICE=VALUE"
        raise argparse.ArgumentTypeError(message)
    return service, value


def _devices(text: str) -> tuple[str, list[str]]:
    service, _, devices = text.partition("=")
    if not service or not all(devices.split("+")):
        message = f"{text!r}: say SERVICE=ID, or SERVICE=ID+ID"
        raise argparse.ArgumentTypeError(message)
    return service, devices.split("+")


def _until_input_ends(stop: threading.Event) -> None:
    # Not by sys.stdin, whose lock a waiting thread would keep from the interpreter's end.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


def _say(fact: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(fact, sort_keys=True) + "\n")
    sys.stdout.flush()
