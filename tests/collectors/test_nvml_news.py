"""What becomes of the answers of a sweep in the parent."""

from __future__ import annotations

from apportion.collectors.collector import FailureKind
from apportion.collectors.nvml_messages import DeviceAnswer, End
from apportion.collectors.nvml_news import NvmlNews
from apportion.core.clock import ManualClock
from apportion.core.ids import DeviceId
from apportion.core.reading import Reading
from apportion.core.units import MonotonicNs

GPUS = (DeviceId("GPU-0"), DeviceId("GPU-1"))


def answer(index: int) -> DeviceAnswer:
    reading = Reading(GPUS[index], MonotonicNs(1))
    return DeviceAnswer(index, readings=(reading,), gpu=GPUS[index])


def failures(news: NvmlNews, *answers: DeviceAnswer) -> dict[DeviceId | None, FailureKind]:
    """What has failed in a sweep of these answers."""
    for one in answers:
        news.add(one)
    readable = frozenset(one.gpu for one in answers if one.gpu is not None)
    news.swept(End(1, 0, 0, 0), readable, ())
    return {failure.device: failure.kind for failure in news.batch().failures}


def test_a_gpu_that_is_waited_for_has_not_vanished() -> None:
    """A slow call is no reason to send somebody to the machine; a GPU that is not listed is."""
    news = NvmlNews(ManualClock())
    assert failures(news, answer(0), answer(1)) == {}
    assert failures(news, answer(0), DeviceAnswer(1)) == {}
    assert failures(news, answer(0)) == {GPUS[1]: FailureKind.VANISHED}


def test_a_late_gpu_whose_place_is_not_known_is_nobody() -> None:
    """NVML was opened anew and lists other GPUs: which one is late nobody can say."""
    news = NvmlNews(ManualClock())
    failures(news, answer(0), answer(1))
    news.forget_places()
    assert failures(news, answer(0), DeviceAnswer(1)) == {}
