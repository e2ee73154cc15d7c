"""Collectives across ranks: bytes, bandwidth, the wire, and who waited for whom."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.profiles.written import Json, kernel, launch, step, trace_of

from apportion.profiles.rank_collectives import NO_FACTS, RankCollectives
from apportion.profiles.stragglers import Matched, matched
from apportion.profiles.trace_file import TraceFile

US = 1_000
NAME = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


def facts(elements: int = 1024, **more: object) -> Json:
    """What PyTorch writes beside a collective's kernel."""
    return {
        "Collective name": "allreduce",
        "In msg nelems": elements,
        "Out msg nelems": elements,
        "Group size": 2,
        "dtype": "Float",
        "Process Group Name": "0",
        "Process Group Ranks": "[0, 1]",
        **more,
    }


def rank(number: int, *operations: tuple[float, float, Json | None]) -> RankCollectives:
    """A rank whose only step has these collectives: start and duration in us, and its facts."""
    events: list[Json] = [step(1, 0, 1000)]
    for row, (start_us, duration_us, known) in enumerate(operations, start=1):
        events += [launch(row, row), kernel(NAME, start_us, duration_us, row, facts=known)]
    return RankCollectives.of(trace_of(events, rank=number))


def waits(found: Matched) -> list[tuple[int | None, int | None]]:
    return [(one.wire_ns, one.wait_ns) for one in found.operations]


def test_shortest_kernel_is_the_wire() -> None:
    """The rank that came last shows the wire; what the other took beyond it is waiting."""
    early = rank(0, (100, 80, facts()), (300, 10, facts()))
    late = rank(1, (150, 30, facts()), (290, 20, facts()))

    found = matched([early, late])

    assert waits(found) == [
        (30 * US, 50 * US),
        (10 * US, 0),
        (30 * US, 0),
        (10 * US, 10 * US),
    ]
    assert found.warnings == ()


def test_sequence_numbers_win_over_order() -> None:
    """Where the profiler counted, a capture that began one collective later still matches."""
    first = rank(0, (100, 10, facts(Seq=7)), (200, 50, facts(Seq=8)))
    second = rank(1, (210, 40, facts(Seq=8)))

    assert waits(matched([first, second])) == [(None, None), (40 * US, 10 * US), (40 * US, 0)]


def test_groups_are_not_mixed() -> None:
    """The n-th collective of one group is never compared with the n-th of another."""
    other: Json = {"Process Group Name": "1", "Process Group Ranks": "[0, 2]"}

    assert waits(matched([rank(0, (100, 10, facts())), rank(1, (100, 10, facts() | other))])) == [
        (None, None),
        (None, None),
    ]


def test_one_rank_alone_has_no_wire_time() -> None:
    """From one rank nobody can tell waiting from sending: no figure, not 0."""
    assert waits(matched([rank(0, (100, 10, facts()))])) == [(None, None)]


def test_kernels_without_facts_have_times_and_no_bytes() -> None:
    """Traces before late 2023 give time, no bytes and no bandwidth, and it is said."""
    alone = rank(0, (100, 10, None))
    (operation,) = alone.operations

    assert NO_FACTS in alone.warnings
    assert (operation.name, operation.size_bytes) == ("all_reduce", None)
    assert operation.algorithm_bandwidth(10 * US) is None
    assert operation.bus_bandwidth(10 * US) is None


def test_without_groups_all_ranks_in_one_order_are_matched() -> None:
    """Two of a world of two in the same order are one group; a missing one makes it a guess."""
    both = [rank(0, (100, 80, None)), rank(1, (150, 30, None))]
    unequal = [both[0], rank(1, (150, 30, None), (250, 30, None))]

    assert waits(matched(both)) == [(30 * US, 50 * US), (30 * US, 0)]
    assert waits(matched(unequal)) == [(None, None)] * 3
    assert "groups are not known" in matched(unequal).warnings[0]


def test_a_rank_does_not_wait_for_itself() -> None:
    """A second trace of one rank is compared with nobody: it is of another time."""
    first, second = rank(0, (100, 80, facts())), rank(0, (100, 30, facts()))

    assert waits(matched([first, second, rank(1, (150, 40, facts()))])) == [
        (40 * US, 40 * US),
        (None, None),
        (40 * US, 0),
    ]


def test_skewed_clocks_are_said_and_change_nothing() -> None:
    """A rank whose clock is 5 s ahead gives the same wire time and a warning."""
    early = rank(0, (100, 80, facts()))
    skewed = rank(1, (5_000_150, 30, facts(Seq=None)))
    step_of_both = [one.operations[0].step for one in (early, skewed)]

    found = matched([early, skewed])

    assert step_of_both == [1, 1]
    assert waits(found) == [(30 * US, 50 * US), (30 * US, 0)]
    assert "4,999.970 ms apart" in found.warnings[0]


def test_different_kinds_under_one_number_are_not_compared() -> None:
    """Traces of different captures disagree about what the n-th was; nothing is made up."""
    gather = facts() | {"Collective name": "_allgather_base"}

    found = matched([rank(0, (100, 80, facts())), rank(1, (100, 30, gather))])

    assert waits(found) == [(None, None), (None, None)]
    assert "2 operations of one group and number differ in kind" in found.warnings[0]


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90)), max_size=6))
def test_wire_and_wait_are_the_time(durations: list[tuple[int, int, int]]) -> None:
    """Every operation's time is its wire time plus its wait; some rank waits for nobody."""
    ranks = [
        rank(number, *((100 * row, took[number], facts()) for row, took in enumerate(durations)))
        for number in range(3)
    ]

    found = matched(ranks).operations

    for row in range(len(durations)):
        own = [one for one in found if one.own is one.trace.operations[row]]
        assert min(one.wait_ns or 0 for one in own) == 0
        assert {one.wire_ns for one in own} == {min(durations[row]) * US}
        assert all((one.wire_ns or 0) + (one.wait_ns or 0) == one.own.duration_ns for one in own)


def test_the_known_bandwidth_comes_out(published_traces: Path) -> None:
    """26,550,272 bytes in 2636.669 us on two ranks are 10.07 GB/s, on the bus and beside it."""
    file = TraceFile(published_traces / "hta_a100_2rank_rank0_nccl_metadata.json.gz")
    (trace,) = file.read()
    operations = RankCollectives.of(trace).operations

    (found,) = [one for one in operations if one.duration_ns == 2_636_669]
    assert (found.size_bytes, found.group_size) == (26_550_272, 2)
    for bandwidth in (found.algorithm_bandwidth, found.bus_bandwidth):
        assert bandwidth(found.duration_ns) == pytest.approx(10.07e9, abs=5e6)
    assert {one.name for one in operations} == {"all_reduce", "broadcast"}
    assert len(operations) == 21
