"""What NVML's return codes mean here: one table, one small tree.

    CollectorError
    └── NvmlError                    a call answered something else than success
        ├── NvmlUnsupported          this device or driver cannot tell: None, never asked again
        │   └── NvmlForbidden        it may tell others: asked again after a while
        ├── NvmlEmpty                nothing to report now: an idle GPU is no fault
        ├── NvmlTransient            this value is missing from this reading only
        ├── NvmlAbsent (NoData)      no library or no driver on this machine
        ├── NvmlDeviceLost (DeviceLost)   one device is gone; the others go on
        └── NvmlSourceLost (SourceLost)   shut down and open again, in a new process

`UNKNOWN` is transient by itself; a device whose every value failed is lost all the same.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from apportion.core.errors import CollectorError, DeviceLost, NoData, SourceLost


class NvmlCode(IntEnum):
    """nvmlReturn_t, as in nvml.h. A test compares it with nvidia-ml-py."""

    SUCCESS = 0
    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    ALREADY_INITIALIZED = 5
    NOT_FOUND = 6
    INSUFFICIENT_SIZE = 7
    INSUFFICIENT_POWER = 8
    DRIVER_NOT_LOADED = 9
    TIMEOUT = 10
    IRQ_ISSUE = 11
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    CORRUPTED_INFOROM = 14
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    OPERATING_SYSTEM = 17
    LIB_RM_VERSION_MISMATCH = 18
    IN_USE = 19
    MEMORY = 20
    NO_DATA = 21
    VGPU_ECC_NOT_SUPPORTED = 22
    INSUFFICIENT_RESOURCES = 23
    FREQ_NOT_SUPPORTED = 24
    ARGUMENT_VERSION_MISMATCH = 25
    DEPRECATED = 26
    NOT_READY = 27
    GPU_NOT_FOUND = 28
    INVALID_STATE = 29
    RESET_TYPE_NOT_SUPPORTED = 30
    UNKNOWN = 999


class NvmlError(CollectorError):
    """`call` (a function of NVML) answered `code`."""

    def __init__(self, message: str, *, code: int, call: str) -> None:
        super().__init__(message)
        self.code = code
        self.call = call


class NvmlUnsupported(NvmlError):
    """The value does not exist on this device or driver."""


class NvmlForbidden(NvmlUnsupported):
    """The value does not exist for us: rights may be given later."""


class NvmlEmpty(NvmlError):
    """There is nothing to report, as with no process on a GPU."""


class NvmlTransient(NvmlError):
    """It may work the next time."""


class NvmlAbsent(NvmlError, NoData):
    """No NVML on this machine."""


class NvmlDeviceLost(NvmlError, DeviceLost):
    """This device no longer answers."""


class NvmlSourceLost(NvmlError, SourceLost):
    """NVML itself no longer answers in this process."""


_ANSWERS: Final[dict[int, tuple[type[NvmlError], str]]] = {
    NvmlCode.UNINITIALIZED: (NvmlSourceLost, "NVML was shut down under us; it is opened again"),
    NvmlCode.INVALID_ARGUMENT: (NvmlUnsupported, "this driver does not know what was asked for"),
    NvmlCode.NOT_SUPPORTED: (NvmlUnsupported, "this device cannot tell"),
    NvmlCode.NO_PERMISSION: (NvmlForbidden, "the agent's user may not read it"),
    NvmlCode.NOT_FOUND: (NvmlEmpty, "nothing to report"),
    NvmlCode.DRIVER_NOT_LOADED: (
        NvmlAbsent,
        "the NVIDIA kernel driver is not loaded; see `lsmod | grep nvidia` and dmesg",
    ),
    NvmlCode.LIBRARY_NOT_FOUND: (
        NvmlAbsent,
        (
            "looked for libnvidia-ml.so.1 in LD_LIBRARY_PATH and the loader's cache, found none; "
            "install the NVIDIA driver, in a container use the NVIDIA runtime with "
            "NVIDIA_DRIVER_CAPABILITIES=utility"
        ),
    ),
    NvmlCode.FUNCTION_NOT_FOUND: (NvmlUnsupported, "this driver's library is too old to have it"),
    NvmlCode.GPU_IS_LOST: (
        NvmlDeviceLost,
        "the GPU fell off the bus; look for XID 79 in dmesg and reboot the node",
    ),
    NvmlCode.RESET_REQUIRED: (
        NvmlDeviceLost,
        "the GPU needs a reset: drain it, then `nvidia-smi --gpu-reset`",
    ),
    NvmlCode.OPERATING_SYSTEM: (
        NvmlSourceLost,
        (
            "the operating system blocks the GPU's device files; a container whose device cgroup "
            "was rewritten (systemctl daemon-reload) must be made anew"
        ),
    ),
    NvmlCode.LIB_RM_VERSION_MISMATCH: (
        NvmlSourceLost,
        (
            "libnvidia-ml.so.1 and the loaded kernel driver have different versions: the driver "
            "was upgraded; reload it or reboot, and restart containers that mount the old library"
        ),
    ),
    NvmlCode.NO_DATA: (NvmlEmpty, "nothing to report"),
    NvmlCode.VGPU_ECC_NOT_SUPPORTED: (NvmlUnsupported, "this device cannot tell"),
    NvmlCode.FREQ_NOT_SUPPORTED: (NvmlUnsupported, "this device cannot tell"),
    NvmlCode.ARGUMENT_VERSION_MISMATCH: (NvmlUnsupported, "this driver knows another version"),
    NvmlCode.DEPRECATED: (NvmlUnsupported, "this driver has removed it"),
    NvmlCode.GPU_NOT_FOUND: (NvmlDeviceLost, "the driver no longer finds this GPU"),
}
_OTHERWISE: Final = (NvmlTransient, "asked again at the next reading")


def error_of(code: int, call: str) -> NvmlError:
    """The error for `code`, which is not success, as the answer of the function `call`.

    A code that this release does not know is transient.
    """
    kind, advice = _ANSWERS.get(code, _OTHERWISE)
    name = NvmlCode(code).name if code in _KNOWN else "an unknown code"
    return kind(f"{call} answered {name} ({code}): {advice}", code=code, call=call)


_KNOWN: Final = frozenset(NvmlCode)
