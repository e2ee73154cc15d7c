"""The outbox is part of each commit, bounded, and knows what it does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from apportion.core.clock import ManualClock
from apportion.core.errors import LedgerError
from apportion.cost.ledger.batch import TickBatch
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.outbox import unshipped_since_ns
from apportion.cost.ledger.schema import settlement
from apportion.cost.ledger.shipment import NO_ROW_NS, Shipment
from apportion.cost.ledger.shipping_state import (
    NOTHING,
    CopyReason,
    Mark,
    NextStep,
    ShippingState,
)

ROOM = 1 << 20
UNMETERED = [None] * (len(settlement.c) - 4)
"""The rest of a settlement, of a device with neither rate nor energy."""
NODE_TIME = 1_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A node's ledger that ships nothing yet."""
    with open_ledger(tmp_path / "ledger.db") as opened:
        yield opened


def open_ledger(path: Path, clock: ManualClock | None = None) -> Ledger:
    return Ledger.open(
        path, node="n", cluster=None, currency=None, version="0", clock=clock or ManualClock()
    )


def tick(start_ns: int, *, padding: int = 0) -> TickBatch:
    """A settlement from `start_ns` on, and an entity as large as asked for."""
    made = TickBatch(inserted={"settlement": [(1, start_ns, start_ns + 5, *UNMETERED)]})
    if padding:
        # Beyond compression: no two of these are alike.
        name = "".join(chr(0x4E00 + 7919 * n % 20_000) for n in range(padding))
        made.insert("entity", [(start_ns, name, *[None] * 6)])
    return made


def kept_since(ledger: Ledger) -> int:
    with ledger.read() as connection:
        return unshipped_since_ns(connection, ledger.agent_id)


def shipping(ledger: Ledger) -> None:
    """Switch it on, and pretend that the first copy has arrived."""
    ledger.outbox.switch_on(ROOM)
    ledger.outbox.sending(NOTHING)
    ledger.outbox.arrived(NOTHING)


def test_nothing_waits_where_nothing_is_shipped(ledger: Ledger) -> None:
    """Without a shared ledger a commit costs one look, and nothing has to be kept."""
    ledger.commit(tick(0))
    assert ledger.outbox.first(9, ROOM) == []
    assert kept_since(ledger) == NO_ROW_NS
    with pytest.raises(LedgerError, match="was ever to be shipped"):
        ledger.outbox.state()


def test_commits_wait_in_order(ledger: Ledger) -> None:
    """Each commit is numbered, with an id that no copy of the file would choose again."""
    shipping(ledger)
    for start_ns in (0, 5, 10):
        ledger.commit(tick(start_ns))
    waiting = ledger.outbox.first(9, ROOM)
    assert [each.mark.commit_no for each in waiting] == [1, 2, 3]
    assert len({each.mark.commit_id for each in waiting}) == 3
    starts = [Shipment.decode(each.payload).inserted["settlement"].rows[0][1] for each in waiting]
    assert starts == [0, 5, 10]
    state = ledger.outbox.state()
    assert (state.waiting, state.copy_reason, state.last) == (3, None, waiting[-1].mark)
    assert state.waiting_bytes == sum(len(each.payload) for each in waiting)
    assert ledger.outbox.first(2, ROOM) == waiting[:2]
    assert ledger.outbox.first(9, 1) == waiting[:1], "one goes, however large"


def test_a_refused_commit_leaves_nothing(ledger: Ledger) -> None:
    """What is rolled back is not shipped either: both are one transaction."""
    shipping(ledger)
    ledger.commit(tick(0))
    before = ledger.outbox.state()
    with pytest.raises(LedgerError, match="charged twice"):
        ledger.commit(tick(0))
    assert ledger.outbox.state() == before
    assert len(ledger.outbox.first(9, ROOM)) == 1


