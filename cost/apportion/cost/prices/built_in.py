"""The price table that holds where no other is named: `built_in.yaml` beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from apportion.cost.rate import PriceTable

BUILT_IN: Final = "built-in"
"""What configuration and command line call it, in place of a path."""
NO_TABLE: Final = "none"
"""What they say where nothing shall have a price."""
_PATH: Final = Path(__file__).with_name("built_in.yaml")


def built_in_table() -> PriceTable:
    """Published prices of common devices in USD, every one of them an estimate."""
    return PriceTable.load(_PATH)
