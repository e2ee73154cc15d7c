"""torch.profiler's JSON, a piece at a time: memory does not grow with the file.

The file is one object whose `traceEvents` holds everything; a 1 GB trace decoded at once takes
several. Here it is read in chunks, cut behind the last event that is complete, and each piece is
decoded into typed records that are forgotten when the columns have taken their numbers. A cut is
looked for between two events (`}, {`) and proved by decoding: a piece that was cut inside a string
or a nested object is no valid array.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Protocol, TypeVar

import msgspec

from apportion.core.errors import ProfileTraceError

SCHEMA_VERSION: Final = 1
CHUNK_BYTES: Final = 1 << 20
MAX_PENDING_BYTES: Final = 1 << 26
"""No event is this long, and neither is what stands before the first one."""
_OPENING: Final = re.compile(rb'"traceEvents"\s*:\s*\[')
_BETWEEN: Final = re.compile(rb"\}\s*,\s*\{")
_BYTE: Final = re.compile(r" \(byte (\d+)\)")
"""Where the decoder stopped, in what it was given."""
_CUTS_TRIED: Final = 8
_CUT_WINDOW_BYTES: Final = 1 << 16


class ByteStream(Protocol):
    """What the reader needs of a file."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


class EventArguments(msgspec.Struct, gc=False):
    """Those arguments of an event that are used here, of every version of the schema.

    input_dims: left undecoded, because most operators' shapes are never asked for.
    """

    correlation: int | None = None
    stream: int | None = None
    device: int | None = None
    bytes: int | None = None
    input_dims: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"null"), name="Input Dims")
    collective: str | None = msgspec.field(default=None, name="Collective name")
    in_elements: int | None = msgspec.field(default=None, name="In msg nelems")
    out_elements: int | None = msgspec.field(default=None, name="Out msg nelems")
    dtype: str | None = None
    group: str | None = msgspec.field(default=None, name="Process Group Name")
    group_ranks: object = msgspec.field(default=None, name="Process Group Ranks")
    group_size: int | None = msgspec.field(default=None, name="Group size")
    sequence: int | None = msgspec.field(default=None, name="Seq")


