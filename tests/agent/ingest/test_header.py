"""The header: what is believed of it, and that nothing in it can break the reader."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.agent.ingest.conftest import RING_ID, Bench
from tests.agent.ingest.writer import RingWriter

from apportion.agent.ingest import Position, Refusal, RingReader, RingRefused, open_ring_file
from apportion.agent.ingest.header import FIXED_BYTES, parse_header, parse_state, past
from apportion.agent.ingest.ring import LOOK_NS
from apportion.client import layout
from apportion.core.clock import ManualClock
from apportion.core.units import NS_PER_HOUR

NUMBERS = [field for field in layout.HEADER_FIELDS if not field[2].endswith("s")]


@pytest.mark.parametrize("name", ["header_bytes", "record_bytes", "word_bytes", "open_slot_bytes"])
@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF])
def test_sizes_of_another_layout_are_refused(bench: Bench, name: str, value: int) -> None:
    """Protects the decoder from a header of version 1 with other sizes."""
    bench.write(**{name: value})
    with pytest.raises(RingRefused, match=name) as caught:
        bench.read()
    assert caught.value.reason is Refusal.BAD_HEADER


@pytest.mark.parametrize("name", ["record_capacity", "word_capacity", "open_slot_capacity"])
@pytest.mark.parametrize("value", [0, (1 << 20) + 1, 0xFFFFFFFF])
def test_capacities_are_bounded(bench: Bench, name: str, value: int) -> None:
    """Protects memory and arithmetic from huge capacities, sizes that overflow included."""
    bench.write(**{name: value})
    with pytest.raises(RingRefused, match=name) as caught:
        bench.read()
    assert caught.value.reason is Refusal.BAD_HEADER


def test_a_capacity_that_the_file_has_not_is_refused(bench: Bench) -> None:
    """Protects against reading behind the end of the file."""
    bench.write(capacity=16, record_capacity=17)
    with pytest.raises(RingRefused) as caught:
        bench.read()
    assert caught.value.reason is Refusal.WRONG_SIZE


@pytest.mark.parametrize("version", [0, 2, 0xFFFFFFFF])
def test_another_version_is_refused_with_advice(bench: Bench, version: int) -> None:
    """Protects an operator whose client is newer than the agent: the message says what to do."""
    bench.write(version=version)
    with pytest.raises(RingRefused, match="update the agent") as caught:
        bench.read()
    assert caught.value.reason is Refusal.UNKNOWN_VERSION


def test_an_identity_longer_than_its_room_is_refused(bench: Bench) -> None:
    """Protects against an identity that would run into the words."""
    bench.write(identity_length=layout.IDENTITY_BYTES + 1)
    with pytest.raises(RingRefused, match="identity_length"):
        bench.read()


@pytest.mark.parametrize("size", [0, 8, layout.HEADER_BYTES - 1])
def test_a_file_shorter_than_a_header_is_refused(bench: Bench, size: int) -> None:
    """Protects the first read."""
    writer = bench.write()
    os.truncate(writer.path, size)
    with pytest.raises(RingRefused) as caught:
        bench.read()
    assert caught.value.reason is Refusal.WRONG_SIZE


def test_the_fixed_part_has_all_fields() -> None:
    """Protects the one read per poll that follows the changing words."""
    assert max(offset for _, offset, _ in layout.HEADER_FIELDS) < FIXED_BYTES <= 512


def test_changing_words_are_where_the_layout_says() -> None:
    """Protects the order in which the changing words are decoded."""
    raw = bytearray(FIXED_BYTES)
    for value, name in enumerate(("ready_ns", "closed_ns", "open_overflow", "word_overflow"), 1):
        struct.pack_into("@q", raw, layout.HEADER_OFFSETS[name], value)
    state = parse_state(bytes(raw), 10, 100)
    assert (state.ready_ns, state.closed_ns) == (11, 12)
    assert (state.open_overflow, state.word_overflow) == (3, 4)
    assert state.resumed is None


@pytest.mark.parametrize(
    ("step", "time_ns", "expected"),
    [(40, 7, (17, 40)), (0, 7, (17, 0)), (40, 0, None), (-1, 7, None), (1 << 53, 7, None),
     (40, 95, None)],
)  # fmt: skip
def test_a_resumed_step_is_one_with_a_past_time(
    step: int, time_ns: int, expected: tuple[int, int] | None
) -> None:
    """Protects lost work from made-up steps and times, and from a pair that is half stored."""
    raw = bytearray(FIXED_BYTES)
    struct.pack_into("@q", raw, layout.HEADER_OFFSETS["resumed_step"], step)
    struct.pack_into("@q", raw, layout.HEADER_OFFSETS["resumed_ns"], time_ns)
    assert parse_state(bytes(raw), 10, 100).resumed == expected


@pytest.mark.parametrize(
    ("time_ns", "offset_ns", "expected"),
    [(0, 5, None), (-1, 5, None), (7, 5, 12), (96, 5, None), (3, -4, None), (95, 5, 100)],
)
def test_a_header_time_is_in_the_past_or_not_said(
    time_ns: int, offset_ns: int, expected: int | None
) -> None:
    """Protects starts of processes and servers from made-up times."""
    assert past(time_ns, offset_ns, now_ns=100) == expected


@given(st.binary(min_size=FIXED_BYTES, max_size=FIXED_BYTES))
def test_any_bytes_give_a_header_or_a_refusal(raw: bytes) -> None:
    """Protects the parser: no input makes it raise anything else."""
    try:
        header = parse_header(raw)
    except RingRefused:
        return
    assert header.file_bytes > layout.HEADER_BYTES


@given(
    changes=st.lists(
        st.tuples(st.sampled_from(NUMBERS), st.integers(0, (1 << 64) - 1) | st.integers(0, 40)),
        max_size=3,
    ),
    identity=st.binary(max_size=80),
    body=st.binary(max_size=400),
    at=st.integers(0, 9_000),
)
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[tuple[str, int, str], int]],
    identity: bytes,
    body: bytes,
    at: int,
) -> None:
    """Protects the whole reader: a fuzzed ring gives polls or a refusal, never another error."""
    path = tmp_path_factory.mktemp("fuzz") / f"{RING_ID}.ring"
    writer = fuzzed(path, changes, identity, body, at)
    clock = ManualClock(NS_PER_HOUR)
    file = open_ring_file(str(path))
    try:
        pids: list[int | None] = [1, 1, 1, 1, None, None]
        reader = RingReader(file, Position(), clock, writer=lambda _fd: pids.pop(0))
        while pids:
            clock.advance(LOOK_NS)
            poll = reader.poll()
            assert poll.position.accepted >= 0
    except RingRefused:
        return
    finally:
        file.close()
        writer.close()


def fuzzed(
    path: Path,
    changes: list[tuple[tuple[str, int, str], int]],
    identity: bytes,
    body: bytes,
    at: int,
) -> RingWriter:
    """A ring with records, words and open spans, then with strange values all over it."""
    writer = RingWriter(path, capacity=8, identity={"workload": "w"})
    writer.write(20)
    writer.apply(*writer.open_stores(1, 500, 3), *writer.word_stores(3, "tenant"))
    os.pwrite(writer.fd, identity, layout.IDENTITY_OFFSET)
    os.pwrite(writer.fd, body, layout.HEADER_BYTES + at)
    os.ftruncate(writer.fd, writer.size_bytes)
    for (_, offset, code), value in changes:
        size = struct.calcsize(f"@{code}")
        os.pwrite(writer.fd, value.to_bytes(8, "little")[:size], offset)
    return writer
