"""Which price table a command reads: a file, the built-in one, or the configuration's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from apportion.agent.cli.config_options import add_config_file, config_of
from apportion.agent.config_problems import load_price_table
from apportion.core.errors import ConfigError
from apportion.cost.prices.built_in import BUILT_IN, NO_TABLE, built_in_table
from apportion.cost.rate import PriceTable

if TYPE_CHECKING:
    from collections.abc import Mapping


class ChosenTable(NamedTuple):
    """The table, what it is called, and how the node is placed where the configuration says it."""

    table: PriceTable
    name: str
    placement: Mapping[str, str]


def add_table(parser: argparse.ArgumentParser) -> None:
    """The argument, and `--config` for where it is left out."""
    parser.add_argument(
        "table",
        nargs="?",
        metavar="TABLE",
        help=f"a price table, or `{BUILT_IN}` (default: the one that the configuration names)",
    )
    add_config_file(parser)


def table_of(options: argparse.Namespace) -> ChosenTable:
    """The table that the options choose.

    Raises:
        ConfigError: the configuration or the table is wrong, or it says that there is none.
    """
    if options.table is not None:
        return ChosenTable(named_table(options.table), options.table, {})
    config = config_of(options).config
    if config.prices == NO_TABLE:
        raise ConfigError(f"the configuration says `prices: {NO_TABLE}`; name a table")
    return ChosenTable(load_price_table(config), str(config.prices), config.placement)


def named_table(name: str) -> PriceTable:
    """The table at a path, or the built-in one.

    Raises:
        PriceTableError: as `PriceTable.load`.
    """
    return built_in_table() if name == BUILT_IN else PriceTable.load(Path(name))
