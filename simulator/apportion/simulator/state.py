"""The memory-mapped state file: its layout, and the writer that the controller uses.

The layout is declared twice, here and in `native/state.h`; a test compiles the header and compares
every size and offset, so change both together and raise `VERSION`.

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
from typing import ClassVar, Final

import numpy as np

MAGIC: Final = int.from_bytes(b"APNVSIM1", "little")
VERSION: Final = 1
HEADER_BYTES: Final = 4_096
DEVICE_BYTES: Final = 4_096
MAX_DEVICES: Final = 64
MAX_PROCESSES: Final = 32
MAX_NVLINKS: Final = 18
FAULT_BYTES: Final = 1_024

CAN_AVERAGE_POWER: Final = 1
CAN_MEMORY_TEMPERATURE: Final = 2
CAN_MIG: Final = 4

_u8, _u32, _i32, _u64 = ctypes.c_uint8, ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64
_char = ctypes.c_char


class Header(ctypes.Structure):
    """`struct sim_header`: what concerns the whole machine."""

    _fields_: ClassVar = (
        ("magic", _u64),
        ("version", _u32),
        ("header_bytes", _u32),
        ("device_bytes", _u32),
        ("device_count", _u32),
        ("seed", _u64),
        ("cuda_driver_version", _i32),
        ("pcie_query_us", _u32),
        ("controller_pid", _u32),
        ("reserved", _u32),
        ("driver_version", _char * 80),
        ("nvml_version", _char * 80),
        ("profile", _char * 64),
        ("faults", _u8 * FAULT_BYTES),
    )


class DeviceFacts(ctypes.Structure):
    """`struct sim_facts`: what never changes while the controller lives."""

    _fields_: ClassVar = (
        ("name", _char * 96),
        ("uuid", _char * 96),
        ("serial", _char * 32),
        ("memory_total_bytes", _u64),
        ("memory_reserved_bytes", _u64),
        ("bar1_total_bytes", _u64),
        ("pci_domain", _u32),
        ("pci_bus", _u32),
        ("pci_device", _u32),
        ("pci_device_id", _u32),
        ("pci_subsystem_id", _u32),
        ("minor_number", _u32),
        ("architecture", _u32),
        ("brand", _u32),
        ("compute_major", _u32),
        ("compute_minor", _u32),
        ("cores", _u32),
        ("memory_bus_bits", _u32),
        ("power_limit_mw", _u32),
        ("power_min_mw", _u32),
        ("power_max_mw", _u32),
        ("power_default_mw", _u32),
        ("max_graphics_mhz", _u32),
        ("max_sm_mhz", _u32),
        ("max_memory_mhz", _u32),
        ("max_video_mhz", _u32),
        ("shutdown_c", _u32),
        ("slowdown_c", _u32),
        ("memory_max_c", _u32),
        ("gpu_max_c", _u32),
        ("nvlink_count", _u32),
        ("nvlink_version", _u32),
        ("nvlink_speed_mbps", _u32),
        ("pcie_generation", _u32),
        ("pcie_width", _u32),
        ("capabilities", _u32),
    )


class ProcessValues(ctypes.Structure):
    """`struct sim_process`: one process on a device. Shares are percent of the device."""

    _fields_: ClassVar = (
        ("pid", _u32),
        ("sm_percent", _u32),
        ("memory_percent", _u32),
        ("reserved", _u32),
        ("used_bytes", _u64),
        ("sampled_us", _u64),
    )


class DeviceValues(ctypes.Structure):
    """`struct sim_values`: one publication. `sequence` and `checksum` are `StateFile`'s to set."""

    _fields_: ClassVar = (
        ("sequence", _u64),
        ("checksum", _u64),
        ("published_us", _u64),
        ("energy_mj", _u64),
        ("memory_used_bytes", _u64),
        ("event_reasons", _u64),
        ("pcie_tx_bytes", _u64),
        ("pcie_rx_bytes", _u64),
        ("nvlink_tx_kib", _u64 * MAX_NVLINKS),
        ("nvlink_rx_kib", _u64 * MAX_NVLINKS),
        ("power_average_mw", _u32),
        ("power_instant_mw", _u32),
        ("utilization_percent", _u32),
        ("memory_utilization_percent", _u32),
        ("graphics_mhz", _u32),
        ("sm_mhz", _u32),
        ("memory_mhz", _u32),
        ("video_mhz", _u32),
        ("temperature_c", _i32),
        ("memory_temperature_c", _i32),
        ("encoder_percent", _u32),
        ("decoder_percent", _u32),
        ("pcie_tx_kbps", _u32),
        ("pcie_rx_kbps", _u32),
        ("performance_state", _u32),
        ("process_count", _u32),
        ("processes", ProcessValues * MAX_PROCESSES),
    )


class Device(ctypes.Structure):
    """`struct sim_device`: at `HEADER_BYTES + index * DEVICE_BYTES`."""

    _fields_: ClassVar = (
        ("facts", DeviceFacts),
        ("sequence", _u64),
        ("slots", DeviceValues * 2),
    )


_CHECKED_FROM: Final = 2  # words: the sequence and the checksum itself are left out
_WEIGHTS: Final = 2 * np.arange(ctypes.sizeof(DeviceValues) // 8 - _CHECKED_FROM, dtype="<u8") + 1
_SEQUENCE_OFFSET: Final = Device.sequence.offset
_SLOTS_OFFSET: Final = Device.slots.offset


def checksum(values: DeviceValues) -> int:
    """The sum, modulo 2^64, of the words after the checksum, the i-th of them times 2i+1."""
    words = np.frombuffer(bytes(values), dtype="<u8")[_CHECKED_FROM:]
    return int((words * _WEIGHTS).sum(dtype="<u8"))


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
        values.checksum = checksum(values)
        slot = device + _SLOTS_OFFSET + (sequence & 1) * ctypes.sizeof(DeviceValues)
        self._map[slot : slot + ctypes.sizeof(DeviceValues)] = bytes(values)
        self._words[(device + _SEQUENCE_OFFSET) // 8] = sequence
        self._sequences[index] = sequence

    def close(self) -> None:
        """Unmap. The file stays, with its last values; closing twice is harmless."""
        self._words.release()
        self._map.close()
