"""Backups are whole and of one moment, beside a running agent; a restore writes over nothing."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from apportion.core.category import Category
from apportion.core.clock import ManualClock
from apportion.core.errors import LedgerError, LedgerUnavailable
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.audit import audit
from apportion.cost.ledger.backup import back_up, restore, vacuum
from apportion.cost.ledger.info import ledger_info
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.lock import COMMAND, LedgerLock
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.report import report
from apportion.cost.testing import Claim, LedgerBuilder

S = NS_PER_SECOND
T0 = 472_222 * NS_PER_HOUR
CLOCK = ManualClock(realtime_ns=T0)


def add_second(builder: LedgerBuilder, second: int) -> None:
    """Another settled second, with its span."""
    interval = Interval(T0 + second * S, T0 + (second + 1) * S)
    builder.span(1, second + 1, interval, entity=1)
    builder.settle(1, interval, [Claim(Category.DIRECT, 1, 1, 1, second + 1)], rate=1)


def book() -> LedgerBuilder:
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, 3_600_000_000_000)
    builder.entity(1, "serve")
    builder.ring(1)
    add_second(builder, 0)
    return builder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "state" / "ledger.db"
    book().ledger(place).close()
    return place


def test_a_copy_says_the_same(path: Path, tmp_path: Path) -> None:
    """One file, for the same readers, with the same report, readable where nobody may write."""
    copy = tmp_path / "copies" / "monday.db"
    copy.parent.mkdir()
    size = back_up(path, copy)
    assert size == copy.stat().st_size > 0
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    assert [each.name for each in copy.parent.iterdir()] == ["monday.db"]
    with LedgerReader.of(path) as origin, LedgerReader.of(copy) as other:
        assert report(other).rows == report(origin).rows
        assert audit(other).holds
    with sqlite3.connect(f"{copy.as_uri()}?immutable=1", uri=True) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_a_copy_beside_a_writer_is_of_one_moment(path: Path, tmp_path: Path) -> None:
    """While an agent commits tick after tick, every copy is a book that adds up."""
    stop, ticks = threading.Event(), [0]
    builder = book()
    builder.finished()

    def write() -> None:
        with Ledger.open(
            path, node="node-1", cluster=None, currency=None, version="0", clock=CLOCK
        ) as ledger:
            while not stop.is_set():
                ticks[0] += 1
                add_second(builder, ticks[0])
                builder.commit(ledger)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(4):
            before = ticks[0]
            back_up(path, tmp_path / f"{number}.db")
            with LedgerReader.of(tmp_path / f"{number}.db") as copy:
                assert audit(copy).holds
                assert report(copy).proof.metered.device_ns >= before * S
    finally:
        stop.set()
        writer.join()
    assert ticks[0] > 0


def test_nothing_is_written_over(path: Path, tmp_path: Path) -> None:
    """Neither a backup nor a ledger that is there is ever lost to one of another name."""
    copy = tmp_path / "copy.db"
    back_up(path, copy)
    before = copy.read_bytes()
    with pytest.raises(LedgerError, match="is there already"):
        back_up(path, copy)
    with pytest.raises(LedgerError, match="writes over nothing"):
        restore(copy, path)
    assert copy.read_bytes() == before
    path.unlink()
    Path(f"{path}-wal").write_bytes(b"what an agent had not put into the file yet")
    with pytest.raises(LedgerError, match="-wal is there"):
        restore(copy, path)


def test_a_restored_ledger_goes_on(path: Path, tmp_path: Path) -> None:
    """The agent that comes back has its own id, and numbers its lines on."""
    copy = tmp_path / "copy.db"
    back_up(path, copy)
    with LedgerReader.of(path) as ledger:
        before = report(ledger)
    for place in path.parent.iterdir():
        place.unlink()
    restore(copy, path)
    with Ledger.open(
        path, node="node-1", cluster=None, currency=None, version="0", clock=CLOCK
    ) as again:
        assert report(again).rows == before.rows
        assert again.load_state(0).next_charge_key == 2
        builder = book()
        builder.finished()
        add_second(builder, 1)
        builder.commit(again)
        assert audit(again).holds


def test_no_restore_under_an_agent(path: Path, tmp_path: Path) -> None:
    """While an agent holds the ledger's lock nothing is put there, and no file is written anew."""
    copy = tmp_path / "copy.db"
    back_up(path, copy)
    lock = LedgerLock.take(path)
    for place in path.parent.glob("ledger.db*"):
        if not place.name.endswith(".lock"):
            place.unlink()
    with pytest.raises(LedgerError, match="an agent that runs on this host uses"):
        restore(copy, path)
    assert not path.exists()
    lock.release()
    restore(copy, path)
    lock = LedgerLock.take(path)
    with pytest.raises(LedgerError, match="an agent that runs on this host uses"):
        vacuum(path)
    lock.release()
    lock = LedgerLock.take(path, COMMAND)
    with pytest.raises(LedgerError, match="another command writes"):
        vacuum(path)
    lock.release()
    vacuum(path)


