"""SkyPilot's catalogue: `vms.csv` of a cloud, and `slurm/pricing.csv` of one's own cluster.

Prices are per instance and hour. GpuInfo is not read: it is Python text that neither JSON nor
Python parses everywhere, and its memory sizes are wrong for some clouds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from apportion.cost.document import shortened
from apportion.cost.prices.csv_rows import read_list
from apportion.cost.prices.importers.imported import Imported
from apportion.cost.prices.row_reader import MAX_INSTANCE_DEVICES

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES: Final = 64 << 20
_VMS: Final = ("AcceleratorName", "AcceleratorCount", "Price", "Region")
_SLURM: Final = ("AcceleratorName", "PricePerAccelerator")
_WHOLE: Final = re.compile(r"(\d{1,4})(\.0+)?", re.ASCII)


def read_skypilot(path: Path, cloud: str) -> Imported:
    """The offers of a cloud's `vms.csv`, on demand and spot.

    A row without an instance type is the price of attached devices alone (`covers: gpu`).

    Raises:
        PriceTableError: not such a file, or a price that is no number; with file and line.
    """
    imported = Imported(path)
    for line, row in read_list(path, MAX_BYTES, _VMS, "SkyPilot vms.csv").rows:
        name, count = row.get("AcceleratorName"), row.get("AcceleratorCount", "0")
        whole = _WHOLE.fullmatch(count)
        devices = 0 if whole is None else int(whole[1])
        if not name or (whole is not None and devices == 0):
            imported.left_out["no accelerator"] += 1
            continue
        if not 1 <= devices <= MAX_INSTANCE_DEVICES:
            imported.left_out[f"{shortened(count)!r} of a device: not a number of whole ones"] += 1
            continue
        instance = row.get("InstanceType", "")
        if not instance and devices > 1:
            imported.left_out["a multiple of one attached device"] += 1
            continue
        match = {
            "cloud": cloud,
            "region": row.get("Region", ""),
            "zone": row.get("AvailabilityZone", ""),
            "instance_type": instance,
        }
        covers = "gpu+host" if instance else "gpu"
        for column, capacity in (("Price", "on-demand"), ("SpotPrice", "spot")):
            price = row.get(column)
            if price is None:
                imported.left_out[f"no {capacity} price"] += 1
            else:
                asked = {**match, "capacity": capacity}
                imported.offer(line, name, price, devices, covers, asked)
    return imported


def read_slurm(path: Path) -> Imported:
    """The accelerators of a cluster's own `pricing.csv`: money per accelerator and hour.

    Raises:
        PriceTableError: as `read_skypilot`.
    """
    imported = Imported(path)
    for line, row in read_list(path, MAX_BYTES, _SLURM, "SkyPilot slurm/pricing.csv").rows:
        name, price = row.get("AcceleratorName"), row.get("PricePerAccelerator")
        if not name or price is None:
            imported.left_out["no accelerator"] += 1
            continue
        match = {"region": row.get("Region", ""), "zone": row.get("Zone", "")}
        imported.offer(line, name, price, 1, "gpu", match)
    return imported
