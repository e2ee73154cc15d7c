"""Sums over a fleet and a year do not fit 64 bits, and must still be exact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, create_engine, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import OperationalError

from apportion.core.units import UNITS_PER_CURRENCY
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


def summed(values: list[int | None]) -> int | None:
    """What SQLite says, by way of a real database."""
    engine = create_engine("sqlite://")
    try:
        metadata.create_all(engine)
        with engine.begin() as connection:
            rows = [(None, 1, value) for value in values]
            if rows:
                connection.exec_driver_sql("INSERT INTO amounts VALUES (?, ?, ?)", rows)
            return connection.execute(select(wide_sum(amounts.c.units))).scalar_one()
    finally:
        engine.dispose()


@given(st.lists(st.none() | st.integers(-INT64, INT64 - 1), max_size=30))
def test_equals_python(values: list[int | None]) -> None:
    """Any int64 values, negative ones and NULLs too, add up as Python's integers do."""
    known = [value for value in values if value is not None]
    assert summed(values) == (sum(known) if known else None)


def test_fleet_year_in_won() -> None:
    """10,000 devices for a year at 15,000 won per hour: 1.3e24 units, exactly."""
    hour = 15_000 * UNITS_PER_CURRENCY
    devices, hours = 10_000, 8_760
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {hours})
                INSERT INTO amounts (groups, units) SELECT 1, {hour} FROM n"""
        )
        year = connection.execute(select(wide_sum(amounts.c.units))).scalar_one()
        assert year == hour * hours
        # The fleet: each device's hour in one line would be 87.6 million rows; lines of a
        # hundred thousand hours (the largest that fits int64 is 614) stand for them here.
        connection.exec_driver_sql("DELETE FROM amounts")
        largest = INT64 // hour
        whole, rest = divmod(devices * hours, largest)
        connection.exec_driver_sql(
            f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {whole})
                INSERT INTO amounts (groups, units) SELECT 1, {hour * largest} FROM n"""
        )
        connection.exec_driver_sql(
            "INSERT INTO amounts (groups, units) VALUES (1, ?)", (hour * rest,)
        )
        fleet = connection.execute(select(wide_sum(amounts.c.units))).scalar_one()
        assert fleet == hour * devices * hours == 1_314_000_000_000 * UNITS_PER_CURRENCY
        with pytest.raises(OperationalError, match="integer overflow"):
            connection.exec_driver_sql("SELECT SUM(units) FROM amounts")
    engine.dispose()


def test_sums_by_group() -> None:
    """It works beside GROUP BY, for each group on its own."""
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        rows = [(1, 1, INT64 - 1), (2, 1, INT64 - 1), (3, 2, -5)]
        connection.exec_driver_sql("INSERT INTO amounts VALUES (?, ?, ?)", rows)
        query = select(amounts.c.groups, wide_sum(amounts.c.units)).group_by(amounts.c.groups)
        found = {row[0]: row[1] for row in connection.execute(query)}
    engine.dispose()
    assert found == {1: 2 * INT64 - 2, 2: -5}


def test_postgresql_sums_numeric() -> None:
    """On PostgreSQL the same construct is a sum of numeric, whatever the column's width."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    text = str(select(wide_sum(amounts.c.units)).compile(dialect=dialect))
    assert "SUM(CAST(amounts.units AS NUMERIC))" in text
