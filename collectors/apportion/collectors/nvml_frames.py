"""The pipe between the NVML child and its parent: length-prefixed JSON, checked key by key.

A frame is a 4-byte little-endian length and a JSON object whose `type` names the message. The
parent trusts none of it: a driver library that scribbles over the child's memory must not reach
the ledger. An absent key is None; unknown keys, wrong types and impossible values are errors
there. The child leaves impossible values out, so that one sick GPU does not cost the others.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, NoReturn, cast

from apportion.collectors.collector import DeviceFailure, DeviceSources
from apportion.collectors.nvml_messages import (
    Begin,
    DeviceAnswer,
    End,
    Hello,
    Message,
    NvmlState,
    Report,
)
from apportion.collectors.schema import (
    Check,
    as_flag,
    as_list,
    as_object,
    checked,
    list_of,
    one_line,
    one_of,
    real,
    text,
    whole,
)
from apportion.core.errors import CollectorError
from apportion.core.reading import DeviceInfo, ProcessReading, Reading
from apportion.core.sample import Sample

LONGEST_FRAME_BYTES: Final = 256 * 1024
LONGEST_REASON: Final = 2_000
_LENGTH: Final = struct.Struct("<I")


class FrameError(CollectorError):
    """Something that is not a message, or cannot become one."""


def encode(message: Message) -> bytes:
    """The frame of `message`.

    Raises:
        FrameError: a value that must be there is impossible, or the frame gets too long.
    """
    try:
        body = json.dumps(_document(message), separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise FrameError(f"a {type(message).__name__} message cannot be sent: {error}") from None
    if len(body) > LONGEST_FRAME_BYTES:
        raise FrameError(f"a {type(message).__name__} message has {len(body)} bytes, too many")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Bytes as they arrive into messages. After a `FrameError` it is of no more use."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, arrived: bytes) -> Iterator[Message]:
        """The messages that `arrived` completes, in order.

        Raises:
            FrameError: a frame is too long, not JSON, or not a message.
        """
        self._buffer += arrived
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not 0 < length <= LONGEST_FRAME_BYTES:
                raise FrameError(
                    f"a frame of {length} bytes was announced; 1 to {LONGEST_FRAME_BYTES} are "
                    "accepted"
                )
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield decode(body)


def decode(body: bytes) -> Message:
    """The message in a frame's body.

    Raises:
        FrameError: it is not one; the sentence says which key is wrong.
    """
    try:
        document = as_object(json.loads(body, parse_constant=_refuse_constant))
        return _reader_of(document.pop("type", None))(document)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the NVML child sent no valid message: {error}") from None


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _process(value: object) -> ProcessReading:
    items = as_list(value, 3)
    if len(items) != 3 or items[0] is None:
        raise ValueError("a process is a list of pid, memory and share")
    told = [
        None if item is None else check(item) for item, check in zip(items, _PROCESS, strict=True)
    ]
    return ProcessReading(*cast("Any", told))


def _sample(value: object) -> Sample:
    items = as_list(value, 3)
    if len(items) != 3:
        raise ValueError("a sample is a list of name, value and labels")
    name, number = _NAME(items[0]), _VALUE(items[1])
    labels = [as_list(pair, 2) for pair in as_list(items[2], 8)]
    if any(len(pair) != 2 for pair in labels):
        raise ValueError("a label is a list of its name and text")
    pairs = tuple(tuple(_NAME(text) for text in pair) for pair in labels)
    return Sample(*cast("Any", (name, number, pairs)))


_COUNT: Final = whole(2**63 - 1)
_INDEX: Final = whole(65_535)
_RATIO: Final = real(0, 1)
_VALUE: Final = real(-(2.0**64), 2.0**64)
_NAME: Final = text(256)
_SENTENCE: Final = text(LONGEST_REASON)
_PROCESS: Final = (whole(2**31 - 1), _COUNT, _RATIO)


class _Record(NamedTuple):
    """What a record's object may hold and must hold."""

    table: dict[str, Check]
    needed: tuple[str, ...]


