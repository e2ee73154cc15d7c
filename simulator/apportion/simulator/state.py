"""The layout of the memory-mapped state file.

It is declared twice, here and in `native/state.h`; a test compiles the header and compares every
size and offset, so change both together and raise `VERSION`.
"""

from __future__ import annotations

import ctypes
from typing import ClassVar, Final

MAGIC: Final = int.from_bytes(b"APNVSIM1", "little")
VERSION: Final = 2
HEADER_BYTES: Final = 4_096
DEVICE_BYTES: Final = 16_384
MAX_DEVICES: Final = 64
MAX_PROCESSES: Final = 32
MAX_NVLINKS: Final = 18
MAX_INSTANCES: Final = 7
MAX_SAMPLES: Final = 120
MAX_EVENTS: Final = 64
FAULTS: Final = 12
LIMITS: Final = 9
NO_END: Final = 2**64 - 1
"""A fault that lasts until it is cleared."""
NO_INSTANCE: Final = 2**32 - 1
"""On no MIG instance."""

CAN_AVERAGE_POWER: Final = 1
CAN_MEMORY_TEMPERATURE: Final = 2
CAN_MIG: Final = 4
CAN_GPM: Final = 8
CAN_REMAP_ROWS: Final = 16
HAS_NVLINK5: Final = 32

_u32, _i32, _u64 = ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64
_char = ctypes.c_char


class FaultSwitch(ctypes.Structure):
    """`struct sim_fault`: in force before `until_ns`, host monotonic."""

    _fields_: ClassVar = (("until_ns", _u64), ("value", _u64))


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
        ("driver_loads", _u64),
        ("faults", FaultSwitch * FAULTS),
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
        ("mig_slices", _u32),
        ("multiprocessors", _u32),
    )


class Event(ctypes.Structure):
    """`struct sim_event`: what nvmlEventData_t says of an event."""

    _fields_: ClassVar = (
        ("type", _u64),
        ("data", _u64),
        ("gpu_instance", _u32),
        ("compute_instance", _u32),
    )


class Events(ctypes.Structure):
    """`struct sim_events`: the last events of a device."""

    _fields_: ClassVar = (("count", _u64), ("ring", Event * MAX_EVENTS))


class ProcessValues(ctypes.Structure):
    """`struct sim_process`: one process on a device. Shares are percent of the device."""

    _fields_: ClassVar = (
        ("pid", _u32),
        ("sm_percent", _u32),
        ("memory_percent", _u32),
        ("gpu_instance", _u32),
        ("used_bytes", _u64),
        ("sampled_us", _u64),
        ("compute_instance", _u32),
        ("reserved", _u32),
    )


class InstanceValues(ctypes.Structure):
    """`struct sim_instance`: a MIG instance, absent where it has no compute slices."""

    _fields_: ClassVar = (
        ("uuid", _char * 64),
        ("profile", _char * 16),
        ("gpu_instance", _u32),
        ("compute_instance", _u32),
        ("compute_slices", _u32),
        ("multiprocessors", _u32),
        ("memory_total_bytes", _u64),
        ("memory_used_bytes", _u64),
        ("busy_ppm_ns", _u64),
    )


class SampleValues(ctypes.Structure):
    """`struct sim_sample`: one entry of the driver's sample buffers."""

    _fields_: ClassVar = (("time_us", _u64), ("power_mw", _u32), ("utilization_percent", _u32))


class DeviceValues(ctypes.Structure):
    """`struct sim_values`: one publication; `StateFile` sets its sequence and checksums."""

    _fields_: ClassVar = (
        ("sequence", _u64),
        ("checksum", _u64),
        ("lists_checksum", _u64),
        ("published_us", _u64),
        ("energy_mj", _u64),
        ("memory_used_bytes", _u64),
        ("event_reasons", _u64),
        ("pcie_tx_bytes", _u64),
        ("pcie_rx_bytes", _u64),
        ("nvlink_tx_bytes", _u64 * MAX_NVLINKS),
        ("nvlink_rx_bytes", _u64 * MAX_NVLINKS),
        ("elapsed_ns", _u64),
        ("busy_ppm_ns", _u64),
        ("limited_ns", _u64 * LIMITS),
        ("ecc_errors", (_u64 * 2) * 2),
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
        ("remapped_rows", _u32 * 2),
        ("remapping_pending", _u32),
        ("recovery_action", _u32),
        ("mig_enabled", _u32),
        ("sample_count", _u32),
        ("processes", ProcessValues * MAX_PROCESSES),
        ("instances", InstanceValues * MAX_INSTANCES),
        ("samples", SampleValues * MAX_SAMPLES),
    )


class Device(ctypes.Structure):
    """`struct sim_device`: at `HEADER_BYTES + index * DEVICE_BYTES`."""

    _fields_: ClassVar = (
        ("facts", DeviceFacts),
        ("faults", FaultSwitch * FAULTS),
        ("events", Events),
        ("sequence", _u64),
        ("slots", DeviceValues * 2),
    )
