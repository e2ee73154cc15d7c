"""A root span's own amount divided among its phases, by time; the innermost phase wins."""

from __future__ import annotations

from typing import NamedTuple

from apportion.core.category import Phase, PhaseClock


class PhaseSlice(NamedTuple):
    """A phase of a root span, in node time. `number` grows with nesting."""

    phase: Phase
    start_ns: int
    end_ns: int
    number: int
    clock: PhaseClock


def phase_durations(
    start_ns: int, end_ns: int, first_token_ns: int, slices: list[PhaseSlice]
) -> list[tuple[Phase, int]]:
    """(phase, ns) of [start_ns, end_ns) of a root, in the order of `Phase`; sums to its length.

    A request's prefill and decode meet at its first token; phases it names itself lie above
    them. Phases by the host's clock on CUDA measure launches and divide nothing.
    """
    named = [piece for piece in slices if piece.clock is not PhaseClock.HOST_LAUNCH]
    if first_token_ns > 0:
        cut_ns = min(max(first_token_ns, start_ns), end_ns)
        if not named:
            return [
                (phase, duration_ns)
                for phase, duration_ns in (
                    (Phase.PREFILL, cut_ns - start_ns),
                    (Phase.DECODE, end_ns - cut_ns),
                )
                if duration_ns > 0
            ] or [(Phase.NONE, 0)]
        named = [
            PhaseSlice(Phase.PREFILL, start_ns, cut_ns, -2, PhaseClock.HOST),
            PhaseSlice(Phase.DECODE, cut_ns, end_ns, -1, PhaseClock.HOST),
            *named,
        ]
    if not named or end_ns <= start_ns:
        return [(Phase.NONE, max(0, end_ns - start_ns))]
    durations = dict.fromkeys(Phase, 0)
    edges = sorted(
        {start_ns, end_ns}
        | {edge for piece in named for edge in piece[1:3] if start_ns < edge < end_ns}
    )
    for begin_ns, stop_ns in zip(edges, edges[1:], strict=False):
        active = [p for p in named if p.start_ns <= begin_ns and p.end_ns >= stop_ns]
        inner = max(active, key=lambda p: (p.number,), default=None)
        durations[Phase.NONE if inner is None else inner.phase] += stop_ns - begin_ns
    return [(phase, duration_ns) for phase, duration_ns in durations.items() if duration_ns > 0]


def split(amount: int, durations: list[tuple[Phase, int]]) -> list[int]:
    """`amount` (any sign) by duration: largest remainder, ties to the earlier phase."""
    if len(durations) == 1:
        return [amount]
    if amount < 0:
        return [-part for part in split(-amount, durations)]
    total = sum(duration_ns for _, duration_ns in durations)
    if len(durations) == 2:  # noqa: PLR2004 - prefill and decode: by far the most frequent
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
