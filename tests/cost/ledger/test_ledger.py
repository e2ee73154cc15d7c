"""One agent's ledger on real SQLite files: whole ticks or nothing, whatever happens."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from apportion.core.clock import ManualClock
from apportion.core.errors import LedgerError, LedgerUnavailable, SchemaMismatch
from apportion.cost.ledger.batch import UNADJUSTED, Row, TickBatch
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.reader import LedgerReader

SETTLED: Row = (1, 0, 5, *[None] * 5)
SPAN_TAIL: Row = (*[None] * 6, 0, 5, None)


def open_ledger(
    path: Path | str, *, node: str = "node-1", currency: str | None = "USD", busy_ms: int = 50
) -> Ledger:
    return Ledger.open(
        path,
        node=node,
        cluster="c",
        currency=currency,
        version="0.1.0",
        clock=ManualClock(),
        busy_timeout_ms=busy_ms,
    )


def span_row(ring: int, sequence: int, end_ns: int = 100) -> Row:
    head = (ring, sequence, sequence, 0, 1, 1, 0, 0, None, None, 0, None, None, end_ns)
    return (*head, None, 7, None, None, None, *SPAN_TAIL)


def charge_row(key: int, units: int | None = 3) -> Row:
    head = (key, 1, 1, 1, None, None, None, None, 0, 5, 5, 5, None, units, None, 1, None, 0)
    return (*head, *UNADJUSTED)


def count(path: Path, table: str) -> int:
    with sqlite3.connect(path) as connection:
        found = int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    connection.close()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(path) as opened:
        yield opened


def test_new_file_has_rights_and_journal(ledger: Ledger, path: Path) -> None:
    """A ledger's file is for the agent and its group only, and readers never block the writer."""
    ledger.commit(TickBatch(inserted={"settlement": [SETTLED]}))
    modes = {name.name: stat.S_IMODE(name.stat().st_mode) for name in path.parent.iterdir()}
    assert modes == {"ledger.db": 0o640, "ledger.db-wal": 0o640, "ledger.db-shm": 0o640}
    with ledger.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


def test_rights_do_not_depend_on_umask(tmp_path: Path) -> None:
    """A daemon's loose or tight umask does not change who may read the ledger."""
    before = os.umask(0o077)
    try:
        open_ledger(tmp_path / "ledger.db").close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ledger.db").stat().st_mode) == 0o640


def test_agent_keeps_its_id(path: Path) -> None:
    """After a restart the same node goes on with its own rows; another node gets its own id."""
    with open_ledger(path) as first, open_ledger(path) as again, open_ledger(path, node="b") as b:
        assert first.agent_id == again.agent_id
        assert 0 <= first.agent_id < 1 << 63
        assert b.agent_id != first.agent_id


def test_another_currency_is_refused(path: Path) -> None:
    """Amounts of two currencies never meet in one book; no price at first is no currency."""
    open_ledger(path, currency=None).close()
    open_ledger(path, currency="USD").close()
    open_ledger(path, currency=None).close()
    with pytest.raises(LedgerError, match="is in USD, the prices are in KRW"):
        open_ledger(path, currency="KRW")


def test_commit_and_load_state(ledger: Ledger) -> None:
    """What a tick wrote is what a restart reads, and only spans that may still matter."""
    batch = TickBatch()
    batch.insert("device", [(1, "GPU-1", "H100", "nvml", 0)])
    batch.insert("method", [(1, "time-share/1")])
    batch.insert("span", [span_row(1, 1, 40), span_row(1, 2, 100)])
    batch.insert("charge", [charge_row(1), charge_row(2)])
    batch.replace("watermark", [(1, 90, 0, None, None)])
    batch.accruals_changed = [(1, 1, 0, 1, 2, 0, 0, "", 0, 9, 9, None, None, 1, 0, 0)]
    ledger.commit(batch)

    state = ledger.load_state(margin_ns=20)
    assert state.agent_id == ledger.agent_id
    assert state.tables["device"] == [(1, "GPU-1", "H100", "nvml", 0)]
    assert state.tables["method"] == [(1, "time-share/1")]
    assert state.tables["accrual"] == batch.accruals_changed
    assert state.tables["watermark"] == [(1, 90, 0, None, None)]
    assert state.tables["ring"] == []
    assert state.spans == [span_row(1, 2, 100)]
    assert state.next_charge_key == 3
    assert ledger.load_state(margin_ns=60).spans == [span_row(1, 1, 40), span_row(1, 2, 100)]