def test_the_oldest_commit_is_dated(tmp_path: Path) -> None:
    """How long the shared ledger lags behind is how long the first commit has waited."""
    clock = ManualClock(realtime_ns=77)
    with open_ledger(tmp_path / "ledger.db", clock) as ledger:
        shipping(ledger)
        assert ledger.outbox.state().oldest_unix_ns is None
        ledger.commit(tick(0))
        clock.advance(NODE_TIME)
        ledger.commit(tick(5))
        assert ledger.outbox.state().oldest_unix_ns == 77
        ledger.outbox.arrived(ledger.outbox.first(1, ROOM)[0].mark)
        assert ledger.outbox.state().oldest_unix_ns == 77 + NODE_TIME


def test_what_arrived_need_not_be_kept(ledger: Ledger) -> None:
    """Retention may go as far as the earliest row that a waiting commit posted, and no further."""
    shipping(ledger)
    assert kept_since(ledger) == NO_ROW_NS
    for start_ns in (20, 10, 30):
        ledger.commit(tick(start_ns))
    assert kept_since(ledger) == 10
    first, second, third = (each.mark for each in ledger.outbox.first(9, ROOM))
    ledger.outbox.sending(first)
    assert kept_since(ledger) == 10
    ledger.outbox.arrived(first)
    assert kept_since(ledger) == 10
    ledger.outbox.arrived(second)
    assert kept_since(ledger) == 30
    ledger.outbox.arrived(third)
    assert kept_since(ledger) == NO_ROW_NS
    state = ledger.outbox.state()
    assert (state.waiting, state.waiting_bytes, state.shipped, state.sending) == (0, 0, third, None)


def test_everything_is_kept_until_it_was_copied(ledger: Ledger) -> None:
    """A ledger that existed before begins with a copy: until then retention must wait."""
    ledger.commit(tick(0))
    ledger.outbox.switch_on(ROOM)
    assert kept_since(ledger) == -NO_ROW_NS
    state = ledger.outbox.state()
    assert (state.copy_reason, state.shipped, state.last) == (CopyReason.FIRST, None, NOTHING)
    ledger.commit(tick(5))
    assert ledger.outbox.state().copy_reason is CopyReason.FIRST
    ledger.outbox.arrived(NOTHING)
    assert ledger.outbox.state().copy_reason is None
    assert kept_since(ledger) == 5


def test_an_outbox_is_bounded(ledger: Ledger) -> None:
    """Beyond its bound it is emptied, and what it held is copied from the ledger instead."""
    ledger.outbox.switch_on(10_000)
    ledger.outbox.arrived(NOTHING)
    ledger.commit(tick(100, padding=2_000))
    assert ledger.outbox.state().waiting_bytes > 4_000
    ledger.commit(tick(50, padding=4_000))
    state = ledger.outbox.state()
    assert (state.waiting, state.waiting_bytes) == (2, 0)
    assert state.copy_reason is CopyReason.OVERFLOW
    assert state.since_ns == kept_since(ledger) == 50
    assert ledger.outbox.first(9, ROOM) == []


def test_a_copy_of_an_earlier_moment_is_not_enough(ledger: Ledger) -> None:
    """It overflowed again while it was copied: what came after that moment is copied, too."""
    ledger.outbox.switch_on(10_000)
    ledger.outbox.arrived(NOTHING)
    ledger.commit(tick(100, padding=6_000))
    with ledger.outbox.copying() as (_, state):
        moment = state.last
    ledger.commit(tick(200, padding=6_000))
    ledger.outbox.arrived(moment)
    state = ledger.outbox.state()
    assert (state.copy_reason, state.shipped) == (CopyReason.OVERFLOW, moment)
    assert kept_since(ledger) == 100
    ledger.outbox.arrived(state.last)
    assert ledger.outbox.state().copy_reason is None


