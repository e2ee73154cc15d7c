"""Every table of a ledger: whoever goes through them all asks here, where none can be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from apportion.cost.ledger import price_tables, schema, shipping_tables

if TYPE_CHECKING:
    from types import ModuleType

MODULES: Final[tuple[ModuleType, ...]] = (schema, price_tables, shipping_tables)
"""Where they are declared."""
metadata: Final = schema.metadata