def test_commands_number_their_lines_the_other_way(ledger: Ledger) -> None:
    """An agent goes on from its own last line, whatever commands posted beside it, or before it."""
    ledger.commit(TickBatch(inserted={"charge": [charge_row(-2), charge_row(-1)]}))
    assert ledger.load_state(0).next_charge_key == 1
    ledger.commit(TickBatch(inserted={"charge": [charge_row(1), charge_row(-3)]}))
    assert ledger.load_state(0).next_charge_key == 2


def test_a_ledger_is_found_by_its_node(ledger: Ledger, path: Path) -> None:
    """A command adds to the ledger of an agent that is there; it makes neither file nor agent."""
    with Ledger.beside(path, node="node-1", clock=ManualClock()) as beside:
        assert beside.agent_id == ledger.agent_id
    with pytest.raises(LedgerError, match="nothing of node 'b', only of node-1"):
        Ledger.beside(path, node="b", clock=ManualClock())
    missing = path.with_name("missing.db")
    with pytest.raises(LedgerUnavailable, match="does not exist"):
        Ledger.beside(missing, node="b", clock=ManualClock())
    assert not missing.exists()


def test_spans_read_twice_are_kept_once(ledger: Ledger, path: Path) -> None:
    """After a crash the agent reads the same records again: the ledger has each once."""
    ledger.commit(TickBatch(inserted={"span": [span_row(1, 1), span_row(1, 2)]}))
    ledger.commit(TickBatch(inserted={"span": [span_row(1, 2), span_row(1, 3)]}))
    assert count(path, "span") == 3


def test_second_settlement_of_an_instant_is_refused(ledger: Ledger, path: Path) -> None:
    """Exactly once: a device's time is never charged twice, and nothing of such a tick stays."""
    ledger.commit(TickBatch(inserted={"settlement": [SETTLED]}))
    twice = TickBatch(
        inserted={"charge": [charge_row(1)], "settlement": [(2, 0, 5, *[None] * 5), SETTLED]}
    )
    with pytest.raises(LedgerError, match=r"settlement \(device_key=1, start_ns=0\).*twice"):
        ledger.commit(twice)
    assert count(path, "settlement") == 1
    assert count(path, "charge") == 0


def test_posted_rows_are_never_written_over(ledger: Ledger) -> None:
    """Corrections are lines of their own: no caller can edit what was posted."""
    for table in ("charge", "settlement", "settlement_part", "span"):
        with pytest.raises(LedgerError, match="never edited"):
            ledger.commit(TickBatch(replaced={table: [SETTLED]}))


def test_state_is_replaced_and_removed(ledger: Ledger) -> None:
    """Running sums, readings and evidence are state: they move on and go away."""
    running = (1, 1, 0, 1, 2, 0, 0, "", 0, 9, 9, None, None, 1, 0, 0)
    first = TickBatch(accruals_changed=[running])
    first.insert("reading", [(1, 10, "{}"), (1, 20, "{}"), (2, 10, "{}")])
    first.insert("evidence", [(1, 0, 5, 7, "1", "")])
    ledger.commit(first)
    second = TickBatch(accruals_removed=[running[:8]], readings_before={1: 20})
    second.insert("evidence", [(1, 0, 9, 7, "1", "")])
    second.insert("reading", [(1, 20, "{}")])
    ledger.commit(second)
    state = ledger.load_state(0)
    assert state.tables["accrual"] == []
    assert state.tables["reading"] == [(1, 20, "{}"), (2, 10, "{}")]
    with ledger.read() as connection:
        found = connection.exec_driver_sql("SELECT start_ns, end_ns FROM evidence").all()
    assert [tuple(row) for row in found] == [(0, 9)]


def test_wrong_rows_are_named(ledger: Ledger, path: Path) -> None:
    """A programming error names table and columns, and leaves the ledger as it was."""
    cases: list[tuple[TickBatch, str]] = [
        (TickBatch(inserted={"nonsense": [(1,)]}), "no table 'nonsense'"),
        (TickBatch(inserted={"charge": [(1, 2)]}), "row for charge does not fit"),
        (TickBatch(inserted={"charge": [charge_row(1, units=1 << 63)]}), "does not fit 64 bits"),
        (TickBatch(inserted={"device": [(1, None, "", "", 0)]}), "NOT NULL"),
    ]
    for batch, message in cases:
        batch.inserted = {"settlement": [SETTLED], **batch.inserted}
        with pytest.raises(LedgerError, match=message):
            ledger.commit(batch)
    assert count(path, "settlement") == 0


