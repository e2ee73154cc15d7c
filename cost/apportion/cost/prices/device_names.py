"""Clouds' names of devices, and NVML's, which price tables and ledgers use."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Final

from apportion.cost.prices.mig import MigDevice

# Left: what price lists say, in capitals, without NVIDIA and spaces. Right: nvmlDeviceGetName.
# SkyPilot's catalogue (2024-05, 2026) and providers' pages; a name that can mean two devices
# (plain A100 is the 40 GB one there, plain H100 the SXM one) is read as the catalogue means it.
_ALIASES: Final = {
    "GB200": "NVIDIA GB200",
    "B200": "NVIDIA B200",
    "H200": "NVIDIA H200",
    "H200-SXM": "NVIDIA H200",
    "H200-NVL": "NVIDIA H200 NVL",
    "GH200": "NVIDIA GH200 480GB",
    "H100": "NVIDIA H100 80GB HBM3",
    "H100-SXM": "NVIDIA H100 80GB HBM3",
    "H100-SXM5": "NVIDIA H100 80GB HBM3",
    "H100-80G-SXM5": "NVIDIA H100 80GB HBM3",
    "H100-80GB": "NVIDIA H100 80GB HBM3",
    "H100-MEGA": "NVIDIA H100 80GB HBM3",
    "H100-MEGA-80GB": "NVIDIA H100 80GB HBM3",
    "H100-PCIE": "NVIDIA H100 PCIe",
    "H100-80G-PCIE": "NVIDIA H100 PCIe",
    "H100-80G-PCIE-NVLINK": "NVIDIA H100 PCIe",
    "H100-NVL": "NVIDIA H100 NVL",
    "A100": "NVIDIA A100-SXM4-40GB",
    "A100-40GB": "NVIDIA A100-SXM4-40GB",
    "A100-SXM4": "NVIDIA A100-SXM4-40GB",
    "A100-PCIE": "NVIDIA A100-PCIE-40GB",
    "A100-80GB": "NVIDIA A100-SXM4-80GB",
    "A100-80GB-SXM": "NVIDIA A100-SXM4-80GB",
    "A100-80GB-SXM4": "NVIDIA A100-SXM4-80GB",
    "A100-80G-SXM4": "NVIDIA A100-SXM4-80GB",
    "A100-80GB-PCIE": "NVIDIA A100 80GB PCIe",
    "A100-80G-PCIE": "NVIDIA A100 80GB PCIe",
    "A100-80G-PCIE-NVLINK": "NVIDIA A100 80GB PCIe",
    "L40S": "NVIDIA L40S",
    "L40": "NVIDIA L40",
    "L4": "NVIDIA L4",
    "A10": "NVIDIA A10",
    "A10G": "NVIDIA A10G",
    "A30": "NVIDIA A30",
    "A40": "NVIDIA A40",
    "A16": "NVIDIA A16",
    "T4": "Tesla T4",
    "T4G": "NVIDIA T4G",
    "P100": "Tesla P100-PCIE-16GB",
    "P4": "Tesla P4",
    "K80": "Tesla K80",
    "M60": "Tesla M60",
    "V100": "Tesla V100-SXM2-16GB",
    "V100-16GB": "Tesla V100-SXM2-16GB",
    "V100-32GB": "Tesla V100-SXM2-32GB",
    "RTX4090": "NVIDIA GeForce RTX 4090",
    "RTX3090": "NVIDIA GeForce RTX 3090",
    "RTX3080": "NVIDIA GeForce RTX 3080",
    "RTX3060": "NVIDIA GeForce RTX 3060",
    "A4000": "NVIDIA RTX A4000",
    "A6000": "NVIDIA RTX A6000",
    "RTXA4000": "NVIDIA RTX A4000",
    "RTXA5000": "NVIDIA RTX A5000",
    "RTXA6000": "NVIDIA RTX A6000",
    "RTXA4500": "NVIDIA RTX A4500",
    "RTX-A4000": "NVIDIA RTX A4000",
    "RTX-A5000": "NVIDIA RTX A5000",
    "RTX-A6000": "NVIDIA RTX A6000",
    "RTX6000": "Quadro RTX 6000",
    "RTX5000": "Quadro RTX 5000",
    "RTX4000": "Quadro RTX 4000",
    "RTX6000-ADA": "NVIDIA RTX 6000 Ada Generation",
    "RTX6000ADA": "NVIDIA RTX 6000 Ada Generation",
}
HOST_CPU: Final = "Host CPU"
"""The device's name where a host's CPU is metered."""
_NVML: Final = frozenset(_ALIASES.values()) | {HOST_CPU}


def nvml_name(name: str) -> str | None:
    """NVML's name for what a price list calls `name`; None where it is not known here.

    A MIG instance may carry either name of its GPU: `H100 MIG 1g.10gb`.
    """
    if name in _NVML:
        return name
    alias = _ALIASES.get(name.strip().upper().removeprefix("NVIDIA ").replace(" ", "-"))
    instance = None if alias else MigDevice.named(name)
    if instance is None:
        return alias
    gpu = nvml_name(instance.gpu)
    return None if gpu is None else replace(instance, gpu=gpu).name


def similar_names(name: str) -> list[str]:
    """Names that look like `name`, for a message."""
    known = {spelling.upper(): spelling for spelling in (*_ALIASES, *_NVML)}
    close = difflib.get_close_matches(name.upper(), list(known), n=3)
    return [known[spelling] for spelling in close]
