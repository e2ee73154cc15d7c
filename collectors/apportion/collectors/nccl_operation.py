"""One collective operation of one rank, whoever reported it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """`size_bytes` is S of `core.collective`. What the source does not tell is None.

    `communicator` is its name for people; `group` tells communicators of one name apart.
    `sequence` is the same number on every rank of the group, `record` counts within the process.
    """

    communicator: str
    group: str
    collective: str
    size_bytes: int
    record: int
    sequence: int | None = None
    rank: int | None = None
    ranks: int | None = None
    duration_ns: int | None = None
