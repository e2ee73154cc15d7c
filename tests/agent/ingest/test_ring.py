"""What a poll of one ring brings, and what it refuses."""

from __future__ import annotations

import os

import pytest
from tests.agent.ingest.conftest import RING_ID, Bench
from tests.agent.ingest.writer import BOOT_ID, Store, packed, record, word

from apportion.agent.ingest import (
    HeaderState,
    LossWindow,
    Poll,
    Position,
    Refusal,
    RingRefused,
)
from apportion.agent.ingest.ring import LOOK_NS
from apportion.agent.ingest.slots import CORRUPT_LOOKS
from apportion.client import layout
from apportion.core.ids import RingId
from apportion.core.units import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND


def sequences(polls: list[Poll]) -> list[int]:
    return [sequence for poll in polls for sequence in poll.records["sequence"].tolist()]


def test_a_record_is_handed_out_at_the_third_look(bench: Bench) -> None:
    """Protects the protocol: before, at and after the copy."""
    bench.write().write(3)
    bench.read()
    assert [len(poll.records) for poll in bench.poll(4)] == [0, 0, 3, 0]


def test_a_record_comes_with_every_field(bench: Bench) -> None:
    """Protects the numpy type: it must decode what the layout says."""
    bench.write().write(2)
    bench.read()
    *_, poll = bench.poll(3)
    assert [row.tobytes() for row in poll.records] == [record(1), record(2)]
    assert poll.records["output_tokens"].tolist() == [9, 16]
    assert poll.records["request_id"][0].tobytes() == record(1)[192:256]
    assert not poll.late.any()
    assert poll.position == Position(read=2, end_ns=1_025)


def test_records_that_end_between_looks_come_in_turn(bench: Bench) -> None:
    """Protects a busy ring: at each look some are new, some copied, some believed."""
    writer = bench.write(capacity=64)
    bench.read()
    polls: list[Poll] = []
    for count in (2, 3, 1, 0, 4, 0, 0, 0):
        writer.write(count)
        polls += bench.poll()
    assert [len(poll.records) for poll in polls] == [0, 0, 2, 3, 1, 0, 4, 0]
    assert sequences(polls) == list(range(1, 11))
    assert [poll.pending for poll in polls] == [2, 5, 4, 1, 4, 4, 0, 0]


