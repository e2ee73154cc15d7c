"""All GPUs of a node through NVML: a bad one, and one that hangs, stays alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from apportion.collectors.collector import Batch, DeviceFailure, Ended, FailureKind
from apportion.collectors.nvml_error import (
    NvmlAbsent,
    NvmlCode,
    NvmlError,
    NvmlSourceLost,
)
from apportion.collectors.nvml_gpu import NvmlGpu
from apportion.collectors.nvml_lane import InlineLane, Lane, Outcome
from apportion.collectors.nvml_library import NvmlHandle, NvmlLibrary
from apportion.collectors.nvml_messages import DeviceAnswer
from apportion.core.clock import Clock
from apportion.core.errors import DeviceLost, NoData, SourceLost
from apportion.core.ids import DeviceId
from apportion.core.units import NS_PER_SECOND, seconds

FIRST_RETRY: Final = 5
LONGEST_RETRY: Final = 300
"""Periods between two looks at a GPU that is lost; a look may cost a second of the driver."""

Looked = tuple[NvmlGpu, DeviceAnswer]


class NvmlStalled(SourceLost):
    """No GPU answers because calls do not return; the first that did not is at `index`."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


@dataclass(slots=True)
class _Seat:
    """One index of NVML's order: its GPU while it answers, its retry time while not.

    `lane` is there while its calls are not awaited by others, since `asked_ns`.
    """

    index: int
    gpu: NvmlGpu | None = None
    known: DeviceId | None = None
    failure: DeviceFailure | None = None
    retry_ns: int = 0
    pause: int = FIRST_RETRY
    lane: Lane[Looked] | None = None
    asked_ns: int = 0


