"""All GPUs of a node: isolation, retries, lifecycle."""

from __future__ import annotations

import pytest

from apportion.collectors.nvml import FIRST_RETRY_NS, NvmlReader
from apportion.collectors.nvml_error import NvmlAbsent, NvmlCode, NvmlSourceLost
from apportion.collectors.testing import EVERY_CALL, FakeGpu, FakeNvml
from apportion.core.clock import ManualClock
from apportion.core.errors import SourceLost


def three() -> tuple[FakeNvml, NvmlReader, ManualClock]:
    library = FakeNvml([FakeGpu(uuid=f"GPU-{name}") for name in "abc"])
    clock = ManualClock()
    return library, NvmlReader(library, clock), clock


@pytest.mark.parametrize("code", [NvmlCode.GPU_IS_LOST, NvmlCode.RESET_REQUIRED, NvmlCode.UNKNOWN])
def test_one_lost_gpu_among_three(code: int) -> None:
    """The others go on in the same sweep, and the lost one is named with its reason."""
    library, reader, _ = three()
    reader.open()
    assert len(reader.read().readings) == 3
    library.gpus[1].errors[EVERY_CALL] = code
    batch = reader.read()
    assert [reading.device for reading in batch.readings] == ["GPU-a", "GPU-c"]
    (failure,) = batch.failures
    assert (failure.device, failure.index) == ("GPU-b", 1)
    assert NvmlCode(code).name in failure.reason


def test_a_gpu_that_is_lost_from_the_start() -> None:
    """nvmlInit succeeds with a bad GPU; only its handle fails, and its name is not known."""
    library, reader, _ = three()
    library.gpus[0].errors["device_get_handle_by_index"] = NvmlCode.GPU_IS_LOST
    reader.open()
    batch = reader.read()
    assert [info.device for info in batch.devices] == ["GPU-b", "GPU-c"]
    (failure,) = batch.failures
    assert (failure.device, failure.index) == (None, 0)


def test_a_lost_gpu_is_looked_up_again_with_backoff_and_comes_back() -> None:
    """Each look at a dead GPU may cost a second of the driver: not at every period."""
    library, reader, clock = three()
    reader.open()
    reader.read()
    library.gpus[2].errors[EVERY_CALL] = NvmlCode.GPU_IS_LOST
    reader.read()
    looked = library.calls["device_get_handle_by_index", 2]
    assert len(reader.read().failures) == 1
    assert library.calls["device_get_handle_by_index", 2] == looked
    clock.advance(FIRST_RETRY_NS)
    assert len(reader.read().failures) == 1
    assert library.calls["device_get_handle_by_index", 2] == looked + 1
    library.gpus[2].errors.clear()
    clock.advance(2 * FIRST_RETRY_NS)
    batch = reader.read()
    assert len(batch.readings) == 3
    assert [info.device for info in batch.devices] == ["GPU-c"]
    assert not batch.failures


def test_static_facts_come_once() -> None:
    """What does not change is not sent every second."""
    _, reader, _ = three()
    reader.open()
    first, second = reader.read(), reader.read()
    assert (len(first.devices), len(first.sources)) == (3, 3)
    assert (second.devices, second.sources) == ((), ())


def test_all_lost_is_the_source_lost() -> None:
    """Only opening NVML again can help then."""
    library, reader, _ = three()
    reader.open()
    for gpu in library.gpus:
        gpu.errors[EVERY_CALL] = NvmlCode.GPU_IS_LOST
    with pytest.raises(SourceLost, match="none of 3 GPUs"):
        reader.read()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (NvmlCode.LIBRARY_NOT_FOUND, NvmlAbsent),
        (NvmlCode.DRIVER_NOT_LOADED, NvmlAbsent),
        (NvmlCode.LIB_RM_VERSION_MISMATCH, NvmlSourceLost),
        (NvmlCode.UNKNOWN, SourceLost),
        (NvmlCode.NO_PERMISSION, SourceLost),
    ],
)
def test_opening_fails_with_a_reason(code: int, error: type[Exception]) -> None:
    """Absent is no fault; everything else is."""
    library, reader, _ = three()
    library.errors["init"] = code
    with pytest.raises(error, match=NvmlCode(code).name):
        reader.open()
    assert library.opened == 0


def test_the_driver_unloaded_under_us() -> None:
    """Not three lost devices, but no driver."""
    library, reader, _ = three()
    reader.open()
    library.gpus[0].errors[EVERY_CALL] = NvmlCode.DRIVER_NOT_LOADED
    with pytest.raises(NvmlAbsent):
        reader.read()


def test_no_device_is_a_failure() -> None:
    """An empty success would look like a node without cost."""
    library = FakeNvml([])
    reader = NvmlReader(library, ManualClock())
    with pytest.raises(SourceLost, match="lists no GPU"):
        reader.open()
    assert library.opened == 0


def test_skipped_devices_are_never_touched() -> None:
    """Asking a GPU that hangs for its handle hangs already."""
    library = FakeNvml([FakeGpu(uuid=f"GPU-{name}") for name in "abc"])
    reader = NvmlReader(library, ManualClock(), skip=frozenset({1}))
    reader.open()
    assert reader.indexes == (0, 2)
    assert len(reader.read().readings) == 2
    assert not [call for call in library.calls if call[1] == 1]


def test_open_and_close_are_balanced() -> None:
    """nvmlInit counts references: one too many keeps the GPU from being reset."""
    library, reader, _ = three()
    for _ in range(3):
        reader.open()
        reader.open()
        assert library.opened == 1
        reader.close()
        reader.close()
        assert library.opened == 0
    assert reader.indexes == ()
