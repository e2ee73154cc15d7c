"""speedscope's JSON (https://www.speedscope.app/file-format-schema.json), read and written.

One profile of the file is one weight of the same stacks where this program wrote it: a member
`apportion`, which others pass over, says in which units, and which labels the stacks have. In
files of others each profile is a thread, and the frame below its root.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from apportion.core.errors import ProfileTraceError
from apportion.profiles.stacks import StackColumns, Stacks
from apportion.profiles.weight import LARGEST, NANOSECONDS, TIME, UNITS, Weight

SCHEMA: Final = "https://www.speedscope.app/file-format-schema.json"
_NS_PER_UNIT: Final = {
    "nanoseconds": 1,
    "microseconds": 1_000,
    "milliseconds": 1_000_000,
    "seconds": 1_000_000_000,
}
Number = int | float


class _Frame(msgspec.Struct, omit_defaults=True):
    name: str
    file: str | None = None
    line: int | None = None

    @property
    def text(self) -> str:
        """As py-spy writes it in folded text."""
        if self.file is None:
            return self.name
        short = self.file.rpartition("/")[2]
        return (
            f"{self.name} ({short})" if self.line is None else f"{self.name} ({short}:{self.line})"
        )


class _Shared(msgspec.Struct):
    frames: list[_Frame]


class _Event(msgspec.Struct):
    type: str
    frame: int
    at: Number


class _Profile(msgspec.Struct, rename="camel"):
    type: str
    name: str = ""
    unit: str = "none"
    start_value: Number = 0
    end_value: Number = 0
    samples: list[list[int]] = msgspec.field(default_factory=list[list[int]])
    weights: list[Number] = msgspec.field(default_factory=list[Number])
    events: list[_Event] | msgspec.UnsetType = msgspec.UNSET


class _Weight(msgspec.Struct, omit_defaults=True):
    name: str
    unit: str
    currency: str | None = None


class _Apportion(msgspec.Struct, omit_defaults=True):
    weights: list[_Weight]
    labels: dict[str, list[str | None]] = msgspec.field(default_factory=dict[str, list[str | None]])


class _Document(msgspec.Struct, omit_defaults=True):
    shared: _Shared
    profiles: list[_Profile]
    schema: str = msgspec.field(name="$schema", default="")
    name: str = ""
    exporter: str = ""
    apportion: _Apportion | None = None


def read_speedscope(text: bytes, source: str, weight: Weight) -> Stacks:
    """The stacks of a file. Weights without a unit of time are of `weight`.

    Raises:
        ProfileTraceError: it is no such file, or its numbers make no sense.
    """
    try:
        document = msgspec.json.decode(text, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileTraceError(
            f"is no speedscope file ({error}); give what py-spy record -f speedscope or "
            "apportion flamegraph wrote",
            path=source,
        ) from error
    names = [frame.text for frame in document.shared.frames]
    try:
        if document.apportion is not None:
            return _own(document, document.apportion, names)
        return _others(document, names, weight)
    except (IndexError, ValueError, OverflowError) as error:
        raise ProfileTraceError(f"contradicts itself: {error}", path=source) from error


def speedscope_json(stacks: Stacks, title: str) -> bytes:
    """The file's text: a profile for each weight, the first one shown first."""
    offsets = stacks.offsets.tolist()
    frames = stacks.frames.tolist()
    samples = [frames[begin:end] for begin, end in pairwise(offsets)]
    profiles = [
        _Profile(
            type="sampled",
            name=weight.name
            if weight.currency is None
            else f"{weight.name}, 10^-12 {weight.currency}",
            unit=weight.unit if weight.unit == NANOSECONDS else "none",
            end_value=stacks.total(row),
            samples=samples,
            weights=list(stacks.values[row].tolist()),
        )
        for row, weight in enumerate(stacks.weights)
    ]
    document = _Document(
        schema=SCHEMA,
        shared=_Shared([_Frame(name) for name in stacks.names]),
        profiles=profiles,
        name=title,
        exporter="apportion",
        apportion=_Apportion(
            [_Weight(one.name, one.unit, one.currency) for one in stacks.weights],
            {key: stacks.label(key) for key in stacks.labels},
        ),
    )
    return msgspec.json.encode(document)


def _own(document: _Document, said: _Apportion, names: Sequence[str]) -> Stacks:
    weights = [Weight(one.name, one.unit, one.currency) for one in said.weights]
    if len(weights) != len(document.profiles) or not weights:
        raise ValueError(f"{len(document.profiles)} profiles, {len(weights)} weights")
    if unknown := {one.unit for one in weights}.difference(UNITS):
        raise ValueError(f"the unit {unknown.pop()!r} is not known here")
    first = document.profiles[0]
    columns = StackColumns()
    table = zip(*(profile.weights for profile in document.profiles), strict=True)
    for sample, values in zip(first.samples, table, strict=True):
        columns.add(_named(sample, names), map(_whole, values))
    stacks = columns.stacks(weights)
    for key, texts in said.labels.items():
        if len(texts) != len(stacks):
            raise ValueError(f"{len(stacks)} stacks, {len(texts)} labels {key!r}")
        stacks = stacks.labelled(key, texts)
    return stacks


def _others(document: _Document, names: Sequence[str], weight: Weight) -> Stacks:
    timed = [profile for profile in document.profiles if profile.unit in _NS_PER_UNIT]
    if timed and len(timed) != len(document.profiles):
        raise ValueError("some profiles are of time and some are not")
    columns = StackColumns()
    for profile in document.profiles:
        root = [profile.name] if len(document.profiles) > 1 else []
        scale = _NS_PER_UNIT.get(profile.unit)
        for sample, value in _samples(profile):
            whole = _whole(value) if scale is None else round(value * scale)
            columns.add([*root, *_named(sample, names)], (whole,))
    return columns.stacks((TIME if timed else weight,))


def _samples(profile: _Profile) -> Iterator[tuple[Sequence[int], Number]]:
    if profile.type == "sampled":
        yield from zip(profile.samples, profile.weights, strict=True)
        return
    if profile.type != "evented":
        raise ValueError(f"a profile of type {profile.type!r}")
    running: list[int] = []
    last = profile.start_value
    for event in profile.events or ():
        if event.at < last:
            raise ValueError(f"an event at {event.at} stands behind one at {last}")
        if event.at > last and running:
            yield tuple(running), event.at - last
        last = event.at
        if event.type == "O":
            running.append(event.frame)
        elif running.pop() != event.frame:
            raise ValueError(f"the frame that ends at {event.at} is not the one that runs")


def _named(sample: Sequence[int], names: Sequence[str]) -> list[str]:
    if min(sample, default=0) < 0:
        raise ValueError("a sample names a frame below 0")
    return [names[code] for code in sample]


def _whole(value: Number) -> int:
    if value != int(value) or abs(value) > LARGEST:
        raise ValueError(f"the weight {value} is no whole number of 63 bits")
    return int(value)
