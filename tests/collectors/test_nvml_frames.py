"""The pipe's format: what goes in comes out, and nothing else gets through."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.collector import DeviceFailure, DeviceSources, FailureKind
from apportion.collectors.nvml_frames import (
    LONGEST_FRAME_BYTES,
    FrameError,
    FrameReader,
    decode,
    encode,
)
from apportion.collectors.nvml_messages import (
    Begin,
    DeviceAnswer,
    End,
    Happened,
    Hello,
    Message,
    NvmlState,
    Report,
    SlowFacts,
)
from apportion.collectors.nvml_telemetry import KEYS
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, ProcessReading, Reading
from apportion.core.sample import Sample
from apportion.core.units import Bytes, Millijoules, Milliwatts, MonotonicNs

GPU = DeviceId("GPU-1")
SAMPLES = (
    Sample("device_throttle_active", 1.0, (("reason", "power"),)),
    Sample("device_ecc_errors_total", float(2**60), (("severity", "corrected"),)),
)
READING = Reading(
    device=GPU,
    time_ns=MonotonicNs(17),
    energy_mj=Millijoules(2**62),
    energy_source="energy_counter",
    power_mw=Milliwatts(350_000),
    utilization_ratio=0.5,
    activity_source="gpm",
    temperature_celsius=41.0,
    nvlink_tx_bytes=Bytes(2**50),
    samples=SAMPLES,
)
PART = Reading(DeviceId("MIG-1"), MonotonicNs(17), energy_source="power_integrated_share")
INFO = DeviceInfo(GPU, "NVIDIA H100 80GB HBM3", 3, "nvml", simulated=True, driver_version="580")
FACTS = SlowFacts(
    GPU, (ProcessReading(7, Bytes(5), 0.25), ProcessReading(8, None, None)), samples=SAMPLES
)
MESSAGES: list[Message] = [
    Hello("580.95.05", (0, 1, 3), 4),
    Begin(1),
    DeviceAnswer(3, readings=(READING,), gpu=GPU),
    DeviceAnswer(
        3,
        readings=(READING, PART),
        devices=(INFO,),
        sources=(DeviceSources(GPU, "energy_counter", "field_instant", None, ("nvlink",)),),
        slow=(FACTS,),
        ended=(GPU,),
        samples=SAMPLES,
        gpu=GPU,
    ),
    DeviceAnswer(4),
    DeviceAnswer(4, failure=DeviceFailure(None, 4, "the GPU fell off the bus")),
    DeviceAnswer(4, failure=DeviceFailure(GPU, 4, "lost", FailureKind.LOST)),
    Happened(GPU, "xid", 5, 79),
    Happened(GPU, "dram_retirement", 6),
    End(1, 12_345, 678, 1_000_000),
    Report(NvmlState.MISMATCH, "driver upgraded"),
    Report(NvmlState.STALLED, "hangs", 2),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: Message) -> None:
    """Every kind of message arrives as it was sent."""
    assert list(FrameReader().feed(encode(message))) == [message]


@given(st.lists(st.integers(0, len(MESSAGES) - 1), max_size=20), st.data())
def test_any_chunking_gives_the_same_messages(places: list[int], data: st.DataObject) -> None:
    """A pipe cuts where it likes."""
    stream = b"".join(encode(MESSAGES[place]) for place in places)
    reader, arrived = FrameReader(), list[Message]()
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        arrived.extend(reader.feed(stream[:cut]))
        stream = stream[cut:]
    assert arrived == [MESSAGES[place] for place in places]


@given(st.binary(max_size=200))
def test_random_bytes_never_pass(noise: bytes) -> None:
    """They wait for more or are refused; no other error escapes, no message comes out."""
    with contextlib.suppress(FrameError):
        assert list(FrameReader().feed(noise)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.integers(0, len(MESSAGES) - 1), st.data())
def test_a_changed_value_is_refused_or_valid(place: int, data: st.DataObject) -> None:
    """One value of a true message is replaced by any JSON: it is refused, or still in range."""
    document: Any = json.loads(encode(MESSAGES[place])[4:])
    target = document
    while True:
        key = data.draw(st.sampled_from(sorted(target)))
        if isinstance(target[key], dict) and target[key] and data.draw(st.booleans()):
            target = target[key]
            continue
        target[key] = data.draw(JSON)
        break
    try:
        message = decode(json.dumps(document).encode())
    except FrameError:
        return
    for reading in message.readings if isinstance(message, DeviceAnswer) else ():
        for ratio in (reading.utilization_ratio, reading.memory_utilization_ratio):
            assert ratio is None or 0 <= ratio <= 1
        assert 0 <= reading.time_ns < 2**63
        assert reading.energy_mj is None or 0 <= reading.energy_mj < 2**63
        assert all(math.isfinite(sample.value) for sample in reading.samples)


def answer(parts: str) -> bytes:
    return b'{"type":"answer","index":1,' + parts.encode() + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"type":"begin"}',
        b'{"type":"begin","sweep":-1}',
        b'{"type":"begin","sweep":true}',
        b'{"type":"begin","sweep":1.0}',
        b'{"type":"begin","sweep":1,"more":1}',
        b'{"type":"begin","sweep":99999999999999999999}',
        b'{"type":"end","sweep":1,"late_ns":NaN,"elapsed_ns":1}',
        b'{"type":["begin"],"sweep":1}',
        b'{"type":"launch"}',
        b'{"type":"hello","driver":"580","indexes":[0]}',
        answer('"readings":{"device":"G","time_ns":1}'),
        answer('"readings":[{"device":"G"}]'),
        answer('"readings":[{"device":"G","time_ns":1,"cpu_ns_by_pid":{}}]'),
        answer('"readings":[{"device":"G","time_ns":1,"processes":[]}]'),
        answer('"readings":[{"device":"G\\n","time_ns":1}]'),
        answer('"readings":[{"device":"G","time_ns":1,"power_mw":1e400}]'),
        answer('"readings":[{"device":"G","time_ns":1,"samples":[0]}]'),
        answer('"readings":[{"device":"G","time_ns":1,"samples":[0,"1"]}]'),
        answer(f'"readings":[{{"device":"G","time_ns":1,"samples":[{len(KEYS)},1]}}]'),
        answer('"slow":[{"device":"G","processes":[[1]]}]'),
        answer('"failure":{"index":1,"reason":"x","kind":"tired"}'),
        answer(
            '"readings":[{"device":"G","time_ns":1}],'
            '"failure":{"index":1,"reason":"both","kind":"lost"}'
        ),
        b'{"type":"happened","gpu":"G","event":"party","time_ns":1}',
        b'{"type":"report","state":"exploded","reason":"x"}',
        b'{"type":"report","state":"stalled","reason":"' + b"x" * 3_000 + b'"}',
        b"[" * 100_000,
        b'{"type":"begin","sweep":' + b"9" * 10_000 + b"}",
    ],
)
def test_malformed_bodies_are_refused(body: bytes) -> None:
    """Each with the one error that the parent handles."""
    with pytest.raises(FrameError):
        decode(body)


@pytest.mark.parametrize("length", [0, LONGEST_FRAME_BYTES + 1, 2**32 - 1])
def test_announced_sizes_are_bounded(length: int) -> None:
    """The parent must not wait for four gigabytes."""
    with pytest.raises(FrameError, match="announced"):
        list(FrameReader().feed(struct.pack("<I", length)))


def test_the_sender_leaves_impossible_values_out() -> None:
    """A GPU's garbage costs that value, not the connection."""
    sick = Reading(
        device=GPU,
        time_ns=MonotonicNs(1),
        power_mw=Milliwatts(2**32 - 1),
        temperature_celsius=float("nan"),
        memory_used_bytes=Bytes(5),
        samples=(*SAMPLES, Sample("device_processes", float("inf"))),
    )
    (message,) = FrameReader().feed(encode(DeviceAnswer(0, readings=(sick,))))
    assert isinstance(message, DeviceAnswer)
    expected = Reading(GPU, MonotonicNs(1), memory_used_bytes=Bytes(5), samples=SAMPLES)
    assert message.readings == (expected,)


def test_the_sender_refuses_a_garbage_identity() -> None:
    """Without a device there is no reading."""
    with pytest.raises(FrameError, match="device"):
        encode(DeviceAnswer(0, readings=(Reading(DeviceId("GPU\x00\x01"), MonotonicNs(1)),)))


def test_reasons_become_one_line() -> None:
    """A driver's message with line ends or escapes must not forge log lines."""
    (report,) = FrameReader().feed(encode(Report(NvmlState.FAILED, "a\nb\x1b[31m" + "x" * 9_999)))
    assert isinstance(report, Report)
    assert report.reason.startswith("a?b?[31mx")
    assert len(report.reason) == 2_000