def test_switched_off_and_on(ledger: Ledger) -> None:
    """What was committed meanwhile is in no outbox: shipping begins with a copy again."""
    shipping(ledger)
    ledger.commit(tick(0))
    ledger.outbox.switch_off()
    assert kept_since(ledger) == NO_ROW_NS
    ledger.commit(tick(5))
    ledger.outbox.switch_on(ROOM)
    ledger.outbox.switch_on(ROOM)
    ledger.commit(tick(10))
    state = ledger.outbox.state()
    assert state.copy_reason is CopyReason.FIRST
    assert state.shipped == NOTHING, "the shared ledger's position is known again"
    assert kept_since(ledger) == -NO_ROW_NS
    ledger.outbox.arrived(NOTHING)
    assert ledger.outbox.state().copy_reason is CopyReason.FIRST, "commits are missing between"
    ledger.outbox.arrived(Mark(ledger.outbox.first(1, ROOM)[0].mark.commit_no - 1, 5))
    assert ledger.outbox.state().copy_reason is None


def test_lost_by_the_other_side(ledger: Ledger) -> None:
    """A shared ledger that was set back gets everything again, of any age."""
    shipping(ledger)
    ledger.commit(tick(0))
    ledger.outbox.arrived(ledger.outbox.first(1, ROOM)[0].mark)
    ledger.outbox.lost()
    assert ledger.outbox.state().copy_reason is CopyReason.LOST
    assert kept_since(ledger) == -NO_ROW_NS


def test_survives_a_restart(tmp_path: Path) -> None:
    """What waits is in the file; switching on again with another bound keeps it."""
    with open_ledger(tmp_path / "ledger.db") as ledger:
        shipping(ledger)
        ledger.commit(tick(0))
        before = ledger.outbox.state()
    with open_ledger(tmp_path / "ledger.db") as ledger:
        ledger.outbox.switch_on(2 * ROOM)
        assert ledger.outbox.state() == before


SHIPPED, SENDING, LAST = Mark(5, 55), Mark(7, 77), Mark(9, 99)


@pytest.mark.parametrize(
    ("shipped", "sending", "reason", "position", "step"),
    [
        (SHIPPED, None, None, SHIPPED, NextStep.SEND),
        (SHIPPED, SENDING, None, SHIPPED, NextStep.SEND),
        (SHIPPED, SENDING, None, SENDING, NextStep.NOTE_ARRIVED),
        (SHIPPED, SENDING, CopyReason.LOST, SENDING, NextStep.NOTE_ARRIVED),
        (SHIPPED, None, CopyReason.OVERFLOW, SHIPPED, NextStep.COPY),
        (None, None, CopyReason.FIRST, None, NextStep.COPY),
        (None, SENDING, CopyReason.FIRST, SENDING, NextStep.NOTE_ARRIVED),
        (None, None, CopyReason.FIRST, NOTHING, NextStep.REFUSE),
        (SHIPPED, None, None, None, NextStep.NOTE_LOST),
        (NOTHING, None, None, None, NextStep.NOTE_LOST),
        (SHIPPED, None, None, Mark(4, 4), NextStep.NOTE_LOST),
        (SHIPPED, None, CopyReason.OVERFLOW, Mark(4, 4), NextStep.NOTE_LOST),
        (SHIPPED, None, CopyReason.LOST, Mark(4, 4), NextStep.COPY),
        (SHIPPED, None, CopyReason.LOST, None, NextStep.COPY),
        (SHIPPED, None, None, Mark(5, 6), NextStep.REFUSE),
        (SHIPPED, SENDING, None, Mark(6, 66), NextStep.REFUSE),
        (SHIPPED, SENDING, None, Mark(7, 78), NextStep.REFUSE),
    ],
)
def test_every_position_has_its_step(
    shipped: Mark | None,
    sending: Mark | None,
    reason: CopyReason | None,
    position: Mark | None,
    step: NextStep,
) -> None:
    """Two positions are possible; an earlier one is a loss, any other is another agent's."""
    state = ShippingState(LAST, shipped, sending, reason, 0, 0, None)
    assert state.next_step(position) is step