# The CPU's own fields and the container's share are missing on purpose: NVML has neither.
_RECORDS: Final[dict[type, _Record]] = {
    Reading: _Record(
        {
            "device": _NAME,
            "time_ns": _COUNT,
            "energy_mj": _COUNT,
            "energy_source": one_of("energy_counter", "power_integrated"),
            "power_mw": whole(100_000_000),
            "utilization_ratio": _RATIO,
            "activity_source": one_of("utilization"),
            "memory_used_bytes": _COUNT,
            "memory_total_bytes": _COUNT,
            "memory_utilization_ratio": _RATIO,
            "temperature_celsius": real(-273, 1_000),
            "sm_clock_hz": _COUNT,
            "memory_clock_hz": _COUNT,
            "pcie_tx_bytes": _COUNT,
            "pcie_rx_bytes": _COUNT,
            "nvlink_tx_bytes": _COUNT,
            "nvlink_rx_bytes": _COUNT,
            "processes": list_of(_process, 4_096),
            "samples": list_of(_sample, 4_096),
        },
        ("device", "time_ns"),
    ),
    DeviceInfo: _Record(
        {
            "device": _NAME,
            "name": _NAME,
            "index": _INDEX,
            "source": one_of("nvml"),
            "simulated": as_flag,
            "driver_version": _NAME,
            "memory_total_bytes": _COUNT,
            "power_limit_mw": _COUNT,
        },
        ("device", "name", "index", "source"),
    ),
    DeviceFailure: _Record(
        {"device": _NAME, "index": _INDEX, "reason": _SENTENCE}, ("index", "reason")
    ),
    DeviceSources: _Record(
        {
            "device": _NAME,
            "energy_source": _NAME,
            "power_source": _NAME,
            "activity_source": _NAME,
            "unsupported": list_of(_NAME, 64),
        },
        ("device",),
    ),
}


def _document(message: Message) -> dict[str, object]:
    """The JSON object of a message."""
    match message:
        case Hello():
            return {"type": "hello", "driver": message.driver_version, "indexes": message.indexes}
        case Begin():
            return {"type": "begin", "sweep": message.sweep}
        case End():
            return {"type": "end", "sweep": message.sweep, "late_ns": message.late_ns}
        case Report():
            reason = one_line(message.reason, LONGEST_REASON)
            return {"type": "report", "state": message.state.value, "reason": reason}
        case DeviceAnswer():
            parts = {name: getattr(message, name) for name in _PARTS}
            told = {name: _flat(part) for name, part in parts.items() if part is not None}
            return {"type": "answer", "index": message.index, **told}


def _flat(record: Reading | DeviceInfo | DeviceFailure | DeviceSources) -> dict[str, object]:
    """What the record tells, without impossible values; a process becomes a list of three."""
    known = _RECORDS[type(record)]
    flat: dict[str, object] = {}
    for name, check in known.table.items():
        value: object = getattr(record, name)
        if value is None:
            continue
        match name:
            case "processes":
                rows = cast("tuple[ProcessReading, ...]", value)
                value = [[row.pid, row.memory_bytes, row.sm_ratio] for row in rows]
            case "reason":
                value = one_line(str(value), LONGEST_REASON)
            case "samples":
                samples = cast("tuple[Sample, ...]", value)
                value = [[row.name, row.value, [*map(list, row.labels)]] for row in samples]
            case "unsupported":
                value = list(cast("tuple[str, ...]", value))
            case _:
                pass
        try:
            check(value)
        except ValueError as error:
            if name in known.needed:
                raise ValueError(f"{name}: {error}") from None
            continue
        flat[name] = value
    return flat


def _part(kind: type) -> Check:
    """A check that makes a record of an answer."""
    known = _RECORDS[kind]
    absent: dict[str, Any] = {"device": None} if kind is DeviceFailure else {}

    def check(value: object) -> object:
        return kind(**{**absent, **checked(value, known.table, known.needed)})

    return check


_PARTS: Final[dict[str, Check]] = {
    "reading": _part(Reading),
    "failure": _part(DeviceFailure),
    "info": _part(DeviceInfo),
    "sources": _part(DeviceSources),
}


def _read_answer(document: object) -> Message:
    answer = DeviceAnswer(**checked(document, {"index": _INDEX, **_PARTS}, ("index",)))
    if (answer.reading is None) == (answer.failure is None):
        raise ValueError("an answer is either a reading or a failure")
    return answer


def _read_hello(document: object) -> Message:
    table = {"driver": _NAME, "indexes": list_of(_INDEX, 1_024)}
    keys = checked(document, table, ("driver", "indexes"))
    return Hello(keys["driver"], keys["indexes"])


def _read_begin(document: object) -> Message:
    return Begin(**checked(document, {"sweep": _COUNT}, ("sweep",)))


def _read_end(document: object) -> Message:
    return End(**checked(document, {"sweep": _COUNT, "late_ns": _COUNT}, ("sweep", "late_ns")))


def _read_report(document: object) -> Message:
    table = {"state": one_of(*(state.value for state in NvmlState)), "reason": _SENTENCE}
    keys = checked(document, table, ("state", "reason"))
    return Report(NvmlState(keys["state"]), keys["reason"])


_READERS: Final[dict[str, Callable[[object], Message]]] = {
    "hello": _read_hello,
    "begin": _read_begin,
    "answer": _read_answer,
    "end": _read_end,
    "report": _read_report,
}


def _reader_of(kind: object) -> Callable[[object], Message]:
    """The reader of messages of this type."""
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise ValueError(f"its type is {ascii(kind)[:40]}")
    return read
