"""What a commit leaves in the outbox: small, exact, and readable by other releases."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.errors import LedgerError
from apportion.cost.ledger.batch import Row, TickBatch
from apportion.cost.ledger.schema import span
from apportion.cost.ledger.shipment import (
    NO_ROW_NS,
    Shipment,
    charge_ranges,
    since_ns,
    span_ranges,
)
from apportion.cost.ledger.statements import row_columns

keys = st.tuples(st.integers(1, 3), st.integers(-5, 40))


def span_row(ring: int, sequence: int, start_ns: int = 0) -> Row:
    head = (ring, sequence, sequence, 0, 1, 1, 0, 0, None, None, start_ns, None, None, 100)
    return (*head, *[None] * 11, 0, None, None)


def charge_row(key: int, start_ns: int = 0) -> Row:
    tail = (start_ns, 5, 5, 5, None, 3, None, 1, None, 0)
    return (key, 1, 1, 1, None, None, None, None, *tail)


def batch() -> TickBatch:
    """Something in every part that a tick can have."""
    made = TickBatch()
    made.insert("span", [span_row(1, 1, 70), span_row(2, 9, 60), span_row(1, 2, 80)])
    made.insert("charge", [charge_row(5, 50), charge_row(6, 55)])
    made.insert("settlement", [(1, 40, 90, None, None, None, None)])
    made.insert("entity", [(1, "wörk\udcff\n", None, None, "a,b", None, None, None)])
    made.insert("reading", [(1, 10, "{}")])
    made.replace("reading", [(1, 11, "{}")])
    made.replace("watermark", [(1, 90, 0, None, None)])
    made.accruals_changed = [(1, 1, 0, 1, 2, 0, 0, "", 0, 9, 9, None, None, 1, 0, 0)]
    made.accruals_removed = [(1, 1, 0, 1, 1, 0, 0, "")]
    made.readings_before = {1: 10}
    return made


@given(st.lists(keys, unique=True))
def test_ranges_name_each_key_once(rows: list[tuple[int, int]]) -> None:
    """Whatever order records come in, the ranges hold every key and no other."""
    named = [
        (ring, sequence)
        for ring, first, last in span_ranges(rows)
        for sequence in range(first, last + 1)
    ]
    assert sorted(named) == sorted(rows)


def test_records_of_many_rings_make_few_ranges() -> None:
    """Rings are polled in turn: their records come mixed, and still make one range a ring."""
    rows = [
        span_row(ring, 10 * poll + n) for poll in range(9) for ring in (1, 2) for n in range(10)
    ]
    assert span_ranges(rows) == [(1, 0, 89), (2, 0, 89)]
    assert charge_ranges([charge_row(key) for key in (1, 2, 3, 7, 8)]) == [(1, 3), (7, 8)]


def test_round_trip() -> None:
    """What is read back is what was committed; spans and charges are named, readings left out."""
    made = batch()
    shipment = Shipment.decode(Shipment.of(made, {"GPU-1": 3}).encode())
    assert shipment.spans == [(1, 1, 2), (2, 9, 9)]
    assert shipment.charges == [(5, 6)]
    assert list(shipment.inserted) == ["settlement", "entity"]
    assert list(shipment.replaced) == ["watermark"]
    for name in ("settlement", "entity"):
        assert shipment.inserted[name].rows == made.inserted[name]
        assert shipment.inserted[name].columns == row_columns(span.metadata.tables[name])
    assert shipment.accruals_changed.rows == made.accruals_changed
    assert shipment.accruals_removed.rows == made.accruals_removed
    assert shipment.accruals_removed.columns == shipment.accruals_changed.columns[:8]


def test_start_of_the_earliest_row() -> None:
    """The node keeps rows from then on; a commit that posts nothing needs none kept."""
    assert since_ns(batch()) == 40
    assert since_ns(TickBatch(inserted={"entity": [(1, *[None] * 7)]})) == NO_ROW_NS


def test_a_large_tick_leaves_little() -> None:
    """A hundred thousand spans and charges are named in less than a kilobyte."""
    count = 100_000
    made = TickBatch()
    made.insert("span", [span_row(1, number) for number in range(count)])
    made.insert("charge", [charge_row(number) for number in range(count)])
    assert len(Shipment.of(made, {"GPU-1": 3}).encode()) < 1_000


@pytest.mark.parametrize(
    "payload", [b"", b"rubbish", zlib.compress(b"[]"), zlib.compress(json.dumps({}).encode())]
)
def test_damaged_payload_says_so(payload: bytes) -> None:
    """A row that cannot be read is an error of the ledger, not of the agent's code."""
    with pytest.raises(LedgerError, match="row of the outbox cannot be read"):
        Shipment.decode(payload)
