"""The shared ledger, a PostgreSQL: what arrives from an agent is applied once, and whole.

An agent's position is a row of the same transaction as what was applied, so that a commit is
there or it is not, whoever dies. Nothing here creates or changes tables.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from psycopg import Error as DriverError
from sqlalchemy import delete, event, select
from sqlalchemy.exc import DBAPIError

from apportion.cost.ledger.engine import ledger_errors, ledger_url, open_engine, shown
from apportion.cost.ledger.lease import Claimed, claim, release, stale
from apportion.cost.ledger.migration import REVISION, check_schema
from apportion.cost.ledger.schema import accrual, device
from apportion.cost.ledger.shipping_state import Mark
from apportion.cost.ledger.shipping_tables import disowned, shipped
from apportion.cost.ledger.statements import (
    KEPT,
    KEPT_ONCE,
    POSTED,
    Statements,
    listed,
    on_conflict,
    overwrite,
    table_named,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Dialect
    from sqlalchemy.pool import ConnectionPoolEntry

    from apportion.core.clock import Clock
    from apportion.cost.ledger.batch import Row
    from apportion.cost.ledger.shipment import Shipment

COPIED_AT_ONCE: Final = 10_000
"""Rows: enough for COPY to be fast, few enough to hold."""


class SharedLedger:
    """One connection, made when it is needed. One thread uses it; another one may `cut` it."""

    def __init__(self, url: str, clock: Clock) -> None:
        """Connect to nothing yet.

        Raises:
            LedgerError: no URL of a PostgreSQL, or its driver is not installed.
        """
        parsed = ledger_url(url)
        self.name: Final = shown(parsed)
        self._clock = clock
        self._engine = open_engine(parsed)
        self._connection: Connection | None = None
        self._line: socket.socket | None = None
        self._touched_ns: int | None = None
        event.listen(self._engine, "do_connect", self._connect)

    @property
    def connected(self) -> bool:
        """Whether the last that was asked of it went well."""
        return self._connection is not None

    @property
    def waiting_since_ns(self) -> int | None:
        """Since when (monotonic) the server has owed an answer; None: it owes none."""
        return self._touched_ns

    @contextmanager
    def receiving(self, agent_id: int) -> Generator[Arrival]:
        """A transaction for what comes from one agent; another one for it waits for this.

        Raises:
            LedgerUnavailable: the server cannot be reached, or went away meanwhile.
            SchemaMismatch: its schema is not one that this release can write to.
            LedgerError: it refuses.
        """
        try:
            with ledger_errors(self.name, "take what was shipped"):
                self._touch()
                connection = self._open()
                with connection.begin():
                    yield Arrival(connection, self.name, agent_id, self._touch)
                    self._touch()
        except BaseException:
            self.close()
            raise
        finally:
            self._touched_ns = None

    def cut(self) -> None:
        """Break the connection off: what waits for the server fails at once. Any thread may."""
        line = self._line
        if line is not None:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection; the next use makes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.close()
        self._hang_up()

    def _open(self) -> Connection:
        if self._connection is None:
            check_schema(self._engine, self.name, create=False)
            self._connection = self._engine.connect()
        return self._connection

    def _connect(
        self,
        dialect: Dialect,
        _entry: ConnectionPoolEntry,
        arguments: Sequence[Any],
        named: Mapping[str, Any],
    ) -> Any:
        """A second handle on the connection's socket outlives the driver's own, for `cut`."""
        made = dialect.connect(*arguments, **named)
        self._hang_up()
        self._line = socket.socket(fileno=os.dup(made.fileno()))
        self._touch()
        return made

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _touch(self) -> None:
        self._touched_ns = self._clock.monotonic_ns()


class Arrival:
    """One transaction of one agent in the shared ledger."""

    def __init__(
        self, connection: Connection, name: str, agent_id: int, touch: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._name = name
        self._agent_id = agent_id
        self._statements = Statements(agent_id, mark="%s")
        self._touch = touch
        self.rows = 0
        """How many rows were given so far."""
        self.disowned = 0
        """How many of the device hours were another agent's."""

    def position(self) -> Mark | None:
        """The last commit of the agent that is here; None: there is none."""
        query = select(shipped.c.commit_no, shipped.c.commit_id)
        mine = query.where(shipped.c.agent_id == self._agent_id).with_for_update()
        with self._asking():
            found = self._connection.execute(mine).first()
        return None if found is None else Mark(*found)

    def reach(self, mark: Mark) -> None:
        """Once this transaction is committed, everything up to `mark` is here."""
        self._many(self._statements.upsert(shipped.name), [mark])

    def replace(self, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Write rows, without agent_id, over those of the same key."""
        self._many(self._statements.upsert(table, columns), rows)

    def apply(self, shipment: Shipment) -> None:
        """What a commit changed, but for the rows that it refers to: these are for `append`."""
        for table, new in shipment.inserted.items():
            self._many(self._statements.insert(table, tuple(new.columns)), new.rows)
        for table, newer in shipment.replaced.items():
            self.replace(table, tuple(newer.columns), newer.rows)
        self._many(self._statements.delete_accrual, shipment.accruals_removed.rows)
        changed = shipment.accruals_changed
        self.replace(accrual.name, tuple(changed.columns), changed.rows)

    def disown(self, epochs: Mapping[str, int], hours: Iterable[Row]) -> None:
        """Note the (device key, hour) that were metered under a lease that was no longer held.

        What was settled then is here like all else; reports leave it out.
        """
        wanted = set(hours)
        if not wanted:
            return
        names = select(device.c.device_key, device.c.device).where(
            device.c.agent_id == self._agent_id,
            device.c.device_key.in_({key for key, _ in wanted}),
        )
        with self._asking():
            keys = {row.device: row.device_key for row in self._connection.execute(names)}
            lost = {keys[name] for name in stale(self._connection, self._agent_id, epochs, keys)}
        rows = [(hour_ns, key) for key, hour_ns in sorted(wanted) if key in lost]
        self._many(self._statements.upsert(disowned.name), rows)
        self.disowned += len(rows)

    def claim(self, devices: Iterable[str], duration_ns: int) -> Claimed:
        """Take or renew the leases of `devices`, where nobody else has them."""
        with self._asking():
            return claim(self._connection, self._agent_id, devices, duration_ns)

    def release(self) -> None:
        """Others may have the agent's devices at once."""
        with self._asking():
            release(self._connection, self._agent_id)

    def append(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """New rows of a table, agent_id and all. A second row of a key is an error or ignored."""
        self._copy(table, columns, rows, on_conflict(table_named(table)))

    def merge(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Rows, agent_id and all, some of which may be here: the posted ones stay as they are."""
        kept = table in POSTED or table in KEPT_ONCE
        ending = KEPT if kept else overwrite(table_named(table), columns)
        self._copy(table, columns, rows, ending)

    def forget_accruals(self) -> None:
        """Running sums come and go: before they are merged, those that are here go."""
        with self._asking():
            self._connection.execute(delete(accrual).where(accrual.c.agent_id == self._agent_id))

    def _many(self, statement: str, rows: Sequence[Row]) -> None:
        if rows:
            with self._asking():
                self._connection.exec_driver_sql(statement, list(rows))
            self.rows += len(rows)

    def _copy(self, table: str, columns: Sequence[str], rows: Iterable[Row], ending: str) -> None:
        """COPY is five times as fast as INSERT, but knows no ON CONFLICT: it fills a stage then."""
        names, stage = listed(columns), f"stage_{REVISION}_{table}"
        selected = f"SELECT {names} FROM"
        for chunk in _chunks(rows):
            with self._asking():
                if ending:
                    run = self._connection.exec_driver_sql
                    run(
                        f"CREATE TEMPORARY TABLE IF NOT EXISTS {stage} AS "
                        f"{selected} {table} WITH NO DATA"
                    )
                    run(f"TRUNCATE {stage}")
                    self._copy_in(f"COPY {stage} ({names}) FROM STDIN", chunk)
                    run(f"INSERT INTO {table} ({names}) {selected} {stage}{ending}")
                else:
                    self._copy_in(f"COPY {table} ({names}) FROM STDIN", chunk)
            self.rows += len(chunk)

    def _copy_in(self, statement: str, rows: Iterable[Row]) -> None:
        driver: Any = self._connection.connection.driver_connection
        try:
            with driver.cursor() as cursor, cursor.copy(statement) as copy:
                for row in rows:
                    copy.write_row(row)
        except DriverError as error:
            raise DBAPIError(statement, None, error) from error

    @contextmanager
    def _asking(self) -> Generator[None]:
        """Its own errors become ours here, where it is still known whose they are."""
        self._touch()
        with ledger_errors(self._name, "take what was shipped"):
            yield


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while chunk := list(islice(left, COPIED_AT_ONCE)):
        yield chunk
