"""All GPUs of a node: isolation, retries, lifecycle."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from apportion.collectors.collector import FailureKind
from apportion.collectors.nvml import FIRST_RETRY, Looked, NvmlReader, NvmlStalled
from apportion.collectors.nvml_error import NvmlAbsent, NvmlCode, NvmlSourceLost
from apportion.collectors.nvml_lane import Outcome
from apportion.collectors.testing import EVERY_CALL, FakeGpu, FakeNvml
from apportion.core.clock import ManualClock
from apportion.core.errors import CollectorError, SourceLost
from apportion.core.units import NS_PER_SECOND


def three() -> tuple[FakeNvml, NvmlReader, ManualClock]:
    library = FakeNvml([FakeGpu(uuid=f"GPU-{name}") for name in "abc"])
    clock = ManualClock()
    return library, NvmlReader(library, clock), clock


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (NvmlCode.GPU_IS_LOST, FailureKind.LOST),
        (NvmlCode.RESET_REQUIRED, FailureKind.RESET_REQUIRED),
        (NvmlCode.UNKNOWN, FailureKind.SILENT),
        (NvmlCode.NO_PERMISSION, FailureKind.FORBIDDEN),
    ],
)
def test_one_lost_gpu_among_three(code: int, kind: FailureKind) -> None:
    """The others go on in the same sweep, and the lost one is named with its reason."""
    library, reader, _ = three()
    reader.open()
    assert len(reader.read().readings) == 3
    library.gpus[1].errors[EVERY_CALL] = code
    batch = reader.read()
    assert [reading.device for reading in batch.readings] == ["GPU-a", "GPU-c"]
    (failure,) = batch.failures
    assert (failure.device, failure.index, failure.kind) == ("GPU-b", 1, kind)
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
    clock.advance(FIRST_RETRY * NS_PER_SECOND)
    assert len(reader.read().failures) == 1
    assert library.calls["device_get_handle_by_index", 2] == looked + 1
    library.gpus[2].errors.clear()
    clock.advance(2 * FIRST_RETRY * NS_PER_SECOND)
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


def test_what_is_skipped_depends_on_how_many_there_are() -> None:
    """A GPU that vanished shifts the indexes of others: a healthy one must not be left out."""
    library = FakeNvml([FakeGpu(uuid=f"GPU-{name}") for name in "ab"])
    reader = NvmlReader(library, ManualClock(), skip=frozenset({1}), count=3)
    reader.open()
    assert (reader.indexes, reader.count) == ((0, 1), 2)


class SlowLane:
    """A lane whose calls take as long as the test says, by the clock that it turns."""

    def __init__(self, clock: ManualClock, delays_ns: dict[int, int]) -> None:
        self._clock = clock
        self._delays_ns = delays_ns
        self._call: Callable[[], Looked] | None = None
        self._due_ns = 0
        self._begun_ns = 0

    def begin(self, call: Callable[[], Looked]) -> None:
        index = call.args[0]  # type: ignore[attr-defined]
        self._call = call
        self._begun_ns = self._clock.monotonic_ns()
        self._due_ns = self._begun_ns + self._delays_ns.get(index, 0)

    def outcome(self, patience_ns: int) -> Outcome[Looked] | None:
        left_ns = self._due_ns - self._clock.monotonic_ns()
        self._clock.advance(max(0, min(left_ns, patience_ns)))
        if left_ns > patience_ns or self._call is None:
            return None
        try:
            return Outcome(self._call(), took_ns=self._due_ns - self._begun_ns)
        except CollectorError as error:
            return Outcome(error=error, took_ns=self._due_ns - self._begun_ns)

    def close(self) -> None:
        self._call = None


def slow_reader(delays_ns: dict[int, int]) -> tuple[FakeNvml, NvmlReader, ManualClock]:
    """Three GPUs, some of which take their time; patience is half a second, a failure five."""
    library = FakeNvml([FakeGpu(uuid=f"GPU-{name}") for name in "abc"])
    clock = ManualClock()
    reader = NvmlReader(library, clock, lanes=lambda: SlowLane(clock, delays_ns))
    reader.open()
    return library, reader, clock


def devices(reader: NvmlReader) -> list[str]:
    return [reading.device for reading in reader.read().readings]


def test_a_gpu_that_hangs_keeps_nobody_waiting_twice() -> None:
    """Half a second once; from then on it is looked after, and after five seconds it has failed."""
    _, reader, clock = slow_reader({1: 3_600 * NS_PER_SECOND})
    begun_ns = clock.monotonic_ns()
    assert devices(reader) == ["GPU-a", "GPU-c"]
    assert clock.monotonic_ns() - begun_ns == NS_PER_SECOND // 2
    for _ in range(4):
        clock.advance(NS_PER_SECOND)
        before_ns = clock.monotonic_ns()
        batch = reader.read()
        assert [reading.device for reading in batch.readings] == ["GPU-a", "GPU-c"]
        assert batch.failures == ()
        assert clock.monotonic_ns() == before_ns
    clock.advance(NS_PER_SECOND)
    (failure,) = reader.read().failures
    assert (failure.index, failure.kind) == (1, FailureKind.HANGING)
    assert "has not answered for 6 s: a call hangs" in failure.reason
    assert reader.is_hanging


def test_nothing_is_shut_down_under_a_call_that_hangs() -> None:
    """NVML would wait for it, or crash; the end of the process lets go."""
    library, reader, _ = slow_reader({1: 3_600 * NS_PER_SECOND})
    reader.read()
    reader.close()
    assert library.opened == 1


def test_a_slow_gpu_comes_late_and_delays_nobody_more_than_once() -> None:
    """Its readings are true, only later; once it is quick again it is read with the others."""
    delays_ns = {1: 900_000_000}
    _, reader, clock = slow_reader(delays_ns)
    seen: list[list[str]] = []
    took_ns: list[int] = []
    for _ in range(5):
        begun_ns = clock.monotonic_ns()
        seen.append(devices(reader))
        took_ns.append(clock.monotonic_ns() - begun_ns)
        clock.advance(NS_PER_SECOND - took_ns[-1])
    assert seen == [["GPU-a", "GPU-c"], *[["GPU-a", "GPU-b", "GPU-c"]] * 4]
    assert took_ns == [NS_PER_SECOND // 2, 0, 0, 0, 0]
    delays_ns.clear()
    for _ in range(2):
        assert len(devices(reader)) == 3
        clock.advance(NS_PER_SECOND)
    assert not reader.is_hanging


def test_a_call_that_returns_after_all_brings_the_gpu_back() -> None:
    """A failure that has passed is over without anybody's help."""
    _, reader, clock = slow_reader({1: 10 * NS_PER_SECOND})
    for _ in range(8):
        clock.advance(NS_PER_SECOND)
        reader.read()
    assert reader.read().failures
    clock.advance(10 * NS_PER_SECOND)
    assert len(devices(reader)) == 3


def test_all_hanging_is_all_of_nvml() -> None:
    """Another process may do without the one that hung first."""
    hour_ns = 3_600 * NS_PER_SECOND
    _, reader, clock = slow_reader({0: hour_ns, 1: hour_ns, 2: hour_ns})
    reader.read()
    clock.advance(10 * NS_PER_SECOND)
    with pytest.raises(NvmlStalled, match="none of 3 GPUs answers") as stalled:
        reader.read()
    assert stalled.value.index == 0


def test_an_error_out_of_a_lane_is_the_readers() -> None:
    """The driver's end concerns all of NVML, wherever it was noticed."""
    library, reader, _ = slow_reader({})
    library.gpus[1].errors[EVERY_CALL] = NvmlCode.LIB_RM_VERSION_MISMATCH
    with pytest.raises(NvmlSourceLost):
        reader.read()


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
