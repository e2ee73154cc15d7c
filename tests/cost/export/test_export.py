"""Parquet files say what the ledger says, exactly, and are written by a process of their own."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import select
from tests.cost.rollups.random_book import T0, Pair
from tests.cost.rollups.two_days import let_go, rolled_up, two_days

from apportion.core.category import Category
from apportion.core.errors import LedgerError
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, UNITS_PER_CURRENCY
from apportion.cost.export.export import export
from apportion.cost.ledger import rows
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.schema import charge
from apportion.cost.report import report
from apportion.cost.testing import Claim, LedgerBuilder

pytestmark = pytest.mark.needs_module("pyarrow")
HOUR = NS_PER_HOUR


def table(directory: Path, name: str) -> list[dict[str, Any]]:
    """A dataset as an engine reads it, with the day out of the folder's name."""
    dataset: Any = importlib.import_module("pyarrow.dataset")  # skipped without it
    found: list[dict[str, Any]] = (
        dataset.dataset(directory / name, partitioning="hive").to_table().to_pylist()
    )
    return found


def units(amount: Decimal | None) -> int:
    return 0 if amount is None else int(amount.scaleb(12))


def test_sums_are_the_ledger_s(tmp_path: Path) -> None:
    """Every line is there once, and money, energy and time add up to the report's, to the unit."""
    with Pair(Random(21), folder=tmp_path) as pair:
        for _ in range(6):
            pair.tick()
        pair.roll()
        done = export(tmp_path / "rolled.db", tmp_path / "out")
        found = report(pair.rolled)
        with pair.rolled.read() as connection:
            posted = [tuple(row) for row in connection.execute(select(charge))]
    lines, hours = table(tmp_path / "out", "lines"), table(tmp_path / "out", "hours")
    assert done.rows["lines"] == len(lines) == len(posted)
    assert sorted(row["charge_key"] for row in lines) == sorted(row[1] for row in posted)
    proof = found.proof
    whole = (proof.posted + proof.moved + proof.adjusted).units
    for exported in (lines, hours):
        assert sum(units(row["cost"]) for row in exported) == whole
        assert sum(row["energy_mj"] or 0 for row in exported) == proof.posted.energy_mj
        assert sum(row["device_ns"] for row in exported) == proof.posted.device_ns
    meter = table(tmp_path / "out", "meter")
    assert sum(units(row["cost"]) for row in meter) == proof.metered.units
    assert sum(row["device_ns"] for row in meter) == proof.metered.device_ns
    requests = [row for row in table(tmp_path / "out", "spans") if row["kind"] == "request"]
    assert len(requests) == sum(row.requests or 0 for row in found.rows)
    assert {row["currency"] for row in lines} == {"USD", None}


