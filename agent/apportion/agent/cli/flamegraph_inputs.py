"""The files that `apportion flamegraph` reads, and what their numbers are of."""

from __future__ import annotations

import argparse
from typing import Final

from apportion.core.errors import ConfigError
from apportion.profiles.weight import COUNT, ENERGY, MONEY, TIME, Weight, cost

_WEIGHTS: Final = {one.unit: one for one in (COUNT, TIME, ENERGY)}


def add_units(parser: argparse.ArgumentParser) -> None:
    """What numbers of folded text are of, which such a file cannot say."""
    parser.add_argument(
        "--unit",
        choices=(*_WEIGHTS, MONEY),
        default=COUNT.unit,
        help="what folded text counts: samples (default), nanoseconds, millijoules, or money in "
        "10^-12 of --currency; speedscope files say it themselves",
    )
    parser.add_argument("--currency", metavar="CODE", help="with --unit money: such as USD")


def add_weight(parser: argparse.ArgumentParser) -> None:
    """Which weight is asked for."""
    parser.add_argument(
        "--weight", metavar="NAME", help="of files with several weights, this one (default: first)"
    )


def unit_of(options: argparse.Namespace) -> Weight:
    """The weight of files that do not say it.

    Raises:
        ConfigError: money of no currency, or a currency of no money.
    """
    if options.unit != MONEY:
        if options.currency is not None:
            raise ConfigError("--currency is of money: say --unit money, too")
        return _WEIGHTS[options.unit]
    currency = str(options.currency or "")
    if not (currency.isascii() and currency.isalpha() and len(currency) == len("USD")):
        raise ConfigError(f"--unit money needs --currency, such as USD, and not {currency!r}")
    return cost(currency.upper())
