"""How often to save: the interval at which checkpoints and lost work together cost least.

Saving costs C each time, and after a failure what was done since the last checkpoint is lost:
half an interval on average. With a mean time between failures M, an interval W of work between
checkpoints wastes about C/W + W/2M + R/M of the time, R being what a restart takes. The first
two terms are least at W = sqrt(2CM) (J. W. Young, 1974); J. T. Daly (2006) gives the expansion
for failures that also meet checkpoints and restarts, good while C is not small beside M.
"""

from __future__ import annotations

from math import sqrt


def young_s(checkpoint_s: float, mtbf_s: float) -> float:
    """The optimal interval in seconds by Young's first-order formula."""
    _check(checkpoint_s, mtbf_s)
    return sqrt(2 * checkpoint_s * mtbf_s)


def daly_s(checkpoint_s: float, mtbf_s: float) -> float:
    """The optimal interval in seconds by Daly's higher-order formula.

    Where a checkpoint takes twice the MTBF or more there is no interval to speak of: it is the
    MTBF.
    """
    _check(checkpoint_s, mtbf_s)
    if checkpoint_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = checkpoint_s / (2 * mtbf_s)
    return sqrt(2 * checkpoint_s * mtbf_s) * (1 + sqrt(ratio) / 3 + ratio / 9) - checkpoint_s


def waste_ratio(
    interval_s: float, checkpoint_s: float, mtbf_s: float, restart_s: float = 0.0
) -> float:
    """What saving, lost work and restarts take, beside a second of work; first order."""
    _check(checkpoint_s, mtbf_s)
    if interval_s <= 0 or restart_s < 0:
        raise ValueError(f"an interval of {interval_s} s, a restart of {restart_s} s")
    return checkpoint_s / interval_s + interval_s / (2 * mtbf_s) + restart_s / mtbf_s


def _check(checkpoint_s: float, mtbf_s: float) -> None:
    if checkpoint_s <= 0 or mtbf_s <= 0:
        raise ValueError(f"a checkpoint of {checkpoint_s} s, an MTBF of {mtbf_s} s")
