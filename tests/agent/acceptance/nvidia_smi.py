"""A stand-in for NVIDIA's `nvidia-smi`: it answers `--query-gpu` from the SIMULATED library.

As an executable it takes the two flags that are used, prints what the real one would in the same
form, and knows no field that is not below. `NVIDIA_SMI_LIES` is a field that it doubles,
`NVIDIA_SMI_OLD` one that it does not know yet.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

nvml: Any = import_module("pynvml")  # it has no types
Handle = Any
FIELDS: dict[str, Callable[[Handle], object]] = {
    "uuid": nvml.nvmlDeviceGetUUID,
    "name": nvml.nvmlDeviceGetName,
    "driver_version": lambda _: nvml.nvmlSystemGetDriverVersion(),
    "power.draw.instant": lambda h: f"{nvml.nvmlDeviceGetPowerUsage(h) / 1e3:.2f}",
    "enforced.power.limit": lambda h: f"{nvml.nvmlDeviceGetEnforcedPowerLimit(h) / 1e3:.2f}",
    "temperature.gpu": lambda h: nvml.nvmlDeviceGetTemperature(h, 0),
    "utilization.gpu": lambda h: nvml.nvmlDeviceGetUtilizationRates(h).gpu,
    "memory.used": lambda h: nvml.nvmlDeviceGetMemoryInfo(h, nvml.nvmlMemory_v2).used >> 20,
    "memory.total": lambda h: nvml.nvmlDeviceGetMemoryInfo(h, nvml.nvmlMemory_v2).total >> 20,
    "clocks.sm": lambda h: nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_SM),
    "clocks.mem": lambda _: "[N/A]",
}


def main(arguments: list[str]) -> int:
    """Answer one question about all GPUs."""
    query, form = arguments
    assert form == "--format=csv,noheader,nounits"
    asked = query.removeprefix("--query-gpu=").split(",")
    lies = os.environ.get("NVIDIA_SMI_LIES")
    for field in asked:
        if field not in FIELDS or field == os.environ.get("NVIDIA_SMI_OLD"):
            print(f'Field "{field}" is not a valid field to query.\n')
            return 2
    nvml.nvmlInit()
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        row = {field: str(FIELDS[field](handle)) for field in asked}
        if lies is not None:
            row[lies] = str(2 * float(row[lies]))
        print(", ".join(row.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
