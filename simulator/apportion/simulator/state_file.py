"""The writer of a state file.

Publishing is a seqlock with two slots. The slot that readers are not using is filled first, then
the device's sequence is stored as one aligned 8-byte word; its parity names the slot. A controller
that is killed in between leaves the last whole publication readable. Python has no store barrier:
where the processor may reorder stores, readers find a torn slot by its checksum.

A state file is made under a temporary name and renamed, so a library never maps half a header. When
the controller ends, the values stay as they were: the energy counter stands still.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from apportion.simulator.state import (
    DEVICE_BYTES,
    HEADER_BYTES,
    MAX_DEVICES,
    Device,
    DeviceFacts,
    DeviceValues,
    Header,
)

_WORD: Final = 8
_CHECKED: Final = DeviceValues.lists_checksum.offset // _WORD
"""The first word that a checksum covers; the one of the lists covers them alone."""
_LISTS: Final = DeviceValues.processes.offset // _WORD
_WEIGHTS: Final = 2 * np.arange(ctypes.sizeof(DeviceValues) // _WORD - _CHECKED, dtype="<u8") + 1
_SEQUENCE_OFFSET: Final = Device.sequence.offset
_SLOTS_OFFSET: Final = Device.slots.offset


def seal(values: DeviceValues) -> None:
    """Set both checksums: the i-th word after `checksum` times 2i+1, added up modulo 2^64."""
    weighted = np.frombuffer(bytes(values), dtype="<u8")[_CHECKED:] * _WEIGHTS
    lists = weighted[_LISTS - _CHECKED :].sum(dtype="<u8")
    values.lists_checksum = int(lists)
    rest = weighted[1 : _LISTS - _CHECKED].sum(dtype="<u8")
    # The checksum of the lists is the first word that is summed, and its weight is 1.
    values.checksum = (int(rest) + int(lists)) % 2**64


class StateFile:
    """The writer of one state file. Not thread-safe: the controller holds a lock around it."""

    def __init__(self, path: Path, header: Header, facts: Sequence[DeviceFacts]) -> None:
        if len(facts) > MAX_DEVICES:
            raise ValueError(
                f"{path}: {len(facts)} devices asked for, a state file holds {MAX_DEVICES}"
            )
        self.path = path
        self._sequences = [0] * len(facts)
        size = HEADER_BYTES + len(facts) * DEVICE_BYTES
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            os.fchmod(descriptor, 0o644)
            os.posix_fallocate(descriptor, 0, size)
            self._map = mmap.mmap(descriptor, size)
            self._map[0 : ctypes.sizeof(header)] = bytes(header)
            for index, fact in enumerate(facts):
                start = HEADER_BYTES + index * DEVICE_BYTES
                self._map[start : start + ctypes.sizeof(fact)] = bytes(fact)
            self._words = memoryview(self._map).cast("Q")
            for index in range(len(facts)):
                self.publish(index, DeviceValues())
            os.rename(temporary, path)  # noqa: PTH104  # the temporary name is a plain string
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        finally:
            os.close(descriptor)

    def publish(self, index: int, values: DeviceValues) -> None:
        """Make `values` what readers of device `index` see. Sets its sequence and checksum."""
        device = HEADER_BYTES + index * DEVICE_BYTES
        sequence = self._sequences[index] + 1
        values.sequence = sequence
        seal(values)
        slot = device + _SLOTS_OFFSET + (sequence & 1) * ctypes.sizeof(DeviceValues)
        self._map[slot : slot + ctypes.sizeof(DeviceValues)] = bytes(values)
        self._words[(device + _SEQUENCE_OFFSET) // 8] = sequence
        self._sequences[index] = sequence

    def close(self) -> None:
        """Unmap. The file stays, with its last values; closing twice is harmless."""
        self._words.release()
        self._map.close()
