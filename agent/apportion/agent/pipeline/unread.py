"""Devices of the ledger that nobody has read since this process began, and why not.

A GPU that is lost does not say its name, so after a restart only the ledger knows what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.collectors.collector import DeviceFailure, FailureKind
from apportion.core.ids import is_part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apportion.agent.pipeline.device import MeteredDevice
    from apportion.agent.pipeline.seen import Seen
    from apportion.agent.pipeline.settlement import Settlement
    from apportion.collectors.observed import CollectorStatus
    from apportion.core.reading import DeviceInfo

CPU: Final = "cpu"
HOST: Final = "host"
"""The collector that reads it."""


_SAYS_LITTLE: Final = frozenset({FailureKind.SILENT, FailureKind.RELEASED})
"""Reasons of a source that make no device well again that it had a worse one for."""


class Unread(NamedTuple):
    """One of them, as far as the ledger knows it."""

    info: DeviceInfo
    failure: DeviceFailure


def unread(
    settlement: Settlement,
    seen: Seen,
    status: CollectorStatus,
    *,
    now_ns: int,
    since_ns: int,
    patience_ns: int,
) -> Iterator[Unread]:
    """Those of the source that `status` is of, at node time `now_ns`.

    Failures count that were told since `since_ns` (host monotonic). A device that a source which
    works does not list is missed after `patience_ns`, until it is given up; not where another
    device has come in its place.
    """
    devices = list(settlement.devices.values())
    if status.error is not None:
        devices += settlement.metered.given_up
    simulated = {info.simulated for info in seen.infos.values()}
    for device in devices:
        info = device.info
        if info.device in seen.infos or (info.source == CPU) != (status.name == HOST):
            continue
        failure = seen.failure_of(info, since_ns)
        if failure is None and status.error is not None:
            failure = of_source(status, info, seen.failure_of(info, 0))
        if failure is None and info.simulated in simulated:
            failure = _missed(device, settlement, status.name, now_ns - patience_ns)
        if failure is not None:
            yield Unread(info, failure)


def of_source(
    status: CollectorStatus, info: DeviceInfo, known: DeviceFailure | None
) -> DeviceFailure:
    """Why a device that nothing is said of is not read: its source fails, or leaves it out.

    `known` is what was last said of it, and it was not read since.
    """
    reason = status.error or f"collector {status.name} tells nothing of it"
    kind = known.kind if known and status.kind in _SAYS_LITTLE else status.kind
    return DeviceFailure(info.device, info.index, reason, kind)


def _missed(
    device: MeteredDevice, settlement: Settlement, source: str, before_ns: int
) -> DeviceFailure | None:
    """Others are read, and it has been awaited since before then."""
    info, awaited_ns = device.info, device.awaited_since_ns
    if awaited_ns is not None:
        others = settlement.devices.values()
        news = [each for each in others if each.since_ns >= awaited_ns]
        if awaited_ns > before_ns or any(each.info.index == info.index for each in news):
            return None
    if is_part(info.device):  # MIG's instances are made anew at every boot
        return None
    reason = (
        f"the ledger knows {info.device}, and collector {source} does not list it: it was removed, "
        "or fell off the bus"
    )
    return DeviceFailure(info.device, info.index, reason, FailureKind.VANISHED)


def in_place(settlement: Settlement, seen: Seen) -> list[DeviceInfo]:
    """Those of which a failure says that they are where they were: numbers count them, too."""
    return [
        device.info
        for device in settlement.devices.values()
        if device.awaited_since_ns is None and device.info.device not in seen.infos
    ]