def test_locked_ledger_is_tried_again(ledger: Ledger, path: Path) -> None:
    """While another process writes, a tick fails as unavailable; the same batch then commits."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    batch = TickBatch(inserted={"settlement": [SETTLED], "span": [span_row(1, 1)]})
    with pytest.raises(LedgerUnavailable, match=r"locked.*tried again"):
        ledger.commit(batch)
    with ledger.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM span").scalar() == 0
    other.execute("ROLLBACK")
    other.close()
    ledger.commit(batch)
    assert count(path, "settlement") == 1


def test_full_ledger_is_tried_again(ledger: Ledger, path: Path) -> None:
    """SQLite's own limit of pages gives the same error as a full disk: nothing stays, then all."""
    with ledger.read() as connection:
        pages = int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    batch = TickBatch(
        inserted={
            "settlement": [SETTLED],
            "charge": [charge_row(key) for key in range(1, 5_000)],
        }
    )
    with pytest.raises(LedgerUnavailable, match=r"full.*free space"):
        ledger.commit(batch)
    assert count(path, "settlement") == 0
    with ledger.read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")
    ledger.commit(batch)
    assert count(path, "charge") == 4_999


def test_moved_away_nothing_is_lost(ledger: Ledger, path: Path) -> None:
    """Not to an orphan: a commit waits for the file, and no new one is begun meanwhile."""
    ledger.commit(TickBatch(inserted={"span": [span_row(1, 1)]}))
    away = path.with_name("old.db")
    path.rename(away)
    batch = TickBatch(inserted={"span": [span_row(1, 2)]})
    with pytest.raises(LedgerUnavailable, match="was moved or deleted"):
        ledger.commit(batch)
    with pytest.raises(LedgerError, match=r"put ledger\.db back"):
        open_ledger(path)
    away.rename(path)
    ledger.commit(batch)
    assert count(path, "span") == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "apportion-test", str(folder)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("small disk: there is no program mount here")
    if mounted.returncode != 0:
        pytest.skip("small disk: mounting a tmpfs is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=30)


def test_full_disk_is_tried_again(small_disk: Path) -> None:
    """A really full disk: the tick is unavailable, what was there is intact, and then it fits."""
    with open_ledger(small_disk / "ledger.db") as ledger:
        ledger.commit(TickBatch(inserted={"settlement": [SETTLED]}))
        filler = small_disk / "filler"
        free = os.statvfs(small_disk)
        filler.write_bytes(b"\0" * (free.f_bavail * free.f_frsize))
        batch = TickBatch(inserted={"charge": [charge_row(key) for key in range(1, 2_000)]})
        with pytest.raises(LedgerUnavailable):
            ledger.commit(batch)
        assert ledger.load_state(0).next_charge_key == 1
        filler.unlink()
        ledger.commit(batch)
        assert ledger.load_state(0).next_charge_key == 2_000


def test_a_ledger_of_an_unreleased_build_says_so(path: Path) -> None:
    """Its number is this release's and its tables are not: no migration helps."""
    open_ledger(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE entity DROP COLUMN base_model")
    with (
        open_ledger(path) as ledger,
        pytest.raises(SchemaMismatch, match=r"base_model.*unreleased.*make a new one"),
    ):
        ledger.load_state(0)


def test_damaged_file_says_so(path: Path) -> None:
    """A file that is no database any more is an error with a remedy, never a new empty ledger."""
    open_ledger(path).close()
    content = bytearray(path.read_bytes())
    content[:4096] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"damaged.*restore a backup"):
        open_ledger(path)
    with pytest.raises(LedgerError, match=r"damaged.*restore a backup"):
        LedgerReader.of(path)
    assert path.read_bytes() == content


def test_unusable_places_are_named(tmp_path: Path) -> None:
    """A wrong path or URL says which one and what to do."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(LedgerUnavailable, match="cannot be created"):
        open_ledger(blocked / "ledger.db")
    with pytest.raises(LedgerUnavailable, match="does not exist"):
        LedgerReader.of(tmp_path / "none.db")
    with pytest.raises(LedgerError, match="no driver"):
        LedgerReader.of("nonsense://host/name")
    with pytest.raises(LedgerError, match="no database URL"):
        LedgerReader.of("://")
    with pytest.raises(LedgerError, match="SQLite on its own node"):
        open_ledger("postgresql://user:secret@host/name")
    with pytest.raises(SchemaMismatch, match="is empty"):
        LedgerReader.of(blocked)


def test_password_never_shows() -> None:
    """A database URL's password is not in any message."""
    with pytest.raises(LedgerError) as caught:
        open_ledger("postgresql://user:secret@host/name")
    assert "secret" not in str(caught.value)


def test_reader_beside_writer(ledger: Ledger, path: Path) -> None:
    """A report reads one moment of a ledger that an agent goes on writing, and writes nothing."""
    ledger.commit(TickBatch(inserted={"span": [span_row(1, 1)]}))
    with LedgerReader.of(path) as reader, reader.read() as connection:
        query = "SELECT count(*) FROM span"
        assert connection.exec_driver_sql(query).scalar() == 1
        ledger.commit(TickBatch(inserted={"span": [span_row(1, 2)]}))
        assert connection.exec_driver_sql(query).scalar() == 1
        with pytest.raises(LedgerUnavailable, match="writable"), reader.read() as again:
            again.exec_driver_sql("DELETE FROM span")
    assert count(path, "span") == 2


def test_memory_ledger_works() -> None:
    """The double for tests is the real ledger, only in memory."""
    with open_ledger("sqlite://") as ledger:
        ledger.commit(TickBatch(inserted={"span": [span_row(1, 1)]}))
        assert ledger.load_state(0).spans == [span_row(1, 1)]


def test_large_tick_commits(ledger: Ledger, path: Path) -> None:
    """A hundred thousand charges after an outage are one transaction like any other."""
    ledger.commit(TickBatch(inserted={"charge": [charge_row(key) for key in range(1, 100_001)]}))
    assert count(path, "charge") == 100_000
    assert ledger.load_state(0).next_charge_key == 100_001


CRASHES = """
import os, signal, sys
from sqlalchemy import event
from apportion.core.clock import ManualClock
from apportion.cost.ledger.batch import TickBatch
from apportion.cost.ledger.ledger import Ledger

def batch():
    made = TickBatch(replaced={"watermark": [(1, 5, 0, None, None)]})
    made.insert("settlement", [(1, 0, 5, None, None, None, None, None)])
    made.insert("settlement_part", [(1, 0, 1, 1, 5, None, None)])
    made.insert("reading", [(1, 7, "{}")])
    made.accruals_changed = [(1, 1, 0, 1, 2, 0, 0, "", 0, 9, 9, None, None, 1, 0, 0)]
    return made

def attempt(path, statements):
    ledger = Ledger.open(path, node="n", cluster=None, currency=None, version="0",
                         clock=ManualClock())
    seen = [0]
    def die(*_):
        seen[0] += 1
        if seen[0] > statements:
            os.kill(os.getpid(), signal.SIGKILL)
    event.listen(ledger._engine, "before_cursor_execute", die)
    event.listen(ledger._engine, "commit", die)
    ledger.commit(batch())

for statements in range(100):
    child = os.fork()
    if child == 0:
        attempt(sys.argv[1], statements)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ledger = Ledger.open(sys.argv[1], node="n", cluster=None, currency=None, version="0",
                         clock=ManualClock())
    state = ledger.load_state(0)
    rows = sum(len(state.tables[name]) for name in ("watermark", "reading", "accrual"))
    print(os.WTERMSIG(status), rows)
    ledger.close()
    if not os.WIFSIGNALED(status):
        break
"""


def test_killed_at_every_statement(tmp_path: Path) -> None:
    """An agent killed before any statement of a commit, or before COMMIT, leaves no trace of it."""
    done = subprocess.run(
        [sys.executable, "-c", CRASHES, str(tmp_path / "ledger.db")],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    outcomes = done.stdout.splitlines()
    assert outcomes[:-1] == ["9 0"] * (len(outcomes) - 1)
    assert outcomes[-1] == "0 3"
    assert len(outcomes) > 6, "BEGIN, five tables and COMMIT"