class NvmlReader:
    """The domain's view of an `NvmlLibrary`. Single-threaded; `open`, `sweep` ..., `close`.

    GPUs are read one after the other in one lane. One that does not answer within `patience_ns`
    keeps that lane for itself, and the others go on in another; after `deadline_ns` it has failed.
    GPUs in `skip` are never touched, where NVML lists `count` (None: whatever it lists): if it
    lists more or fewer, indexes mean other GPUs. `lanes` makes lanes; without it calls are made in
    this thread.
    """

    def __init__(
        self,
        library: NvmlLibrary,
        clock: Clock,
        *,
        skip: frozenset[int] = frozenset(),
        count: int | None = None,
        period_ns: int = NS_PER_SECOND,
        patience_ns: int = NS_PER_SECOND // 2,
        deadline_ns: int = 5 * NS_PER_SECOND,
        lanes: Callable[[], Lane[Looked]] = InlineLane,
    ) -> None:
        self._library = library
        self._clock = clock
        self._skip, self._skip_of = skip, count
        self._period_ns = period_ns
        self._patience_ns = patience_ns
        self._deadline_ns = deadline_ns
        self._new_lane = lanes
        self._lane: Lane[Looked] | None = None
        self._seats: list[_Seat] = []
        self._count = 0
        self._driver_version = ""
        self._open = False

    @property
    def driver_version(self) -> str:
        """The driver's version; empty before `open`."""
        return self._driver_version

    @property
    def count(self) -> int:
        """How many GPUs NVML lists, those in `skip` among them."""
        return self._count

    @property
    def indexes(self) -> tuple[int, ...]:
        """The devices of a sweep, in order; those in `skip` are not among them."""
        return tuple(seat.index for seat in self._seats)

    @property
    def handles(self) -> dict[DeviceId, NvmlHandle]:
        """The GPUs that answer."""
        gpus = (seat.gpu for seat in self._seats if seat.lane is None)
        return {gpu.device: gpu.handle for gpu in gpus if gpu is not None}

    @property
    def is_hanging(self) -> bool:
        """A call has not returned: NVML cannot be shut down."""
        return any(seat.lane is not None for seat in self._seats)

    def open(self) -> None:
        """Open NVML and count the devices. None of them is touched yet.

        Raises:
            NvmlAbsent: there is no library or no driver here.
            SourceLost: NVML answers, but not as it should; or it has no device.
        """
        if self._open:
            return
        try:
            self._library.init()
            self._open = True
            self._driver_version = self._library.system_get_driver_version()
            self._count = self._library.device_get_count()
        except (NvmlAbsent, NvmlSourceLost):
            self.close()
            raise
        except NvmlError as error:
            self.close()
            raise SourceLost(f"NVML could not be opened: {error}") from error
        if self._count == 0:
            self.close()
            raise SourceLost(
                "NVML lists no GPU: the driver is loaded but no device is visible here; check "
                "/dev/nvidia*, and in a container NVIDIA_VISIBLE_DEVICES"
            )
        skip = self._skip if self._skip_of in {None, self._count} else frozenset[int]()
        self._seats = [_Seat(index) for index in range(self._count) if index not in skip]

    def sweep(self, *, fresh: bool = False) -> Iterator[DeviceAnswer]:
        """Each GPU's answer, as soon as it is there. `fresh`: see `NvmlGpu.read`.

        Raises:
            SourceLost: NVML no longer answers, or not one GPU does.
            NvmlAbsent: the driver was unloaded.
        """
        for seat in self._seats:
            yield self._answer(seat, fresh=fresh)
        if self._seats and all(seat.failure is not None for seat in self._seats):
            self._give_up()

    def read(self) -> Batch:
        """One whole sweep. Raises as `sweep` does."""
        answers = tuple(self.sweep())
        return Batch(
            readings=tuple(each for answer in answers for each in answer.readings),
            devices=tuple(each for answer in answers for each in answer.devices),
            failures=tuple(answer.failure for answer in answers if answer.failure is not None),
            sources=tuple(each for answer in answers for each in answer.sources),
            ended=tuple(
                Ended(device, answer.readings[0].time_ns)
                for answer in answers
                for device in answer.ended
            ),
        )

    def close(self) -> None:
        """Shut NVML down, so that a GPU can be reset. Harmless when repeated.

        Where a call hangs nothing is shut down: NVML would wait for it, or worse. The end of the
        process lets go.
        """
        if not self._open:
            return
        self._open = False
        hangs = self.is_hanging
        seats, self._seats = self._seats, []
        if self._lane is not None:
            self._lane.close()
            self._lane = None
        if hangs:
            return
        try:
            for seat in seats:
                if seat.gpu is not None:
                    seat.gpu.close()
            self._library.shutdown()
        except NvmlError:
            # Nothing is left to let go of: the library is gone already.
            return

    def _give_up(self) -> None:
        """Not one GPU answers: only opening NVML anew can help, in another process if it hangs."""
        reasons = [seat.failure.reason for seat in self._seats if seat.failure is not None]
        hanging = [seat for seat in self._seats if seat.lane is not None]
        sentence = f"none of {len(self._seats)} GPUs answers; the last one said: {reasons[-1]}"
        if hanging:
            raise NvmlStalled(sentence, min(hanging, key=lambda seat: seat.asked_ns).index)
        raise SourceLost(sentence)

    def _answer(self, seat: _Seat, *, fresh: bool) -> DeviceAnswer:
        """One GPU's reading, or why there is none; lost ones are looked up again later."""
        now_ns = self._clock.monotonic_ns()
        if seat.lane is not None:
            outcome = seat.lane.outcome(0)
            if outcome is None:
                return self._waiting(seat, now_ns)
            if outcome.took_ns > self._patience_ns:
                # Still slow: what it says comes a period late, and keeps nobody waiting.
                seat.lane.begin(partial(self._look, seat.index, self._gpu_of(outcome), fresh=fresh))
                seat.asked_ns = now_ns
            else:
                seat.lane.close()
                seat.lane = None
        elif seat.gpu is None and now_ns < seat.retry_ns:
            return DeviceAnswer(seat.index, failure=seat.failure)
        else:
            lane = self._lane or self._new_lane()
            self._lane = None
            lane.begin(partial(self._look, seat.index, seat.gpu, fresh=fresh))
            outcome = lane.outcome(self._patience_ns)
            if outcome is None:
                seat.lane, seat.asked_ns = lane, now_ns
                return self._waiting(seat, now_ns)
            self._lane = lane
        if outcome.error is not None:
            return self._failed(seat, outcome.error, now_ns)
        assert outcome.value is not None  # noqa: S101 - a call that raised nothing has a value
        seat.gpu, answer = outcome.value
        seat.known = seat.gpu.device
        seat.failure = None
        seat.pause = FIRST_RETRY
        return answer

    @staticmethod
    def _gpu_of(outcome: Outcome[Looked]) -> NvmlGpu | None:
        return None if outcome.value is None else outcome.value[0]

    def _look(self, index: int, gpu: NvmlGpu | None, *, fresh: bool) -> Looked:
        """In a lane: nothing of this reader is touched here."""
        if gpu is None:
            gpu = NvmlGpu(self._library, self._clock, index, self._driver_version)
        return gpu, gpu.read(fresh=fresh)

    def _waiting(self, seat: _Seat, now_ns: int) -> DeviceAnswer:
        """Nothing yet, which is a failure once it has lasted too long."""
        waited_ns = now_ns - seat.asked_ns
        if waited_ns < self._deadline_ns:
            return DeviceAnswer(seat.index, failure=seat.failure)
        reason = f"GPU {seat.index} has not answered for {seconds(waited_ns):.0f} s: a call hangs"
        seat.failure = DeviceFailure(seat.known, seat.index, reason, FailureKind.HANGING)
        return DeviceAnswer(seat.index, failure=seat.failure)

    def _failed(self, seat: _Seat, error: BaseException, now_ns: int) -> DeviceAnswer:
        """The GPU is lost until it is looked up again. What concerns all of NVML is raised."""
        if isinstance(error, (SourceLost, NoData)) or not isinstance(
            error, (DeviceLost, NvmlError)
        ):
            raise error
        seat.gpu = None
        seat.failure = DeviceFailure(seat.known, seat.index, str(error), _kind(error))
        seat.retry_ns = now_ns + seat.pause * self._period_ns
        seat.pause = min(2 * seat.pause, LONGEST_RETRY)
        return DeviceAnswer(seat.index, failure=seat.failure)


_KINDS: Final[dict[int, FailureKind]] = {
    NvmlCode.NO_PERMISSION: FailureKind.FORBIDDEN,
    NvmlCode.GPU_IS_LOST: FailureKind.LOST,
    NvmlCode.GPU_NOT_FOUND: FailureKind.LOST,
    NvmlCode.RESET_REQUIRED: FailureKind.RESET_REQUIRED,
}


def _kind(error: BaseException) -> FailureKind:
    """In one word why a GPU does not answer."""
    answered = error if isinstance(error, NvmlError) else error.__cause__
    code = answered.code if isinstance(answered, NvmlError) else NvmlCode.SUCCESS
    return _KINDS.get(code, FailureKind.SILENT)
