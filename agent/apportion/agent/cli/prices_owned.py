"""`apportion prices owned`: what hardware of one's own costs per device-hour, term by term."""

from __future__ import annotations

import argparse
import sys
from decimal import Decimal, InvalidOperation
from typing import Final

from apportion.agent.cli.listing import add_format, render
from apportion.core.errors import ConfigError
from apportion.cost.prices.ownership_cost import OwnedHardware

OPTIONS: Final = {
    "capital-cost": ("MONEY", None, "what the node cost"),
    "life-years": ("YEARS", None, "how long it is used"),
    "salvage": ("MONEY", "0", "what it is worth then (default: 0)"),
    "cost-of-capital": ("RATIO", "0", "interest a year: 0.08 is 8 %% (default: 0)"),
    "power-w": ("WATTS", "0", "the whole node's average power (default: 0)"),
    "pue": ("RATIO", "1", "the site's power over the machines' (default: 1)"),
    "power-price": ("MONEY", "0", "of a kilowatt-hour (default: 0)"),
    "colocation": ("MONEY", "0", "of a kilowatt for a month (default: 0)"),
    "staff": ("MONEY", "0", "people and maintenance, for the node a year (default: 0)"),
    "planned-utilisation": ("RATIO", None, "shown beside the rate; divides nothing"),
}
_REQUIRED: Final = frozenset({"capital-cost", "life-years"})
_MOST: Final = Decimal(10) ** 12


def configure_owned(parser: argparse.ArgumentParser) -> None:
    """The options of the model."""
    parser.add_argument("--devices", required=True, metavar="N", help="devices of the node")
    for name, (metavar, default, text) in OPTIONS.items():
        parser.add_argument(
            f"--{name}", metavar=metavar, default=default, required=name in _REQUIRED, help=text
        )
    add_format(parser)


def run_owned(options: argparse.Namespace) -> int:
    """Print each term and their sum."""
    given = {name: _decimal(options, name) for name in OPTIONS}
    try:
        hardware = OwnedHardware(
            int(_decimal_of("devices", options.devices)),
            given["capital-cost"],
            given["life-years"],
            given["salvage"],
            given["cost-of-capital"],
            given["power-w"],
            given["pue"],
            given["power-price"],
            given["colocation"],
            given["staff"],
        )
    except ValueError as failure:
        raise ConfigError(f"prices owned: {failure}") from failure
    terms = hardware.terms()
    rate = hardware.per_device_hour()
    rows: list[dict[str, object]] = [
        {"term": name, "per_device_hour": f"{amount:f}"} for name, amount in terms.items()
    ]
    rows.append({"term": "rate", "per_device_hour": f"{rate:f}"})
    planned = given["planned-utilisation"]
    if planned:
        if planned > 1:
            raise ConfigError("--planned-utilisation is a ratio from 0 to 1")
        used = (rate / planned).quantize(Decimal("0.000000000001"))
        rows.append({"term": "for information: per used hour", "per_device_hour": f"{used:f}"})
    sys.stdout.write(render(rows, ("term", "per_device_hour"), options.format))
    return 0


def _decimal(options: argparse.Namespace, name: str) -> Decimal:
    text: str | None = getattr(options, name.replace("-", "_"))
    return Decimal(0) if text is None else _decimal_of(name, text)


def _decimal_of(name: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0 or value > _MOST:
        raise ConfigError(f"--{name} {text[:40]!r} is not a number from 0 such as 12.5")
    if name == "devices" and value != value.to_integral_value():
        raise ConfigError(f"--devices {text[:40]!r} is not a whole number")
    return value
