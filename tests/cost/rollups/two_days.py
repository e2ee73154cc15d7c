"""Two days of one device, as they are in the rows, rolled up, and with the first day's rows gone.

Rolling up and letting go take seconds: it is done once, and each test has a copy to itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.cost.rollups.random_book import T0

from apportion.core.category import Category
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.keeping import Keep
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.retention import Retention
from apportion.cost.rollups.roll import Roller
from apportion.cost.testing import Claim, LedgerBuilder, memory_ledger

S, HOUR = NS_PER_SECOND, NS_PER_HOUR
DAY = 24 * HOUR
HOURS = 52
ROWS = ("charge", "span", "settlement", "settlement_part")


def counts(ledger: Ledger) -> dict[str, int]:
    """How many rows there are, by table."""
    with ledger.read() as connection:
        return {
            name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()
            for name in ROWS
        }


def kept(ledger: Ledger, days: int = 1) -> Retention:
    """What lets go of older rows, a few at a time."""
    return Retention(ledger._engine, ledger.name, Keep(days * DAY), most_rows=7)


def two_days() -> LedgerBuilder:
    """A span each hour, charged, on a device of its own; the rest of the hour idle."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, 3_600_000_000_007)
    builder.entity(1, "serve")
    builder.ring(1)
    for hour in range(HOURS):
        start_ns = T0 + hour * HOUR
        span = Interval(start_ns, start_ns + 10 * S)
        builder.span(1, hour + 1, span, entity=1, first_token_ns=start_ns + S, tokens=(7, 2, 3))
        direct = Claim(Category.DIRECT, 1, 1, 1, hour + 1)
        builder.settle(1, span, [direct], rate=1, power_mw=400_000)
        rest = Interval(start_ns + 10 * S, start_ns + HOUR)
        idle = Claim(Category.ALLOCATED_IDLE, 1, 1)
        builder.settle(1, rest, [idle], rate=1, power_mw=90_000)
    return builder


def rolled_up(path: Path) -> Ledger:
    """Two days with their rollups, in a new file."""
    return _copy(_rolled_up(), path)


def let_go(path: Path) -> Ledger:
    """Rolled up, and of the rows only the last day kept, in a new file."""
    return _copy(_let_go(), path)


@cache
def _rolled_up() -> bytes:
    def made(path: Path) -> None:
        with two_days().ledger(path) as ledger:
            Roller(ledger._engine, ledger.name).run()

    return _file(made)


@cache
def _let_go() -> bytes:
    def made(path: Path) -> None:
        with rolled_up(path) as ledger:
            kept(ledger).run()

    return _file(made)


def _file(made: Callable[[Path], None]) -> bytes:
    """What is in a ledger's file once it is closed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        made(path)
        # All of it is in this file: the last to close it has emptied the write-ahead log.
        assert [each.name for each in path.parent.iterdir() if each.name.endswith("-wal")] == []
        return path.read_bytes()


def _copy(content: bytes, path: Path) -> Ledger:
    path.write_bytes(content)
    return memory_ledger(path)
