"""Who the simulated devices say they are: versions, UUIDs, serials, addresses, facts."""

from __future__ import annotations

import hashlib
import os
import uuid
from typing import Final

from apportion.simulator import state
from apportion.simulator.mig import COMPUTE_SLICES
from apportion.simulator.profiles import BRAND_NVIDIA, Profile

SIMULATED_MARK: Final = "simulated"
"""Part of the driver's and the library's version. Whoever reads it says SIMULATED aloud."""
STATE_VARIABLE: Final = "APPORTION_SIMULATOR_STATE"
"""The environment variable that names the state file to the library."""
DRIVER_VERSION: Final = f"580.00.{SIMULATED_MARK}"
NVML_VERSION: Final = f"13.580.{SIMULATED_MARK}"
CUDA_DRIVER_VERSION: Final = 13_000


def device_uuid(profile: Profile, seed: int, index: int) -> str:
    """`GPU-` and a UUID that depends on nothing but the arguments."""
    digest = hashlib.sha256(f"apportion/{seed}/{profile.name}/{index}".encode()).digest()
    return f"GPU-{uuid.UUID(bytes=digest[:16], version=4)}"


def first_energy_mj(profile: Profile, seed: int, index: int) -> int:
    """What the energy counter shows at the start: a real one counts since the driver loaded."""
    digest = hashlib.sha256(f"energy/{seed}/{profile.name}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def header(profile: Profile, seed: int, devices: int, pcie_query_ns: int) -> state.Header:
    """The state file's header."""
    return state.Header(
        magic=state.MAGIC,
        version=state.VERSION,
        header_bytes=state.HEADER_BYTES,
        device_bytes=state.DEVICE_BYTES,
        device_count=devices,
        seed=seed,
        cuda_driver_version=CUDA_DRIVER_VERSION,
        pcie_query_us=pcie_query_ns // 1_000,
        controller_pid=os.getpid(),
        driver_version=DRIVER_VERSION.encode(),
        nvml_version=NVML_VERSION.encode(),
        profile=profile.name.encode(),
    )


def facts(profile: Profile, seed: int, index: int) -> state.DeviceFacts:
    """All that does not change of the device at `index`."""
    serial = int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:5], "big")
    capabilities = (
        (state.CAN_AVERAGE_POWER if profile.averages_power else 0)
        | (state.CAN_MEMORY_TEMPERATURE if profile.memory_kelvin is not None else 0)
        | (state.CAN_MIG if profile.mig_profiles else 0)
        | (state.CAN_GPM if profile.has_gpm else 0)
        | (state.CAN_REMAP_ROWS if profile.remaps_rows else 0)
        | (state.HAS_NVLINK5 if profile.has_nvlink5 else 0)
    )
    return state.DeviceFacts(
        name=profile.name.encode(),
        uuid=device_uuid(profile, seed, index).encode(),
        serial=f"{serial:013d}".encode(),
        memory_total_bytes=profile.memory_total_bytes,
        memory_reserved_bytes=profile.memory_reserved_bytes,
        bar1_total_bytes=profile.bar1_total_bytes,
        pci_domain=0,
        pci_bus=0x10 + 3 * index,
        pci_device=0,
        pci_device_id=profile.pci_device_id,
        pci_subsystem_id=profile.pci_subsystem_id,
        minor_number=index,
        architecture=profile.architecture,
        brand=BRAND_NVIDIA,
        compute_major=profile.compute_capability[0],
        compute_minor=profile.compute_capability[1],
        cores=profile.cores,
        memory_bus_bits=profile.memory_bus_bits,
        power_limit_mw=profile.power_limit_mw,
        power_min_mw=profile.power_min_mw,
        power_max_mw=profile.power_limit_mw,
        power_default_mw=profile.power_limit_mw,
        max_graphics_mhz=profile.graphics_mhz,
        max_sm_mhz=profile.graphics_mhz,
        max_memory_mhz=profile.memory_mhz,
        max_video_mhz=profile.video_mhz,
        shutdown_c=profile.shutdown_c,
        slowdown_c=profile.slowdown_c,
        memory_max_c=profile.memory_max_c,
        gpu_max_c=profile.gpu_max_c,
        nvlink_count=profile.nvlink_count,
        nvlink_version=profile.nvlink_version,
        nvlink_speed_mbps=profile.nvlink_speed_mbps,
        pcie_generation=profile.pcie_generation,
        pcie_width=profile.pcie_width,
        capabilities=capabilities,
        mig_slices=COMPUTE_SLICES if profile.mig_profiles else 0,
        multiprocessors=profile.multiprocessors,
    )
