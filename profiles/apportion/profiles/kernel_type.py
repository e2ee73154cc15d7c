"""What a device event is for, by its name: HolisticTraceAnalysis' rules, in its order.

Its rule for communication takes every name that begins with `hip`, and with it AMD's copies
(`hipMemcpyAsync`); here those are memory operations. On NVIDIA the two agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import numpy as np

from apportion.profiles.device_trace import Ints


class KernelType(IntEnum):
    """Closed; the number is the bit in a mask of types."""

    COMPUTATION = 0
    COMMUNICATION = 1
    MEMORY = 2
    OTHER = 3

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.name.lower()


_MEMORY: Final = re.compile(r"(hip)?Mem(cpy|set)|dma")
# `ncclKernel`, `ncclDevKernel_...` and `nccl:...`; a template may stand before the name.
_COMMUNICATION: Final = re.compile(r"(?i:nccl|hccl)|hip|.*nccl(Dev)?Kernel")
_NO_COMPUTATION: Final = re.compile(
    r".*Memcpy|.*Memset|.*dma|.*Sync|Stream Wait Event|cuda.*LaunchKernel|runFunction|job_exe|"
    r"packet|pe_exe|cpum_exe_subgraph|collective_subgraph_execution"
)


def kernel_type(name: str) -> KernelType:
    """The type of one device event."""
    if _MEMORY.match(name):
        return KernelType.MEMORY
    if _COMMUNICATION.match(name):
        return KernelType.COMMUNICATION
    if _NO_COMPUTATION.match(name):
        return KernelType.OTHER
    return KernelType.COMPUTATION


def kernel_types(names: Sequence[str], codes: Ints) -> Ints:
    """The type of each event whose name is `names[code]`. Shape of `codes`."""
    used = np.unique(codes)
    table = np.zeros(len(names), dtype=np.int64)
    table[used] = [kernel_type(names[int(code)]) for code in used]
    chosen: Ints = table[codes]
    return chosen
