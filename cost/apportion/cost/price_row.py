"""One row of a price table, read strictly: what it does not understand it refuses by line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final, TypeVar

from apportion.core.errors import PriceTableError
from apportion.core.units import UNITS_PER_CURRENCY, UnixNs
from apportion.cost.document import Marked
from apportion.cost.prices.currency import CURRENCIES
from apportion.cost.prices.device_names import nvml_name

COVERS: Final = ("gpu", "gpu+host", "host")
BASES: Final = ("list-estimate", "list", "contract", "amortised")
UNITS: Final = ("device", "instance")
MAX_INSTANCE_DEVICES: Final = 1024
MAX_UNITS_PER_HOUR: Final = (1 << 63) - 1
"""A ledger line is at most a device-hour and must fit 64 bits."""

_REQUIRED: Final = ("device", "per_hour", "currency", "covers", "basis", "source", "as_of")
_OPTIONAL: Final = ("unit", "devices", "match", "from", "to")
MATCHED: Final = ("cloud", "region", "zone", "instance_type", "capacity")
"""What a row may ask of a node, beside its labels (`labels.NAME`)."""
CAPACITIES: Final = ("on-demand", "spot", "reserved", "owned")
LABEL: Final = "labels."
_DECIMAL: Final = re.compile(r"\d{1,12}(\.\d{1,18})?", re.ASCII)
_NEGATIVE: Final = re.compile(r"-\s*\d[\d.]*", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.(\d{3}|\d{6}))?)?(Z|[+-]\d{2}:\d{2})?)?", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NS_PER_MICROSECOND: Final = 1_000
_MAX_TEXT: Final = 200

_Parsed = TypeVar("_Parsed", date, UnixNs)


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of one device-hour over [valid_from_ns, valid_to_ns) of unix time.

    `units_per_hour` is exact, in 10^-12 of `currency`. `per_hour` is the same in the currency as
    a decimal string: as written, or for a share of an instance with at most twelve decimals,
    rounded for display where it has more. None for an end of validity means open.
    """

    device_name: str
    units_per_hour: Fraction
    per_hour: str
    currency: str
    covers: str
    basis: str
    source: str
    as_of: date
    valid_from_ns: UnixNs | None = None
    valid_to_ns: UnixNs | None = None
    match: tuple[tuple[str, str], ...] = ()
    """What a node must be for the row to hold there, sorted: (cloud, aws), (labels.pool, a)."""
    line: int = field(default=0, compare=False)
    """Where the row stands in its file; 0: in none."""

    def holds_on(self, placement: Mapping[str, str]) -> bool:
        """Whether a node that is placed so is one that the row asks for."""
        return all(placement.get(name) == value for name, value in self.match)

    def may_meet(self, other: Rate) -> bool:
        """Whether some node could be one that both ask for."""
        theirs = dict(other.match)
        return all(theirs.get(name, value) == value for name, value in self.match)

    def holds_at(self, unix_ns: int) -> bool:
        """Whether `unix_ns` is in its validity."""
        after_start = self.valid_from_ns is None or self.valid_from_ns <= unix_ns
        return after_start and (self.valid_to_ns is None or unix_ns < self.valid_to_ns)


def read_rate(entry: Marked, path: Path) -> Rate:
    """The rate in one row; `path` only names the file in errors.

    Raises:
        PriceTableError: a key is unknown, missing or has a value that it cannot have.
    """
    return _RowReader(entry, path).rate()


