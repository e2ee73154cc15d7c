"""A price table that importers write: whole and valid, or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import yaml

from apportion.core.errors import PriceTableError
from apportion.cost.document import parse_document, read_document
from apportion.cost.rate import MAX_BYTES, MAX_ROWS, PriceTable

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from datetime import date

    from apportion.cost.prices.importers.imported import Offer

HEADER: Final = (
    "# Written by `apportion prices import`, which replaces the rows of a source when it\n"
)
_REST: Final = "# that is imported again. Keep prices of your own in a file of your own.\n"
_FEWER: Final = "choose by --device, --region or --capacity"

TableRow = dict[str, object]


class Replaced(NamedTuple):
    """A table as it was, without rows where there was none, and as it is now."""

    before: PriceTable
    after: PriceTable


def table_rows(
    offers: Iterable[Offer], *, currency: str, basis: str, source: str, as_of: date
) -> list[TableRow]:
    """Rows of a price table, as its YAML has them."""
    rows: list[TableRow] = []
    for offer in offers:
        row: TableRow = {
            "device": offer.device,
            "per_hour": offer.per_hour,
            "currency": currency,
            "covers": offer.covers,
            "basis": basis,
            "source": source,
            "as_of": as_of.isoformat(),
        }
        if offer.devices > 1:
            row |= {"unit": "instance", "devices": offer.devices}
        row |= {key: time for key, time in (("from", offer.since), ("to", offer.until)) if time}
        if offer.match:
            row["match"] = dict(offer.match)
        rows.append(row)
    return rows


def replace_sources(path: Path, rows: Sequence[TableRow], sources: Container[str]) -> Replaced:
    """Put `rows` in place of those of `sources` in the table at `path`, which may not exist yet.

    Raises:
        PriceTableError: the file is one that a person wrote, the table would contradict itself, or
            it cannot be written; nothing was changed.
    """
    if not rows:
        raise PriceTableError("there is no row to write; the table is left as it is", path=path)
    target = path.resolve()  # a link stays one
    try:
        with _alone_in(target.parent):
            before, written = _written_before(target)
            kept = [row for row in written if str(row["source"]) not in sources]
            everything = sorted([*kept, *rows], key=_order)
            if len(everything) > MAX_ROWS:
                raise PriceTableError(
                    f"nothing was written: {len(everything)} rows are too many; {_FEWER}",
                    path=path,
                )
            body = yaml.safe_dump({"prices": everything}, sort_keys=False, width=100)
            text = HEADER + _REST + body
            after = _as_it_would_be(text, path)
            _write(target, text)
    except OSError as failure:
        raise PriceTableError(
            f"cannot be written: {failure.strerror}. Give a path in a directory that this user may "
            "write; nothing was changed",
            path=path,
        ) from failure
    return Replaced(before, after)


def _as_it_would_be(text: str, path: Path) -> PriceTable:
    if len(text.encode()) > MAX_BYTES:
        raise PriceTableError(
            f"nothing was written: the table would be larger than {MAX_BYTES} bytes; {_FEWER}",
            path=path,
        )
    try:
        return PriceTable.of_document(parse_document(text, path, PriceTableError), path)
    except PriceTableError as refusal:
        raise PriceTableError(
            f"nothing was written; the table would be wrong (its lines as they would be): {refusal}"
        ) from refusal


@contextmanager
def _alone_in(directory: Path) -> Generator[None]:
    """While another import of the same directory waits, which would lose rows of this one."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(target: Path, text: str) -> None:
    """In one step, with the rights that the file had."""
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)  # of an import that was killed
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _written_before(target: Path) -> tuple[PriceTable, list[TableRow]]:
    if not target.exists():
        return PriceTable(), []
    document = read_document(target, PriceTableError, most_bytes=MAX_BYTES)
    with target.open(encoding="utf-8") as file:
        if file.readline() != HEADER:
            raise PriceTableError(
                "was not written by an import, which would lose its comments; import into another "
                "file",
                path=target,
            )
    table = PriceTable.of_document(document, target)  # what is kept has to be right
    rows = document.value["prices"] if isinstance(document.value, Mapping) else document
    return table, cast("list[TableRow]", rows.plain)


def _order(row: TableRow) -> tuple[str, ...]:
    match = cast("Mapping[str, object]", row.get("match") or {})
    asked = sorted((name, str(value)) for name, value in match.items())
    return (str(row["device"]), str(row["source"]), str(asked), str(row.get("from", "")))
