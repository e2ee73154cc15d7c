"""What runs now, with stores that come late and in any order."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from tests.agent.ingest.conftest import Bench
from tests.agent.ingest.test_record_window import Memory

from apportion.agent.ingest.open_slots import LINGER_NS
from apportion.agent.ingest.ring import LOOK_NS


def open_numbers(bench: Bench, times: int = 1) -> list[list[int]]:
    return [poll.open_spans["number"].tolist() for poll in bench.poll(times)]


def test_an_open_span_is_believed_at_the_second_equal_look(bench: Bench) -> None:
    """Protects against a slot that is being written."""
    writer = bench.write()
    writer.apply(*writer.open_stores(3, 900, 7, parent=2, step=11))
    bench.read()
    first, second = bench.poll(2)
    assert not len(first.open_spans)
    (row,) = second.open_spans
    assert (row["start_ns"], row["number"], row["parent"], row["step"]) == (900, 7, 2, 11)


def test_an_unchanged_answer_is_the_same_array(bench: Bench) -> None:
    """Protects the idle poll's cost: nothing new, nothing made."""
    writer = bench.write()
    writer.apply(*writer.open_stores(3, 900, 7))
    bench.read()
    polls = bench.poll(5)
    assert all(poll.open_spans is polls[1].open_spans for poll in polls[1:])


def test_a_cleared_slot_lingers_for_a_while_only(bench: Bench) -> None:
    """Protects settlement from a span that ends for ever without a record."""
    writer = bench.write()
    writer.apply(*writer.open_stores(0, 900, 7))
    bench.read()
    bench.poll(2)
    writer.apply(*writer.clear_stores(0))
    assert open_numbers(bench, 3) == [[7]] * 3
    bench.clock.advance(LINGER_NS)
    assert open_numbers(bench) == [[]]


def test_a_slot_that_is_used_again_shows_both_spans(bench: Bench) -> None:
    """Protects the span whose record is still being read from its slot's next one."""
    writer = bench.write()
    writer.apply(*writer.open_stores(0, 900, 7))
    bench.read()
    bench.poll(2)
    writer.apply(*writer.open_stores(0, 950, 8))
    assert [sorted(numbers) for numbers in open_numbers(bench, 3)] == [[7], [7, 8], [7, 8]]


def test_a_slot_that_changes_all_the_time_stays_open(bench: Bench) -> None:
    """Protects a request that counts its tokens in its slot at every look."""
    writer = bench.write()
    writer.apply(*writer.open_stores(0, 900, 7))
    bench.read()
    bench.poll(2)
    for at in range(2 * LINGER_NS // LOOK_NS):
        tail = writer.open_stores(0, 900, 7, step=at)[1:]
        writer.apply(*tail)
        assert open_numbers(bench) == [[7]] or at > LINGER_NS // LOOK_NS - 2


def test_a_record_ends_its_span_even_if_the_slot_still_shows_it(bench: Bench) -> None:
    """Protects a span from being open and ended at once when its thread stops in between."""
    writer = bench.write()
    writer.apply(*writer.open_stores(0, 900, 1))
    writer.apply(*writer.open_stores(1, 905, 50))
    bench.read()
    writer.write(1)
    assert open_numbers(bench, 4) == [[], [1, 50], [50], [50]]
    writer.apply(*writer.clear_stores(0))
    assert open_numbers(bench, 2) == [[50], [50]]


def test_impossible_open_spans_are_left_out(bench: Bench) -> None:
    """Protects settlement from hostile slots."""
    writer = bench.write()
    writer.apply(*writer.open_stores(0, bench.clock.monotonic_ns() * 2, 7))
    writer.apply(*writer.open_stores(1, 900, 8))
    bench.read()
    assert open_numbers(bench, 2) == [[], [8]]


@given(
    seed=st.integers(0, 2**32 - 1),
    plan=st.lists(st.sampled_from(["start", "end", "look", "deliver"]), max_size=60),
)
def test_no_torn_open_span_is_ever_believed(
    tmp_path_factory: pytest.TempPathFactory, seed: int, plan: list[str]
) -> None:
    """Protects against mixing two spans of one slot, whatever the order of their stores."""
    bench = Bench(tmp_path_factory.mktemp("slots"))
    random = np.random.default_rng(seed)
    writer = bench.write(open_slot_capacity=2)
    bench.read()
    memory = Memory(writer)
    number, running = 0, [0, 0]
    for action in plan:
        slot = int(random.integers(0, 2))
        if action == "start" and not running[slot]:
            number += 1
            running[slot] = number
            facts = {"parent": number, "step": number, "scheduled_ns": 1_000 + number}
            memory.make(writer.open_stores(slot, 1_000 + number, number, **facts)[1:])
        elif action == "end" and running[slot]:
            running[slot] = 0
            memory.make(writer.clear_stores(slot))
        elif action == "deliver":
            memory.deliver(random, 0.4)
        elif action == "look":
            memory.deliver_due()
            for row in bench.poll()[0].open_spans:
                whole = int(row["number"])
                assert row["start_ns"] == row["scheduled_ns"] == 1_000 + whole
                assert row["parent"] == row["step"] == whole
    bench.close()
