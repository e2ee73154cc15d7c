"""Which source of devices to use: the `devices:` rule of the configuration.

`auto` takes NVML where nothing stands in its way, else dcgm-exporter where the configuration names
one, and never both. It takes the CPU only where sysfs and procfs show no NVIDIA device at all.
Where there is one that cannot be read, the agent says what is missing instead of metering
something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from apportion.collectors.sysfs import is_sysfs, no_sysfs
from apportion.core.errors import ConfigError

NVIDIA_VENDOR: Final = 0x10DE
_DISPLAY_CLASS: Final = 0x03
"""PCI base class of GPUs; NVIDIA's audio functions, switches and USB controllers have others."""


class DeviceChoice(str, Enum):
    """What a person may write for `devices:`."""

    AUTO = "auto"
    NVML = "nvml"
    DCGM = "dcgm"
    CPU = "cpu"
    SIMULATOR = "simulator"


@dataclass(frozen=True, slots=True)
class Discovery:
    """The collector that reads the devices, and why.

    `collector` is a registered name, `nvml`, `dcgm` or `host`. `pci_addresses` are the NVIDIA GPUs
    that sysfs lists. `missing` says what stands in NVML's way; empty where nothing does.
    """

    choice: DeviceChoice
    collector: str
    reason: str
    pci_addresses: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def discover(
    choice: str,
    *,
    sys_root: Path = Path("/sys"),
    proc_root: Path = Path("/proc"),
    dev_root: Path = Path("/dev"),
    has_dcgm: bool = False,
) -> Discovery:
    """Apply the rule to this machine. `has_dcgm`: the configuration names a dcgm-exporter.

    Raises:
        ConfigError: `choice` is none of `DeviceChoice`, or nothing here tells whether there are
            GPUs.
    """
    try:
        wanted = DeviceChoice(choice)
    except ValueError:
        known = ", ".join(each.value for each in DeviceChoice)
        raise ConfigError(f"devices: {choice!r} is not one of {known}") from None
    if wanted is DeviceChoice.CPU:
        return Discovery(wanted, "host", "the configuration names the CPU")
    if wanted is DeviceChoice.SIMULATOR:
        return Discovery(wanted, "nvml", "SIMULATED: the configuration names the simulator")
    if wanted is DeviceChoice.DCGM:
        return Discovery(wanted, "dcgm", "the configuration names dcgm-exporter")
    addresses = nvidia_gpus(sys_root)
    missing = _missing(addresses, proc_root, dev_root)
    if wanted is DeviceChoice.NVML:
        return Discovery(wanted, "nvml", "the configuration names NVML", addresses, missing)
    if missing and has_dcgm:
        reason = f"NVML cannot be read here ({'; '.join(missing)}): dcgm-exporter is"
        return Discovery(wanted, "dcgm", reason, addresses, missing)
    if not addresses and not (proc_root / "driver/nvidia").exists():
        if not is_sysfs(sys_root):
            raise ConfigError(
                f"devices: `auto` cannot tell whether this host has GPUs: {no_sysfs(sys_root)}, or "
                "say `devices` (nvml, dcgm, cpu)"
            )
        return Discovery(
            wanted,
            "host",
            "sysfs shows no NVIDIA device and procfs no NVIDIA driver: the CPU is metered",
        )
    count = f"{len(addresses)} NVIDIA GPU{'' if len(addresses) == 1 else 's'}"
    reason = f"sysfs shows {count}" if addresses else "procfs shows the NVIDIA driver"
    if missing:
        reason = f"{reason}, but {'; '.join(missing)}. The CPU is not metered instead"
    return Discovery(wanted, "nvml", reason, addresses, missing)


def nvidia_gpus(sys_root: Path) -> tuple[str, ...]:
    """PCI addresses of NVIDIA's display and 3D controllers, in order."""
    return tuple(
        sorted(
            entry.name
            for entry in (sys_root / "bus/pci/devices").glob("*")
            if _hexadecimal(entry / "vendor") == NVIDIA_VENDOR
            and (_hexadecimal(entry / "class") or 0) >> 16 == _DISPLAY_CLASS
        )
    )


def _missing(addresses: tuple[str, ...], proc_root: Path, dev_root: Path) -> tuple[str, ...]:
    """What NVML will lack, in words that say what to do."""
    missing: list[str] = []
    if not addresses:
        missing.append("sysfs lists no NVIDIA GPU")
    if not (proc_root / "driver/nvidia/version").exists():
        missing.append(
            f"the kernel driver is not loaded ({proc_root / 'driver/nvidia/version'} is absent): "
            "install it or run `modprobe nvidia`"
        )
    elif not (dev_root / "nvidiactl").exists():
        missing.append(
            f"{dev_root / 'nvidiactl'} is absent: start the container with the NVIDIA runtime "
            "and NVIDIA_DRIVER_CAPABILITIES=utility"
        )
    return tuple(missing)


def _hexadecimal(path: Path) -> int | None:
    """A number that sysfs writes as 0x10de; None where there is none."""
    try:
        return int(path.read_text().strip(), 16)
    except (OSError, ValueError):
        return None