def test_names_days_and_exact_money(tmp_path: Path) -> None:
    """A line has names instead of keys, the day of its hour, and its cost to the last digit."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1", simulated=True)
    builder.rate(1, 9_000_000 * UNITS_PER_CURRENCY - 1, currency="VND")
    builder.entity(1, "=serve", tenant="a/b", model=None)
    idle = Claim(Category.ALLOCATED_IDLE, 1, 1)
    builder.settle(1, Interval(T0 + HOUR, T0 + 3 * HOUR), [idle], rate=1, power_mw=1_000)
    builder.ledger(tmp_path / "ledger.db").close()
    export(tmp_path / "ledger.db", tmp_path / "out")
    first, second = sorted(table(tmp_path / "out", "lines"), key=lambda row: row["start_time"])
    assert (first["day"], second["day"]) == ("2023-11-14", "2023-11-15")
    assert first["cost"] == Decimal("8999999.999999999999")
    assert (first["workload"], first["tenant"], first["model"]) == ("=serve", "a/b", None)
    assert (first["devices"], first["simulated"], first["node"]) == ("GPU-1", True, "node-1")
    assert (first["kind"], first["category"], first["phase"]) == ("charge", "allocated_idle", None)
    assert first["start_time"].isoformat() == "2023-11-14T23:00:00+00:00"
    assert first["method"] == "time-share/1"


def test_written_again_it_is_the_same(tmp_path: Path) -> None:
    """A day that is exported twice is there once, and whole; other days stay as they are."""
    two_days().ledger(tmp_path / "ledger.db").close()
    out = tmp_path / "out"
    export(tmp_path / "ledger.db", out)
    before = table(out, "lines")
    day = T0 + 20 * HOUR
    done = export(tmp_path / "ledger.db", out, day, day + HOUR)
    assert done.rows["lines"] == 2 * 24
    assert table(out, "lines") == before
    assert not list(out.rglob("*.part"))


def test_days_that_are_not_kept_stay(tmp_path: Path) -> None:
    """An export after retention keeps what one before it wrote; hours are there from the start."""
    path, out = tmp_path / "ledger.db", tmp_path / "out"
    rolled_up(path).close()
    export(path, out)
    before = {name: table(out, name) for name in ("lines", "spans", "meter")}
    let_go(path).close()
    done = export(path, out)
    assert {name: table(out, name) for name in before} == before
    assert any("days before 2023-11-17 00:00:00Z stay as they are" in text for text in done.notes)
    assert done.rows["hours"] == 2 * 52
    assert done.rows["lines"] == 2 * 2


def test_the_caller_never_loads_pyarrow(tmp_path: Path) -> None:
    """What starts an export stays as small as it was."""
    LedgerBuilder().ledger(tmp_path / "ledger.db").close()
    program = (
        "import sys; from pathlib import Path; from apportion.cost.export.export import export; "
        "export(sys.argv[1], Path(sys.argv[2])); print('pyarrow' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "ledger.db"), str(tmp_path / "out")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


def test_refusals_come_through(tmp_path: Path) -> None:
    """A missing ledger, and a directory that cannot be made, are said in a sentence."""
    with pytest.raises(LedgerError, match="does not exist"):
        export(tmp_path / "none.db", tmp_path / "out")
    two_days().ledger(tmp_path / "ledger.db").close()
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"file.* cannot be written \(Not a directory"):
        export(tmp_path / "ledger.db", tmp_path / "file")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    """Where it is not installed the message says what to install."""
    two_days().ledger(tmp_path / "ledger.db").close()
    (tmp_path / "pyarrow").mkdir()
    (tmp_path / "pyarrow" / "__init__.py").write_text("")
    request = {"ledger": str(tmp_path / "ledger.db"), "directory": str(tmp_path / "out")}
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "apportion.cost.export"],
        input=json.dumps(request),
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'apportion[export]'" in done.stderr


def test_memory_does_not_grow_with_the_ledger(tmp_path: Path) -> None:
    """A day of many lines goes through in pieces: rows of one are never held all at once."""
    from apportion.cost.export import parquet  # noqa: PLC0415 - with pyarrow only

    columns = [parquet.Column("number", "integer"), parquet.Column("cost", "money")]
    dataset = parquet.Dataset(tmp_path / "lines", columns, "node", {})
    for number in range(2 * parquet.ROWS_AT_ONCE + 1):
        dataset.add("2026-05-01", (number, None))
    assert len(dataset._waiting["2026-05-01"]) == 1
    assert dataset.finish() == 1
    assert len(table(tmp_path, "lines")) == 2 * parquet.ROWS_AT_ONCE + 1


def test_nothing_half_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a ledger cannot be read to its end no file has a name, and none stays behind."""
    from apportion.cost.export import days  # noqa: PLC0415 - with pyarrow only

    def broken(connection: object, statement: object) -> Any:
        yield from list(real(connection, statement))[:5]  # type: ignore[arg-type]
        raise LedgerError("the disk went away")

    real = rows.stream
    with two_days().ledger(tmp_path / "ledger.db") as ledger:
        assert isinstance(ledger, Ledger)
        monkeypatch.setattr(days, "stream", broken)
        with pytest.raises(LedgerError, match="went away"):
            days.write_days(ledger, tmp_path / "out", None, None)
    assert [each for each in (tmp_path / "out").rglob("*") if each.is_file()] == []
