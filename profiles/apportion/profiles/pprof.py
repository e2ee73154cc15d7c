"""pprof's profile.proto, gzip'd: what `go tool pprof`, Pyroscope, Parca and Grafana read.

Only the fields that are used are encoded, by hand: the message is a dozen fields of two wire
types, and generated code would bring protobuf's runtime into every install.
Source: github.com/google/pprof, proto/profile.proto.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from typing import Final

from apportion.profiles.stacks import Stacks
from apportion.profiles.weight import MILLIJOULES, MONEY, NANOSECONDS, Weight

# Profile
_SAMPLE_TYPE, _SAMPLE, _LOCATION, _FUNCTION, _STRINGS = 1, 2, 4, 5, 6
_TIME_NANOS, _DURATION_NANOS, _DEFAULT_TYPE = 9, 10, 14
# ValueType
_TYPE, _UNIT = 1, 2
# Sample
_LOCATION_ID, _VALUE, _LABEL = 1, 2, 3
# Label
_KEY, _STR = 1, 2
# Location, Line, Function
_ID, _LINE, _FUNCTION_ID, _NAME, _SYSTEM_NAME = 1, 4, 1, 2, 3
_BYTES: Final = 2
_PLAIN: Final = {NANOSECONDS: NANOSECONDS, MILLIJOULES: MILLIJOULES}


def pprof(
    stacks: Stacks, width: int, *, start_unix_ns: int | None = None, duration_ns: int | None = None
) -> bytes:
    """The file: a sample type for each weight, the one of `width` shown first; labels as text.

    A function, a location and a line of one number stand for each frame.
    """
    strings = _Strings()
    types = [
        _message(_SAMPLE_TYPE, _int(_TYPE, strings[one.name]) + _int(_UNIT, strings[_unit(one)]))
        for one in stacks.weights
    ]
    samples = list(_samples(stacks, strings))
    places: list[bytes] = []
    for number, name in enumerate(stacks.names, start=1):
        code = strings[name]
        line = _message(_LINE, _int(_FUNCTION_ID, number))
        function = _int(_ID, number) + _int(_NAME, code) + _int(_SYSTEM_NAME, code)
        places.append(_message(_LOCATION, _int(_ID, number) + line))
        places.append(_message(_FUNCTION, function))
    facts = _int(_DEFAULT_TYPE, strings[stacks.weights[width].name])
    facts += _int(_TIME_NANOS, start_unix_ns or 0) + _int(_DURATION_NANOS, duration_ns or 0)
    table = [_message(_STRINGS, text.encode("utf-8", "replace")) for text in strings]
    return gzip.compress(b"".join((*types, *samples, *places, *table, facts)), mtime=0)


class _Strings(dict[str, int]):
    """The table of strings, whose first one is empty."""

    def __init__(self) -> None:
        super().__init__({"": 0})

    def __missing__(self, text: str) -> int:
        code = self[text] = len(self)
        return code


def _samples(stacks: Stacks, strings: _Strings) -> Iterator[bytes]:
    ids = [_varint(code + 1) for code in range(len(stacks.names))]
    labels: list[tuple[bytes, list[int]]] = [
        (_int(_KEY, strings[key]), column.tolist()) for key, column in stacks.labels.items()
    ]
    offsets = stacks.offsets.tolist()
    frames: list[int] = stacks.frames.tolist()
    for index, values in enumerate(zip(*stacks.values.tolist(), strict=True)):
        # the leaf comes first
        leaf_first = reversed(frames[offsets[index] : offsets[index + 1]])
        content = [_packed(_LOCATION_ID, (ids[code] for code in leaf_first))]
        content.append(_packed(_VALUE, map(_varint, values)))
        for key, column in labels:
            if column[index] >= 0:
                name = stacks.names[column[index]]
                content.append(_message(_LABEL, key + _int(_STR, strings[name])))
        yield _message(_SAMPLE, b"".join(content))


def _unit(weight: Weight) -> str:
    """pprof's own names where it has one; 10^-12 of a currency is `picousd` and the like."""
    if weight.unit == MONEY:
        return f"pico{(weight.currency or '').lower()}"
    return _PLAIN.get(weight.unit, "count")


def _varint(value: int) -> bytes:
    """A number of 0 or more, seven bits a byte, the least significant ones first."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _packed(number: int, parts: Iterable[bytes]) -> bytes:
    return _message(number, b"".join(parts))
