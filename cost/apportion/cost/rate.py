"""Rates: what a device-hour costs, when, in which currency, and who says so.

A price table is a YAML file with a list of rows (or a mapping with the one key `prices`):

    prices:
      - device: NVIDIA H100 80GB HBM3    # NVML's name, matched exactly, or a cloud's
        per_hour: "98.32"                # decimal string: a float is refused
        currency: USD                    # ISO 4217; one currency in a table
        unit: instance                   # device (the default), or instance with `devices`
        devices: 8                       # ... which share per_hour evenly, exactly
        covers: gpu+host                 # gpu, gpu+host; host for the host's CPU as a device
        basis: list                      # list-estimate, list, contract, amortised
        source: provider's price list
        as_of: 2026-05-01
        from: 2026-05-01                 # optional; UTC, half-open [from, to)
        to: 2026-07-01T12:00:00Z         # optional
        match:                           # optional: on which nodes it holds
          cloud: aws                     # cloud, region, zone, instance_type,
          capacity: spot                 # capacity: on-demand, spot, reserved, owned
          labels: {pool: a}
        granularity: 1                   # optional: billed in whole seconds (3600: in hours),
        minimum: 60                      # ... and for so many seconds at least
        committed_devices: 16            # optional: paid for, used or not; needs from and to
        mig: compute                     # compute (the default) or memory: how instances share

or a CSV file with the same columns, by name and in any order: `match.cloud`, `match.labels.pool`.

A device without a row has quantities and no amount. Two rows that could hold for one device of
one node must not overlap in time, so a rate is found by its one match and never by its place in
the file; where none or several match, the device has no price.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Final

from apportion.core.errors import PriceTableError
from apportion.cost.document import Marked, read_document, shortened
from apportion.cost.price_row import Rate
from apportion.cost.prices.csv_rows import read_csv_rows
from apportion.cost.prices.mig import MigDevice
from apportion.cost.prices.row_reader import read_rate

__all__ = ["PriceTable", "Quote", "Rate"]

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 4 << 20
"""Of a table's file: what so many rows can need."""


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    rate: Rate


@dataclass(frozen=True, slots=True)
class Quote:
    """A price, or why there is none."""

    rate: Rate | None
    reason: str


@dataclass(frozen=True, slots=True)
class PriceTable:
    """All rates that are known. Without rates it prices nothing, and says so by None."""

    rates: tuple[Rate, ...] = ()
    path: Path | None = None

    @classmethod
    def load(cls, path: Path) -> PriceTable:
        """The table in the YAML or CSV file at `path`.

        Raises:
            PriceTableError: the file cannot be read, is not a price table or contradicts
                itself; with file and line.
        """
        if path.suffix.lower() == ".csv":
            return cls._of_entries(read_csv_rows(path, MAX_BYTES), path)
        document = read_document(path, PriceTableError, most_bytes=MAX_BYTES)
        return cls.of_document(document, path)

    @classmethod
    def of_document(cls, document: Marked, path: Path) -> PriceTable:
        """The table in a YAML document; `path` names its file.

        Raises:
            PriceTableError: as `load`.
        """
        return cls._of_entries(_entries(document, path), path)

    @classmethod
    def _of_entries(cls, entries: Sequence[Marked], path: Path) -> PriceTable:
        if len(entries) > MAX_ROWS:
            raise PriceTableError(
                f"has more than {MAX_ROWS} rows: keep those that your own nodes can match",
                path=path,
                line=entries[MAX_ROWS].line,
            )
        rows = [_Row(entry.line, read_rate(entry, path)) for entry in entries]
        _check_one_currency(rows, path)
        _check_no_overlap(rows, path)
        return cls(tuple(row.rate for row in rows), path)

    def at(self, placement: Mapping[str, str]) -> PriceTable:
        """The rows that hold on a node that is placed so (`cloud`, `region`, `labels.NAME`)."""
        held = tuple(rate for rate in self.rates if rate.holds_on(placement))
        return PriceTable(held, self.path)

    def rates_of(self, device_name: str) -> tuple[Rate, ...]:
        """The rows of a device by that name; for a MIG instance its part of its GPU's.

        Rows for the very name of a MIG instance hold instead of its GPU's.
        """
        own = tuple(rate for rate in self.rates if rate.device_name == device_name)
        instance = None if own else MigDevice.named(device_name)
        if instance is None:
            return own
        parts = [
            (rate, instance.share(rate.mig_policy))
            for rate in self.rates
            if rate.device_name == instance.gpu
        ]
        return tuple(
            rate.of_share(device_name, share) for rate, share in parts if share is not None
        )

    def quote(self, device_name: str, placement: Mapping[str, str], unix_ns: int) -> Quote:
        """What the device costs there and then, by which row, or why it has no price."""
        named = self.rates_of(device_name)
        here = [rate for rate in named if rate.holds_on(placement)]
        now = [rate for rate in here if rate.holds_at(unix_ns)]
        if len(now) == 1:
            return Quote(now[0], "")
        if now:
            lines = ", ".join(str(rate.line) for rate in now)
            return Quote(None, f"the rows of lines {lines} all match; none is chosen")
        if here:
            return Quote(None, "no row is valid at that time")
        if named:
            asked = sorted({name for rate in named for name, _ in rate.match})
            return Quote(
                None, f"{len(named)} rows, none matches this node; they ask for {', '.join(asked)}"
            )
        return Quote(None, self._why_unnamed(device_name))

    def _why_unnamed(self, device_name: str) -> str:
        instance = MigDevice.named(device_name)
        if instance is None:
            return "no row for this device"
        if any(rate.device_name == instance.gpu for rate in self.rates):
            return f"it is not known what part of {instance.gpu} this is; give it a row of its own"
        return f"no row for this device, nor for {instance.gpu}"

    @property
    def currency(self) -> str | None:
        """The one currency of all rates; None where there are none."""
        return self.rates[0].currency if self.rates else None

    def rate_for(self, device_name: str, unix_ns: int) -> Rate | None:
        """The one rate that holds for a device of that NVML name; None where none or several do."""
        matches = [rate for rate in self.rates_of(device_name) if rate.holds_at(unix_ns)]
        return matches[0] if len(matches) == 1 else None

    def changes(self, device_name: str, start_ns: int, end_ns: int) -> tuple[int, ...]:
        """The instants (unix ns, ascending) strictly inside (start, end) where its rate changes."""
        edges = {
            edge_ns
            for rate in self.rates_of(device_name)
            for edge_ns in (rate.valid_from_ns, rate.valid_to_ns)
            if edge_ns is not None and start_ns < edge_ns < end_ns
        }
        return tuple(
            edge_ns
            for edge_ns in sorted(edges)
            if self.rate_for(device_name, edge_ns - 1) != self.rate_for(device_name, edge_ns)
        )


