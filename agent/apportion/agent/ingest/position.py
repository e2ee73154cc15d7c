"""How far a ring has been read: what is stored beside the spans, so that a crash loses none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

_INTEGERS = ("read", "lost", "abandoned", "invalid", "end_ns")


@dataclass(frozen=True, slots=True)
class Position:
    """Every sequence up to `read` is decided, except `holes` (ascending), which are awaited.

    `accepted + lost + abandoned + invalid + len(holes) == read`, always. `end_ns` is the end of
    the last record accepted (host monotonic), of the ring's making before the first: a window of
    loss starts there.
    """

    read: int = 0
    holes: tuple[int, ...] = ()
    lost: int = 0
    abandoned: int = 0
    invalid: int = 0
    end_ns: int = 0

    @property
    def accepted(self) -> int:
        """How many records have been handed out, ever."""
        return self.read - len(self.holes) - self.lost - self.abandoned - self.invalid

    def to_json(self) -> dict[str, int | list[int]]:
        """A mapping of plain integers, for `json.dumps`."""
        document: dict[str, int | list[int]] = {name: getattr(self, name) for name in _INTEGERS}
        return {**document, "holes": list(self.holes)}

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> Position:
        """What `to_json` made.

        Raises:
            ValueError: a member is missing, of another type, or contradicts the others.
        """
        numbers: dict[str, int] = {}
        for name in _INTEGERS:
            value = document.get(name)
            if type(value) is not int or value < 0:
                raise ValueError(f"position: {name} is {value!r}, not an integer from 0")
            numbers[name] = value
        holes = document.get("holes")
        if not isinstance(holes, (list, tuple)):
            raise ValueError(f"position: holes is {holes!r}, not a list")  # noqa: TRY004
        sequences: list[int] = []
        for hole in cast("list[object]", holes):
            if type(hole) is not int or not (sequences[-1] if sequences else 0) < hole:
                raise ValueError(f"position: hole {hole!r} is not an ascending integer from 1")
            sequences.append(hole)
        if sequences and sequences[-1] > numbers["read"]:
            raise ValueError(f"position: hole {sequences[-1]} lies beyond {numbers['read']}")
        position = cls(holes=tuple(sequences), **numbers)
        if position.accepted < 0:
            raise ValueError(f"position: {position} decides more records than it has read")
        return position
