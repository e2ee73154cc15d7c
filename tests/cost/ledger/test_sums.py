"""Sums over a fleet and a year do not fit 64 bits, and must still be exact."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    delete,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import OperationalError
from tests.postgres import PostgresServer

from apportion.core.units import UNITS_PER_CURRENCY
from apportion.cost.ledger.engine import ledger_url, open_engine
from apportion.cost.sums import wide_sum

INT64 = 1 << 63
metadata = MetaData()
amounts = Table(
    "amounts",
    metadata,
    Column("key", Integer, primary_key=True),
    Column("groups", Integer),
    Column("units", BigInteger),
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine of each kind that a ledger can have, with the table in it."""
    with ExitStack() as stack:
        url = URL.create("sqlite")
        if request.param == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres")
            url = ledger_url(server.url(stack.enter_context(server.database())))
        made = open_engine(url)
        stack.callback(made.dispose)
        metadata.create_all(made)
        yield made


@contextmanager
def holding(engine: Engine, rows: Sequence[tuple[int, int | None]]) -> Generator[Connection]:
    """The table with these groups and units in it and nothing else; rolled back afterwards."""
    with engine.connect() as connection:
        connection.execute(delete(amounts))
        if rows:
            connection.execute(
                insert(amounts), [{"groups": group, "units": units} for group, units in rows]
            )
        yield connection


@given(values=st.lists(st.none() | st.integers(-INT64, INT64 - 1), max_size=30))
def test_equals_python(engine: Engine, values: list[int | None]) -> None:
    """Any int64 values, negative ones and NULLs too, add up as Python's integers do."""
    known = [value for value in values if value is not None]
    with holding(engine, [(1, value) for value in values]) as connection:
        found = connection.execute(select(wide_sum(amounts.c.units))).scalar_one()
    assert found == (sum(known) if known else None)


def test_fleet_year_in_won(engine: Engine) -> None:
    """10,000 devices for a year at 15,000 won per hour: 1.3e24 units, exactly."""
    hour = 15_000 * UNITS_PER_CURRENCY
    devices, hours = 10_000, 8_760
    with holding(engine, [(1, hour)] * hours) as connection:
        year = connection.execute(select(wide_sum(amounts.c.units))).scalar_one()
    assert year == hour * hours
    # The fleet: each device's hour in one line would be 87.6 million rows; lines of the largest
    # number of hours that fits int64 (614) stand for them here.
    largest = INT64 // hour
    whole, rest = divmod(devices * hours, largest)
    lines = [(1, hour * largest)] * whole + [(1, hour * rest)]
    with holding(engine, lines) as connection:
        fleet = connection.execute(select(wide_sum(amounts.c.units))).scalar_one()
        assert fleet == hour * devices * hours == 1_314_000_000_000 * UNITS_PER_CURRENCY
        if engine.dialect.name == "sqlite":
            with pytest.raises(OperationalError, match="integer overflow"):
                connection.exec_driver_sql("SELECT SUM(units) FROM amounts")


def test_sums_by_group(engine: Engine) -> None:
    """It works beside GROUP BY, for each group on its own."""
    with holding(engine, [(1, INT64 - 1), (1, INT64 - 1), (2, -5)]) as connection:
        query = select(amounts.c.groups, wide_sum(amounts.c.units)).group_by(amounts.c.groups)
        found = {row[0]: row[1] for row in connection.execute(query)}
    assert found == {1: 2 * INT64 - 2, 2: -5}


def test_postgresql_sums_numeric() -> None:
    """On PostgreSQL the same construct is a sum of numeric, whatever the column's width."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    text = str(select(wide_sum(amounts.c.units)).compile(dialect=dialect))
    assert "SUM(CAST(amounts.units AS NUMERIC))" in text