class Event(msgspec.Struct, gc=False):
    """One event. `ts` and `dur` are microseconds: integers before 2024, floats since."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: float = 0.0
    dur: float = 0.0
    tid: int | str | None = None
    args: EventArguments = msgspec.field(default_factory=EventArguments)


class DeviceProperties(msgspec.Struct, gc=False):
    """A device that the process saw."""

    id: int = 0
    name: str = ""


class DistributedInfo(msgspec.Struct, gc=False):
    """Who the process was among the ranks."""

    rank: int | None = None
    world_size: int | None = None


class Header(msgspec.Struct, gc=False):
    """What stands around the events, before or behind them."""

    schema_version: int | None = msgspec.field(default=None, name="schemaVersion")
    device_properties: list[DeviceProperties] = msgspec.field(
        default_factory=list[DeviceProperties], name="deviceProperties"
    )
    distributed: DistributedInfo | None = msgspec.field(default=None, name="distributedInfo")
    base_time_ns: int | None = msgspec.field(default=None, name="baseTimeNanoseconds")


class _Ending(Header, gc=False):
    events: list[Event] = msgspec.field(default_factory=list[Event], name="traceEvents")


_Form = TypeVar("_Form", bound=Header)


class KinetoEvents:
    """The events of one trace, in batches; `headers` are complete behind the last batch."""

    def __init__(self, stream: ByteStream, source: str) -> None:
        self.headers: tuple[Header, ...] = ()
        self._stream = stream
        self._source = source
        self._consumed = 0
        self._events = msgspec.json.Decoder(list[Event])

    def __iter__(self) -> Iterator[list[Event]]:
        """Batches of some thousand events.

        Raises:
            ProfileTraceError: not such a trace, or cut off.
        """
        pending = self._opening()
        while chunk := self._stream.read(CHUNK_BYTES):
            pending += chunk
            cut, events = self._cut(pending)
            if events:
                yield events
                self._consumed += cut
                pending = pending[cut:]
            elif len(pending) > MAX_PENDING_BYTES:
                raise ProfileTraceError(
                    f"is damaged behind byte {self._consumed}: no event ends in the "
                    f"{len(pending)} bytes that follow; record it again",
                    path=self._source,
                )
        begin = b'{"traceEvents":['
        ending = self._decoded(begin + pending, _Ending, self._consumed - len(begin))
        self._take_header(ending)
        yield ending.events

    def _opening(self) -> bytes:
        """What follows the opening bracket of the events; the header before it is decoded."""
        begun = b""
        while chunk := self._stream.read(CHUNK_BYTES):
            begun += chunk
            match = _OPENING.search(begun)
            if match is not None:
                self._take_header(self._decoded(begun[: match.end()] + b"]}", Header))
                self._consumed = match.end()
                return begun[match.end() :]
            if len(begun) > MAX_PENDING_BYTES:
                break
        if not begun.strip():
            raise ProfileTraceError("is empty; record the trace again", path=self._source)
        if begun.lstrip()[:1] != b"{":
            raise ProfileTraceError(
                "is not JSON; give what torch.profiler's export_chrome_trace wrote, or its .gz",
                path=self._source,
            )
        self._decoded(begun, Header)
        raise ProfileTraceError(
            "is JSON without `traceEvents`: not a trace of torch.profiler (an execution trace or "
            "a memory snapshot is another file); give what export_chrome_trace wrote",
            path=self._source,
        )

    def _take_header(self, header: Header) -> None:
        if header.schema_version not in {None, SCHEMA_VERSION}:
            raise ProfileTraceError(
                f"has schemaVersion {header.schema_version}, and only {SCHEMA_VERSION} is known "
                "here; a newer apportion may read it",
                path=self._source,
            )
        self.headers = (*self.headers, header)

    def _cut(self, pending: bytes) -> tuple[int, list[Event]]:
        """Where the last complete event of `pending` ends and the next begins, and the events."""
        begin = max(0, len(pending) - _CUT_WINDOW_BYTES)
        cuts = list(_BETWEEN.finditer(pending, begin))
        for match in reversed(cuts[-_CUTS_TRIED:]):
            piece = b"".join((b"[", memoryview(pending)[: match.start() + 1], b"]"))
            try:
                return match.end() - 1, self._events.decode(piece)
            except msgspec.ValidationError as error:
                raise self._schema_error(error) from error
            except RecursionError as error:
                raise self._nesting_error() from error
            except msgspec.DecodeError:
                continue
        return 0, []

    def _decoded(self, text: bytes, form: type[_Form], begin: int = 0) -> _Form:
        """`text`, which stands in the file at `begin`, decoded."""
        try:
            return msgspec.json.decode(text, type=form)
        except msgspec.ValidationError as error:
            raise self._schema_error(error) from error
        except RecursionError as error:
            raise self._nesting_error() from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if "truncated" in str(error):
                raise ProfileTraceError(
                    "ends in the middle: the process ended while it wrote the trace, or the copy "
                    "is incomplete; copy or record it again",
                    path=self._source,
                ) from error
            place = _BYTE.search(str(error))
            where = (
                f"behind byte {self._consumed}"
                if place is None
                else f"at byte {begin + int(place[1])}"
            )
            raise ProfileTraceError(
                f"is not valid JSON {where}: {_BYTE.sub('', str(error))}; record the trace again",
                path=self._source,
            ) from error

    def _nesting_error(self) -> ProfileTraceError:
        return ProfileTraceError(
            "is nested deeper than any trace: the file is damaged; record it again",
            path=self._source,
        )

    def _schema_error(self, error: Exception) -> ProfileTraceError:
        return ProfileTraceError(
            f"has a schema that is not known here ({error}); traces of torch.profiler have "
            "schemaVersion 1: say with which version of PyTorch it was made",
            path=self._source,
        )