class _RowReader:
    """Reads one row and refuses what it does not understand."""

    def __init__(self, entry: Marked, path: Path) -> None:
        self._path = path
        self._line = entry.line
        if not isinstance(entry.value, Mapping):
            raise self._error(f"a row is a mapping of keys to values, this is {entry.kind}")
        self._fields = entry.value
        known = (*_REQUIRED, *_OPTIONAL)
        for key, entry_field in self._fields.items():
            if key not in known:
                raise self._error(f"unknown key {key!r}; a row has {', '.join(known)}", entry_field)
        for key in _REQUIRED:
            if key not in self._fields:
                raise self._error(f"the row has no {key!r}; every row needs one")

    def rate(self) -> Rate:
        per_device, per_hour = self._price()
        valid_from_ns, valid_to_ns = self._instant("from"), self._instant("to")
        if valid_from_ns is not None and valid_to_ns is not None and valid_to_ns <= valid_from_ns:
            raise self._error("`to` is not later than `from`", self._fields["to"])
        currency = self._text("currency")
        if currency not in CURRENCIES:
            raise self._error(
                f"currency {currency!r} is not a currency of ISO 4217 such as USD",
                self._fields["currency"],
            )
        return Rate(
            device_name=self._device_name(),
            units_per_hour=per_device,
            per_hour=per_hour,
            currency=currency,
            covers=self._choice("covers", COVERS),
            basis=self._choice("basis", BASES),
            source=self._text("source"),
            as_of=self._parse("as_of", _date, "a date such as 2026-05-01"),
            valid_from_ns=valid_from_ns,
            valid_to_ns=valid_to_ns,
            match=self._match(),
            line=self._line,
        )

    def _device_name(self) -> str:
        """NVML's name; a cloud's name is translated, any other is taken to be NVML's."""
        name = self._text("device")
        return nvml_name(name) or name

    def _match(self) -> tuple[tuple[str, str], ...]:
        field = self._fields.get("match")
        if field is None or field.value is None:
            return ()
        if not isinstance(field.value, Mapping):
            raise self._error(
                f"match is a mapping with {', '.join(MATCHED)} or labels, this is {field.kind}",
                field,
            )
        found: dict[str, str] = {}
        for key, entry in field.value.items():
            if key == "labels" and isinstance(entry.value, Mapping):
                for label, value in entry.value.items():
                    found[f"{LABEL}{label}"] = self._matched(f"label {label}", value)
            elif key in MATCHED:
                found[key] = self._matched(key, entry)
            else:
                raise self._error(
                    f"unknown key {key!r}; match has {', '.join(MATCHED)} and labels", entry
                )
        if found.get("capacity", CAPACITIES[0]) not in CAPACITIES:
            choices = ", ".join(CAPACITIES)
            raise self._error(f"capacity {found['capacity']!r} is not one of {choices}", field)
        return tuple(sorted(found.items()))

    def _matched(self, key: str, entry: Marked) -> str:
        text = entry.text if isinstance(entry.value, int | float | bool) else entry.value
        if not isinstance(text, str) or not text.strip() or len(text) > _MAX_TEXT:
            raise self._error(f"match: {key} must be text, this is {entry.kind}", entry)
        return text

    def _price(self) -> tuple[Fraction, str]:
        field = self._fields["per_hour"]
        if _NEGATIVE.fullmatch(field.text.strip()):
            raise self._error(f"the price {field.text} is negative", field)
        if isinstance(field.value, int | float):
            raise self._error(
                f"per_hour is {field.kind}, which need not be what you wrote; "
                f'quote it: per_hour: "{field.text}"',
                field,
            )
        if not isinstance(field.value, str) or not _DECIMAL.fullmatch(field.value):
            raise self._error(
                f'per_hour {field.text!r} is not a decimal string such as "2.40"', field
            )
        units = Fraction(field.value) * UNITS_PER_CURRENCY
        if 0 < units < 1:
            raise self._error(f"per_hour {field.text} is below 10^-12: money cannot say it", field)
        devices = self._devices()
        if units / devices > MAX_UNITS_PER_HOUR:
            raise self._error("the price of a device-hour is above 9.2 million", field)
        if devices == 1:
            return units, field.value
        return units / devices, _decimal_text(units / devices / UNITS_PER_CURRENCY)

    def _devices(self) -> int:
        unit = self._choice("unit", UNITS) if "unit" in self._fields else "device"
        field = self._fields.get("devices")
        if unit == "device":
            if field is not None:
                raise self._error("`devices` belongs to `unit: instance`; drop one of them", field)
            return 1
        if field is None:
            raise self._error("`unit: instance` needs `devices`: how many devices it has")
        count = field.value
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise self._error(f"devices {field.text!r} is not a whole number from 1", field)
        if count > MAX_INSTANCE_DEVICES:
            raise self._error(f"devices is above {MAX_INSTANCE_DEVICES}", field)
        return count

    def _text(self, key: str) -> str:
        field = self._fields[key]
        if not isinstance(field.value, str) or not field.value.strip():
            raise self._error(f"{key} must be text, this is {field.kind}", field)
        if len(field.value) > _MAX_TEXT or not field.value.isprintable():
            raise self._error(f"{key} must be one line of at most {_MAX_TEXT} characters", field)
        return field.value

    def _choice(self, key: str, choices: tuple[str, ...]) -> str:
        field = self._fields[key]
        if field.value not in choices:
            raise self._error(f"{key} {field.text!r} is not one of {', '.join(choices)}", field)
        return str(field.value)

    def _instant(self, key: str) -> UnixNs | None:
        if key not in self._fields:
            return None
        return self._parse(
            key, _unix_ns, "a date or time such as 2026-05-01 or 2026-05-01T12:00:00Z"
        )

    def _parse(self, key: str, parse: Callable[[str], _Parsed], expected: str) -> _Parsed:
        field = self._fields[key]
        try:
            return parse(self._text(key))
        except (ValueError, OverflowError) as failure:
            raise self._error(f"{key} {field.text!r} is not {expected}", field) from failure

    def _error(self, message: str, field: Marked | None = None) -> PriceTableError:
        line = self._line if field is None else field.line
        return PriceTableError(message, path=self._path, line=line)


def _date(text: str) -> date:
    if not _DATE.fullmatch(text):
        raise ValueError(text)
    return date.fromisoformat(text)


def _unix_ns(text: str) -> UnixNs:
    if not _INSTANT.fullmatch(text):
        raise ValueError(text)
    instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=timezone.utc)
    return UnixNs((instant - _EPOCH) // timedelta(microseconds=1) * _NS_PER_MICROSECOND)


def _decimal_text(amount: Fraction) -> str:
    """`amount` with at most twelve decimals, rounded half to even where it has more."""
    scaled = round(amount * UNITS_PER_CURRENCY)
    text = f"{Decimal(scaled) / UNITS_PER_CURRENCY:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
