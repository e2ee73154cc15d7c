"""The kernel's log, record by record: /dev/kmsg, or a file with what was recorded of it."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

RECORD_BYTES: Final = 8_192
"""The kernel gives one record at a read, and none is longer."""
MOST_RECORDS: Final = 20_000
"""At one call; a flood of messages must not keep the caller for ever."""
_LEVELS: Final = 8
_HEADER: Final = re.compile(r"(\d+),\d+,(\d+),[^;]*;")
_STAMP: Final = re.compile(r"(?:<\d+>)?\[[^\]]*\] ?")
"""What `dmesg` puts before a line: seconds since boot, or the time of a wall clock."""


class LogRecord(NamedTuple):
    """The text of a message, and when it was logged after boot where that is known."""

    text: str
    uptime_ns: int | None


class KernelLog:
    """Reads from where it stopped. Messages that were overwritten meanwhile are skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._is_device = False
        self._partial = b""

    def read(self) -> Iterator[LogRecord]:
        """What is new, without waiting for more.

        Raises:
            OSError: the log cannot be opened or read.
        """
        if self._descriptor is None:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags)
            self._is_device = stat.S_ISCHR(os.fstat(self._descriptor).st_mode)
        for number, line in enumerate(self._lines(self._descriptor), 1):
            record = parse_record(line)
            if record is not None:
                yield record
            if number >= MOST_RECORDS:
                return

    def close(self) -> None:
        """Let go of it. Harmless when repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._partial = b""

    def _lines(self, descriptor: int) -> Iterator[bytes]:
        while True:
            try:
                data = os.read(descriptor, RECORD_BYTES)
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten; the next read finds the oldest left
                    continue
                if error.errno == errno.EAGAIN:
                    return
                raise
            if not data:
                return
            if self._is_device:
                yield data.partition(b"\n")[0]  # what follows are properties of the message
            else:
                *lines, self._partial = (self._partial + data)[-4 * RECORD_BYTES :].split(b"\n")
                yield from lines


def parse_record(line: bytes) -> LogRecord | None:
    """A message of the kernel; None for one that a program wrote into the log."""
    text = line.decode(errors="replace")
    header = _HEADER.match(text)
    if header is not None:
        if int(header[1]) >= _LEVELS:  # a facility other than the kernel's
            return None
        return LogRecord(text[header.end() :], int(header[2]) * 1_000)
    stamp = _STAMP.match(text)
    return LogRecord(text[stamp.end() :] if stamp is not None else text, None)
