"""What applying a price table to a ledger would post, and what it leaves alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from apportion.core.category import Category
    from apportion.cost.ledger.batch import TickBatch
    from apportion.cost.ledger.rate_key import RateKey


@dataclass(frozen=True, slots=True)
class PriceChange:
    """A device's time that costs something else from now on; `before` None: it had no price."""

    device: str
    before: RateKey | None
    after: RateKey
    device_ns: int
    before_units: int | None
    after_units: int


class Kept(NamedTuple):
    """A device's time that stays as it is, with a price or without, and why."""

    device: str
    name: str
    reason: str
    device_ns: int


class Skipped(NamedTuple):
    """Devices whose hour stays as it is for now, and why."""

    hour_unix_ns: int
    devices: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class RuleChange:
    """What a rule of the row of a rate adds to what was metered, beside a device; or takes back."""

    device: str
    category: Category
    rate: RateKey
    units: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """`batch` makes it so; it is empty where nothing is to be done.

    `lines` counts the adjustments in it, `hours` those that they are in.
    """

    changes: tuple[PriceChange, ...]
    rules: tuple[RuleChange, ...]
    kept: tuple[Kept, ...]
    skipped: tuple[Skipped, ...]
    hours: int
    lines: int
    batch: TickBatch
