"""A price table that importers write: whole and valid, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import yaml

from apportion.core.errors import PriceTableError
from apportion.cost.document import read_document
from apportion.cost.rate import PriceTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from apportion.cost.prices.importers.imported import Offer

HEADER: Final = (
    "# Written by `apportion prices import`, which replaces the rows of a source when it\n"
)
_REST: Final = "# that is imported again. Keep prices of your own in a file of your own.\n"

TableRow = dict[str, object]


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
        if offer.match:
            row["match"] = dict(offer.match)
        rows.append(row)
    return rows


def write_table(path: Path, rows: Sequence[TableRow], source: str) -> PriceTable:
    """Put `rows` in place of those of `source` in the table at `path`, which may not exist yet.

    Raises:
        PriceTableError: the file is one that a person wrote, or the table would contradict
            itself; nothing was changed.
    """
    kept = [row for row in _written_before(path) if row.get("source") != source]
    everything = sorted([*kept, *rows], key=_order)
    if not everything:
        raise PriceTableError("there is no row to write; the table is left as it is", path=path)
    text = HEADER + _REST + yaml.safe_dump({"prices": everything}, sort_keys=False, width=100)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent, text=True)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        table = PriceTable.load(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except PriceTableError as refusal:
        message = str(refusal).replace(name, f"{path} (as it would be)")
        raise PriceTableError(f"nothing was written: {message}") from refusal
    finally:
        temporary.unlink(missing_ok=True)
    return PriceTable(table.rates, path)


def _written_before(path: Path) -> list[TableRow]:
    if not path.exists():
        return []
    document = read_document(path, PriceTableError)
    if not path.read_text(encoding="utf-8").startswith(HEADER):
        raise PriceTableError(
            "was not written by an import, which would lose its comments; import into another file",
            path=path,
        )
    rows = cast("Mapping[str, list[TableRow]]", document.plain)
    PriceTable.load(path)  # what is kept has to be right before it is written again
    return list(rows["prices"])


def _order(row: TableRow) -> tuple[str, ...]:
    match = cast("Mapping[str, object]", row.get("match") or {})
    asked = sorted((name, str(value)) for name, value in match.items())
    return (str(row["device"]), str(row["source"]), str(asked), str(row.get("from")))
