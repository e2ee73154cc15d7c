"""What an importer made of a price list: rows for a price table, and what it left out and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from apportion.core.errors import PriceTableError
from apportion.cost.prices.device_names import nvml_name

if TYPE_CHECKING:
    from pathlib import Path

_MAX_DECIMALS: Final = 18
_MAX_PRICE: Final = Decimal(10) ** 12


@dataclass(frozen=True, slots=True)
class Offer:
    """One price of a list. `match` is what the row will ask of a node, without empty values."""

    line: int
    device: str
    per_hour: str
    devices: int
    covers: str
    match: tuple[tuple[str, str], ...]

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
        """Take one price, if its device is known.

        Raises:
            PriceTableError: the price is no number.
        """
        per_hour = self.price(line, price)
        if per_hour is None:
            self.left_out["a price of 0: not on offer"] += 1
            return
        device = nvml_name(name)
        if device is None:
            self.left_out[f"device {name!r} is not one whose NVML name is known here"] += 1
            return
        asked = tuple(sorted((key, value) for key, value in match.items() if value))
        self.offers.append(Offer(line, device, per_hour, devices, covers, asked))

    def price(self, line: int, text: str) -> str | None:
        """A price as a table writes it; None for 0.

        Raises:
            PriceTableError: it is no number, negative or out of range.
        """
        try:
            price = Decimal(text)
        except InvalidOperation:
            price = Decimal("NaN")
        if not price.is_finite() or price < 0 or price >= _MAX_PRICE:
            raise PriceTableError(
                f"the price {text[:40]!r} is not money per hour such as 2.95; correct the row",
                path=self.path,
                line=line,
            )
        if price == 0:
            return None
        plain = f"{price:f}"
        whole, _, decimals = plain.partition(".")
        decimals = decimals[:_MAX_DECIMALS].rstrip("0")
        return f"{whole}.{decimals}" if decimals else whole

    def settled(self) -> list[Offer]:
        """Offers that say one thing each, by device and match.

        Equal prices of one match are one offer, whatever the number of devices; those that
        differ are left out, because none of them is more right than the others.
        """
        by_match: dict[tuple[object, ...], list[Offer]] = {}
        for offer in self.offers:
            by_match.setdefault((offer.device, offer.match), []).append(offer)
        found: list[Offer] = []
        for alike in by_match.values():
            if len({offer.per_device for offer in alike}) == 1:
                found.append(alike[0])
            else:
                self.left_out["prices that differ for one device and match"] += len(alike)
        return sorted(found, key=lambda offer: (offer.device, offer.match))
