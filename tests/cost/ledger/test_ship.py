"""Node to shared ledger, both real: each commit arrives once, whatever fails in between."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select
from tests.cost.shipped import ship_all
from tests.postgres import PostgresServer

from apportion.core.category import Category
from apportion.core.clock import ManualClock, SystemClock
from apportion.core.errors import LedgerDiverged, LedgerError, LedgerUnavailable, SchemaMismatch
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.audit import audit, audit_text
from apportion.cost.ledger.batch import Row, TickBatch
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.migration import REVISION, migrate
from apportion.cost.ledger.outbox import unshipped_since_ns
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.shared import SharedLedger
from apportion.cost.ledger.ship import Shipped, ship
from apportion.cost.ledger.shipping_state import CopyReason, Mark
from apportion.cost.ledger.shipping_tables import NOT_SHIPPED
from apportion.cost.ledger.statements import POSTED
from apportion.cost.ledger.tables import metadata
from apportion.cost.rate import PriceTable
from apportion.cost.report import report
from apportion.cost.repricing.apply import apply_prices
from apportion.cost.testing import Claim, LedgerBuilder

S = NS_PER_SECOND
T0 = 472_222 * NS_PER_HOUR
ROOM = 1 << 20


def open_ledger(path: Path, node: str = "node-1") -> Ledger:
    return Ledger.open(
        path, node=node, cluster=None, currency="USD", version="0", clock=ManualClock()
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A node's ledger with shipping switched on."""
    with open_ledger(tmp_path / "ledger.db") as opened:
        opened.outbox.switch_on(ROOM)
        yield opened


@pytest.fixture
def shared(shared_url: str) -> Iterator[SharedLedger]:
    """A connection to an empty shared ledger."""
    opened = SharedLedger(shared_url, SystemClock())
    yield opened
    opened.close()


class Traffic:
    """Commits of an agent that serves one request after the other, ten seconds each."""

    def __init__(self) -> None:
        self.builder = LedgerBuilder()
        self.builder.device(1, "GPU-1")
        self.builder.rate(1, 36 * 10**12)
        self.builder.entity(1, "serve", tenant="search")
        self.builder.ring(1)
        self.number = 0

    def batch(self) -> TickBatch:
        """The next request: it ran for ten seconds, and the one after it has begun."""
        self.number += 1
        start_ns = T0 + 10 * S * self.number
        request = Claim(Category.DIRECT, 1, 1, 1, self.number)
        interval = Interval(start_ns, start_ns + 10 * S)
        self.builder.span(1, self.number, interval, entity=1, tokens=(5, None, 7))
        self.builder.settle(1, interval, [request], rate=1, power_mw=300_000)
        batch = self.builder.finished()
        batch.insert("reading", [(1, start_ns, "{}")])
        batch.insert("evidence", [(1, T0, start_ns, 7, "1", "")])
        running = (1, 1, 1, 1, self.number + 1, T0, 1, "")
        batch.accruals_changed = [(*running, T0, T0 + 5, 0, 0, 0, 1, 0, 0)]
        batch.accruals_removed = [(*running[:4], self.number, *running[5:])]
        return batch

    def commit(self, ledger: Ledger, count: int = 1) -> None:
        """Commit the next requests, one a commit."""
        for _ in range(count):
            ledger.commit(self.batch())


def contents(reader: LedgerReader) -> dict[str, list[Row]]:
    """All rows of every table that is shipped."""
    found: dict[str, list[Row]] = {}
    with reader.read() as connection:
        for table in metadata.sorted_tables:
            if table.name not in NOT_SHIPPED:
                rows = connection.execute(select(table)).all()
                found[table.name] = sorted((tuple(row) for row in rows), key=repr)
    return found


def same(ledger: Ledger, url: str) -> bool:
    """Whether the shared ledger has what the node has, row for row; if so, the book must hold."""
    with LedgerReader.of(url) as reader:
        if contents(reader) != contents(ledger):
            return False
        result = audit(reader)
        assert result.holds, audit_text(result)
    return True


def executed(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_first_all_then_each_commit(ledger: Ledger, shared: SharedLedger, shared_url: str) -> None:
    """A ledger that was there before is copied; from then on commits follow one by one."""
    traffic = Traffic()
    traffic.commit(ledger, 3)
    first = ship_all(ledger, shared)
    assert [step.copied for step in first] == [CopyReason.FIRST, None]
    assert same(ledger, shared_url)
    traffic.commit(ledger, 2)
    later = ship_all(ledger, shared)
    assert [(step.commits, step.copied, step.done) for step in later] == [
        (2, None, False),
        (0, None, True),
    ]
    assert same(ledger, shared_url)
    assert ship_all(ledger, shared) == [Shipped(done=True)]


def test_readings_stay_on_the_node(ledger: Ledger, shared: SharedLedger, shared_url: str) -> None:
    """State that is gone within seconds crosses no network."""
    traffic = Traffic()
    traffic.commit(ledger)
    ship_all(ledger, shared)
    traffic.commit(ledger)
    ship_all(ledger, shared)
    with psycopg.connect(shared_url) as connection:
        for table in ("reading", "outbox", "shipping"):
            found = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            assert found == (0,)


def test_readers_see_whole_commits(ledger: Ledger, shared: SharedLedger, shared_url: str) -> None:
    """Until a transaction ends nobody sees anything of it, and an error takes all of it back."""
    traffic = Traffic()
    traffic.commit(ledger)
    ship_all(ledger, shared)
    with LedgerReader.of(shared_url) as reader:
        before = contents(reader)

        def half() -> None:
            with shared.receiving(ledger.agent_id) as arrival:
                columns = ("device_key", "settled_ns", "since_ns")
                arrival.replace("watermark", columns, [(9, 1, 1)])
                assert contents(reader) == before
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            half()
        assert contents(reader) == before


class Crash(BaseException):
    """The agent died."""


@contextmanager
def dying(ledger: Ledger, shared: SharedLedger, statements: int) -> Generator[None]:
    """Either side of shipping ends at its `statements`-th statement or commit from now on."""
    left = [statements]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash

    engines = (ledger._engine, shared._engine)
    names = ("before_cursor_execute", "commit")
    for engine in engines:
        for name in names:
            event.listen(engine, name, count)
    try:
        yield
    finally:
        for engine in engines:
            for name in names:
                event.remove(engine, name, count)


def dies_at(statement: int, ledger: Ledger, shared: SharedLedger) -> bool:
    """Ship everything, unless death comes first."""
    try:
        with dying(ledger, shared, statement):
            ship_all(ledger, shared)
    except Crash:
        shared.close()
        return True
    return False


@pytest.mark.parametrize("copied", [False, True])
def test_dying_at_every_statement(
    ledger: Ledger, shared: SharedLedger, shared_url: str, *, copied: bool
) -> None:
    """Wherever shipping dies, the shared ledger has the commits of before or of after, once."""
    traffic = Traffic()
    if not copied:
        ship_all(ledger, shared)
    traffic.commit(ledger, 2)
    with LedgerReader.of(shared_url) as reader:
        before, after = contents(reader), contents(ledger)
        deaths = 0
        while dies_at(deaths, ledger, shared):
            assert contents(reader) in (before, after)
            deaths += 1
    assert deaths > 25, "BEGIN, position, agent, tables, outbox and two COMMITs"
    assert same(ledger, shared_url)
    traffic.commit(ledger)
    assert [step.copied for step in ship_all(ledger, shared)] == [None, None]
    assert same(ledger, shared_url)


def test_arrived_but_not_noted(
    ledger: Ledger, shared: SharedLedger, shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two commits, the node learns from the other side what has arrived."""
    traffic = Traffic()
    ship_all(ledger, shared)
    traffic.commit(ledger, 2)

    def die(_: Mark) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(ledger.outbox, "arrived", die)
        with pytest.raises(Crash):
            ship(ledger, shared)
    traffic.commit(ledger)
    assert ledger.outbox.state().waiting == 3
    assert ship(ledger, shared) == Shipped(commits=2)
    assert ship(ledger, shared).commits == 1
    assert same(ledger, shared_url)


def test_many_commits_arrive_in_few_transactions(
    ledger: Ledger, shared: SharedLedger, shared_url: str
) -> None:
    """What waited through an outage is caught up with quickly, and in order."""
    ship_all(ledger, shared)
    Traffic().commit(ledger, 150)
    assert [step.commits for step in ship_all(ledger, shared)] == [64, 64, 22, 0]
    assert same(ledger, shared_url)


def test_an_overflow_is_copied(tmp_path: Path, shared: SharedLedger, shared_url: str) -> None:
    """The outbox outgrew its bound: what it had held comes by a copy, and nothing is lost.

    What retention has meanwhile deleted on the node stays in the shared ledger.
    """
    traffic = Traffic()
    with open_ledger(tmp_path / "ledger.db") as ledger:
        ledger.outbox.switch_on(2_500)
        ship_all(ledger, shared)
        traffic.commit(ledger, 2)
        ship_all(ledger, shared)
        whole = contents(ledger)
        with sqlite3.connect(tmp_path / "ledger.db") as connection:
            for table in POSTED:
                gone = connection.execute(f"DELETE FROM {table}").rowcount
                assert gone == len(whole[table])
        traffic.commit(ledger, 10)
        assert ledger.outbox.state().copy_reason is CopyReason.OVERFLOW
        reasons = [step.copied for step in ship_all(ledger, shared)]
        assert reasons == [CopyReason.OVERFLOW, None]
        with LedgerReader.of(shared_url) as reader:
            found = contents(reader)
            assert audit(reader).holds
        for table, rows in contents(ledger).items():
            older = whole[table] if table in POSTED else []
            assert found[table] == sorted([*older, *rows], key=repr)


def test_rows_that_went_too_early(ledger: Ledger, shared: SharedLedger, tmp_path: Path) -> None:
    """Deleted by hand before they were shipped: it stops and says so, and ships no half commit."""
    ship_all(ledger, shared)
    Traffic().commit(ledger, 2)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("DELETE FROM span WHERE number = 2")
    with pytest.raises(LedgerError, match="1 rows of span are gone that were not shipped yet"):
        ship_all(ledger, shared)
    assert ledger.outbox.state().waiting == 2


def test_shared_ledger_set_back(
    ledger: Ledger,
    shared: SharedLedger,
    shared_url: str,
    postgres: PostgresServer,
    ledger_template: str,
) -> None:
    """A restored backup or a failover that lost commits: everything is copied there again."""
    traffic = Traffic()
    traffic.commit(ledger, 2)
    ship_all(ledger, shared)
    shared.close()
    name = shared_url.rpartition("/")[2]
    with postgres.database(name) as backup:
        traffic.commit(ledger, 3)
        ship_all(ledger, shared)
        restored = SharedLedger(postgres.url(backup), SystemClock())
        traffic.commit(ledger)
        steps = ship_all(ledger, restored)
        assert [step.copied for step in steps] == [None, CopyReason.LOST, None]
        restored.close()
        assert same(ledger, postgres.url(backup))
    with postgres.database(ledger_template) as empty:
        moved = SharedLedger(postgres.url(empty), SystemClock())
        traffic.commit(ledger)
        assert CopyReason.LOST in [step.copied for step in ship_all(ledger, moved)]
        moved.close()
        assert same(ledger, postgres.url(empty))


def test_copied_state_directory(
    ledger: Ledger, shared: SharedLedger, shared_url: str, tmp_path: Path
) -> None:
    """Two agents with one id are told apart: the second ships nothing, the first goes on."""
    traffic = Traffic()
    traffic.commit(ledger)
    ship_all(ledger, shared)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(tmp_path / "ledger.db", tmp_path / "clone.db")
    traffic.commit(ledger)
    ship_all(ledger, shared)
    with open_ledger(tmp_path / "clone.db") as clone:
        assert clone.agent_id == ledger.agent_id
        clone.commit(TickBatch(inserted={"entity": [(2, "other", *[None] * 6)]}))
        for _ in range(2):
            with pytest.raises(LedgerDiverged, match="a copy of its state directory is in use"):
                ship_all(clone, shared)
        assert clone.outbox.state().waiting == 1
    traffic.commit(ledger)
    ship_all(ledger, shared)
    assert same(ledger, shared_url)


def test_two_agents_share_it(ledger: Ledger, shared: SharedLedger, shared_url: str) -> None:
    """Rows of two agents never meet; a report by node has both, and the audit is clean."""
    with open_ledger(Path(ledger.name).parent / "other.db", "node-2") as other:
        other.outbox.switch_on(ROOM)
        first, second = Traffic(), Traffic()
        for _ in range(3):
            first.commit(ledger)
            second.commit(other)
            ship_all(ledger, shared)
            ship_all(other, shared)
        with LedgerReader.of(shared_url) as reader:
            found = contents(reader)
            assert audit(reader).holds
        for table, rows in contents(ledger).items():
            # `method` is everybody's: its rows are the same for all.
            wanted = {*rows, *contents(other)[table]}
            assert set(found[table]) == wanted
            assert len(found[table]) == len(wanted)


PRICES = """
- {device: NVIDIA H100 80GB HBM3, per_hour: "2.40", currency: USD, covers: gpu, basis: contract,
   source: the contract, as_of: 2023-11-01}
"""


def test_what_a_command_posts_is_shipped(
    ledger: Ledger, shared: SharedLedger, shared_url: str, tmp_path: Path
) -> None:
    """Prices applied beside the agent, hours later, reach the shared ledger like a tick."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.entity(1, "serve")
    idle = Claim(Category.ALLOCATED_IDLE, 1, 1)
    for start in (T0, T0 + NS_PER_HOUR):
        builder.settle(1, Interval(start, start + NS_PER_HOUR), [idle])
    builder.settle(1, Interval(T0 + 2 * NS_PER_HOUR, T0 + 2 * NS_PER_HOUR + S), [idle])
    builder.commit(ledger)
    ship_all(ledger, shared)
    table = tmp_path / "prices.yaml"
    table.write_text(PRICES)
    with Ledger.beside(tmp_path / "ledger.db", node="node-1", clock=ManualClock()) as command:
        assert apply_prices(command, "node-1", PriceTable.load(table), None, None).lines == 2
    with ledger.read() as connection:
        assert unshipped_since_ns(connection, ledger.agent_id) == T0
    assert [step.commits for step in ship_all(ledger, shared)] == [1, 0]
    assert same(ledger, shared_url)
    with LedgerReader.of(shared_url) as reader:
        assert report(reader).rows[0].total.units == 2 * 2_400_000_000_000


def test_newer_schema_takes_our_commits(
    ledger: Ledger, shared: SharedLedger, shared_url: str
) -> None:
    """Expand, then contract: while the next release has expanded the tables, this one ships on."""
    traffic = Traffic()
    traffic.commit(ledger)
    for statement in (
        "ALTER TABLE charge ADD COLUMN invoice TEXT",
        "ALTER TABLE watermark ADD COLUMN shard INTEGER NOT NULL DEFAULT 7",
        "CREATE TABLE invoice (agent_id BIGINT PRIMARY KEY)",
        f"UPDATE alembic_version SET version_num = '{int(REVISION) + 1:04}'",
    ):
        executed(shared_url, statement)
    ship_all(ledger, shared)
    traffic.commit(ledger, 2)
    ship_all(ledger, shared)
    assert same(ledger, shared_url)
    with psycopg.connect(shared_url) as connection:
        found = connection.execute("SELECT invoice FROM charge").fetchall()
        assert found == [(None,)] * 3
        assert connection.execute("SELECT shard FROM watermark").fetchall() == [(7,)]


def test_older_schema_is_waited_for(ledger: Ledger, postgres: PostgresServer) -> None:
    """An agent never migrates: it keeps its commits until somebody has, and then ships them."""
    with postgres.database() as name:
        url = postgres.url(name)
        shared = SharedLedger(url, SystemClock())
        Traffic().commit(ledger, 2)
        with pytest.raises(SchemaMismatch, match="has no tables yet: run `apportion ledger mig"):
            ship_all(ledger, shared)
        migrate(url)
        executed(url, "UPDATE alembic_version SET version_num = '0001'")
        with pytest.raises(SchemaMismatch, match="has schema 0001, this release needs"):
            ship_all(ledger, shared)
        executed(url, f"UPDATE alembic_version SET version_num = '{REVISION}'")
        ship_all(ledger, shared)
        assert same(ledger, url)
        shared.close()


def test_commits_of_another_release(ledger: Ledger, shared: SharedLedger, shared_url: str) -> None:
    """What an older release left in the outbox has fewer columns; the new ones take defaults."""
    ship_all(ledger, shared)
    Traffic().commit(ledger)
    ship_all(ledger, shared)
    executed(shared_url, "ALTER TABLE entity ADD COLUMN cost_centre TEXT DEFAULT 'none'")
    ledger.commit(TickBatch(inserted={"entity": [(2, "later", *[None] * 6)]}))
    ship_all(ledger, shared)
    with psycopg.connect(shared_url) as connection:
        query = "SELECT entity_key, workload, cost_centre FROM entity ORDER BY entity_key"
        assert connection.execute(query).fetchall() == [(1, "serve", "none"), (2, "later", "none")]


def refusals(url: str) -> dict[str, tuple[str, type[LedgerError], str]]:
    """URLs that do not work: what to expect of each."""
    head, _, name = url.rpartition("/")
    at = head.index("@")
    user = head[: head.rindex(":", 0, at)]
    return {
        "password": (f"{user}:wrong{head[at:]}/{name}", LedgerError, "pg_hba.conf"),
        "database": (f"{head}/nowhere", LedgerError, "names in the URL"),
        "port": (f"{user}:x@127.0.0.1:1/{name}", LedgerUnavailable, "can be reached from this"),
    }


@pytest.mark.parametrize("kind", ["password", "database", "port"])
def test_unreachable_says_why(ledger: Ledger, shared_url: str, kind: str) -> None:
    """The message names the server and the remedy, and never a password."""
    url, error, message = refusals(shared_url)[kind]
    with pytest.raises(error, match=message) as caught:
        ship_all(ledger, SharedLedger(url, SystemClock()))
    assert type(caught.value) is error
    text = str(caught.value)
    assert "\n" not in text
    assert "wrong" not in text
    assert "postgresql://apportion:***@" in text


def test_a_role_without_rights(ledger: Ledger, shared_url: str, postgres: PostgresServer) -> None:
    """A missing grant is named with the table, and the page that lists them."""
    executed(shared_url, "CREATE ROLE stranger LOGIN PASSWORD 'x'")
    url = shared_url.replace(f"apportion:{postgres.password}", "stranger:x")
    with pytest.raises(LedgerError, match=r"permission denied.*docs/shared-ledger.md"):
        ship_all(ledger, SharedLedger(url, SystemClock()))
    executed(shared_url, "DROP ROLE stranger")


def test_server_ends_the_session(
    ledger: Ledger, shared: SharedLedger, shared_url: str, postgres: PostgresServer
) -> None:
    """A connection that broke is made anew by the next step."""
    traffic = Traffic()
    traffic.commit(ledger)
    ship_all(ledger, shared)
    name = shared_url.rpartition("/")[2]
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    traffic.commit(ledger)
    with pytest.raises(LedgerUnavailable):
        ship_all(ledger, shared)
    connected = [shared.connected]
    ship_all(ledger, shared)
    connected.append(shared.connected)
    assert connected == [False, True]
    assert same(ledger, shared_url)


def test_cut_from_another_thread(ledger: Ledger, shared: SharedLedger, shared_url: str) -> None:
    """Whoever waits for a server that does not answer is freed by `cut`, and goes on later."""
    Traffic().commit(ledger)
    ship_all(ledger, shared)
    assert shared.waiting_since_ns is None

    def cut(*_: object) -> None:
        assert shared.waiting_since_ns is not None
        shared.cut()

    event.listen(shared._engine, "before_cursor_execute", cut)
    ledger.commit(TickBatch(inserted={"entity": [(2, "later", *[None] * 6)]}))
    with pytest.raises(LedgerUnavailable):
        ship_all(ledger, shared)
    event.remove(shared._engine, "before_cursor_execute", cut)
    assert shared.waiting_since_ns is None
    ship_all(ledger, shared)
    assert same(ledger, shared_url)


stories = st.lists(st.sampled_from(["commit", "ship", "die", "restart"]), max_size=12)


@settings(
    max_examples=settings().max_examples // 10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=stories, seed=st.integers(0, 60))
def test_any_story_ends_alike(
    shared_url: str, tmp_path_factory: pytest.TempPathFactory, steps: list[str], seed: int
) -> None:
    """Commits, steps, crashes and restarts in any order: in the end both books are one."""
    path = tmp_path_factory.mktemp("story") / "ledger.db"
    names = ", ".join(table.name for table in metadata.sorted_tables)
    executed(shared_url, f"TRUNCATE {names}")
    traffic, shared = Traffic(), SharedLedger(shared_url, SystemClock())
    ledger = open_ledger(path)
    ledger.outbox.switch_on(3_000)
    for index, step in enumerate(steps):
        if step == "commit":
            traffic.commit(ledger)
        elif step == "ship":
            ship(ledger, shared)
        elif step == "die":
            dies_at(seed + index, ledger, shared)
        else:
            ledger.close()
            ledger = open_ledger(path)
    ship_all(ledger, shared)
    assert same(ledger, shared_url)
    ledger.close()
    shared.close()
