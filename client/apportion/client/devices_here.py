"""Whether PyTorch can have a device here, told without waking a driver: that would spoil forks.

A machine without one does not get one while a program runs. Whatever looks like one counts, also
where its driver is not loaded yet: the driver's library may still do that.
"""

from __future__ import annotations

import os
from typing import Final

_NODES: Final = ("dev/nvidiactl", "dev/dxg", "dev/kfd", "dev/nvmap", "dev/nvhost-ctrl")
"""Of NVIDIA's driver, of either vendor's under Windows, of AMD's, and of NVIDIA's Tegra."""
_PCI: Final = "sys/bus/pci/devices"
_VENDORS: Final = frozenset({b"0x10de", b"0x1002"})
"""NVIDIA and AMD (GPUs), as sysfs writes them."""


def devices_here(root: str = "/") -> bool:
    """Whether there may be one, by device nodes, and by PCI where sysfs is to be seen."""
    if any(os.path.exists(root + node) for node in _NODES):  # noqa: PTH110 - no pathlib in a workload
        return True
    try:
        addresses = os.listdir(root + _PCI)  # noqa: PTH208 - as above
    except OSError:
        return False
    return any(_vendor(f"{root}{_PCI}/{address}/vendor") in _VENDORS for address in addresses)


def _vendor(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 16).strip()
    except OSError:  # the device has just gone
        return b""
    finally:
        os.close(fd)
