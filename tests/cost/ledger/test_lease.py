"""Leases on a real PostgreSQL: one holder a device, and what was settled under a lost one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.cost.shipped import ship_all

from apportion.core.clock import ManualClock, SystemClock
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.ledger.batch import TickBatch
from apportion.cost.ledger.lease import Claimed
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.schema import settlement
from apportion.cost.ledger.shared import SharedLedger

HOUR, S = NS_PER_HOUR, NS_PER_SECOND
T0 = 472_222 * HOUR
LONG, OVER = 3_600 * S, -1
ROOM = 1 << 20
UNMETERED = [None] * (len(settlement.c) - 4)
"""The rest of a settlement, of a device with neither rate nor energy."""
FIRST, SECOND = 1, 2


@pytest.fixture
def shared(shared_url: str) -> Iterator[SharedLedger]:
    """A connection to an empty shared ledger."""
    opened = SharedLedger(shared_url, SystemClock())
    yield opened
    opened.close()


def claim(shared: SharedLedger, agent_id: int, *devices: str, duration_ns: int = LONG) -> Claimed:
    with shared.receiving(agent_id) as arrival:
        return arrival.claim(devices, duration_ns)


def release(shared: SharedLedger, agent_id: int) -> None:
    with shared.receiving(agent_id) as arrival:
        arrival.release()


def test_one_holder_a_device(shared: SharedLedger) -> None:
    """Whoever comes first has it, and may renew; another agent gets only what is free."""
    assert claim(shared, FIRST, "a", "b") == Claimed({"a": 0, "b": 0}, {})
    assert claim(shared, SECOND, "b", "c") == Claimed({"c": 0}, {"b": "an unknown node"})
    assert claim(shared, FIRST, "a", "b").granted == {"a": 0, "b": 0}
    assert claim(shared, FIRST) == Claimed({}, {})


def test_a_lease_that_ran_out_is_free(shared: SharedLedger) -> None:
    """Its holder may still renew it; once another agent has it, it has another epoch."""
    claim(shared, FIRST, "a", duration_ns=OVER)
    assert claim(shared, FIRST, "a", duration_ns=OVER).granted == {"a": 0}
    assert claim(shared, SECOND, "a", duration_ns=OVER).granted == {"a": 1}
    assert claim(shared, FIRST, "a").granted == {"a": 2}
    assert claim(shared, SECOND, "a").granted == {}


def test_released_leases_are_free_at_once(shared: SharedLedger) -> None:
    """An agent that ends in peace makes nobody wait."""
    claim(shared, FIRST, "a", "b")
    release(shared, FIRST)
    assert claim(shared, SECOND, "a").granted == {"a": 1}
    assert claim(shared, FIRST, "a", "b").granted == {"b": 0}


def test_claims_at_the_same_time(shared_url: str) -> None:
    """However many claim at once, each device has one holder, and nobody waits for nobody."""
    devices = [f"GPU-{number}" for number in range(16)]
    granted: dict[int, list[str]] = {}

    def work(agent_id: int) -> None:
        own = SharedLedger(shared_url, SystemClock())
        wanted = devices if agent_id % 2 else devices[::-1]
        for _ in range(3):
            granted[agent_id] = list(claim(own, agent_id, *wanted).granted)
        own.close()

    threads = [threading.Thread(target=work, args=(agent_id,)) for agent_id in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for names in granted.values() for name in names) == sorted(devices)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A node that meters GPU-1 (key 1) and GPU-2 (key 2)."""
    path = tmp_path / "ledger.db"
    with Ledger.open(
        path, node="node-1", cluster=None, currency=None, version="0", clock=ManualClock()
    ) as opened:
        rows = [(key, f"GPU-{key}", "H100", "nvml", 0) for key in (1, 2)]
        opened.commit(TickBatch(inserted={"device": rows}))
        yield opened


def settle(ledger: Ledger, *places: tuple[int, int], padding: int = 0) -> None:
    """Settle a second of (device key, hour)."""
    rows = [(key, T0 + hour * HOUR, T0 + hour * HOUR + S, *UNMETERED) for key, hour in places]
    batch = TickBatch(inserted={"settlement": rows})
    if padding:
        name = "".join(chr(0x4E00 + 7919 * n % 20_000) for n in range(padding))
        batch.insert("entity", [(1, name, *[None] * 6)])
    ledger.commit(batch)


