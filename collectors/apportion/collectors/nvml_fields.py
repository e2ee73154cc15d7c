"""Fields of one GPU, read in one call: which of them exist is found out at the first read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from apportion.collectors.nvml_error import (
    NvmlCode,
    NvmlError,
    NvmlForbidden,
    NvmlTransient,
    NvmlUnsupported,
    error_of,
)
from apportion.collectors.nvml_library import ALL_LINKS, FieldQuery, NvmlHandle, NvmlLibrary

Field = tuple[int, int]
"""A field id and its scope id, as in nvml.h."""

ENERGY: Final[Field] = (83, 0)
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
MEMORY_CELSIUS: Final[Field] = (82, 0)
THROTTLED_NS: Final[tuple[Field, ...]] = tuple(
    (number, 0) for number in (*range(74, 80), *range(269, 272))
)
HOT: Final[tuple[Field, ...]] = (
    ENERGY,
    POWER_INSTANT,
    POWER_AVERAGE,
    PCIE_TX,
    PCIE_RX,
    NVLINK_TX_KIB,
    NVLINK_RX_KIB,
    *NVLINK5_TX,
    *NVLINK5_RX,
    MEMORY_CELSIUS,
    *THROTTLED_NS,
)
"""Read every period."""

ECC: Final[tuple[Field, ...]] = ((3, 0), (4, 0), (5, 0), (6, 0))
RETIRED: Final[tuple[Field, ...]] = ((29, 0), (30, 0), (31, 0))
NVLINK_ERRORS: Final[tuple[Field, ...]] = ((38, 0), (45, 0), (52, 0), (59, 0))
PCIE_REPLAYS: Final[Field] = (94, 0)
REMAPPED: Final[tuple[Field, ...]] = ((142, 0), (143, 0), (144, 0), (145, 0))
RECOVERY_ACTION: Final[Field] = (230, 0)
SLOW: Final[tuple[Field, ...]] = (
    *ECC,
    *RETIRED,
    *NVLINK_ERRORS,
    PCIE_REPLAYS,
    *REMAPPED,
    RECOVERY_ACTION,
)
"""Read every few periods."""

INSTEAD: Final[Mapping[Field, tuple[Field, ...]]] = MappingProxyType(
    {POWER_INSTANT: (POWER_AVERAGE,), NVLINK_TX_KIB: (*NVLINK5_TX, *NVLINK5_RX)}
)
"""Of two ways to tell one thing: where the first exists, the others are not asked for."""

_BYTES_PER_KIB: Final = 1024
_FUNCTION: Final = "nvmlDeviceGetFieldValues"


@dataclass(frozen=True, slots=True)
class FieldReading:
    """The values of one call by their field; those that are missing, the device cannot tell."""

    values: Mapping[Field, int] = field(default_factory=dict[Field, int])
    trouble: NvmlError | None = None


class NvmlFields:
    """Those of `wanted` that one device has; from the second `read` on only they are asked for."""

    def __init__(self, library: NvmlLibrary, handle: NvmlHandle, wanted: Sequence[Field]) -> None:
        self._library = library
        self._handle = handle
        self._wanted = tuple(wanted)
        self._kept: tuple[Field, ...] | None = None
        self._query: FieldQuery | None = None
        self.forbidden = False
        """A field was refused for want of rights."""

    def lacks(self, field: Field) -> bool:
        """Whether the device is known not to have `field`: never before the first read."""
        return self._kept is not None and field not in self._kept

    def read(self) -> FieldReading:
        """All values in one call.

        Raises:
            NvmlDeviceLost: a field says that the device is lost.
            NvmlSourceLost: NVML itself no longer answers.
        """
        try:
            return self._read()
        except NvmlUnsupported as error:
            self.forbidden = self.forbidden or isinstance(error, NvmlForbidden)
            self._kept = ()
            return FieldReading()
        except NvmlTransient as error:
            return FieldReading(trouble=error)

    def _read(self) -> FieldReading:
        asked = self._wanted if self._kept is None else self._kept
        if not asked:
            return FieldReading()
        if self._query is None:
            self._query = self._library.device_field_query(self._handle, asked)
        values: dict[Field, int] = {}
        never = set[Field]()
        trouble: NvmlError | None = None
        for each, answer in zip(asked, self._query.read(), strict=True):
            if answer.value is not None:
                values[each] = answer.value
                continue
            code = NvmlCode.NOT_SUPPORTED if answer.code == NvmlCode.SUCCESS else answer.code
            error = error_of(code, f"{_FUNCTION} of field {each[0]}")
            if isinstance(error, NvmlUnsupported):
                never.add(each)
                self.forbidden = self.forbidden or isinstance(error, NvmlForbidden)
            elif isinstance(error, NvmlTransient):
                trouble = error
            elif answer.code != NvmlCode.NOT_FOUND:
                raise error
        if self._kept is None or never:
            self._keep(asked, never)
        return FieldReading(values, trouble)

    def _keep(self, asked: tuple[Field, ...], never: set[Field]) -> None:
        """Ask from now on only for what exists, and of two ways to tell one thing for the first.

        The array is made anew at the next read, in the size that is left.
        """
        kept = tuple(field for field in asked if field not in never)
        for better, others in INSTEAD.items():
            if better in kept:
                never.update(others)
        self._kept = tuple(field for field in kept if field not in never)
        self._query = None


def link_bytes(
    values: Mapping[Field, int], total_kib: Field, links: tuple[Field, ...]
) -> int | None:
    """Bytes over all links, by the total where there is one, else as the sum of the links."""
    total = values.get(total_kib)
    if total is not None:
        return total * _BYTES_PER_KIB
    told = [values[link] for link in links if link in values]
    return sum(told) if told else None
