"""NVML's return codes and the tree they map to."""

from __future__ import annotations

import pynvml  # pyright: ignore[reportMissingTypeStubs]
import pytest

from apportion.collectors.nvml_error import (
    NvmlAbsent,
    NvmlCode,
    NvmlDeviceLost,
    NvmlEmpty,
    NvmlError,
    NvmlForbidden,
    NvmlSourceLost,
    NvmlTransient,
    NvmlUnsupported,
    error_of,
)
from apportion.core.errors import CollectorError, DeviceLost, NoData, SourceLost


def test_codes_are_those_of_nvidia_ml_py() -> None:
    """A code that is off by one would turn a lost GPU into an unsupported value."""
    prefix = "NVML_ERROR_"
    theirs = {
        name.removeprefix(prefix): value
        for name, value in vars(pynvml).items()
        if name.startswith(prefix) and isinstance(value, int)
    }
    ours = {code.name: code.value for code in NvmlCode if code is not NvmlCode.SUCCESS}
    assert theirs == ours


@pytest.mark.parametrize(
    ("code", "kind", "base"),
    [
        (NvmlCode.UNINITIALIZED, NvmlSourceLost, SourceLost),
        (NvmlCode.LIB_RM_VERSION_MISMATCH, NvmlSourceLost, SourceLost),
        (NvmlCode.OPERATING_SYSTEM, NvmlSourceLost, SourceLost),
        (NvmlCode.DRIVER_NOT_LOADED, NvmlAbsent, NoData),
        (NvmlCode.LIBRARY_NOT_FOUND, NvmlAbsent, NoData),
        (NvmlCode.GPU_IS_LOST, NvmlDeviceLost, DeviceLost),
        (NvmlCode.RESET_REQUIRED, NvmlDeviceLost, DeviceLost),
        (NvmlCode.GPU_NOT_FOUND, NvmlDeviceLost, DeviceLost),
        (NvmlCode.NOT_SUPPORTED, NvmlUnsupported, CollectorError),
        (NvmlCode.FUNCTION_NOT_FOUND, NvmlUnsupported, CollectorError),
        (NvmlCode.NO_PERMISSION, NvmlForbidden, NvmlUnsupported),
        (NvmlCode.NOT_FOUND, NvmlEmpty, CollectorError),
        (NvmlCode.TIMEOUT, NvmlTransient, CollectorError),
        (NvmlCode.UNKNOWN, NvmlTransient, CollectorError),
        (4711, NvmlTransient, CollectorError),
    ],
)
def test_code_maps_to_tree(code: int, kind: type[NvmlError], base: type[CollectorError]) -> None:
    """Who is lost, device or source or nothing, decides what is opened again."""
    error = error_of(code, "nvmlDeviceGetSomething")
    assert type(error) is kind
    assert isinstance(error, base)
    assert error.code == code


def test_message_names_call_code_and_advice() -> None:
    """An operator reads the sentence, not the table."""
    sentence = str(error_of(NvmlCode.LIB_RM_VERSION_MISMATCH, "nvmlInit"))
    assert "nvmlInit" in sentence
    assert "LIB_RM_VERSION_MISMATCH (18)" in sentence
    assert "reboot" in sentence
