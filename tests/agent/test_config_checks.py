"""What periods, keeping and placement of a configuration may be."""

from __future__ import annotations

import pytest

from apportion.agent.config_checks import (
    BOUNDS_NS,
    check_keeping,
    check_period,
    check_placement,
)
from apportion.agent.duration import Duration

DAY = Duration(86_400_000_000_000)
YEAR = Duration(365 * DAY.ns)


@pytest.mark.parametrize("key", BOUNDS_NS)
def test_a_period_may_be_its_bounds_and_no_more(key: str) -> None:
    """Both ends are allowed; a nanosecond beyond either is refused with the key."""
    least_ns, most_ns = BOUNDS_NS[key]
    check_period(key, Duration(least_ns))
    check_period(key, Duration(most_ns))
    for wrong_ns in (least_ns - 1, most_ns + 1):
        with pytest.raises(ValueError, match=f"^{key} is .*; it must be from "):
            check_period(key, Duration(wrong_ns))


@pytest.mark.parametrize(
    ("lines", "rollups"), [(None, None), (DAY, None), (DAY, DAY), (DAY, YEAR), (YEAR, YEAR)]
)
def test_sums_are_kept_as_long_as_their_lines(
    lines: Duration | None, rollups: Duration | None
) -> None:
    """What is kept for ever needs no bound, and sums may be kept just as long."""
    check_keeping(lines, rollups)


@pytest.mark.parametrize(("lines", "rollups"), [(None, YEAR), (YEAR, DAY), (Duration(1), None)])
def test_sums_do_not_go_before_their_lines(
    lines: Duration | None, rollups: Duration | None
) -> None:
    """Neither does a line go on the day on which it was written."""
    with pytest.raises(ValueError, match=r"^keep_(lines|rollups) is "):
        check_keeping(lines, rollups)


def test_a_placement_has_the_words_of_a_price_table() -> None:
    """A misspelt one would match no row, and nobody would know."""
    check_placement({})
    check_placement({"cloud": "aws", "capacity": "spot", "labels.team": "search"})
    with pytest.raises(ValueError, match=r"^placement has 'clowd'; it takes .*, labels\.NAME$"):
        check_placement({"clowd": "aws"})
    with pytest.raises(ValueError, match=r"^placement: capacity must be one of .*spot"):
        check_placement({"capacity": "spott"})
