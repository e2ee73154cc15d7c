"""The models of GPU that can be simulated, as a table of facts.

H100: the identifiers, memory, clocks, limits and idle power that an `nvidia-smi -q` of a real
H100 80GB HBM3 on driver 590.48.01 shows, as published with utkuozdemir/nvidia_gpu_exporter; its
thermal thresholds are those of NVIDIA/k8s-test-infra's mocknvml profile. The others are commonly
reported figures, UNVERIFIED: neither looked up nor checked on hardware. Traffic and heat are
assumptions of the model, not data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024

ARCHITECTURE_TURING: Final = 6
ARCHITECTURE_AMPERE: Final = 7
ARCHITECTURE_ADA: Final = 8
ARCHITECTURE_HOPPER: Final = 9
BRAND_NVIDIA: Final = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One model of GPU.

    `averages_power`: NVML's power is the average of a second (Ampere and newer without GA100).
    `nvlink_bytes_per_second` (each link and direction) and `pcie_bytes_per_second` (each
    direction) are the traffic at full utilisation. `heat_kelvin` is by how much full power warms
    the die above the inlet; `memory_kelvin`, None where no sensor is read, is the memory's
    temperature relative to the die's.
    """

    name: str
    architecture: int
    compute_capability: tuple[int, int]
    pci_device_id: int
    pci_subsystem_id: int
    cores: int
    memory_bus_bits: int
    memory_total_bytes: int
    memory_reserved_bytes: int
    bar1_total_bytes: int
    power_idle_mw: int
    power_limit_mw: int
    power_min_mw: int
    idle_mhz: int
    graphics_mhz: int
    memory_idle_mhz: int
    memory_mhz: int
    video_idle_mhz: int
    video_mhz: int
    idle_performance_state: int
    shutdown_c: int
    slowdown_c: int
    memory_max_c: int
    gpu_max_c: int
    nvlink_count: int
    nvlink_version: int
    nvlink_speed_mbps: int
    pcie_generation: int
    pcie_width: int
    averages_power: bool
    has_mig: bool
    inlet_c: float
    heat_kelvin: float
    memory_kelvin: float | None
    heat_lag_seconds: float
    nvlink_bytes_per_second: int
    pcie_bytes_per_second: int


PROFILES: Final[dict[str, Profile]] = {
    "h100": Profile(
        name="NVIDIA H100 80GB HBM3",
        architecture=ARCHITECTURE_HOPPER,
        compute_capability=(9, 0),
        pci_device_id=0x233010DE,
        pci_subsystem_id=0x16C110DE,
        cores=16_896,
        memory_bus_bits=5_120,
        memory_total_bytes=81_559 * MIB,
        memory_reserved_bytes=479 * MIB,
        bar1_total_bytes=131_072 * MIB,
        power_idle_mw=70_000,
        power_limit_mw=700_000,
        power_min_mw=200_000,
        idle_mhz=345,
        graphics_mhz=1_980,
        memory_idle_mhz=2_619,
        memory_mhz=2_619,
        video_idle_mhz=765,
        video_mhz=1_545,
        idle_performance_state=0,
        shutdown_c=92,
        slowdown_c=87,
        memory_max_c=95,
        gpu_max_c=83,
        nvlink_count=18,
        nvlink_version=4,
        nvlink_speed_mbps=26_562,
        pcie_generation=5,
        pcie_width=16,
        averages_power=True,
        has_mig=True,
        inlet_c=25.0,
        heat_kelvin=38.0,
        memory_kelvin=-5.0,
        heat_lag_seconds=15.0,
        nvlink_bytes_per_second=2_000_000_000,
        pcie_bytes_per_second=3_000_000_000,
    ),
    "a100": Profile(
        name="NVIDIA A100-SXM4-80GB",
        architecture=ARCHITECTURE_AMPERE,
        compute_capability=(8, 0),
        pci_device_id=0x20B210DE,
        pci_subsystem_id=0x146310DE,
        cores=6_912,
        memory_bus_bits=5_120,
        memory_total_bytes=81_920 * MIB,
        memory_reserved_bytes=671 * MIB,
        bar1_total_bytes=131_072 * MIB,
        power_idle_mw=60_000,
        power_limit_mw=400_000,
        power_min_mw=100_000,
        idle_mhz=210,
        graphics_mhz=1_410,
        memory_idle_mhz=1_593,
        memory_mhz=1_593,
        video_idle_mhz=585,
        video_mhz=1_290,
        idle_performance_state=0,
        shutdown_c=92,
        slowdown_c=89,
        memory_max_c=95,
        gpu_max_c=85,
        nvlink_count=12,
        nvlink_version=3,
        nvlink_speed_mbps=25_000,
        pcie_generation=4,
        pcie_width=16,
        averages_power=False,
        has_mig=True,
        inlet_c=25.0,
        heat_kelvin=35.0,
        memory_kelvin=-3.0,
        heat_lag_seconds=15.0,
        nvlink_bytes_per_second=2_000_000_000,
        pcie_bytes_per_second=1_500_000_000,
    ),
    "l40s": Profile(
        name="NVIDIA L40S",
        architecture=ARCHITECTURE_ADA,
        compute_capability=(8, 9),
        pci_device_id=0x26B910DE,
        pci_subsystem_id=0x185110DE,
        cores=18_176,
        memory_bus_bits=384,
        memory_total_bytes=46_068 * MIB,
        memory_reserved_bytes=603 * MIB,
        bar1_total_bytes=65_536 * MIB,
        power_idle_mw=35_000,
        power_limit_mw=350_000,
        power_min_mw=100_000,
        idle_mhz=210,
        graphics_mhz=2_520,
        memory_idle_mhz=405,
        memory_mhz=9_001,
        video_idle_mhz=1_185,
        video_mhz=1_965,
        idle_performance_state=8,
        shutdown_c=103,
        slowdown_c=100,
        memory_max_c=0,
        gpu_max_c=88,
        nvlink_count=0,
        nvlink_version=0,
        nvlink_speed_mbps=0,
        pcie_generation=4,
        pcie_width=16,
        averages_power=True,
        has_mig=False,
        inlet_c=28.0,
        heat_kelvin=42.0,
        memory_kelvin=None,
        heat_lag_seconds=25.0,
        nvlink_bytes_per_second=0,
        pcie_bytes_per_second=1_500_000_000,
    ),
    "t4": Profile(
        name="Tesla T4",
        architecture=ARCHITECTURE_TURING,
        compute_capability=(7, 5),
        pci_device_id=0x1EB810DE,
        pci_subsystem_id=0x12A210DE,
        cores=2_560,
        memory_bus_bits=256,
        memory_total_bytes=15_360 * MIB,
        memory_reserved_bytes=448 * MIB,
        bar1_total_bytes=256 * MIB,
        power_idle_mw=10_000,
        power_limit_mw=70_000,
        power_min_mw=60_000,
        idle_mhz=300,
        graphics_mhz=1_590,
        memory_idle_mhz=405,
        memory_mhz=5_001,
        video_idle_mhz=540,
        video_mhz=1_470,
        idle_performance_state=8,
        shutdown_c=96,
        slowdown_c=93,
        memory_max_c=0,
        gpu_max_c=85,
        nvlink_count=0,
        nvlink_version=0,
        nvlink_speed_mbps=0,
        pcie_generation=3,
        pcie_width=16,
        averages_power=False,
        has_mig=False,
        inlet_c=28.0,
        heat_kelvin=45.0,
        memory_kelvin=None,
        heat_lag_seconds=30.0,
        nvlink_bytes_per_second=0,
        pcie_bytes_per_second=700_000_000,
    ),
}
