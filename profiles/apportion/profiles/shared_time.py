"""What runs at once shares its instants: parts whose sum is the time in which anything ran."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apportion.profiles.device_trace import Ints


@dataclass(frozen=True, slots=True)
class SharedTime:
    """The axis cut wherever something begins or ends, and who has which part of each piece.

    edges_ns: piece i is `[edges_ns[i], edges_ns[i + 1])`. item, piece, part_ns: one row for each
    item in each piece that it covers, by piece.
    """

    edges_ns: Ints
    item: Ints
    piece: Ints
    part_ns: Ints

    @classmethod
    def of(cls, start_ns: Ints, end_ns: Ints, cuts_ns: Ints) -> SharedTime:
        """Divide each instant evenly among the items that cover it.

        A piece that does not divide evenly gives the nanoseconds left over to its first items.
        cuts_ns: more instants at which the axis is to be cut.
        """
        edges_ns = np.unique(np.concatenate((start_ns, end_ns, cuts_ns)))
        first = np.searchsorted(edges_ns, start_ns)
        count = np.searchsorted(edges_ns, end_ns) - first
        item = np.repeat(np.arange(len(start_ns)), count)
        within = np.arange(len(item)) - np.repeat(np.cumsum(count) - count, count)
        piece = np.repeat(first, count) + within
        order = np.argsort(piece, kind="stable")
        item, piece = item[order], piece[order]
        sharers = np.bincount(piece, minlength=len(edges_ns))
        place = np.arange(len(piece)) - (np.cumsum(sharers) - sharers)[piece]
        length_ns = np.diff(edges_ns)[piece]
        part_ns = length_ns // sharers[piece] + (place < length_ns % sharers[piece])
        return cls(edges_ns, item, piece, part_ns)
