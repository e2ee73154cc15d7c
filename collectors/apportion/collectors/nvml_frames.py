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
from typing import Final, NoReturn

from apportion.collectors.collector import DeviceFailure, DeviceSources
from apportion.collectors.nvml_events import EVENTS
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
from apportion.collectors.nvml_records import (
    COUNT,
    INDEX,
    LONGEST_REASON,
    NAME,
    SENTENCE,
    flat,
    part,
    samples_of,
    wire,
)
from apportion.collectors.schema import (
    Check,
    as_object,
    checked,
    list_of,
    one_line,
    one_of,
    whole,
)
from apportion.core.errors import CollectorError
from apportion.core.reading import DeviceInfo, Reading

LONGEST_FRAME_BYTES: Final = 256 * 1024
_LENGTH: Final = struct.Struct("<I")
_XID: Final = whole(2**32 - 1)


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


def _document(message: Message) -> dict[str, object]:
    """The JSON object of a message."""
    match message:
        case Hello(driver_version, indexes, count):
            return {"type": "hello", "driver": driver_version, "indexes": indexes, "count": count}
        case Begin(sweep):
            return {"type": "begin", "sweep": sweep}
        case End(sweep, late_ns, elapsed_ns, told_ns):
            times = {"late_ns": late_ns, "elapsed_ns": elapsed_ns, "told_ns": told_ns}
            return {"type": "end", "sweep": sweep, **times}
        case Happened(gpu, event, time_ns, xid):
            told = {"type": "happened", "gpu": gpu, "event": event, "time_ns": time_ns}
            return {**told, **({} if xid is None else {"xid": xid})}
        case Report(state, reason, index):
            words = one_line(reason, LONGEST_REASON)
            report = {"type": "report", "state": state.value, "reason": words}
            return {**report, **({} if index is None else {"index": index})}
        case DeviceAnswer():
            return _answer_document(message)


def _answer_document(answer: DeviceAnswer) -> dict[str, object]:
    document: dict[str, object] = {"type": "answer", "index": answer.index}
    if answer.failure is not None:
        document["failure"] = flat(answer.failure)
    for name in _PARTS:
        records = getattr(answer, name)
        if records:
            document[name] = [flat(record) for record in records]
    if answer.ended:
        document["ended"] = list(answer.ended)
    if answer.samples:
        document["samples"] = wire(answer.samples)
    if answer.gpu is not None:
        document["gpu"] = answer.gpu
    return document


_MOST_PARTS: Final = 64
"""What MIG can make of a GPU is far less."""
_PARTS: Final[dict[str, Check]] = {
    "readings": list_of(part(Reading), _MOST_PARTS),
    "devices": list_of(part(DeviceInfo), _MOST_PARTS),
    "sources": list_of(part(DeviceSources), _MOST_PARTS),
    "slow": list_of(part(SlowFacts), _MOST_PARTS),
}
_ANSWER: Final[dict[str, Check]] = {
    "index": INDEX,
    "failure": part(DeviceFailure),
    "ended": list_of(NAME, _MOST_PARTS),
    "samples": samples_of,
    "gpu": NAME,
    **_PARTS,
}


def _read_answer(document: object) -> Message:
    answer = DeviceAnswer(**checked(document, _ANSWER, ("index",)))
    if answer.failure is not None and answer.readings:
        raise ValueError("an answer is either readings or a failure")
    return answer


def _read_hello(document: object) -> Message:
    table = {"driver": NAME, "indexes": list_of(INDEX, 1_024), "count": INDEX}
    keys = checked(document, table, ("driver", "indexes", "count"))
    return Hello(keys["driver"], keys["indexes"], keys["count"])


def _read_begin(document: object) -> Message:
    return Begin(**checked(document, {"sweep": COUNT}, ("sweep",)))


def _read_happened(document: object) -> Message:
    table = {
        "gpu": NAME,
        "event": one_of(*EVENTS.values(), "other"),
        "time_ns": COUNT,
        "xid": _XID,
    }
    return Happened(**checked(document, table, ("gpu", "event", "time_ns")))


def _read_end(document: object) -> Message:
    names = ("sweep", "late_ns", "elapsed_ns", "told_ns")
    return End(**checked(document, dict.fromkeys(names, COUNT), names))


def _read_report(document: object) -> Message:
    table = {
        "state": one_of(*(state.value for state in NvmlState)),
        "reason": SENTENCE,
        "index": INDEX,
    }
    keys = checked(document, table, ("state", "reason"))
    return Report(NvmlState(keys["state"]), keys["reason"], keys.get("index"))


_READERS: Final[dict[str, Callable[[object], Message]]] = {
    "hello": _read_hello,
    "begin": _read_begin,
    "answer": _read_answer,
    "happened": _read_happened,
    "end": _read_end,
    "report": _read_report,
}


def _reader_of(kind: object) -> Callable[[object], Message]:
    """The reader of messages of this type."""
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise ValueError(f"its type is {ascii(kind)[:40]}")
    return read
