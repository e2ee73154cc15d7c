"""The thread that ships, against a real server that is slow, silent, wrong or gone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url
from tests.line import Line
from tests.postgres import PostgresServer

from apportion.agent.shipping import shipper as module
from apportion.agent.shipping.shipper import Shipper
from apportion.core.clock import ManualClock, SystemClock
from apportion.cost.ledger.batch import TickBatch
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.shared import SharedLedger

PATIENCE_S = 60.0
LEASE_NS = 3_600 * 10**9


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A node's ledger that ships."""
    with Ledger.open(
        tmp_path / "ledger.db",
        node="n",
        cluster=None,
        currency=None,
        version="0",
        clock=ManualClock(),
    ) as opened:
        opened.outbox.switch_on(1 << 20)
        yield opened


@pytest.fixture
def line(postgres: PostgresServer) -> Iterator[Line]:
    """The way to the server."""
    made = Line(postgres.port)
    yield made
    made.close()


def over(line: Line, url: str) -> str:
    return make_url(url).set(port=line.port).render_as_string(hide_password=False)


@contextmanager
def running(shipper: Shipper) -> Generator[Callable[[], None]]:
    """The service in its thread; what is yielded stops it and waits for that."""
    stop = threading.Event()
    thread = threading.Thread(target=shipper.run, args=(stop,))
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()

    try:
        yield end
    finally:
        end()
        shipper.shutdown(10**9)


def made(ledger: Ledger, url: str, *, reply_ns: int = module.REPLY_NS) -> Shipper:
    clock = SystemClock()
    shared = SharedLedger(url, clock)
    return Shipper(ledger, shared, clock, lease_ns=LEASE_NS, reply_ns=reply_ns)


def samples(shipper: Shipper) -> dict[str, float]:
    """By name, and by `name reason`."""
    return {
        " ".join((sample.name, *(text for _, text in sample.labels))): sample.value
        for sample in shipper.samples(10**18)
    }


def eventually(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def commit(ledger: Ledger, key: int) -> None:
    ledger.commit(TickBatch(inserted={"entity": [(key, f"w{key}", *[None] * 6)]}))


def waiting(ledger: Ledger) -> int:
    return ledger.outbox.state().waiting


def test_ships_and_says_so(ledger: Ledger, shared_url: str) -> None:
    """Commits arrive within a second or so; at the end the last one is waited for."""
    commit(ledger, 1)
    shipper = made(ledger, shared_url)
    with running(shipper) as end:
        eventually(lambda: samples(shipper).get("shared_ledger_copies_total first"), "it ships")
        commit(ledger, 2)
        end()
    assert waiting(ledger) == 0
    found = samples(shipper)
    assert found["shared_ledger_connected"] == 1
    assert found["shared_ledger_copies_total first"] == 1
    assert found["outbox_bytes"] == found["shared_ledger_lag_seconds"] == 0
    assert shipper.complaint is None


def test_a_silent_server_is_hung_up_on(ledger: Ledger, shared_url: str, line: Line) -> None:
    """It owes an answer for too long: the connection is cut, and made again when it speaks."""
    shipper = made(ledger, over(line, shared_url), reply_ns=1_000_000_000)
    with running(shipper):
        eventually(lambda: samples(shipper).get("shared_ledger_copies_total first"), "it ships")
        line.silence()
        commit(ledger, 1)
        eventually(
            lambda: samples(shipper).get("shared_ledger_failures_total unavailable"), "it is cut"
        )
        assert waiting(ledger) == 1
        assert samples(shipper)["shared_ledger_connected"] == 0
        line.mend()
        eventually(lambda: waiting(ledger) == 0, "it ships again")
        eventually(lambda: shipper.complaint is None, "and complains no more")


def test_a_silent_server_keeps_nobody(ledger: Ledger, shared_url: str, line: Line) -> None:
    """Told to stop while it waits for an answer, it ends within the time that it has."""
    shipper = made(ledger, over(line, shared_url))
    with running(shipper) as end:
        eventually(lambda: samples(shipper).get("shared_ledger_copies_total first"), "it ships")
        line.silence()
        commit(ledger, 1)
        eventually(lambda: shipper._shared.waiting_since_ns, "it waits")
        end()
    assert waiting(ledger) == 1


def test_a_failure_is_logged_once(
    ledger: Ledger, shared_url: str, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage of a night is two lines in the log, with the reason and without the password."""
    line.cut()
    caplog.set_level(logging.INFO, logger=module.__name__)
    shipper = made(ledger, over(line, shared_url))
    with running(shipper):
        eventually(
            lambda: samples(shipper).get("shared_ledger_failures_total unavailable", 0) >= 2,
            "it fails twice",
        )
        assert shipper.complaint is not None
        assert shipper.complaint.startswith("nothing reaches the shared ledger: ledger postgresql")
        line.mend()
        eventually(lambda: waiting(ledger) == 0 and shipper.complaint is None, "it ships")
    first, last = caplog.messages
    assert "nothing is lost meanwhile" in first
    assert "the shared ledger takes commits again" in last
    password = make_url(shared_url).password
    assert password is not None
    assert password not in caplog.text


def test_a_fault_of_ours_stops_no_agent(
    ledger: Ledger, shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metering must not end because shipping has a defect: it is counted and tried again."""

    def broken(*_: object) -> None:
        raise KeyError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(module, "ship", broken)
        shipper = made(ledger, shared_url)
        with running(shipper):
            eventually(
                lambda: samples(shipper).get("shared_ledger_failures_total fault"), "it is counted"
            )
    assert shipper.complaint is not None
