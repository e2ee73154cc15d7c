"""A table that imports write: whole, valid, by one at a time, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from apportion.core.errors import PriceTableError
from apportion.cost.prices.importers.imported import Offer
from apportion.cost.prices.table_file import HEADER, TableRow, replace_sources, table_rows
from apportion.cost.rate import MAX_ROWS, PriceTable

H100 = "NVIDIA H100 80GB HBM3"


def rows(source: str, count: int = 1, price: str = "2.95", **said: str) -> list[TableRow]:
    """Rows of one source, each for a zone of its own."""
    offers = [
        Offer(1, H100, price, 8, "gpu+host", (("cloud", source), ("zone", str(number))), **said)
        for number in range(count)
    ]
    facts = {"currency": "USD", "basis": "list", "source": source, "as_of": date(2026, 5, 1)}
    return table_rows(offers, **facts)  # type: ignore[arg-type]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """With dates, and with what was there before and after."""
    path = tmp_path / "prices.yaml"
    dated = rows("a", since="2026-05-01T00:00:00Z", until="2026-06-01T12:00:00Z")
    first = replace_sources(path, dated, ["a"])
    second = replace_sources(path, rows("b", 2), ["b"])
    assert (first.before, first.after.rates) == (PriceTable(), second.before.rates)
    assert PriceTable.load(path).rates == second.after.rates
    (rate,) = first.after.rates
    assert rate.valid_from_ns == 1_777_593_600 * 10**9
    assert {rate.source for rate in second.after.rates} == {"a", "b"}
    assert [name.name for name in tmp_path.iterdir()] == ["prices.yaml"]


def test_rights_and_links_stay(tmp_path: Path) -> None:
    """A contract's prices do not become readable because a list was imported beside them."""
    path, link = tmp_path / "prices.yaml", tmp_path / "link.yaml"
    replace_sources(path, rows("a"), ["a"])
    path.chmod(0o600)
    link.symlink_to(path)
    replace_sources(link, rows("b"), ["b"])
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(PriceTable.load(path).rates) == 2


def test_a_bare_list_that_somebody_made_of_it_is_still_a_table(tmp_path: Path) -> None:
    """Both documented shapes are kept."""
    path = tmp_path / "prices.yaml"
    replace_sources(path, rows("a"), ["a"])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if line != "prices:"))
    assert len(replace_sources(path, rows("b"), ["b"]).after.rates) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# mine\n[]", "import into another file"),
        (HEADER.encode() + b"prices: []", "is empty"),
        (HEADER.encode() + b"prices: 5", "list of rows"),
        (HEADER.encode() + b"\xff", "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_imported_table_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """By one sentence that names it, and it stays as it is."""
    path = tmp_path / "prices.yaml"
    path.write_bytes(content)
    with pytest.raises(PriceTableError, match=message) as refusal:
        replace_sources(path, rows("a"), ["a"])
    assert str(path) in str(refusal.value)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A folder that is not there, and a folder where the file should be."""
    with pytest.raises(PriceTableError, match="No such file or directory"):
        replace_sources(tmp_path / "absent" / "prices.yaml", rows("a"), ["a"])
    with pytest.raises(PriceTableError, match="cannot be read: Is a directory"):
        replace_sources(tmp_path, rows("a"), ["a"])
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_would_be_wrong_is_not_written(tmp_path: Path) -> None:
    """Another currency, the same nodes twice, or too many rows: the table is as it was."""
    path = tmp_path / "prices.yaml"
    replace_sources(path, rows("a"), ["a"])
    before = path.read_bytes()
    euros = [{**row, "currency": "EUR"} for row in rows("b")]
    twice = [{**row, "source": "b"} for row in rows("a")]
    for wrong, message in ((euros, "EUR beside USD"), (twice, "overlap")):
        with pytest.raises(PriceTableError, match=f"nothing was written.*{message}"):
            replace_sources(path, wrong, ["b"])
    with pytest.raises(PriceTableError, match=r"nothing was written.*--device, --region"):
        replace_sources(path, rows("b", MAX_ROWS + 1), ["b"])
    with pytest.raises(PriceTableError, match="no row to write"):
        replace_sources(path, [], ["a"])
    assert path.read_bytes() == before


def test_imports_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """Four processes, one table: each waits for the one before it."""
    path = tmp_path / "prices.yaml"
    catalogue = "InstanceType,AcceleratorName,AcceleratorCount,Price,Region\nx,H100,8,23.6,eu\n"
    (tmp_path / "list.csv").write_text(catalogue)
    options = [str(tmp_path / "list.csv"), "--into", str(path), "--as-of", "2026-05-01", "--cloud"]
    program = "import sys; from apportion.agent.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "prices", "import", "skypilot"]
    running = [
        subprocess.Popen(
            [*command, *options, f"cloud-{number}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ,
        )
        for number in range(4)
    ]
    assert [process.wait(timeout=100) for process in running] == [0] * len(running)
    sources = {rate.source for rate in PriceTable.load(path).rates}
    assert sources == {f"skypilot cloud-{number}" for number in range(4)}