def test_looks_too_close_together_are_one(bench: Bench) -> None:
    """Protects the store interval: polling faster must not believe faster."""
    bench.write().write()
    reader = bench.read()
    for _ in range(50):
        bench.clock.advance(LOOK_NS // 60)
        assert not len(reader.poll().records)
    assert sequences(bench.poll(2)) == [1]


def test_a_dead_writer_needs_one_look(bench: Bench) -> None:
    """Protects the last spans of a killed process, and says that the ring is read out."""
    bench.write().write(5)
    bench.alive = False
    reader = bench.read()
    first, second = bench.poll(2)
    assert (len(first.records), first.alive, first.finished) == (0, True, False)
    assert (len(second.records), second.alive, second.finished) == (5, False, True)
    assert reader.died_ns == bench.clock.monotonic_ns() - LOOK_NS


def test_a_lock_taken_late_is_no_death(bench: Bench) -> None:
    """Protects a ring from being given up between its making and its lock."""
    bench.write().write()
    bench.alive = False
    bench.read()
    bench.poll()
    bench.alive = True
    assert all(poll.alive for poll in bench.poll(5))


def test_a_record_that_comes_late_is_accepted_as_late(bench: Bench) -> None:
    """Protects a span whose thread slept between taking its slot and storing it."""
    writer = bench.write()
    sleeping = writer.take()
    writer.write(2)
    bench.read()
    assert sequences(bench.poll(3)) == [2, 3]
    assert bench.poll()[0].position.holes == (sleeping,)
    writer.apply(*writer.record_stores(sleeping))
    polls = bench.poll(3)
    assert sequences(polls) == [sleeping]
    assert polls[-1].late.tolist() == [True]
    assert polls[-1].position == Position(read=3, end_ns=record_end(3))


def test_a_late_record_is_copied_at_its_second_look(bench: Bench) -> None:
    """Protects a hole's record from being torn: its payload may come after its sequence."""
    writer = bench.write()
    sleeping = writer.take()
    writer.write(1)
    bench.read()
    bench.poll(3)
    clear, *payload, guard = writer.record_stores(sleeping)
    writer.apply(clear, guard)
    bench.poll()
    writer.apply(*payload)
    polls = bench.poll(2)
    assert polls[-1].records[0].tobytes() == record(sleeping)


def record_end(sequence: int) -> int:
    return 1_005 + 10 * sequence


def test_a_hole_is_given_up_after_a_while(bench: Bench) -> None:
    """Protects the account: what never comes is abandoned, once."""
    writer = bench.write()
    writer.take()
    writer.write(1)
    bench.read(hole_ns=10 * NS_PER_MINUTE)
    bench.poll(3)
    bench.clock.advance(10 * NS_PER_MINUTE)
    polls = bench.poll(3)
    assert [poll.abandoned for poll in polls] == [1, 0, 0]
    assert polls[-1].position == Position(read=2, abandoned=1, end_ns=record_end(2))


def test_a_hole_whose_slot_is_taken_again_is_given_up(bench: Bench) -> None:
    """Protects the account when a ring laps a thread that sleeps for ever."""
    writer = bench.write(capacity=4)
    writer.take()
    writer.write(3)
    bench.read()
    bench.poll(3)
    writer.write(3)
    *_, poll = bench.poll(3)
    assert poll.position == Position(read=7, abandoned=1, end_ns=record_end(7))


def test_holes_are_bounded(bench: Bench) -> None:
    """Protects the stored position from a ring that is full of holes."""
    writer = bench.write(capacity=128)
    for _ in range(50):
        writer.take()
        writer.write(1)
    bench.read(most_holes=10)
    *_, poll = bench.poll(3)
    assert len(poll.records) == 50
    assert poll.abandoned == 40
    assert poll.position.holes == tuple(range(81, 100, 2))


def test_many_holes_are_each_looked_at(bench: Bench) -> None:
    """Protects late records when there are more holes than one look takes."""
    writer = bench.write(capacity=256)
    sleeping: list[int] = []
    for _ in range(60):
        sleeping.append(writer.take())
        writer.write(1)
    bench.read()
    bench.poll(3)
    for sequence in sleeping:
        writer.apply(*writer.record_stores(sequence))
    polls = bench.poll(12)
    assert sorted(sequences(polls)) == sleeping
    assert polls[-1].position.holes == ()


def test_an_overrun_is_counted_to_the_record(bench: Bench) -> None:
    """Protects the loss figure, laps included, and the window that it fell in."""
    writer = bench.write(capacity=16)
    writer.write(5)
    bench.read()
    bench.poll(3)
    writer.write(100)
    polls = bench.poll(3)
    assert sequences(polls) == list(range(90, 106))
    assert sum(poll.lost for poll in polls) == 84
    windows = [window for poll in polls for window in poll.loss_windows]
    assert windows == [LossWindow(RingId(RING_ID), record_end(5), record_end(90), 84)]
    assert polls[-1].position.accepted == 5 + 16


def test_a_loss_before_the_first_record_starts_at_the_ring(bench: Bench) -> None:
    """Protects the window of a ring that was overrun before the agent came."""
    bench.write(capacity=8, created_monotonic_ns=777).write(20)
    bench.read()
    *_, poll = bench.poll(3)
    assert poll.loss_windows == (LossWindow(RingId(RING_ID), 777, record_end(13), 12),)


def test_a_crash_before_the_survivor_keeps_the_loss(bench: Bench) -> None:
    """Protects the loss from being told twice or never when the reader dies in between."""
    writer = bench.write(capacity=8)
    writer.write(20)
    reader = bench.read()
    *_, poll = bench.poll(2)
    assert (poll.position.read, poll.position.lost) == (0, 0)
    reader.close()
    writer.write(4)
    bench.read(Position())
    polls = bench.poll(3)
    assert sum(poll.lost for poll in polls) == 16
    assert sequences(polls) == list(range(17, 25))


def test_a_loss_is_told_although_nothing_survives(bench: Bench) -> None:
    """Protects the loss figure while the writer laps the ring at every look."""
    writer = bench.write(capacity=4)
    bench.read()
    lost = 0
    for _ in range(6 * NS_PER_SECOND // LOOK_NS):
        writer.write(9)
        lost += bench.poll()[0].lost
    assert 0.5 * writer.taken < lost <= writer.taken - 4


def test_reading_goes_on_exactly_where_it_stopped(bench: Bench) -> None:
    """Protects exactly-once across a restart of the agent, holes included."""
    writer = bench.write(capacity=64)
    sleeping = writer.take()
    writer.write(4)
    reader = bench.read()
    *_, poll = bench.poll(3)
    reader.close()
    writer.write(3)
    writer.apply(*writer.record_stores(sleeping))
    bench.read(Position.from_json(poll.position.to_json()))
    polls = bench.poll(3)
    assert sequences(polls) == [sleeping, 6, 7, 8]
    assert polls[-1].late.tolist() == [True, False, False, False]


def test_more_holes_than_a_chunk_do_not_hide_records(bench: Bench) -> None:
    """Protects records behind a hundred sleeping threads: all slots are looked at sometimes."""
    writer = bench.write(capacity=256)
    for _ in range(100):
        writer.take()
    writer.write(1)
    bench.read()
    assert sequences(bench.poll(5)) == []
    bench.clock.advance(NS_PER_MINUTE)
    assert sequences(bench.poll(3)) == [101]
    bench.alive = False
    polls = bench.poll(2)
    assert polls[-1].position == Position(read=101, abandoned=100, end_ns=record_end(101))


def test_a_dead_ring_longer_than_the_window_is_read_out(bench: Bench) -> None:
    """Protects a full ring of a dead process when memory is shared by many rings."""
    writer = bench.write(capacity=1_000)
    writer.write(1_500)
    bench.alive = False
    bench.read().limit(256)
    polls = bench.poll(6)
    assert sequences(polls) == list(range(501, 1_501))
    assert max(len(poll.records) for poll in polls) <= 256
    assert polls[-1].finished
    assert polls[-1].position.lost == 500


def test_a_live_ring_longer_than_the_window_is_read(bench: Bench) -> None:
    """Protects catching up after the agent was down, in bounded memory."""
    bench.write(capacity=2_000).write(2_000)
    bench.read().limit(256)
    assert sequences(bench.poll(40)) == list(range(1, 2_001))


def test_what_cannot_be_true_is_dropped_and_counted(bench: Bench) -> None:
    """Protects the ledger from times in the future and counters out of range."""
    writer = bench.write()
    now_ns = bench.clock.monotonic_ns()
    writer.write(1)
    writer.write(1, end_ns=now_ns + 60 * NS_PER_SECOND)
    writer.write(1, output_tokens=1 << 53)
    writer.write(1)
    bench.read()
    *_, poll = bench.poll(3)
    assert sequences([poll]) == [1, 4]
    assert poll.invalid == 2
    assert poll.position == Position(read=4, invalid=2, end_ns=record_end(4))


def test_times_of_another_namespace_are_moved(bench: Bench) -> None:
    """Protects spans of a container with a clock of its own, and leaves 0 alone."""
    writer = bench.write(ready_ns=50, created_monotonic_ns=40)
    writer.write(1, arrival_ns=0, scheduled_ns=0)
    writer.apply(*writer.open_stores(0, 900, 5))
    reader = bench.read(offset_ns=1_000_000)
    *_, poll = bench.poll(3)
    (row,) = poll.records
    assert (row["start_ns"], row["end_ns"]) == (1_001_010, 1_001_015)
    assert (row["arrival_ns"], row["scheduled_ns"]) == (0, 0)
    assert poll.open_spans["start_ns"].tolist() == [1_000_900]
    assert poll.state.ready_ns == 1_000_050
    assert reader.identity.created_ns == 1_000_040
    assert poll.position.end_ns == 1_001_015


def test_changing_header_words_are_followed(bench: Bench) -> None:
    """Protects ready, closed and the overflow counts."""
    writer = bench.write()
    bench.read()
    assert bench.poll()[0].state == HeaderState()
    writer.set_header("ready_ns", 500)
    writer.set_header("closed_ns", 600)
    writer.set_header("open_overflow", 3)
    writer.set_header("word_overflow", 4)
    assert bench.poll()[0].state == HeaderState(500, 600, 3, 4)


def test_what_a_killed_process_had_open_is_its_last_word(bench: Bench) -> None:
    """Protects lost spans: open slots of a dead ring need one look, without those that ended."""
    writer = bench.write()
    writer.write(1)
    writer.apply(*writer.open_stores(0, 900, 1))
    writer.apply(*writer.open_stores(1, 901, 77))
    bench.alive = False
    bench.read()
    bench.poll()
    for poll in bench.poll(3):
        assert poll.open_spans["number"].tolist() == [77]


def test_words_come_with_the_records_that_name_them(bench: Bench) -> None:
    """Protects tenants: the text is there when the record is."""
    writer = bench.write()
    bench.read()
    bench.poll(2)
    writer.apply(*writer.word_stores(9, "search"))
    writer.write(1, tenant=9)
    *_, poll = bench.poll(3)
    assert poll.words[poll.records["tenant"][0]] == "search"


@pytest.mark.parametrize("size", [0, 7, 100, layout.HEADER_BYTES, 5_000])
def test_a_file_that_shrinks_is_refused(bench: Bench, size: int) -> None:
    """Protects the agent from files that are truncated under it."""
    writer = bench.write()
    writer.write(3)
    bench.read()
    bench.poll()
    os.truncate(bench.path, size)
    with pytest.raises(RingRefused, match="shrank") as caught:
        bench.poll()
    assert caught.value.reason is Refusal.TRUNCATED


def test_a_file_that_shrinks_between_check_and_copy_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the copy itself: a short read is no record."""
    bench.write().write(3)
    reader = bench.read()

    def shrink(_expected_bytes: int) -> None:
        os.truncate(bench.path, 5_000)

    monkeypatch.setattr(reader._file, "check", shrink)
    with pytest.raises(RingRefused) as caught:
        bench.poll()
    assert caught.value.reason is Refusal.TRUNCATED


def test_a_file_that_grows_is_read_on(bench: Bench) -> None:
    """Protects a ring from a stranger's appending: what lies behind its end is nothing to it."""
    writer = bench.write()
    bench.read()
    os.truncate(bench.path, writer.size_bytes + 4_096)
    writer.write(1)
    assert sequences(bench.poll(3)) == [1]


def test_a_deleted_file_is_read_on(bench: Bench) -> None:
    """Protects the spans of a pod that was deleted before they were read."""
    writer = bench.write()
    bench.read()
    bench.path.unlink()
    writer.write(1)
    assert sequences(bench.poll(3)) == [1]


def test_a_second_name_is_refused(bench: Bench) -> None:
    """Protects against a link to somebody else's file, made while it is read."""
    bench.write()
    bench.read()
    os.link(bench.path, bench.path.with_name("other"))
    with pytest.raises(RingRefused) as caught:
        bench.poll()
    assert caught.value.reason is Refusal.HARD_LINKED


@pytest.mark.parametrize("name", ["version", "record_capacity", "ring_id", "created_monotonic_ns"])
def test_a_header_that_changes_is_refused(bench: Bench, name: str) -> None:
    """Protects the reader's arithmetic from a header that moves under it."""
    writer = bench.write()
    bench.read()
    bench.poll()
    writer.set_header(name, bytes(16) if name == "ring_id" else 2)
    with pytest.raises(RingRefused, match="header changed") as caught:
        bench.poll()
    assert caught.value.reason is Refusal.BAD_HEADER


@pytest.mark.parametrize("value", [5, 17 + (1 << 62), (1 << 64) - 1, 1 << 63, 1 + 16 * 10**15])
def test_impossible_sequences_are_refused_if_they_stay(bench: Bench, value: int) -> None:
    """Protects the counts from a sequence that cannot be in its slot, or not yet."""
    writer = bench.write(capacity=16)
    offset = writer.records_offset
    bench.read()
    writer.apply(Store(offset, word(value)))
    for _ in range(CORRUPT_LOOKS):
        (poll,) = bench.poll()
        assert (poll.position.read, poll.position.lost) == (0, 0)
    if value in {5, 1 + 16 * 10**15, 17 + (1 << 62)}:
        with pytest.raises(RingRefused) as caught:
            bench.poll()
        assert caught.value.reason is Refusal.CORRUPT


def test_an_impossible_sequence_for_a_moment_is_forgiven(bench: Bench) -> None:
    """Protects a good ring from a word read in two halves."""
    writer = bench.write(capacity=16)
    bench.read()
    writer.apply(Store(writer.records_offset, word(9)))
    bench.poll(2)
    writer.write(1)
    assert sequences(bench.poll(6)) == [1]


def test_another_boot_is_refused(bench: Bench) -> None:
    """Protects the time axis from clocks of before a reboot."""
    bench.write()
    with pytest.raises(RingRefused, match="boot") as caught:
        bench.read(boot_id=bytes(reversed(BOOT_ID)))
    assert caught.value.reason is Refusal.OTHER_BOOT


@pytest.mark.parametrize(("ours", "theirs"), [(bytes(16), BOOT_ID), (BOOT_ID, bytes(16))])
def test_an_unknown_boot_is_accepted(bench: Bench, ours: bytes, theirs: bytes) -> None:
    """Protects sandboxes that hide the boot id."""
    bench.write(boot_id=theirs).write(1)
    bench.read(boot_id=ours)
    assert sequences(bench.poll(3)) == [1]


@pytest.mark.parametrize(
    ("created_ns", "offset_ns"),
    [(-1, 0), (5, -6), (2 * NS_PER_HOUR, 0), (1 << 62, 0), (1, 1 << 62)],
)
def test_a_clock_that_cannot_be_of_this_boot_is_refused(
    bench: Bench, created_ns: int, offset_ns: int
) -> None:
    """Protects the offset arithmetic from made-up clock pairs."""
    bench.write(created_monotonic_ns=created_ns)
    with pytest.raises(RingRefused, match="clock") as caught:
        bench.read(offset_ns=offset_ns)
    assert caught.value.reason is Refusal.BAD_HEADER


def test_a_lock_that_cannot_be_asked_for_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the other rings when one lies on a file system without locks."""
    bench.write()
    reader = bench.read()

    def fail(_fd: int) -> int | None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(reader, "_writer", fail)
    with pytest.raises(RingRefused) as caught:
        bench.poll()
    assert caught.value.reason is Refusal.UNREADABLE


def test_a_span_is_open_until_its_record_is_believed(bench: Bench) -> None:
    """Protects settlement: between its open slot and its record a span never vanishes."""
    writer = bench.write()
    writer.apply(*writer.open_stores(2, 900, 1, packed=packed(1, 0)))
    bench.read()
    bench.poll(3)
    writer.write(1)
    writer.apply(*writer.clear_stores(2))
    polls = bench.poll(4)
    assert [poll.open_spans["number"].tolist() for poll in polls] == [[1], [1], [], []]
    assert sequences(polls[:3]) == [1]
    assert sequences([polls[2]]) == [1]
