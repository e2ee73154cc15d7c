"""A root span's own amount divided among its phases, by time; the innermost phase wins."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

from apportion.core.category import Phase, PhaseClock


class PhaseSlice(NamedTuple):
    """A phase of a root span, in node time. `number` grows with nesting."""

    phase: Phase
    start_ns: int
    end_ns: int
    number: int
    clock: PhaseClock


Durations = list[tuple[Phase, int]]
"""(phase, ns), in the order of `Phase`."""


def phase_durations(
    start_ns: int, end_ns: int, first_token_ns: int, slices: list[PhaseSlice]
) -> Durations:
    """[start_ns, end_ns) of a root by phase; sums to its length.

    A request's prefill and decode meet at its first token; phases it names itself lie above
    them. Phases by the host's clock on CUDA measure launches and divide nothing.
    """
    length_ns = end_ns - start_ns
    if length_ns <= 0:
        return [(Phase.NONE, 0)]
    named = [piece for piece in slices if piece.clock is not PhaseClock.HOST_LAUNCH]
    if first_token_ns > 0:
        prefill_ns = min(max(first_token_ns, start_ns), end_ns) - start_ns
        if not named:
            if prefill_ns in {0, length_ns}:
                return [(Phase.PREFILL if prefill_ns else Phase.DECODE, length_ns)]
            return [(Phase.PREFILL, prefill_ns), (Phase.DECODE, length_ns - prefill_ns)]
        cut_ns = start_ns + prefill_ns
        named = [
            PhaseSlice(Phase.PREFILL, start_ns, cut_ns, -2, PhaseClock.HOST),
            PhaseSlice(Phase.DECODE, cut_ns, end_ns, -1, PhaseClock.HOST),
            *named,
        ]
    if not named:
        return [(Phase.NONE, length_ns)]
    durations = dict.fromkeys(Phase, 0)
    for phase, begin_ns, stop_ns in _innermost(start_ns, end_ns, named):
        durations[phase] += stop_ns - begin_ns
    return [(phase, duration_ns) for phase, duration_ns in durations.items() if duration_ns > 0]


def by_method(durations: Durations, prefill_ns: int, device_ns: int) -> Durations:
    """`durations` with prefill and decode in the proportion that a method gave them.

    Together they keep their part; phases that a request names itself lie above them, by time.
    """
    known = dict(durations)
    both = known.get(Phase.PREFILL, 0) + known.get(Phase.DECODE, 0)
    if both == 0 or device_ns <= 0:
        return durations
    if len(known) == len({Phase.PREFILL, Phase.DECODE} & set(known)):
        both = device_ns
    known[Phase.PREFILL] = both * prefill_ns // device_ns
    known[Phase.DECODE] = both - known[Phase.PREFILL]
    return [(phase, known[phase]) for phase in Phase if known.get(phase)]


def _innermost(start_ns: int, end_ns: int, named: list[PhaseSlice]) -> list[tuple[Phase, int, int]]:
    """(phase, start, end) of [start_ns, end_ns): of those that cover it the largest number."""
    pieces = sorted(
        (
            (max(piece.start_ns, start_ns), min(piece.end_ns, end_ns), piece.number, piece.phase)
            for piece in named
        ),
    )
    edges = sorted({start_ns, end_ns, *(e for piece in pieces for e in piece[:2])})
    found: list[tuple[Phase, int, int]] = []
    covering: list[tuple[int, int, Phase]] = []
    following = 0
    for begin_ns, stop_ns in pairwise(edge for edge in edges if start_ns <= edge <= end_ns):
        while following < len(pieces) and pieces[following][0] <= begin_ns:
            _, piece_end_ns, number, phase = pieces[following]
            heappush(covering, (-number, piece_end_ns, phase))
            following += 1
        while covering and covering[0][1] <= begin_ns:
            heappop(covering)
        found.append((covering[0][2] if covering else Phase.NONE, begin_ns, stop_ns))
    return found


def split(amount: int, durations: Durations) -> list[int]:
    """`amount` (any sign) by duration: largest remainder, ties to the earlier phase."""
    if len(durations) == 1:
        return [amount]
    if amount < 0:
        return [-part for part in split(-amount, durations)]
    total = sum(duration_ns for _, duration_ns in durations)
    if len(durations) == 2:  # prefill and decode: by far the most frequent
        part, remainder = divmod(amount * durations[0][1], total)
        if remainder and 2 * remainder >= total:
            part += 1
        return [part, amount - part]
    quotas = [divmod(amount * duration_ns, total) for _, duration_ns in durations]
    parts = [part for part, _ in quotas]
    left = amount - sum(parts)
    for index in sorted(range(len(parts)), key=lambda i: (-quotas[i][1], i))[:left]:
        parts[index] += 1
    return parts
