"""What a source of devices brought, in the order in which it is true."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from apportion.agent.pipeline.seen import Seen
    from apportion.agent.pipeline.settlement import Settlement
    from apportion.collectors.collector import Batch
    from apportion.core.reading import DeviceInfo, Reading

    Read = Callable[[DeviceInfo | None, Reading], None]


def take_batch(
    batch: Batch, seen: Seen, settlement: Settlement, read: Read, *, source: str, now_ns: int
) -> None:
    """Remember a batch of `source`, hand each reading with its device to `read`, end what ended.

    Of a device that was not told of before, `read` gets None. `now_ns` is host monotonic.
    """
    # What ends may leave its id to another device: until then its readings are its own.
    before = {each.device: seen.infos.get(each.device) for each in batch.ended}
    ends = {each.device: each.time_ns for each in batch.ended}
    seen.take(batch, source, now_ns)
    for reading in batch.readings:
        device = reading.device
        read(before[device] if device in ends else seen.infos.get(device), reading)
        if ends.get(device) == reading.time_ns:
            settlement.end(device)
            del ends[device]
    for device in ends:
        settlement.end(device)
    for failure in batch.failures:
        settlement.failed(failure)
