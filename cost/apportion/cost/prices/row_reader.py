"""One row of a price table, read strictly: what it does not understand it refuses by line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Final, TypeVar

from apportion.core.errors import PriceTableError
from apportion.core.units import NS_PER_SECOND, UNITS_PER_CURRENCY, UnixNs
from apportion.cost.document import Marked, shortened
from apportion.cost.price_row import (
    BASES,
    CAPACITIES,
    COVERS,
    LABEL,
    MATCHED,
    MAX_UNITS_PER_HOUR,
    Rate,
    decimal_text,
)
from apportion.cost.prices.billing import AS_METERED, BillingRule
from apportion.cost.prices.currency import CURRENCIES
from apportion.cost.prices.device_names import nvml_name
from apportion.cost.prices.instants import date_of, instant_ns
from apportion.cost.prices.mig import MIG_POLICIES

UNITS: Final = ("device", "instance")
MAX_INSTANCE_DEVICES: Final = 1024
MAX_COMMITTED_DEVICES: Final = 1_000_000
MAX_QUANTUM_SECONDS: Final = 31 * 24 * 3_600
"""Nobody bills in quanta, or for a minimum, of more than a month."""
MAX_TEXT: Final = 200
_REQUIRED: Final = ("device", "per_hour", "currency", "covers", "basis", "source", "as_of")
COUNTS: Final = ("devices", "granularity", "minimum", "committed_devices")
"""Keys whose values are whole numbers."""
_OPTIONAL: Final = ("unit", "match", "from", "to", "mig", *COUNTS)
_DECIMAL: Final = re.compile(r"\d{1,12}(\.\d{1,18})?", re.ASCII)
_NEGATIVE: Final = re.compile(r"-\s*\d[\d.]*", re.ASCII)
_Parsed = TypeVar("_Parsed", date, UnixNs)


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
                raise self._error(
                    f"unknown key {shortened(key)!r}; a row has {', '.join(known)}", entry_field
                )
        for key in _REQUIRED:
            if key not in self._fields:
                raise self._error(f"the row has no {key!r}; every row needs one")

    def rate(self) -> Rate:
        per_device, per_hour = self._price()
        valid_from_ns, valid_to_ns = self._instant("from"), self._instant("to")
        if valid_from_ns is not None and valid_to_ns is not None and valid_to_ns <= valid_from_ns:
            raise self._error("`to` is not later than `from`", self._fields["to"])
        match = self._match()
        return Rate(
            device_name=self._device_name(),
            units_per_hour=per_device,
            per_hour=per_hour,
            currency=self._currency(),
            covers=self._choice("covers", COVERS),
            basis=self._choice("basis", BASES),
            source=self._text("source"),
            as_of=self._parse("as_of", date_of, "a date such as 2026-05-01"),
            valid_from_ns=valid_from_ns,
            valid_to_ns=valid_to_ns,
            match=match,
            line=self._line,
            billing=self._billing(),
            committed_devices=self._committed_devices(dict(match).get("capacity")),
            mig_policy=self._choice("mig", MIG_POLICIES),
        )

    def _currency(self) -> str:
        currency = self._text("currency")
        if currency not in CURRENCIES:
            raise self._error(
                f"currency {currency!r} is not a currency of ISO 4217 such as USD",
                self._fields["currency"],
            )
        return currency

    def _billing(self) -> BillingRule:
        granularity = self._count("granularity", 1, MAX_QUANTUM_SECONDS)
        minimum = self._count("minimum", 0, MAX_QUANTUM_SECONDS)
        return BillingRule(
            AS_METERED.granularity_ns if granularity is None else granularity * NS_PER_SECOND,
            AS_METERED.minimum_ns if minimum is None else minimum * NS_PER_SECOND,
        )

    def _committed_devices(self, capacity: str | None) -> int | None:
        committed = self._count("committed_devices", 1, MAX_COMMITTED_DEVICES)
        if committed is None:
            return None
        field = self._fields["committed_devices"]
        if "from" not in self._fields or "to" not in self._fields:
            raise self._error(
                "`committed_devices` needs `from` and `to`: when they are paid for", field
            )
        if capacity in {"on-demand", "spot"}:
            raise self._error(
                f"`committed_devices` of capacity {capacity}: what is paid for whether it is used "
                "or not is `capacity: reserved` or `owned`",
                field,
            )
        return committed

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
                    found[f"{LABEL}{label}"] = self._matched(f"label {shortened(label)}", value)
            elif key in MATCHED:
                found[key] = self._matched(key, entry)
            else:
                raise self._error(
                    f"unknown key {shortened(key)!r}; match has {', '.join(MATCHED)} and labels",
                    entry,
                )
        if found.get("capacity", CAPACITIES[0]) not in CAPACITIES:
            choices = ", ".join(CAPACITIES)
            raise self._error(
                f"capacity {shortened(found['capacity'])!r} is not one of {choices}", field
            )
        return tuple(sorted(found.items()))

    def _matched(self, key: str, entry: Marked) -> str:
        text = entry.text if isinstance(entry.value, int | float | bool) else entry.value
        if not isinstance(text, str) or not text.strip():
            kind = "empty" if isinstance(text, str) else entry.kind
            raise self._error(f"match: {key} must be text, this is {kind}", entry)
        if len(text) > MAX_TEXT or not (key + text).isprintable():
            raise self._error(
                f"match: {key!r} must be one line of at most {MAX_TEXT} characters", entry
            )
        return text

    def _price(self) -> tuple[Fraction, str]:
        field = self._fields["per_hour"]
        if _NEGATIVE.fullmatch(field.text.strip()):
            raise self._error(f"the price {field.shown} is negative", field)
        if isinstance(field.value, int | float):
            raise self._error(
                f"per_hour is {field.kind}, which need not be what you wrote; "
                f'quote it: per_hour: "{field.shown}"',
                field,
            )
        if not isinstance(field.value, str) or not _DECIMAL.fullmatch(field.value):
            raise self._error(
                f'per_hour {field.shown!r} is not a decimal string such as "2.40"', field
            )
        units = Fraction(field.value) * UNITS_PER_CURRENCY
        if 0 < units < 1:
            raise self._error(f"per_hour {field.shown} is below 10^-12: money cannot say it", field)
        devices = self._devices()
        if units / devices > MAX_UNITS_PER_HOUR:
            raise self._error("the price of a device-hour is above 9.2 million", field)
        if devices == 1:
            return units, field.value
        return units / devices, decimal_text(units / devices / UNITS_PER_CURRENCY)

    def _devices(self) -> int:
        unit = self._choice("unit", UNITS)
        count = self._count("devices", 1, MAX_INSTANCE_DEVICES)
        if unit == "device" and count is not None:
            raise self._error(
                "`devices` belongs to `unit: instance`; drop one of them", self._fields["devices"]
            )
        if unit == "instance" and count is None:
            raise self._error("`unit: instance` needs `devices`: how many devices it has")
        return count or 1

    def _count(self, key: str, least: int, most: int) -> int | None:
        field = self._fields.get(key)
        if field is None:
            return None
        count = field.value
        if not isinstance(count, int) or isinstance(count, bool) or not least <= count <= most:
            raise self._error(
                f"{key} {field.shown!r} is not a whole number from {least} to {most}",
                field,
            )
        return count

    def _text(self, key: str) -> str:
        field = self._fields[key]
        if not isinstance(field.value, str) or not field.value.strip():
            kind = "empty" if isinstance(field.value, str) else field.kind
            raise self._error(f"{key} must be text, this is {kind}", field)
        if len(field.value) > MAX_TEXT or not field.value.isprintable():
            raise self._error(f"{key} must be one line of at most {MAX_TEXT} characters", field)
        return field.value

    def _choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of `choices`; the first where an optional key is not there."""
        field = self._fields.get(key)
        if field is None:
            return choices[0]
        if field.value not in choices:
            raise self._error(f"{key} {field.shown!r} is not one of {', '.join(choices)}", field)
        return str(field.value)

    def _instant(self, key: str) -> UnixNs | None:
        if key not in self._fields:
            return None
        return self._parse(
            key,
            instant_ns,
            "a date or time such as 2026-05-01 or 2026-05-01T12:00:00Z, from 1970 to 2261, to the "
            "microsecond at most; leave it out where it is open",
        )

    def _parse(self, key: str, parse: Callable[[str], _Parsed], expected: str) -> _Parsed:
        field = self._fields[key]
        try:
            return parse(self._text(key))
        except ValueError as failure:
            raise self._error(f"{key} {field.shown!r} is not {expected}", field) from failure

    def _error(self, message: str, field: Marked | None = None) -> PriceTableError:
        line = self._line if field is None else field.line
        return PriceTableError(message, path=self._path, line=line)
