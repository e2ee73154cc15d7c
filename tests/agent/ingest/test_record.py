"""Which records and open spans are believed."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from tests.agent.ingest.writer import packed, record

from apportion.agent.ingest import OPEN_SLOT, RECORD, request_id_of, trace_id_of
from apportion.agent.ingest.record import (
    FUTURE_NS,
    LARGEST_COUNTER,
    RECORD_WORDS,
    Integers,
    believable,
    believable_open,
    forget_odd_arrivals,
    move_times,
)
from apportion.client import layout
from apportion.core.category import Phase, PhaseClock, SpanKind, SpanStatus

NOW_NS = 1_000_000
WORDS = 16
EDGES = st.sampled_from(
    [
        -(1 << 63),
        -2,
        -1,
        0,
        1,
        1_009,
        1_010,
        1_012,
        1_015,
        1_016,
        NOW_NS,
        NOW_NS + FUTURE_NS,
        NOW_NS + FUTURE_NS + 1,
        LARGEST_COUNTER - 1,
        LARGEST_COUNTER,
        (1 << 63) - 1,
    ]
)


def table_of(*rows: bytes) -> Integers:
    return np.frombuffer(bytearray(b"".join(rows)), np.int64).reshape(-1, RECORD_WORDS)


def is_believable(fields: dict[str, int]) -> bool:
    """The rules once more, one by one."""
    word = fields["packed"]
    kind, status, phase, clock = (word >> shift & 0xFF for shift in (0, 8, 16, 24))
    start_ns, end_ns = fields["start_ns"], fields["end_ns"]
    return (
        fields["number"] > 0
        and fields["parent"] >= 0
        and 0 <= start_ns <= end_ns <= NOW_NS + FUTURE_NS
        and 0 <= fields["arrival_ns"] <= NOW_NS + FUTURE_NS
        and all(
            at == 0 or start_ns <= at <= end_ns
            for at in (fields["scheduled_ns"], fields["first_token_ns"])
        )
        and all(-1 <= fields[name] < LARGEST_COUNTER for name in ("step", *layout.COUNTERS))
        and kind in list(SpanKind)
        and status in list(SpanStatus)[1:]
        and phase in list(Phase)
        and clock in list(PhaseClock)
        and all(fields[name] < WORDS for name in ("tenant", "model", "adapter"))
    )


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "number",
                "parent",
                "arrival_ns",
                "start_ns",
                "scheduled_ns",
                "first_token_ns",
                "end_ns",
                "step",
                *layout.COUNTERS,
            ]
        ),
        EDGES,
        max_size=3,
    ),
    st.builds(packed, *[st.integers(0, 14)] * 3, st.integers(0, 3), st.integers(0, 65_535))
    | st.just(packed()),
    st.lists(st.sampled_from([0, 15, 16, 0xFFFFFFFF]), min_size=3, max_size=3),
)
def test_the_rules_at_their_edges(changes: dict[str, int], word: int, words: list[int]) -> None:
    """Protects the vectorised rules: they agree with the plain ones at every edge."""
    raw = bytearray(record(1, packed=word, tenant=words[0], model=words[1], adapter=words[2]))
    row = np.frombuffer(raw, RECORD)
    for name, value in changes.items():
        row[name] = np.int64(value).view(row.dtype[name])
    fields = {
        name: int(np.int64(row[name][0].astype(np.int64)))
        for name, _, code in layout.RECORD_FIELDS
        if code in "qQI"
    }
    good = believable(table_of(bytes(raw)), NOW_NS, WORDS)
    assert good.tolist() == [is_believable(fields)]


def test_each_row_is_judged_alone() -> None:
    """Protects good records from a bad neighbour."""
    table = table_of(record(1), record(2, number=0), record(3))
    assert believable(table, NOW_NS, WORDS).tolist() == [True, False, True]


def test_odd_arrivals_are_forgotten() -> None:
    """Protects a request from a proxy's wrong clock: only the arrival goes."""
    table = table_of(record(1), record(2, arrival_ns=1 << 60), record(3, arrival_ns=-9))
    forget_odd_arrivals(table)
    assert table[:, 4].tolist() == [1_009, 0, 0]
    assert believable(table, NOW_NS, WORDS).all()


def test_only_times_that_were_said_are_moved() -> None:
    """Protects 0, which means not said, from becoming a time."""
    table = table_of(record(1, arrival_ns=0, first_token_ns=0))
    move_times(table, 100)
    assert table[0, 4:9].tolist() == [0, 1_110, 1_111, 0, 1_115]


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, True),
        ({"start_ns": NOW_NS + FUTURE_NS + 1}, False),
        ({"start_ns": -5}, False),
        ({"number": 0}, False),
        ({"number": 1 << 63}, False),
        ({"parent": 1 << 60}, False),
        ({"packed": packed(6)}, False),
        ({"packed": packed(1, 0, 13)}, False),
        ({"scheduled_ns": 499}, False),
        ({"scheduled_ns": 501}, True),
        ({"first_token_ns": NOW_NS * 10**6}, False),
        ({"words": 15 | 15 << 32}, True),
        ({"words": 16}, False),
        ({"words": 16 << 32}, False),
    ],
)
def test_open_spans_are_judged(changes: dict[str, int], good: bool) -> None:
    """Protects settlement from open spans that no writer could have stored."""
    fields = {"start_ns": 500, "number": 3, "packed": packed(2, 0), "words": 0, **changes}
    row = np.zeros(1, OPEN_SLOT)
    for name, value in fields.items():
        row[name] = value
    assert believable_open(row, NOW_NS, WORDS).tolist() == [good]


def test_the_types_are_as_long_as_the_layout_says() -> None:
    """Protects the decoding of slots by their size."""
    assert (RECORD.itemsize, OPEN_SLOT.itemsize) == (layout.RECORD_BYTES, layout.OPEN_SLOT_BYTES)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (bytes(64), ""),
        (b"\x03\x00abcdef" + bytes(56), "abc"),
        (b"\xff\x00" + b"z" * 62, "z" * 62),
        (b"\x02\x00\xff\n" + bytes(60), "\ufffd\ufffd"),
    ],
)
def test_a_request_id_is_decoded(raw: bytes, text: str) -> None:
    """Protects joins by request id, and terminals from hostile ones."""
    assert request_id_of(raw) == text


def test_a_trace_id_is_hexadecimal_or_none() -> None:
    """Protects exemplars from an all-zero trace id, which means none."""
    assert trace_id_of(bytes(16)) is None
    assert trace_id_of(bytes(15) + b"\x2a") == "0" * 30 + "2a"
