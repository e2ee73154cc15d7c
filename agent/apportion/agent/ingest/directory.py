"""The ring directory: finds rings, follows each to its end, and keeps bad ones apart."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from apportion.agent.ingest.aside import Aside, RefusedRing
from apportion.agent.ingest.clock_offset import (
    NOISE_NS,
    ClockPair,
    clock_offset_ns,
    same_time_namespace,
)
from apportion.agent.ingest.file import RingFile, open_ring_file
from apportion.agent.ingest.header import UNKNOWN_BOOT, is_complete
from apportion.agent.ingest.identity import RingIdentity
from apportion.agent.ingest.liveness import writer_pid
from apportion.agent.ingest.position import Position
from apportion.agent.ingest.refusal import Refusal, RingRefused
from apportion.agent.ingest.ring import LOOK_NS, Poll, RingReader
from apportion.agent.ingest.scan import DirectoryScan, DirectoryState
from apportion.agent.ingest.slots import Scratch
from apportion.client import layout
from apportion.core.clock import Clock
from apportion.core.ids import RingId
from apportion.core.units import NS_PER_MINUTE

MOST_RINGS: Final = 512
INCOMPLETE_NS: Final = NS_PER_MINUTE
"""A file without magic whose writer is dead is given up after this."""
_ROWS_AT_ONCE: Final = 1 << 16
"""Records under way in all rings together: 16 MiB."""
_LEAST_ROWS: Final = 256
_MOST_PAIRS: Final = 64
_MAGIC_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class DiedRing:
    """A ring whose process is gone; `closed_ns` is None where it did not end cleanly."""

    ring: RingId
    detected_ns: int
    closed_ns: int | None


@dataclass(frozen=True, slots=True)
class DirectoryPoll:
    """What one poll of the directory brought.

    `polls` has every ring that is followed; `attached`, `died` and `refused` are new ones
    only. `waiting` files are not complete yet; `unlisted` ones are beyond what is listed.
    """

    state: DirectoryState
    reason: str
    polls: Mapping[RingId, Poll]
    attached: tuple[RingIdentity, ...]
    died: tuple[DiedRing, ...]
    refused: tuple[RefusedRing, ...]
    refused_total: Mapping[Refusal, int]
    waiting: int
    unlisted: int


@dataclass(slots=True)
class _Candidate:
    file: RingFile
    since_ns: int
    complete_ns: int | None = None


class RingDirectory:
    """Follows all rings of one directory with plain, synchronous polls.

    `restore` gives the position from which each ring goes on. `clock_pairs` are the agent's
    earlier pairs of this boot, one for each step of the wall clock; those seen from now on
    are added. `make` lets it make the directory where it is missing, as an agent's own is. One
    thread polls and reaps; `scratch` is for several directories of one thread.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        allowed_uids: AbstractSet[int] | None = None,
        restore: Mapping[RingId, Position] | None = None,
        boot_id: bytes = UNKNOWN_BOOT,
        gid: int | None = None,
        clock_pairs: Iterable[ClockPair] = (),
        most_rings: int = MOST_RINGS,
        make: bool = True,
        scratch: Scratch | None = None,
        proc: Path = Path("/proc"),
        writer: Callable[[int], int | None] = writer_pid,
    ) -> None:
        self._scan = DirectoryScan(path, gid=gid, make=make)
        self._clock, self._allowed_uids, self._boot_id = clock, allowed_uids, boot_id
        self._restore = dict(restore or {})
        self._pairs = list(clock_pairs)[-_MOST_PAIRS:]
        self._most_rings, self._proc, self._writer = most_rings, proc, writer
        self.scratch: Final = scratch or Scratch()
        self._rows_at_once = _ROWS_AT_ONCE
        self._readers: dict[str, RingReader] = {}
        self._candidates: dict[str, _Candidate] = {}
        self._aside = Aside()
        self._dead: set[str] = set()

    @property
    def refused(self) -> tuple[RefusedRing, ...]:
        """Everything in the directory that is not read now, and why."""
        return self._aside.refused

    @property
    def refused_total(self) -> Mapping[Refusal, int]:
        """How many files were refused ever, by reason."""
        return self._aside.total

    @property
    def state(self) -> DirectoryState:
        """What the directory was like at the last poll."""
        return self._scan.state

    @property
    def is_idle(self) -> bool:
        """Whether nothing in it is read or waited for."""
        return not self._readers and not self._candidates

    @property
    def clock_pairs(self) -> tuple[ClockPair, ...]:
        """The pairs known so far, for a directory that is found later."""
        return tuple(self._pairs)

    def limit(self, share: float) -> None:
        """Hold only so much of the records that all directories together may have under way."""
        self._rows_at_once = int(_ROWS_AT_ONCE * share)
        self._share_rows()

    def poll(self) -> DirectoryPoll:
        """Look at the directory and at every ring once. Never raises for what it finds."""
        now_ns = self._clock.monotonic_ns()
        self._note_clock()
        refused: list[RefusedRing] = []
        if self._scan.look(now_ns):
            self._find(now_ns, refused)
        attached = self._attach(now_ns, refused)
        polls: dict[RingId, Poll] = {}
        died: list[DiedRing] = []
        for name, reader in list(self._readers.items()):
            try:
                polls[reader.ring] = reader.poll()
            except (RingRefused, OSError) as error:
                self._quarantine(name, error, now_ns, refused)
                continue
            if reader.died_ns is not None and name not in self._dead:
                self._dead.add(name)
                died.append(DiedRing(reader.ring, reader.died_ns, reader.state.closed_ns))
        return DirectoryPoll(
            state=self._scan.state,
            reason=self._scan.reason,
            polls=MappingProxyType(polls),
            attached=tuple(attached),
            died=tuple(died),
            refused=tuple(refused),
            refused_total=MappingProxyType(dict(self._aside.total)),
            waiting=len(self._candidates),
            unlisted=self._scan.unlisted,
        )

    def reap(self, rings: Iterable[RingId]) -> None:
        """Forget finished rings whose positions are committed.

        Their files are deleted where the directory belongs to the agent; elsewhere they stay,
        and are not read again. A ring that is not finished is left alone.
        """
        for ring in rings:
            name = f"{ring}{layout.FILE_SUFFIX}"
            reader = self._readers.get(name)
            if reader is None or not reader.finished:
                continue
            self._aside.finish(name, reader.inode[1], self._clock.monotonic_ns())
            if self._scan.owned:
                self._delete(name, reader.inode)
            self._drop(name)

    def close(self) -> None:
        """Give all files back."""
        for name in list(self._readers):
            self._drop(name)
        for candidate in self._candidates.values():
            candidate.file.close()
        self._candidates.clear()
        self._scan.close()

    def _find(self, now_ns: int, refused: list[RefusedRing]) -> None:
        """Open names that are new; forget what was remembered of names that are gone."""
        names = set(self._scan.names)
        self._aside.keep(names)
        for name in self._candidates.keys() - names:
            self._candidates.pop(name).file.close()
        for name in self._scan.names:
            if name in self._readers or name in self._candidates:
                continue
            judged = name in self._aside.names()
            if not (judged and self._aside.is_judged(name, self._inode(name), now_ns)):
                self._open(name, now_ns, refused)

    def _open(self, name: str, now_ns: int, refused: list[RefusedRing]) -> None:
        if len(self._readers) + len(self._candidates) >= self._most_rings:
            error = RingRefused(
                Refusal.TOO_MANY, f"more than {self._most_rings} rings; raise the limit"
            )
            self._refuse(name, error, now_ns, refused)
            return
        try:
            file = open_ring_file(name, directory_fd=self._scan.fd, allowed_uids=self._allowed_uids)
        except FileNotFoundError:
            return
        except (RingRefused, OSError) as error:
            self._refuse(name, error, now_ns, refused)
            return
        self._candidates[name] = _Candidate(file, now_ns)

    def _attach(self, now_ns: int, refused: list[RefusedRing]) -> list[RingIdentity]:
        """Follow candidates whose magic was seen one look ago: all of their header is there."""
        attached: list[RingIdentity] = []
        for name, candidate in list(self._candidates.items()):
            try:
                if not self._is_ready(candidate, now_ns):
                    continue
                reader = self._reader(name, candidate.file)
            except (RingRefused, OSError) as error:
                del self._candidates[name]
                self._refuse(name, error, now_ns, refused, inode=candidate.file.inode[1])
                candidate.file.close()
                continue
            del self._candidates[name]
            self._aside.forget(name)
            self._readers[name] = reader
            self._share_rows()
            attached.append(reader.identity)
        return attached

    def _is_ready(self, candidate: _Candidate, now_ns: int) -> bool:
        file = candidate.file
        if candidate.complete_ns is not None:
            return now_ns - candidate.complete_ns >= LOOK_NS
        if file.size_bytes() >= _MAGIC_BYTES and is_complete(file.read(0, _MAGIC_BYTES)):
            candidate.complete_ns = self._clock.monotonic_ns()
        elif now_ns - candidate.since_ns >= INCOMPLETE_NS and self._writer(file.fd) is None:
            raise RingRefused(Refusal.INCOMPLETE, "its writer died before it was complete")
        return False

    def _reader(self, name: str, file: RingFile) -> RingReader:
        ring = _ring_of(name)
        reader = RingReader(
            file,
            self._restore.get(ring, Position()),
            self._clock,
            scratch=self.scratch,
            clock_offset_ns=self._clock_offset_ns,
            boot_id=self._boot_id,
            writer=self._writer,
        )
        if reader.ring != ring:
            raise RingRefused(Refusal.BAD_HEADER, f"its header names another ring, {reader.ring}")
        return reader

    def _quarantine(
        self, name: str, error: Exception, now_ns: int, refused: list[RefusedRing]
    ) -> None:
        inode = self._readers[name].inode[1]
        self._refuse(name, error, now_ns, refused, inode=inode, followed=True)
        self._drop(name)

    def _refuse(
        self,
        name: str,
        error: Exception,
        now_ns: int,
        refused: list[RefusedRing],
        *,
        inode: int | None = None,
        followed: bool = False,
    ) -> None:
        inode = self._inode(name) if inode is None else inode
        entry = self._aside.refuse(name, _ring_of(name), inode, error, now_ns, followed=followed)
        if entry is not None:
            refused.append(entry)

    def _drop(self, name: str) -> None:
        self._readers.pop(name).close()
        self._dead.discard(name)
        self._share_rows()

    def _share_rows(self) -> None:
        rows = max(_LEAST_ROWS, self._rows_at_once // max(1, len(self._readers)))
        for reader in self._readers.values():
            reader.limit(min(rows, self.scratch.rows))

    def _inode(self, name: str) -> int:
        try:
            return os.stat(name, dir_fd=self._scan.fd, follow_symlinks=False).st_ino
        except OSError:
            return 0

    def _delete(self, name: str, inode: tuple[int, int]) -> None:
        if self._scan.fd is not None and self._inode(name) == inode[1]:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._scan.fd)

    def _note_clock(self) -> None:
        pair = ClockPair(self._clock.monotonic_ns(), self._clock.realtime_ns())
        if not self._pairs or abs(pair.anchor_ns - self._pairs[-1].anchor_ns) > NOISE_NS // 2:
            self._pairs.append(pair)
            del self._pairs[:-_MOST_PAIRS]

    def _clock_offset_ns(self, created: ClockPair, host_pid: int) -> int:
        if same_time_namespace(host_pid, self._proc):
            return 0
        return clock_offset_ns(created, self._pairs)


def _ring_of(name: str) -> RingId:
    return RingId(name.removesuffix(layout.FILE_SUFFIX))
