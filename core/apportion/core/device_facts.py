"""What a device can do at most: arithmetic and memory, by NVML's name of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_TERA: Final = 1e12
_GIGA: Final = 1e9


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """Peaks of one device, without sparsity.

    `flop_per_s` is of 16-bit floats (of a V100 or T4 fp16, else bf16) in the tensor cores;
    `flop_per_s_8bit` of fp8, None where the device has none.
    """

    name: str
    flop_per_s: float
    bytes_per_s: float
    flop_per_s_8bit: float | None = None

    @classmethod
    def named(cls, nvml_name: str) -> DeviceFacts | None:
        """The facts of the device that NVML calls so; None where they are not known here."""
        return _KNOWN.get(nvml_name)

    @staticmethod
    def names() -> tuple[str, ...]:
        """The names that `named` knows, for a message."""
        return tuple(_KNOWN)

    def flop_per_s_of(self, bytes_per_parameter: float) -> float:
        """The peak for a model's parameters: 8 bits where both can, else 16.

        Parameters of fewer bits are unpacked first and multiplied in 16.
        """
        if bytes_per_parameter == 1.0 and self.flop_per_s_8bit is not None:
            return self.flop_per_s_8bit
        return self.flop_per_s


def _device(
    name: str, teraflop: float, gigabyte: float, teraflop_8bit: float | None
) -> DeviceFacts:
    eight = None if teraflop_8bit is None else teraflop_8bit * _TERA
    return DeviceFacts(name, teraflop * _TERA, gigabyte * _GIGA, eight)


# NVIDIA's data sheets, read 2026-11: dense TFLOP/s (half of a figure with sparsity) and GB/s.
_KNOWN: Final = {
    facts.name: facts
    for facts in (
        _device("NVIDIA B200", 2250, 8000, 4500),
        _device("NVIDIA H200", 989, 4800, 1979),
        _device("NVIDIA H200 NVL", 835, 4800, 1671),
        _device("NVIDIA H100 80GB HBM3", 989, 3350, 1979),
        _device("NVIDIA H100 NVL", 835, 3900, 1671),
        _device("NVIDIA H100 PCIe", 756, 2000, 1513),
        _device("NVIDIA A100-SXM4-80GB", 312, 2039, None),
        _device("NVIDIA A100-SXM4-40GB", 312, 1555, None),
        _device("NVIDIA A100 80GB PCIe", 312, 1935, None),
        _device("NVIDIA A100-PCIE-40GB", 312, 1555, None),
        _device("NVIDIA L40S", 362, 864, 733),
        _device("NVIDIA L4", 121, 300, 242),
        _device("NVIDIA A10", 125, 600, None),
        _device("Tesla T4", 65, 320, None),
        _device("Tesla V100-SXM2-16GB", 125, 900, None),
        _device("Tesla V100-SXM2-32GB", 125, 900, None),
    )
}
