"""Whole lines of the logs in a directory, as they come: files grow, and new ones begin."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

LONGEST_LINE: Final = 16 << 20
"""What is longer is no line: a prompt of a million tokens, with its log-probabilities, is less."""
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Place(NamedTuple):
    """How far a file has been read: up to `offset`, behind a newline, unless `in_long_line`."""

    inode: int
    offset: int
    in_long_line: bool = False


class LogTail:
    """The files in one directory whose names begin and end so; others are left alone.

    The directory may be written by others than us: links and pipes are no logs, a line without an
    end costs no memory, and a file that was cut or replaced is read from its beginning.
    """

    def __init__(self, directory: Path, prefix: str, suffix: str = ".log") -> None:
        self.directory = directory
        self._prefix, self._suffix = prefix, suffix
        self._places: dict[str, Place] = {}
        self.too_long = 0
        """Lines that were left out for their length."""

    @property
    def position(self) -> dict[str, list[int]]:
        """What `restore` takes, as JSON."""
        return {name: [*map(int, place)] for name, place in self._places.items()}

    def restore(self, position: object) -> None:
        """Go on where an earlier process was; nonsense is left out."""
        with suppress(ValueError, TypeError, AttributeError):
            known = json.loads(json.dumps(position)).items()
            self._places = {
                str(name): Place(int(inode), max(0, int(offset)), bool(within))
                for name, (inode, offset, within) in known
            }

    def skip(self, before_ns: int) -> None:
        """Leave out what files hold that were last written before this unix time."""
        with suppress(OSError):
            for entry in self._entries():
                facts = entry.stat(follow_symlinks=False)
                if facts.st_mtime_ns < before_ns:
                    self._places[entry.name] = Place(facts.st_ino, facts.st_size)

    def lines(self, most: int) -> Iterator[bytes]:
        """At most so many new lines, file by file in the order of their names.

        Raises:
            OSError: the directory cannot be listed.
        """
        names = sorted(entry.name for entry in self._entries())
        self._places = {name: self._places[name] for name in names if name in self._places}
        for name in names:
            for line in self._of_file(name, most):
                most -= 1
                yield line

    def _entries(self) -> list[os.DirEntry[str]]:
        with os.scandir(self.directory) as found:
            return [
                entry
                for entry in found
                if entry.name.startswith(self._prefix) and entry.name.endswith(self._suffix)
            ]

    def _of_file(self, name: str, most: int) -> Iterator[bytes]:
        try:
            descriptor = os.open(self.directory / name, _FLAGS)
        except OSError:  # a link, or it has gone, or is not ours to read: there are others
            return
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            return
        with os.fdopen(descriptor, "rb") as file:
            place = self._places.get(name, Place(facts.st_ino, 0))
            if place.inode != facts.st_ino or place.offset > facts.st_size:
                place = Place(facts.st_ino, 0)
            file.seek(place.offset)
            while most and (line := file.readline(LONGEST_LINE)):
                ends, goes_on = line.endswith(b"\n"), place.in_long_line
                if not ends and not goes_on and len(line) < LONGEST_LINE:
                    break  # its end is still to come
                place = Place(place.inode, place.offset + len(line), not ends)
                self._places[name] = place
                if ends and not goes_on:
                    most -= 1
                    yield line
                elif not goes_on:
                    self.too_long += 1
            self._places[name] = place
