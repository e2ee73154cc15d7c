"""What an importer made of a price list: rows for a price table, and what it left out and why."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from apportion.core.errors import PriceTableError
from apportion.cost.document import shortened
from apportion.cost.prices.device_names import nvml_name
from apportion.cost.prices.row_reader import MAX_TEXT

if TYPE_CHECKING:
    from pathlib import Path

_MAX_DECIMALS: Final = 18
_NUMBER: Final = re.compile(r"(\d{1,40}(\.\d{0,60})?|\.\d{1,60})([eE][+-]?\d{1,3})?", re.ASCII)
_LEAST_PRICE: Final = Decimal(10) ** -12
_MAX_PRICE: Final = Decimal(10) ** 12


@dataclass(frozen=True, slots=True)
class Offer:
    """One price of a list. `match` is what the row will ask of a node, without empty values.

    It holds from `since` to `until`, as a price table writes times; None is open.
    """

    line: int
    device: str
    per_hour: str
    devices: int
    covers: str
    match: tuple[tuple[str, str], ...]
    since: str | None = None
    until: str | None = None

    @property
    def per_device(self) -> Fraction:
        """Exact money per device-hour."""
        return Fraction(self.per_hour) / self.devices


@dataclass(slots=True)
class Imported:
    """The offers of one file, and how many rows were left out, by reason."""

    path: Path
    offers: list[Offer] = field(default_factory=list[Offer])
    left_out: Counter[str] = field(default_factory=Counter[str])

    def offer(
        self, line: int, name: str, price: str, devices: int, covers: str, match: dict[str, str]
    ) -> None:
        """Take one price of a list, if it is known what device it is that the list calls `name`.

        Raises:
            PriceTableError: the price is no number, or a name none that a table can have.
        """
        device = nvml_name(name)
        if device is not None:
            self.take(line, device, price, devices, covers, match)
        else:
            self.price(line, price)
            shown = shortened(name)
            self.left_out[f"device {shown!r} is not one whose NVML name is known here"] += 1

    def take(
        self, line: int, device: str, price: str, devices: int, covers: str, match: dict[str, str]
    ) -> None:
        """Take one price of the device that NVML calls `device`.

        Raises:
            PriceTableError: as `offer`.
        """
        per_hour = self.price(line, price)
        if not per_hour:
            self.left_out["a price of 0: not on offer"] += 1
            return
        for key, value in match.items():
            if len(value) > MAX_TEXT or not value.isprintable():
                raise PriceTableError(
                    f"{key} {shortened(value)!r} is not one line of at most {MAX_TEXT} characters; "
                    "correct the row",
                    path=self.path,
                    line=line,
                )
        asked = tuple(sorted((key, value) for key, value in match.items() if value))
        self.offers.append(Offer(line, device, per_hour, devices, covers, asked))

    def price(self, line: int, text: str) -> str:
        """A price as a table writes it; empty for 0.

        Raises:
            PriceTableError: as `offer`.
        """
        per_hour = price_text(text)
        if per_hour is None:
            raise PriceTableError(
                f"the price {shortened(text)!r} is not money per hour such as 2.95; correct it",
                path=self.path,
                line=line,
            )
        return per_hour

    def settled(self) -> list[Offer]:
        """Offers that say one thing each, by device and match.

        Equal prices of one match are one offer, whatever the number of devices; those that
        differ are left out, because none of them is more right than the others.
        """
        by_match: dict[tuple[object, ...], list[Offer]] = {}
        for offer in self.offers:
            by_match.setdefault((offer.device, offer.match, offer.since), []).append(offer)
        found: list[Offer] = []
        for alike in by_match.values():
            if len({offer.per_device for offer in alike}) == 1:
                found.append(alike[0])
            else:
                self.left_out["prices that differ for one device and match"] += len(alike)
        return sorted(found, key=lambda offer: (offer.device, offer.match, offer.since or ""))


def price_text(text: str) -> str | None:
    """The price that a list writes so, as a table writes it; empty for 0, None where it is none."""
    if not _NUMBER.fullmatch(text):
        return None
    price = Decimal(text)
    if price == 0:
        return ""
    if not _LEAST_PRICE <= price < _MAX_PRICE:
        return None
    whole, _, decimals = f"{price:f}".partition(".")
    decimals = decimals[:_MAX_DECIMALS].rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole
