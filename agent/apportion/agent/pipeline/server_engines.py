"""The engines that a server's process asks, and on which of its devices each of them computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

MOST_ENGINES: Final = 1024
"""An index beyond is none: engines are told apart at a cost for each."""


class ServerEngines(NamedTuple):
    """As the identity of a ring has it: see `layout.PARALLEL_KEYS`."""

    tensor: int
    pipeline: int
    data: int
    first: int
    engines: int
    here: int
    devices: int
    apart: int

    @classmethod
    def of(cls, said: Mapping[str, int]) -> ServerEngines | None:
        """None where the ring does not say all of it."""
        try:
            return cls(**said)
        except TypeError:
            return None

    @property
    def several(self) -> bool:
        """Whether a request may have been in one or in another."""
        return self.engines > 1

    @property
    def expected(self) -> int:
        """On how many devices of this host they compute."""
        return self.here * self.devices

    def wrong_count(self, found: int) -> str | None:
        """What is wrong where they compute on `found` devices of this host."""
        if found == self.expected:
            return None
        sizes = f"tensor {self.tensor} x pipeline {self.pipeline} x data {self.data}"
        return f"{self.expected} devices are expected here ({sizes}), and {found} were found"

    def split(self, devices: Sequence[T]) -> list[tuple[T, ...]]:
        """Those of each engine that is here; none where they are not told apart."""
        if not (self.several and self.apart) or len(devices) != self.expected:
            return []
        size = self.devices
        return [tuple(devices[place * size :][:size]) for place in range(self.here)]

    @property
    def elsewhere(self) -> range:
        """The engines of other hosts, by their index."""
        return range(self.first + self.here, self.first + self.engines)
