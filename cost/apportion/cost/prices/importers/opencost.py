"""OpenCost's custom pricing: its JSON has one GPU price for a cluster, its CSV one a GPU type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from apportion.core.errors import PriceTableError
from apportion.cost.document import shortened
from apportion.cost.prices.csv_rows import read_csv_text, read_list
from apportion.cost.prices.importers.imported import Imported
from apportion.cost.prices.importers.json_list import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_BYTES: Final = 16 << 20
_COLUMNS: Final = ("AssetClass", "InstanceID", "MarketPriceHourly")
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
    text = read_csv_text(path, MAX_BYTES)
    document = read_json(text, path)
    prices: Mapping[str, object] = {}
    if isinstance(document, dict):
        prices = cast("Mapping[str, object]", document)
    if not any(name in prices for name, _ in _PRICES):
        raise PriceTableError("has neither GPU nor spotGPU: no OpenCost pricing", path=path)
    imported = Imported(path)
    for name, capacity in _PRICES:
        price = prices.get(name)
        if price is None or price == "":
            imported.left_out[f"no {name}"] += 1
            continue
        line = text.count("\n", 0, max(0, text.find(f'"{name}"'))) + 1
        for device in devices:
            imported.take(line, device, str(price), 1, "gpu", {"capacity": capacity})
    return imported


def read_opencost_csv(path: Path) -> Imported:
    """The `gpu` rows of a CSV pricing file; a GPU's name is its `InstanceID`.

    Raises:
        PriceTableError: not such a file, or a price that is no number; with file and line.
    """
    imported = Imported(path)
    for line, row in read_list(path, MAX_BYTES, _COLUMNS, "OpenCost pricing CSV").rows:
        asset, name, price = (row.get(column, "") for column in _COLUMNS)
        if asset.lower() != "gpu":
            imported.left_out[f"asset class {shortened(asset)!r}"] += 1
        else:
            imported.offer(line, name, price, 1, "gpu", {"region": row.get("Region", "")})
    return imported