def test_damage_is_not_backed_up(path: Path, tmp_path: Path) -> None:
    """A copy is looked through: one that is damaged gets no name."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.close()
    content = bytearray(path.read_bytes())
    for page in range(pages // 2, pages):
        content[page * 4096 : page * 4096 + 300] = b"\xff" * 300
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="damaged"):
        back_up(path, tmp_path / "copy.db")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["state"]


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    """A missing file, another database and plain text are named before anything is written."""
    target = tmp_path / "state" / "ledger.db"
    with pytest.raises(LedgerUnavailable, match="does not exist"):
        restore(tmp_path / "none.db", target)
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="no ledger"):
        restore(other, target)
    other.write_text("not a database, only text " * 100)
    with pytest.raises(LedgerError, match="damaged"):
        restore(other, target)
    assert not target.exists()


def test_vacuum_gives_space_back(path: Path) -> None:
    """Deleted rows' space goes back to the file system, and the ledger says the same."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE filler (bytes BLOB)")
        connection.execute("INSERT INTO filler VALUES (zeroblob(3000000))")
        connection.execute("DROP TABLE filler")
    connection.close()
    with LedgerReader.of(path) as ledger:
        said = report(ledger).rows
    assert ledger_info(path).free_bytes > 2_900_000
    before, after = vacuum(path)
    assert after < before - 2_900_000
    assert ledger_info(path).free_bytes == 0
    with LedgerReader.of(path) as ledger:
        assert report(ledger).rows == said


def test_a_server_has_its_own_tools() -> None:
    """For a PostgreSQL each command names what to use instead, and never shows a password."""
    url = "postgresql://user:secret@host/name"
    for words, command in (
        ("pg_dump", lambda: back_up(url, Path("copy.db"))),
        ("pg_restore", lambda: restore(Path("copy.db"), url)),
        ("VACUUM FULL", lambda: vacuum(url)),
    ):
        with pytest.raises(LedgerError, match=words) as caught:
            command()
        assert "secret" not in str(caught.value)


KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from apportion.cost.ledger import backup
backup._name = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
backup.back_up(sys.argv[1], Path(sys.argv[2]))
"""


def test_a_killed_backup_has_no_name(path: Path, tmp_path: Path) -> None:
    """Whoever finds a file with a backup's name can trust it: one that was cut short has none."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(tmp_path / "copy.db")],
        check=False,
        timeout=60,
    )
    assert done.returncode == -9
    assert not (tmp_path / "copy.db").exists()
    back_up(path, tmp_path / "copy.db")


def test_root_gives_files_to_the_directory_s_owner(path: Path, tmp_path: Path) -> None:
    """Who restores as root must not lock the agent out of its own ledger."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    copy = tmp_path / "copy.db"
    back_up(path, copy)
    for place in path.parent.iterdir():
        place.unlink()
    os.chown(path.parent, 1234, 1235)
    restore(copy, path)
    owners = {(each.stat().st_uid, each.stat().st_gid) for each in path.parent.iterdir()}
    assert owners == {(1234, 1235)}