def marked(shared_url: str) -> list[tuple[int, int]]:
    """(device key, hour) that reports leave out."""
    with psycopg.connect(shared_url) as connection:
        query = "SELECT device_key, hour_ns FROM disowned ORDER BY 1, 2"
        return [(key, (ns - T0) // HOUR) for key, ns in connection.execute(query).fetchall()]


def test_own_leases_mark_nothing(ledger: Ledger, shared: SharedLedger, shared_url: str) -> None:
    """Held, renewed, run out but nobody else's, or never claimed at all: its time is its own."""
    ledger.outbox.switch_on(ROOM)
    ship_all(ledger, shared)
    settle(ledger, (1, 0))
    ship_all(ledger, shared)
    granted = claim(shared, ledger.agent_id, "GPU-1", duration_ns=OVER).granted
    settle(ledger, (1, 1))
    ledger.outbox.hold(granted)
    settle(ledger, (1, 2), (2, 2))
    assert sum(step.disowned for step in ship_all(ledger, shared)) == 0
    assert marked(shared_url) == []


def test_a_lost_lease_is_marked(ledger: Ledger, shared: SharedLedger, shared_url: str) -> None:
    """What an agent settled after another took over is there, marked by device and hour."""
    ledger.outbox.switch_on(ROOM)
    ledger.outbox.hold(claim(shared, ledger.agent_id, "GPU-1", "GPU-2", duration_ns=OVER).granted)
    ship_all(ledger, shared)
    settle(ledger, (1, 0), (2, 0))
    ship_all(ledger, shared)
    claim(shared, SECOND, "GPU-2")
    settle(ledger, (1, 1), (2, 1))
    settle(ledger, (1, 2), (2, 2))
    settle(ledger, (2, 3))
    assert sum(step.disowned for step in ship_all(ledger, shared)) == 3
    assert marked(shared_url) == [(2, 1), (2, 2), (2, 3)]
    with psycopg.connect(shared_url) as connection:
        assert connection.execute("SELECT count(*) FROM settlement").fetchone() == (7,)


def test_it_came_back_in_another_epoch(
    ledger: Ledger, shared: SharedLedger, shared_url: str
) -> None:
    """What was settled in the old epoch stays the other agent's, although the device is back."""
    ledger.outbox.switch_on(ROOM)
    ledger.outbox.hold(claim(shared, ledger.agent_id, "GPU-1", duration_ns=OVER).granted)
    ship_all(ledger, shared)
    settle(ledger, (1, 0))
    claim(shared, SECOND, "GPU-1", duration_ns=OVER)
    granted = claim(shared, ledger.agent_id, "GPU-1").granted
    assert granted == {"GPU-1": 2}
    ledger.outbox.hold(granted)
    settle(ledger, (1, 1))
    ship_all(ledger, shared)
    assert marked(shared_url) == [(1, 0)]


def test_a_copy_marks_what_waited(ledger: Ledger, shared: SharedLedger, shared_url: str) -> None:
    """After an overflow the copied hours are judged as their commits would have been."""
    ledger.outbox.switch_on(ROOM)
    ledger.outbox.hold(claim(shared, ledger.agent_id, "GPU-1", duration_ns=OVER).granted)
    settle(ledger, (1, 0))
    ship_all(ledger, shared)
    claim(shared, SECOND, "GPU-1")
    ledger.outbox.switch_on(1_000)
    settle(ledger, (1, 1), padding=2_000)
    ship_all(ledger, shared)
    assert marked(shared_url) == [(1, 1)]


def test_history_is_not_judged(ledger: Ledger, shared: SharedLedger, shared_url: str) -> None:
    """A device that has moved to another node since was rightly this one's before."""
    settle(ledger, (1, 0))
    claim(shared, SECOND, "GPU-1")
    ledger.outbox.switch_on(ROOM)
    ship_all(ledger, shared)
    assert marked(shared_url) == []


def test_what_it_meters_already_it_holds(ledger: Ledger) -> None:
    """Switching shipping on takes no device away, whether the shared ledger is there or not."""
    ledger.commit(TickBatch(replaced={"watermark": [(2, 5, 0, None, None)]}))
    ledger.outbox.switch_on(ROOM)
    assert ledger.outbox.leases() == {"GPU-2": 0}
    ledger.outbox.hold({})
    ledger.outbox.switch_on(ROOM)
    assert ledger.outbox.leases() == {}