def _entries(document: Marked, path: Path) -> tuple[Marked, ...]:
    rows = document
    if isinstance(document.value, Mapping):
        for key, entry in document.value.items():
            if key != "prices":
                raise PriceTableError(
                    f"unknown key {shortened(key)!r}; a price table has its rows under `prices`",
                    path=path,
                    line=entry.line,
                )
        rows = document.value.get("prices", document)
    if rows.value is None or rows.value in ((), {}):
        raise PriceTableError(
            "the price table is empty; give at least one row, or configure `prices: none`",
            path=path,
            line=rows.line,
        )
    if not isinstance(rows.value, tuple):
        raise PriceTableError(
            f"a price table is a list of rows, this is {rows.kind}", path=path, line=rows.line
        )
    return rows.value


def _check_one_currency(rows: list[_Row], path: Path) -> None:
    first = rows[0]
    for row in rows:
        if row.rate.currency != first.rate.currency:
            raise PriceTableError(
                f"currency {row.rate.currency} beside {first.rate.currency} of line {first.line}; "
                "a table has one currency: convert, or keep a table for each",
                path=path,
                line=row.line,
            )


def _check_no_overlap(rows: list[_Row], path: Path) -> None:
    by_device: dict[str, list[_Row]] = {}
    for row in rows:
        by_device.setdefault(row.rate.device_name, []).append(row)
    for of_device in by_device.values():
        for first, second in _that_may_meet(of_device):
            if _overlap(first.rate, second.rate):
                raise PriceTableError(
                    f"the dates for {second.rate.device_name!r} overlap those of line "
                    f"{first.line}; end one with `to` where the other begins with `from`, or let "
                    "them ask for different nodes with `match`",
                    path=path,
                    line=second.line,
                )


def _that_may_meet(rows: list[_Row]) -> Iterator[tuple[_Row, _Row]]:
    """Pairs of rows that some node could both match, in the order of the file.

    Rows that ask about the same things meet only where they ask the same of them: a catalogue of
    thousands of rows is not compared pair by pair.
    """
    by_match: dict[tuple[tuple[str, str], ...], list[_Row]] = {}
    for row in rows:
        by_match.setdefault(row.rate.match, []).append(row)
    for alike in by_match.values():
        yield from combinations(alike, 2)
    by_names: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        by_names.setdefault(tuple(name for name, _ in row.rate.match), []).append(row)
    for some, others in combinations(by_names.values(), 2):
        for one, other in product(some, others):
            if one.rate.may_meet(other.rate):
                yield (one, other) if one.line < other.line else (other, one)


def _overlap(one: Rate, other: Rate) -> bool:
    ends = [(one.valid_to_ns, other.valid_from_ns), (other.valid_to_ns, one.valid_from_ns)]
    return not any(
        end_ns is not None and start_ns is not None and end_ns <= start_ns
        for end_ns, start_ns in ends
    )
