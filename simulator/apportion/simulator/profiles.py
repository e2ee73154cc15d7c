"""The models of GPU that can be simulated, as a table of facts.

H100: the identifiers, memory, clocks, limits and idle power that an `nvidia-smi -q` of a real
H100 80GB HBM3 on driver 590.48.01 shows, as published with utkuozdemir/nvidia_gpu_exporter; its
thermal thresholds are those of NVIDIA/k8s-test-infra's mocknvml profile. The others are commonly
reported figures, UNVERIFIED: neither looked up nor checked on hardware. Traffic and heat are
assumptions of the model, not data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

MIB: Final = 1024 * 1024

ARCHITECTURE_TURING: Final = 6
ARCHITECTURE_AMPERE: Final = 7
ARCHITECTURE_ADA: Final = 8
ARCHITECTURE_HOPPER: Final = 9
ARCHITECTURE_BLACKWELL: Final = 10
BRAND_NVIDIA: Final = 14
NVLINK_3, NVLINK_4, NVLINK_5 = 4, 6, 7
"""As nvmlNvlinkVersion_t counts them."""

MigProfiles = Mapping[str, tuple[int, int]]
"""Compute and memory slices of each MIG profile: of seven and of eight."""
NO_MIG: Final[MigProfiles] = MappingProxyType({})


def _mig(eighth_gb: int, quarter_gb: int, half_gb: int, whole_gb: int) -> MigProfiles:
    """The profiles of a model, whose names round its memory to whole gigabytes."""
    return MappingProxyType(
        {
            f"1g.{eighth_gb}gb": (1, 1),
            f"1g.{quarter_gb}gb": (1, 2),
            f"2g.{quarter_gb}gb": (2, 2),
            f"3g.{half_gb}gb": (3, 4),
            f"4g.{half_gb}gb": (4, 4),
            f"7g.{whole_gb}gb": (7, 8),
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One model of GPU.

    `averages_power`: NVML's power is the average of a second (Ampere and newer without GA100).
    `mig_profiles` is empty where there is no MIG; an instance's memory and multiprocessors are
    plain eighths of the device's, which real ones are only nearly.
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
    multiprocessors: int
    mig_profiles: MigProfiles
    inlet_c: float
    heat_kelvin: float
    memory_kelvin: float | None
    heat_lag_seconds: float
    nvlink_bytes_per_second: int
    pcie_bytes_per_second: int

    @property
    def has_gpm(self) -> bool:
        """Activity between two samples, from Hopper on."""
        return self.architecture >= ARCHITECTURE_HOPPER

    @property
    def remaps_rows(self) -> bool:
        """Bad memory is remapped by rows from Ampere on; before, pages are retired."""
        return self.architecture >= ARCHITECTURE_AMPERE

    @property
    def has_nvlink5(self) -> bool:
        """From Blackwell on links count bytes, each for itself."""
        return self.nvlink_count > 0 and self.architecture >= ARCHITECTURE_BLACKWELL


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
        nvlink_version=NVLINK_4,
        nvlink_speed_mbps=26_562,
        pcie_generation=5,
        pcie_width=16,
        averages_power=True,
        multiprocessors=132,
        mig_profiles=_mig(10, 20, 40, 80),
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
        nvlink_version=NVLINK_3,
        nvlink_speed_mbps=25_000,
        pcie_generation=4,
        pcie_width=16,
        averages_power=False,
        multiprocessors=108,
        mig_profiles=_mig(10, 20, 40, 80),
        inlet_c=25.0,
        heat_kelvin=35.0,
        memory_kelvin=-3.0,
        heat_lag_seconds=15.0,
        nvlink_bytes_per_second=2_000_000_000,
        pcie_bytes_per_second=1_500_000_000,
    ),
    "h200": Profile(
        name="NVIDIA H200",
        architecture=ARCHITECTURE_HOPPER,
        compute_capability=(9, 0),
        pci_device_id=0x233510DE,
        pci_subsystem_id=0x18BE10DE,
        cores=16_896,
        memory_bus_bits=6_144,
        memory_total_bytes=143_771 * MIB,
        memory_reserved_bytes=614 * MIB,
        bar1_total_bytes=262_144 * MIB,
        power_idle_mw=75_000,
        power_limit_mw=700_000,
        power_min_mw=200_000,
        idle_mhz=345,
        graphics_mhz=1_980,
        memory_idle_mhz=3_201,
        memory_mhz=3_201,
        video_idle_mhz=765,
        video_mhz=1_545,
        idle_performance_state=0,
        shutdown_c=92,
        slowdown_c=87,
        memory_max_c=95,
        gpu_max_c=83,
        nvlink_count=18,
        nvlink_version=NVLINK_4,
        nvlink_speed_mbps=26_562,
        pcie_generation=5,
        pcie_width=16,
        averages_power=True,
        multiprocessors=132,
        mig_profiles=_mig(18, 35, 71, 141),
        inlet_c=25.0,
        heat_kelvin=38.0,
        memory_kelvin=-5.0,
        heat_lag_seconds=15.0,
        nvlink_bytes_per_second=2_000_000_000,
        pcie_bytes_per_second=3_000_000_000,
    ),
    "b200": Profile(
        name="NVIDIA B200",
        architecture=ARCHITECTURE_BLACKWELL,
        compute_capability=(10, 0),
        pci_device_id=0x290110DE,
        pci_subsystem_id=0x199910DE,
        cores=18_944,
        memory_bus_bits=8_192,
        memory_total_bytes=183_359 * MIB,
        memory_reserved_bytes=1_024 * MIB,
        bar1_total_bytes=262_144 * MIB,
        power_idle_mw=140_000,
        power_limit_mw=1_000_000,
        power_min_mw=200_000,
        idle_mhz=120,
        graphics_mhz=1_965,
        memory_idle_mhz=3_996,
        memory_mhz=3_996,
        video_idle_mhz=765,
        video_mhz=1_545,
        idle_performance_state=0,
        shutdown_c=92,
        slowdown_c=87,
        memory_max_c=95,
        gpu_max_c=83,
        nvlink_count=18,
        nvlink_version=NVLINK_5,
        nvlink_speed_mbps=53_125,
        pcie_generation=5,
        pcie_width=16,
        averages_power=True,
        multiprocessors=148,
        mig_profiles=_mig(23, 45, 90, 180),
        inlet_c=25.0,
        heat_kelvin=35.0,
        memory_kelvin=-5.0,
        heat_lag_seconds=15.0,
        nvlink_bytes_per_second=4_000_000_000,
        pcie_bytes_per_second=3_000_000_000,
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
        multiprocessors=142,
        mig_profiles=NO_MIG,
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
        multiprocessors=40,
        mig_profiles=NO_MIG,
        inlet_c=28.0,
        heat_kelvin=45.0,
        memory_kelvin=None,
        heat_lag_seconds=30.0,
        nvlink_bytes_per_second=0,
        pcie_bytes_per_second=700_000_000,
    ),
}
