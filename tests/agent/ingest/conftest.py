"""What the ring tests share: a clock, a directory, and readers of files made by the test writer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.ingest.writer import BOOT_ID, RingWriter

from apportion.agent.ingest import Poll, Position, RingReader, open_ring_file
from apportion.agent.ingest.ring import LOOK_NS
from apportion.core.clock import ManualClock
from apportion.core.units import NS_PER_HOUR

RING_ID = "0123456789abcdef0123456789abcdef"


class Bench:
    """One ring with its writer, its reader and a clock that is turned by hand."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NS_PER_HOUR)
        self.path = folder / f"{RING_ID}.ring"
        self.alive = True
        self.reader: RingReader | None = None
        self.writer: RingWriter | None = None

    def write(self, **options: object) -> RingWriter:
        """Make the ring."""
        self.writer = RingWriter(self.path, **options)  # type: ignore[arg-type]
        return self.writer

    def read(
        self,
        start: Position | None = None,
        *,
        offset_ns: int = 0,
        boot_id: bytes = BOOT_ID,
        hole_ns: int = 600_000_000_000,
        most_holes: int = 1024,
    ) -> RingReader:
        """Start reading it."""
        file = open_ring_file(str(self.path))
        try:
            self.reader = RingReader(
                file,
                start or Position(),
                self.clock,
                boot_id=boot_id,
                clock_offset_ns=lambda _created, _pid: offset_ns,
                writer=lambda _fd: os.getpid() if self.alive else None,
                hole_ns=hole_ns,
                most_holes=most_holes,
            )
        except BaseException:
            file.close()
            raise
        return self.reader

    def poll(self, times: int = 1) -> list[Poll]:
        """Poll, one look apart."""
        assert self.reader is not None
        polls: list[Poll] = []
        for _ in range(times):
            self.clock.advance(LOOK_NS)
            polls.append(self.reader.poll())
        return polls

    def close(self) -> None:
        """Give everything back."""
        if self.reader is not None:
            self.reader.close()
        if self.writer is not None:
            self.writer.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A ring bench in an empty folder."""
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def ring_path(tmp_path: Path) -> Callable[[int], Path]:
    """Paths of rings by number."""
    return lambda number: tmp_path / f"{number:032x}.ring"
