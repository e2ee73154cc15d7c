"""Which devices the NVML child leaves out, because reading them hung or killed it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from apportion.collectors.collector import DeviceFailure
from apportion.core.ids import DeviceId
from apportion.core.units import NS_PER_SECOND

FIRST_PAUSE_NS: Final = 60 * NS_PER_SECOND
LONGEST_PAUSE_NS: Final = 3_600 * NS_PER_SECOND
_STRIKES: Final = 2


@dataclass(frozen=True, slots=True)
class _Case:
    """A blamed device: left out until `until_ns`, from its second strike in a row on."""

    device: DeviceId | None
    reason: str
    strikes: int = 1
    until_ns: int = 0
    pause_ns: int = FIRST_PAUSE_NS


class SickList:
    """Blame by index of NVML's order. Once is chance; twice in a row leaves the device out.

    It is tried again after a minute, then after twice as long each time, up to an hour. A
    single reading clears it.
    """

    def __init__(self) -> None:
        self._cases: dict[int, _Case] = {}

    def blame(self, index: int, device: DeviceId | None, reason: str, now_ns: int) -> None:
        """The child stopped while it read this device."""
        case = self._cases.get(index)
        if case is None:
            self._cases[index] = _Case(device, reason)
            return
        left_out = replace(case, reason=reason, strikes=case.strikes + 1)
        if left_out.strikes >= _STRIKES:
            left_out = replace(
                left_out,
                until_ns=now_ns + case.pause_ns,
                pause_ns=min(2 * case.pause_ns, LONGEST_PAUSE_NS),
            )
        self._cases[index] = left_out

    def clear(self, index: int) -> None:
        """The device answered."""
        self._cases.pop(index, None)

    def skipped(self, now_ns: int) -> frozenset[int]:
        """What the next child leaves out."""
        return frozenset(index for index, case in self._cases.items() if case.until_ns > now_ns)

    def failures(self, indexes: frozenset[int]) -> tuple[DeviceFailure, ...]:
        """Why the devices at `indexes` are left out."""
        return tuple(
            DeviceFailure(self._cases[index].device, index, self._cases[index].reason)
            for index in sorted(indexes)
            if index in self._cases
        )
