"""Dumps of PyTorch's Flight Recorder, as the client writes them beside its ring, or PyTorch itself.

The client's have one line of its own first. The dump is JSON where PyTorch has that form, else a
pickle: it is untrusted, so nothing but plain values can come out of it, and no name is imported.
Fields: PyTorch, `torch/csrc/distributed/c10d/FlightRecorder.hpp`, version 2.x of the dump.
"""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251 - read by a class that can make plain values alone
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, NoReturn, cast

from apportion.collectors.nccl_operation import Operation
from apportion.core.collective import collective_named, item_bytes
from apportion.core.errors import CollectorError

MOST_BYTES: Final = 64 << 20
_ANONYMOUS: Final = frozenset({"", "undefined"})
_RANKS: Final = re.compile(r"-?\d+", re.ASCII)
_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Dump:
    """What is in the buffer of one process. `cost_ns` is what taking it cost, where that is known.

    `pending` are records of operations that had not ended: a later dump has them again.
    """

    operations: tuple[Operation, ...]
    pending: frozenset[int]
    pid: int | None = None
    cost_ns: int | None = None


class _PlainValues(pickle.Unpickler):
    """A pickle of dicts, lists, tuples, strings and numbers; anything else is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        message = f"it names {module_name}.{global_name}; only plain values are read"
        raise pickle.UnpicklingError(message)


def read_dump(data: bytes) -> Dump:
    """The operations in a dump.

    Raises:
        CollectorError: it is not one, or says something impossible.
    """
    if len(data) > MOST_BYTES:
        raise CollectorError(f"a dump of {len(data)} bytes is longer than {MOST_BYTES}")
    head: Mapping[str, Any] = {}
    if data.startswith(b'{"apportion"'):
        line, _, data = data.partition(b"\n")
        head = _object(json.loads(line))["apportion"]
    try:
        document = _object(_loaded(data))
        entries = cast("Sequence[object]", document.get("entries") or ())
        groups = _group_sizes(document.get("pg_config"))
        operations: list[Operation] = []
        pending: set[int] = set()
        for entry in map(_object, entries):
            if entry.get("retired") or entry.get("state") == "completed":
                operations.append(_operation(entry, groups))
            else:
                pending.add(int(entry["record_id"]))
    except CollectorError:
        raise
    except Exception as error:  # a file of somebody else's can raise anything
        raise CollectorError(f"it is no Flight Recorder dump ({type(error).__name__})") from error
    return Dump(tuple(operations), frozenset(pending), head.get("pid"), head.get("cost_ns"))


def _loaded(data: bytes) -> object:
    if data.lstrip()[:1] == b"{":
        return json.loads(data)
    return _PlainValues(io.BytesIO(data)).load()


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CollectorError("it is no Flight Recorder dump: an object is missing")
    return cast("dict[str, Any]", value)


def _group_sizes(config: object) -> dict[str, int]:
    """How many ranks each process group has, by its name."""
    if not isinstance(config, dict):
        return {}
    sizes: dict[str, int] = {}
    for name, group in cast("dict[object, object]", config).items():
        ranks = str(_object(group).get("ranks", ""))
        if not ranks.rstrip("] ").endswith("..."):
            sizes[str(name)] = len(_RANKS.findall(ranks))
    return sizes


def _operation(entry: Mapping[str, Any], sizes: Mapping[str, int]) -> Operation:
    name, description = (str(part) for part in entry["process_group"])
    only = next(iter(sizes.values())) if len(sizes) == 1 else None
    duration_ms = entry.get("duration_ms")
    point_to_point = bool(entry.get("is_p2p"))
    return Operation(
        communicator=f"group {name}" if description in _ANONYMOUS else description,
        group=name,
        collective=collective_named(str(entry["profiling_name"])),
        size_bytes=max(_sizes(entry, "input"), _sizes(entry, "output")),
        record=int(entry["record_id"]),
        # Of two ranks that send and receive, the numbers differ.
        sequence=None if point_to_point else int(entry["collective_seq_id"]),
        ranks=sizes.get(name, only) or None,
        duration_ns=None if not duration_ms else round(float(duration_ms) * _NS_PER_MS),
    )


def _sizes(entry: Mapping[str, Any], side: str) -> int:
    return sum(_tensors(entry.get(f"{side}_sizes") or (), entry.get(f"{side}_dtypes") or ()))


def _tensors(shapes: Sequence[Sequence[int]], dtypes: Sequence[str]) -> Iterator[int]:
    """Bytes of each tensor; one of an unknown type counts nothing."""
    for shape, dtype in zip(shapes, dtypes, strict=False):
        yield prod(int(length) for length in shape) * (item_bytes(str(dtype)) or 0)
