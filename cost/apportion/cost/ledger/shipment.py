"""What one commit changed, as it waits in the outbox for the shared ledger.

Spans and charges are nearly all of a commit, stay as they were posted, and are in the node's
ledger anyway: they are named by ranges of their keys, and read again when they are shipped. Rows
of the other tables are replaced or removed as settlement goes on, and are kept as they were.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select, true

from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.rows import stream
from apportion.cost.ledger.schema import charge, settlement, span
from apportion.cost.ledger.shipping_tables import NOT_SHIPPED
from apportion.cost.ledger.statements import POSTED, key_columns, row_columns, table_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Table
    from typing_extensions import Self

    from apportion.cost.ledger.batch import Row, TickBatch

REFERRED: Final = frozenset({span.name, charge.name})
"""Tables whose rows are named and not kept."""
NO_ROW_NS: Final = (1 << 63) - 1
"""Later than any row."""
_LEVEL: Final = 1
"""zlib's fastest: the payload is small, the tick waits for it."""
_STARTS: Final = {
    name: itemgetter(row_columns(table_named(name)).index("start_ns")) for name in POSTED
}

SpanRange = tuple[int, int, int]
"""Ring key, first and last sequence."""
ChargeRange = tuple[int, int]
"""First and last charge key."""


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows of one table, without agent_id, and the names of their columns.

    Named, because the release that ships them may know more columns than the one that wrote
    them, or fewer.
    """

    columns: Sequence[str]
    rows: Sequence[Row]

    @property
    def document(self) -> dict[str, Sequence[Any]]:
        """As JSON has it."""
        return {"columns": self.columns, "rows": self.rows}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `document`."""
        return cls(document["columns"], [tuple(row) for row in document["rows"]])


@dataclass(frozen=True, slots=True)
class Shipment:
    """One commit's changes. The order is that of `TickBatch`: inserted, replaced, accruals."""

    inserted: Mapping[str, TableRows]
    replaced: Mapping[str, TableRows]
    accruals_removed: TableRows
    accruals_changed: TableRows
    spans: Sequence[SpanRange]
    charges: Sequence[ChargeRange]
    epochs: Mapping[str, int]
    """By device that of the lease under which it was metered."""

    @classmethod
    def of(cls, batch: TickBatch, epochs: Mapping[str, int]) -> Self:
        """What of `batch` a shared ledger has to learn."""
        accrual = table_named("accrual")
        return cls(
            _kept(batch.inserted),
            _kept(batch.replaced),
            TableRows(key_columns(accrual), batch.accruals_removed),
            TableRows(row_columns(accrual), batch.accruals_changed),
            span_ranges(batch.inserted.get(span.name, ())),
            charge_ranges(batch.inserted.get(charge.name, ())),
            epochs,
        )

    def settled_hours(self) -> set[tuple[int, int]]:
        """(device key, clock hour of node time) of what it settles."""
        found = self.inserted.get(settlement.name)
        if found is None:
            return set()
        key, start = found.columns.index("device_key"), found.columns.index("start_ns")
        return {(row[key], row[start] - row[start] % NS_PER_HOUR) for row in found.rows}

    def encode(self) -> bytes:
        """As bytes, which any release reads."""
        document = {
            "inserted": {name: table.document for name, table in self.inserted.items()},
            "replaced": {name: table.document for name, table in self.replaced.items()},
            "accruals_removed": self.accruals_removed.document,
            "accruals_changed": self.accruals_changed.document,
            "spans": self.spans,
            "charges": self.charges,
            "epochs": self.epochs,
        }
        return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), _LEVEL)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """The inverse of `encode`.

        Raises:
            LedgerError: these are no such bytes.
        """
        try:
            document: dict[str, Any] = json.loads(zlib.decompress(payload))
            return cls(
                _tables(document["inserted"]),
                _tables(document["replaced"]),
                TableRows.of_document(document["accruals_removed"]),
                TableRows.of_document(document["accruals_changed"]),
                [(ring, first, last) for ring, first, last in document["spans"]],
                [(first, last) for first, last in document["charges"]],
                {str(device): int(epoch) for device, epoch in document["epochs"].items()},
            )
        except (zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"a row of the outbox cannot be read ({error!r}): the file is damaged"
            raise LedgerError(message) from error


def since_ns(batch: TickBatch) -> int:
    """The start of the earliest row that `batch` posts."""
    earliest = [
        min(map(start, rows))
        for name, start in _STARTS.items()
        if (rows := batch.inserted.get(name))
    ]
    return min(earliest, default=NO_ROW_NS)


def span_ranges(rows: Iterable[Row]) -> list[SpanRange]:
    """Keys of `span` rows as ranges without holes. Rows of several rings may come mixed."""
    ranges: list[list[int]] = []
    growing: dict[int, list[int]] = {}
    for row in rows:
        ring, sequence = row[0], row[1]
        known = growing.get(ring)
        if known is not None and sequence == known[2] + 1:
            known[2] = sequence
        else:
            growing[ring] = [ring, sequence, sequence]
            ranges.append(growing[ring])
    return [(ring, first, last) for ring, first, last in ranges]


def charge_ranges(rows: Iterable[Row]) -> list[ChargeRange]:
    """Keys of `charge` rows as ranges without holes. Commands number theirs from -1 down."""
    keys = sorted(row[0] for row in rows)
    return [(first, last) for _, first, last in span_ranges((0, key) for key in keys)]


def referred_rows(
    connection: Connection, agent_id: int, shipment: Shipment
) -> Iterator[tuple[str, Sequence[str], Iterator[Row]]]:
    """What `shipment` refers to, out of the node's ledger: table, columns, whole rows.

    Raises:
        LedgerError: rows are gone that were not shipped yet.
    """
    if shipment.spans:
        places = [
            (span.c.ring_key == ring, span.c.sequence.between(first, last), last - first + 1)
            for ring, first, last in shipment.spans
        ]
        yield span.name, span.c.keys(), _read(connection, span, agent_id, places)
    if shipment.charges:
        places = [
            (true(), charge.c.charge_key.between(first, last), last - first + 1)
            for first, last in shipment.charges
        ]
        yield charge.name, charge.c.keys(), _read(connection, charge, agent_id, places)


def _read(
    connection: Connection,
    table: Table,
    agent_id: int,
    places: Iterable[tuple[ColumnElement[bool], ColumnElement[bool], int]],
) -> Iterator[Row]:
    for part, keys, count in places:
        found = 0
        for row in stream(
            connection, select(table).where(table.c.agent_id == agent_id, part, keys)
        ):
            found += 1
            yield row
        if found != count:
            message = (
                f"{count - found} rows of {table.name} are gone that were not shipped yet: restore "
                "a backup of this ledger"
            )
            raise LedgerError(message)


def _kept(tables: Mapping[str, list[Row]]) -> dict[str, TableRows]:
    return {
        name: TableRows(row_columns(table_named(name)), rows)
        for name, rows in tables.items()
        if rows and name not in REFERRED and name not in NOT_SHIPPED
    }


def _tables(document: Mapping[str, Any]) -> dict[str, TableRows]:
    return {name: TableRows.of_document(table) for name, table in document.items()}
