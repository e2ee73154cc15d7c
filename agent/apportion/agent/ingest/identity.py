"""Who writes a ring: the identity in its header, read strictly because anybody may have made it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

from apportion.agent.ingest.header import LARGEST_STEP
from apportion.agent.ingest.text import sanitised
from apportion.client import layout
from apportion.core.ids import AttemptId, RingId, RunId

TEXT_CHARACTERS: Final = 256
TAGS: Final = 32
DEVICES: Final = 64
_LARGEST_RANK: Final = 1 << 31
_MOST_FLOPS: Final = 1 << 53
"""For a token: a model of 10^15 parameters."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the user's process said about itself. None or empty where it said nothing.

    `devices` is what the user named; `device_hints` the environment variables that hint at
    devices; `manifest` is with what it computes, `parallel` how it is spread over devices.
    `ignored` counts members that were unknown, of a
    wrong type or too long.
    """

    workload: str | None = None
    kind: str | None = None
    run: RunId | None = None
    attempt: AttemptId | None = None
    rank: int | None = None
    local_rank: int | None = None
    world_size: int | None = None
    tags: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ()
    device_hints: tuple[tuple[str, str], ...] = ()
    resumed_from_step: int | None = None
    restart_count: int | None = None
    flops_per_token: int | None = None
    client_version: str | None = None
    manifest: tuple[tuple[str, str], ...] = ()
    parallel: tuple[tuple[str, int], ...] = ()
    ignored: int = 0


@dataclass(frozen=True, slots=True)
class RingIdentity:
    """A ring, its process and what that said. Times are host monotonic nanoseconds.

    `pid` is the process's own view, `host_pid` the agent's (None where the kernel cannot name
    it across pid namespaces). `uid` owns the file. `clock_offset_ns` has been added to all of
    the ring's times. `process_start_ns` and `init_ns` are None where unknown.
    """

    ring: RingId
    pid: int
    host_pid: int | None
    uid: int
    boot_id: str
    created_ns: int
    process_start_ns: int | None
    init_ns: int | None
    clock_offset_ns: int
    record_capacity: int
    said: Identity = field(default_factory=Identity)

    @property
    def workload(self) -> str | None:
        """The workload's name, as the process said it."""
        return self.said.workload

    @property
    def run(self) -> RunId | None:
        """The run, as the process said it."""
        return self.said.run

    @property
    def attempt(self) -> AttemptId | None:
        """The attempt, as the process said it."""
        return self.said.attempt


class _Members:
    """Takes members out of a parsed object, counting what is not as it must be."""

    def __init__(self, document: dict[str, object]) -> None:
        self._document = document
        self.ignored = len(document.keys() - layout.IDENTITY_KEYS)

    def take(self, name: str, read: Callable[[object], T | None]) -> T | None:
        value = self._document.get(name)
        if value is None:
            return None
        result = read(value)
        self.ignored += result is None
        return result

    def take_map(
        self, name: str, keys: Collection[str] | None = None
    ) -> tuple[tuple[str, str], ...]:
        value = self._document.get(name)
        if value is None:
            return ()
        if not isinstance(value, dict):
            self.ignored += 1
            return ()
        pairs = [
            (_text(key), _text(text)) for key, text in cast("dict[str, object]", value).items()
        ]
        good = [
            (key, text)
            for key, text in pairs
            if key is not None and text is not None and (keys is None or key in keys)
        ][:TAGS]
        self.ignored += len(pairs) - len(good)
        return tuple(good)

    def take_numbers(self, name: str, keys: Collection[str]) -> tuple[tuple[str, int], ...]:
        value = self._document.get(name)
        if value is None:
            return ()
        members = cast("dict[str, object]", value) if isinstance(value, dict) else {"": None}
        read = _up_to(_LARGEST_RANK)
        pairs = [(key, read(number)) for key, number in members.items() if key in keys]
        good = tuple((key, number) for key, number in pairs if number is not None)
        self.ignored += len(members) - len(good)
        return good

    def take_list(self, name: str) -> tuple[str, ...]:
        value = self._document.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.ignored += 1
            return ()
        items = [_text(item) for item in cast("list[object]", value)]
        good = [item for item in items if item is not None][:DEVICES]
        self.ignored += len(items) - len(good)
        return tuple(good)


def parse_identity(raw: bytes) -> Identity:
    """The identity from its JSON bytes. Never raises: what is wrong is ignored and counted."""
    if not raw:
        return Identity()
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return Identity(ignored=1)
    if not isinstance(document, dict):
        return Identity(ignored=1)
    members = _Members(cast("dict[str, object]", document))
    run = members.take("run", _text)
    attempt = members.take("attempt", _text_or_number)
    return Identity(
        workload=members.take("workload", _text),
        kind=members.take("kind", _text),
        run=None if run is None else RunId(run),
        attempt=None if attempt is None else AttemptId(attempt),
        rank=members.take("rank", _up_to(_LARGEST_RANK)),
        local_rank=members.take("local_rank", _up_to(_LARGEST_RANK)),
        world_size=members.take("world_size", _up_to(_LARGEST_RANK)),
        tags=members.take_map("tags"),
        devices=members.take_list("devices"),
        device_hints=members.take_map("device_hints"),
        resumed_from_step=members.take("resumed_from_step", _up_to(LARGEST_STEP)),
        flops_per_token=members.take("flops_per_token", _up_to(_MOST_FLOPS)),
        restart_count=members.take("restart_count", _up_to(LARGEST_STEP)),
        client_version=members.take("client_version", _text),
        manifest=members.take_map("manifest", layout.MANIFEST_KEYS),
        parallel=members.take_numbers("parallel", layout.PARALLEL_KEYS),
        ignored=members.ignored,
    )


def _text(value: object) -> str | None:
    if not isinstance(value, str) or len(value) > TEXT_CHARACTERS:
        return None
    return sanitised(value)


def _text_or_number(value: object) -> str | None:
    # A restart count is a natural attempt, and clients may keep it a number.
    if type(value) is int and 0 <= value < LARGEST_STEP:
        return str(value)
    return _text(value)


def _up_to(most: int) -> Callable[[object], int | None]:
    def read(value: object) -> int | None:
        return value if type(value) is int and 0 <= value < most else None

    return read
