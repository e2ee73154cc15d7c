"""The protocol of ring records, with stores that become visible late and in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.agent.ingest.writer import RingWriter, Store, record

from apportion.agent.ingest import Poll, Position, RingFile, RingReader, Scratch
from apportion.agent.ingest.ring import LOOK_NS
from apportion.core.clock import ManualClock
from apportion.core.units import NS_PER_MINUTE

RING = "00112233445566778899aabbccddeeff"


class Memory:
    """The file as the reader sees it: a store waits here until it is delivered.

    Stores to one address stay in order, as in any coherent memory; all else is free. A store
    made before a look is there at the look after it.
    """

    def __init__(self, writer: RingWriter) -> None:
        self._writer = writer
        self._waiting: dict[int, deque[tuple[int, bytes]]] = {}
        self._looks = 0

    def make(self, stores: list[Store]) -> None:
        """A thread executes stores."""
        for offset, value in stores:
            self._waiting.setdefault(offset, deque()).append((self._looks, value))

    def deliver(self, random: np.random.Generator, ratio: float) -> None:
        """Some of the waiting stores become visible."""
        for offset in list(self._waiting):
            while offset in self._waiting and random.random() < ratio:
                self._deliver_one(offset)

    def deliver_due(self) -> None:
        """All stores made before the last look become visible; a new look begins."""
        for offset, queue in list(self._waiting.items()):
            while queue and queue[0][0] < self._looks:
                self._deliver_one(offset)
        self._looks += 1

    def deliver_all(self) -> None:
        """The kernel has ended the writer: nothing is in flight."""
        for offset in list(self._waiting):
            while offset in self._waiting:
                self._deliver_one(offset)

    def _deliver_one(self, offset: int) -> None:
        queue = self._waiting[offset]
        self._writer.apply(Store(offset, queue.popleft()[1]))
        if not queue:
            del self._waiting[offset]


class TornFile(RingFile):
    """A file whose copies are not atomic: stores are made and delivered in the midst of one."""

    memory: Memory
    random: np.random.Generator

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Copy in two parts."""
        part = int(self.random.integers(0, len(buffer) // 8 + 1)) * 8
        super().read_into(buffer[:part], offset)
        self.memory.deliver(self.random, 0.3)
        super().read_into(buffer[part:], offset + part)


class RecordMachine(RuleBasedStateMachine):
    """A writer, a reader that may crash at any moment, and what must always hold."""

    @initialize(capacity=st.sampled_from([1, 3, 8, 70, 200]), seed=st.integers(0, 2**32 - 1))
    def begin(self, capacity: int, seed: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="ring-")
        path = Path(self.folder) / f"{RING}.ring"
        self.clock = ManualClock(10 * NS_PER_MINUTE)
        self.writer = RingWriter(
            path, capacity=capacity, created_monotonic_ns=self.clock.monotonic_ns()
        )
        self.random = np.random.default_rng(seed)
        self.memory = Memory(self.writer)
        self.scratch = Scratch(1)
        self.alive = True
        self.suspended: list[int] = []
        self.stored: set[int] = set()
        self.clobbered: set[int] = set()
        self.given_up_by_age: set[int] = set()
        self.committed: tuple[Position, frozenset[int]] = (Position(), frozenset())
        self.accepted: set[int] = set()
        self.position = Position()
        self.poll: Poll | None = None
        self.reader = self.open_reader()

    def open_reader(self) -> RingReader:
        file = TornFile(os.open(self.writer.path, os.O_RDONLY))
        file.memory, file.random = self.memory, self.random
        return RingReader(
            file,
            self.position,
            self.clock,
            scratch=self.scratch,
            writer=lambda _fd: 1 if self.alive else None,
        )

    def store(self, sequence: int) -> None:
        self.stored.add(sequence)
        # A thread that slept for a whole lap puts its old record over a newer one.
        self.clobbered |= {
            later
            for later in range(sequence + self.writer.capacity, self.writer.taken + 1)
            if (later - sequence) % self.writer.capacity == 0
        }
        self.memory.make(self.writer.record_stores(sequence))

    @precondition(lambda self: self.alive)
    @rule(count=st.integers(1, 12))
    def end_spans(self, count: int) -> None:
        for _ in range(count):
            self.store(self.writer.take())

    @precondition(lambda self: self.alive)
    @rule(laps=st.integers(1, 3), more=st.integers(0, 5))
    def overrun(self, laps: int, more: int) -> None:
        for _ in range(laps * self.writer.capacity + more):
            self.store(self.writer.take())

    @precondition(lambda self: self.alive)
    @rule(count=st.integers(1, 3))
    def take_a_slot_and_sleep(self, count: int) -> None:
        self.suspended += [self.writer.take() for _ in range(count)]

    @precondition(lambda self: self.alive and self.suspended)
    @rule(which=st.integers(0, 100))
    def wake_up(self, which: int) -> None:
        self.store(self.suspended.pop(which % len(self.suspended)))

    @rule(ratio=st.sampled_from([0.0, 0.05, 0.5, 0.9]))
    def deliver(self, ratio: float) -> None:
        self.memory.deliver(self.random, ratio)

    @rule(wait_ns=st.integers(LOOK_NS, 3 * LOOK_NS))
    def look(self, wait_ns: int) -> None:
        self.memory.deliver_due()
        self.clock.advance(wait_ns)
        self.take_poll()

    @rule(count=st.integers(2, 5))
    def look_often(self, count: int) -> None:
        for _ in range(count):
            self.look(LOOK_NS)

    @precondition(lambda self: self.alive)
    @rule(
        counts=st.lists(st.integers(0, 4), min_size=3, max_size=8),
        ratio=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def look_while_spans_end(self, counts: list[int], ratio: float) -> None:
        for count in counts:
            self.end_spans(count)
            self.memory.deliver(self.random, ratio)
            self.look(LOOK_NS)

    @rule(wait_ns=st.integers(0, LOOK_NS // 2))
    def look_too_soon(self, wait_ns: int) -> None:
        # Before the first look of a reader, no wait is too short: nothing is believed then.
        self.clock.advance(wait_ns)
        if self.poll is not None:
            self.take_poll()

    @precondition(lambda self: self.alive)
    @rule()
    def sleep_long(self) -> None:
        self.memory.deliver_due()
        self.memory.deliver_due()
        self.clock.advance(11 * NS_PER_MINUTE)
        self.given_up_by_age |= set(self.position.holes) - self.stored
        self.take_poll()

    @rule()
    def commit(self) -> None:
        self.committed = (self.position, frozenset(self.accepted))

    @rule(after_commit=st.booleans())
    def crash(self, after_commit: bool) -> None:
        if after_commit:
            self.commit()
        self.reader.close()
        self.position, accepted = self.committed
        self.position = Position.from_json(self.position.to_json())
        self.accepted = set(accepted)
        self.poll = None
        self.reader = self.open_reader()

    @precondition(lambda self: self.alive)
    @rule()
    def die(self) -> None:
        self.alive = False
        self.memory.deliver_all()

    def take_poll(self) -> None:
        poll = self.reader.poll()
        sequences = poll.records["sequence"].tolist()
        assert sequences == sorted(sequences)
        for sequence, row in zip(sequences, poll.records, strict=True):
            assert row.tobytes() == record(sequence), f"{sequence} is torn"
            assert sequence not in self.accepted, f"{sequence} twice"
            self.accepted.add(sequence)
        for sequence, late in zip(sequences, poll.late.tolist(), strict=True):
            assert late == (sequence <= self.position.read)
        assert poll.lost == poll.position.lost - self.position.lost
        assert poll.lost == sum(window.count for window in poll.loss_windows)
        assert poll.abandoned == poll.position.abandoned - self.position.abandoned
        assert poll.position.read >= self.position.read
        self.poll, self.position = poll, poll.position

    @invariant()
    def every_sequence_is_counted_once(self) -> None:
        position = self.position
        assert position.accepted == len(self.accepted)
        assert position.invalid == 0
        assert self.accepted.isdisjoint(position.holes)
        assert position.read <= self.writer.taken
        assert all(0 < sequence <= position.read for sequence in self.accepted)

    @invariant()
    def only_what_is_gone_is_given_up(self) -> None:
        given_up = set(range(1, self.position.read + 1)) - self.accepted
        for sequence in given_up.difference(self.position.holes):
            overwritten = sequence + self.writer.capacity <= self.writer.taken
            never_came = sequence not in self.stored - self.clobbered - self.given_up_by_age
            assert overwritten or never_came, f"{sequence} was there to be read"

    @invariant()
    def a_loss_is_what_was_overwritten(self) -> None:
        overwritten = max(0, self.writer.taken - self.writer.capacity)
        assert self.position.lost <= overwritten

    def teardown(self) -> None:
        if not hasattr(self, "reader"):
            return
        try:
            self.read_to_the_end()
        finally:
            self.reader.close()
            self.writer.close()
            shutil.rmtree(self.folder)

    def read_to_the_end(self) -> None:
        self.memory.deliver_all()
        for _ in range(12):
            self.look(LOOK_NS)
        newest = max(self.stored, default=0)
        for sequence in self.writer.shown():
            lapped = sequence <= max(0, newest - self.writer.capacity)
            assert lapped or sequence in self.accepted | self.given_up_by_age
        self.alive = False
        for _ in range(30):
            self.look(LOOK_NS)
        assert self.poll is not None
        assert self.poll.finished
        assert self.poll.pending == 0
        assert self.position.holes == ()
        assert self.position.read >= max(self.writer.shown())
        self.every_sequence_is_counted_once()
        self.only_what_is_gone_is_given_up()


RecordMachine.TestCase.settings = settings(
    max_examples=settings().max_examples // 4, stateful_step_count=40, deadline=None
)
TestRecordMachine = RecordMachine.TestCase
