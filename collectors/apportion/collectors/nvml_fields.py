"""The field values of one GPU, read in one call: power, PCIe bytes, NVLink bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from apportion.collectors.nvml_error import (
    NvmlCode,
    NvmlError,
    NvmlTransient,
    NvmlUnsupported,
    error_of,
)
from apportion.collectors.nvml_library import ALL_LINKS, FieldQuery, NvmlHandle, NvmlLibrary

Field = tuple[int, int]
"""A field id and its scope id, as in nvml.h."""

POWER_AVERAGE: Final[Field] = (185, 0)
POWER_INSTANT: Final[Field] = (186, 0)
# They replace nvmlDeviceGetPcieThroughput, which blocks for 20 ms in each direction.
PCIE_TX: Final[Field] = (197, 0)
PCIE_RX: Final[Field] = (198, 0)
# KiB over all links, up to Hopper.
NVLINK_TX_KIB: Final[Field] = (138, ALL_LINKS)
NVLINK_RX_KIB: Final[Field] = (139, ALL_LINKS)
# Bytes of one link each: NVLink 5, from Blackwell on.
NVLINK5_TX: Final[tuple[Field, ...]] = tuple((202, link) for link in range(18))
NVLINK5_RX: Final[tuple[Field, ...]] = tuple((204, link) for link in range(18))

_ALL: Final[tuple[Field, ...]] = (
    POWER_INSTANT,
    POWER_AVERAGE,
    PCIE_TX,
    PCIE_RX,
    NVLINK_TX_KIB,
    NVLINK_RX_KIB,
    *NVLINK5_TX,
    *NVLINK5_RX,
)
_BYTES_PER_KIB: Final = 1024
_FUNCTION: Final = "nvmlDeviceGetFieldValues"


@dataclass(frozen=True, slots=True)
class FieldReading:
    """The values of one call; None where the device cannot tell. Bytes are cumulative."""

    power_mw: int | None = None
    pcie_tx_bytes: int | None = None
    pcie_rx_bytes: int | None = None
    nvlink_tx_bytes: int | None = None
    nvlink_rx_bytes: int | None = None
    trouble: NvmlError | None = None


class NvmlFields:
    """The fields that one device has: found out at the first `read`, then only those are asked."""

    def __init__(self, library: NvmlLibrary, handle: NvmlHandle) -> None:
        self._library = library
        self._handle = handle
        self._kept: tuple[Field, ...] | None = None
        self._query: FieldQuery | None = None

    @property
    def power_source(self) -> str | None:
        """`field_instant`, `field_average`, or None where neither exists or none was asked."""
        if self._has(POWER_INSTANT):
            return "field_instant"
        return "field_average" if self._has(POWER_AVERAGE) else None

    @property
    def unsupported(self) -> frozenset[str]:
        """Names of what this device cannot tell by fields; empty before the first `read`."""
        if self._kept is None:
            return frozenset()
        missing = set[str]()
        if not self._has(PCIE_TX):
            missing.add("pcie")
        if not self._has(NVLINK_TX_KIB) and not self._has(NVLINK5_TX[0]):
            missing.add("nvlink")
        return frozenset(missing)

    def read(self) -> FieldReading:
        """All values in one call.

        Raises:
            NvmlDeviceLost: a field says that the device is lost.
            NvmlSourceLost: NVML itself no longer answers.
        """
        try:
            return self._read()
        except NvmlUnsupported:
            self._kept = ()
            return FieldReading()
        except NvmlTransient as error:
            return FieldReading(trouble=error)

    def _read(self) -> FieldReading:
        asked = _ALL if self._kept is None else self._kept
        if not asked:
            return FieldReading()
        if self._query is None:
            self._query = self._library.device_field_query(self._handle, asked)
        values: dict[Field, int] = {}
        never = set[Field]()
        trouble: NvmlError | None = None
        for field, answer in zip(asked, self._query.read(), strict=True):
            if answer.value is not None:
                values[field] = answer.value
                continue
            error = error_of(answer.code, f"{_FUNCTION} of field {field[0]}")
            if isinstance(error, NvmlUnsupported):
                never.add(field)
            elif isinstance(error, NvmlTransient):
                trouble = error
            elif answer.code != NvmlCode.NOT_FOUND:
                raise error
        if self._kept is None or never:
            self._keep(asked, never)
        return FieldReading(
            power_mw=values.get(POWER_INSTANT, values.get(POWER_AVERAGE)),
            pcie_tx_bytes=values.get(PCIE_TX),
            pcie_rx_bytes=values.get(PCIE_RX),
            nvlink_tx_bytes=_link_bytes(values, NVLINK_TX_KIB, NVLINK5_TX),
            nvlink_rx_bytes=_link_bytes(values, NVLINK_RX_KIB, NVLINK5_RX),
            trouble=trouble,
        )

    def _keep(self, asked: tuple[Field, ...], never: set[Field]) -> None:
        """Ask from now on only for what exists, and of two ways to tell one thing only the first.

        The array is made anew at the next read, in the size that is left.
        """
        kept = tuple(field for field in asked if field not in never)
        if POWER_INSTANT in kept:
            never.add(POWER_AVERAGE)
        if NVLINK_TX_KIB in kept:
            never.update(NVLINK5_TX)
            never.update(NVLINK5_RX)
        self._kept = tuple(field for field in kept if field not in never)
        self._query = None

    def _has(self, field: Field) -> bool:
        return self._kept is not None and field in self._kept


def _link_bytes(
    values: Mapping[Field, int], total_kib: Field, links: tuple[Field, ...]
) -> int | None:
    """Bytes over all links, by the total where there is one, else as the sum of the links."""
    total = values.get(total_kib)
    if total is not None:
        return total * _BYTES_PER_KIB
    told = [values[link] for link in links if link in values]
    return sum(told) if told else None
