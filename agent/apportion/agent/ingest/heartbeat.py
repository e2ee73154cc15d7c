"""The agent's own file in the ring directory: that it lives, and what it asks of workloads."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from apportion.client import layout
from apportion.core.clock import Clock
from apportion.core.ids import RingId

_MODE: Final = 0o644
"""Workloads of other users read it; the directory decides who gets that far."""
_MOST_NAMED: Final = 20
"""Workloads look into the file between steps: it stays small."""
_NONE: Final[Mapping[RingId, str]] = MappingProxyType({})


class Heartbeat:
    """Writes `agent.json` whole or not at all: a temporary file beside it is renamed over it."""

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        *,
        version: str,
        pid: int,
        others: Callable[[], Iterable[Path]] = tuple,
        requests: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        """`requests`: what workloads are asked for now, plain JSON; they look between steps.

        `others` are directories of pods, now: what cannot be written there is theirs to lose.
        """
        self._directory, self._others = directory, others
        self._written: set[Path] = set()
        self._clock = clock
        self._version = version
        self._requests = requests
        self._pid = pid

    def beat(
        self, unbound: Mapping[RingId, str] = _NONE, unread: Mapping[RingId, str] = _NONE
    ) -> str | None:
        """Write the file; None, or in words why it could not be written.

        `unbound` are rings without devices, and whose they are, `unread` those that the agent
        cannot read, and why: each directory is told of its own.
        """
        rings = {"unbound": unbound, "unread": unread}
        document = {
            "heartbeat_monotonic_ns": self._clock.monotonic_ns(),
            "pid": self._pid,
            "version": self._version,
            "requests": dict(self._requests()),
        }
        for path in self._others():
            with contextlib.suppress(OSError):
                self._put(path, document, rings)
        try:
            self._put(self._directory, document, rings)
        except OSError as error:
            return (
                f"cannot write {self._directory / layout.AGENT_FILE}: {error.strerror}; "
                "give the agent write access to the ring directory"
            )
        return None

    def stop(self) -> None:
        """Remove the files, so that workloads do not wait for a heartbeat that is over."""
        for directory in self._written:
            with contextlib.suppress(OSError):
                (directory / layout.AGENT_FILE).unlink()

    def _put(
        self,
        directory: Path,
        document: Mapping[str, object],
        rings: Mapping[str, Mapping[RingId, str]],
    ) -> None:
        document = dict(document)
        for name, said in rings.items():
            here = [
                (ring, text)
                for ring, text in said.items()
                if (directory / f"{ring}{layout.FILE_SUFFIX}").exists()
            ]
            document[name] = dict(here[:_MOST_NAMED])
        data = json.dumps(document, sort_keys=True).encode()
        replace_file(directory, layout.AGENT_FILE, data)
        self._written.add(directory)


def replace_file(directory: Path, name: str, data: bytes) -> None:
    """Put a whole file in the place of the one called `name`, readable for everybody.

    Raises:
        OSError: it cannot be written there; what was there stays.
    """
    temporary = directory / f".{name}.{secrets.token_hex(8)}"
    _write_new(temporary, data)
    try:
        temporary.replace(directory / name)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_new(path: Path, data: bytes) -> None:
    # O_EXCL: somebody else may write to the directory too and must not choose our target.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, _MODE)
    try:
        os.fchmod(fd, _MODE)  # whatever the umask is
        os.write(fd, data)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(fd)
