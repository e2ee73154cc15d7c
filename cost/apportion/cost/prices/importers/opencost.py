"""OpenCost's custom pricing: its JSON has one GPU price for a cluster, its CSV one a GPU type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from apportion.core.errors import PriceTableError
from apportion.cost.prices.csv_rows import read_csv_text, read_table
from apportion.cost.prices.importers.imported import Imported

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_BYTES: Final = 16 << 20
_COLUMNS: Final = ("InstanceID", "AssetClass", "MarketPriceHourly")
_READ: Final = ("AssetClass", "InstanceID", "MarketPriceHourly")
_PRICES: Final = (("GPU", "on-demand"), ("spotGPU", "spot"))


def read_opencost_json(path: Path, devices: Sequence[str]) -> Imported:
    """`GPU` and `spotGPU` of a custom pricing file, for each of `devices`: it names none.

    Raises:
        PriceTableError: not such a file, no device given, or a price that is no number.
    """
    if not devices:
        raise PriceTableError(
            "OpenCost's JSON has one GPU price and names no device: say --device NAME", path=path
        )
    try:
        document = json.loads(read_csv_text(path, MAX_BYTES))
    except (ValueError, RecursionError) as failure:
        raise PriceTableError("is not JSON", path=path) from failure
    prices: Mapping[str, object] = {}
    if isinstance(document, dict):
        prices = cast("Mapping[str, object]", document)
    imported = Imported(path)
    for name, capacity in _PRICES:
        price = prices.get(name)
        if isinstance(price, bool) or not isinstance(price, str | int | float):
            imported.left_out[f"no {name}"] += 1
            continue
        for device in devices:
            imported.offer(1, device, str(price), 1, "gpu", {"capacity": capacity})
    if len(imported.left_out) == len(_PRICES):
        raise PriceTableError("has neither GPU nor spotGPU: no OpenCost pricing", path=path)
    return imported


def read_opencost_csv(path: Path) -> Imported:
    """The `gpu` rows of a CSV pricing file; a GPU's name is its `InstanceID`.

    Raises:
        PriceTableError: not such a file, or a price that is no number; with file and line.
    """
    imported = Imported(path)
    rows = read_table(path, MAX_BYTES)
    header = {name for _, row in rows for name in row}
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise PriceTableError(
            f"is no OpenCost pricing CSV: there is no {', '.join(missing)} in any row", path=path
        )
    for line, row in rows:
        asset, name, price = (row.get(column, "") for column in _READ)
        if asset.lower() != "gpu":
            imported.left_out[f"asset class {asset[:20] or 'none'}"] += 1
        else:
            imported.offer(line, name, price, 1, "gpu", {"region": row.get("Region", "")})
    return imported
