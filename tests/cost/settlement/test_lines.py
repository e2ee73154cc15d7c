"""Lines by columns are the lines one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.category import Category
from apportion.cost.methods.names import Method
from apportion.cost.settlement.amounts import Amounts, Quantity
from apportion.cost.settlement.lines import Lines, Who
from apportion.cost.settlement.phases import by_method, phase_durations
from apportion.cost.settlement.work import ROOT

START = 1_795_000_000_000_000_000
AMOUNT = st.integers(0, 10**13)
SPAN = st.tuples(
    st.integers(0, 10**10), st.integers(-2, 10**10 + 2), AMOUNT, AMOUNT, AMOUNT, st.booleans()
)


@given(st.lists(SPAN, min_size=1, max_size=8), st.booleans(), st.booleans())
def test_columns_are_equal_to_single_lines(
    spans: list[tuple[int, int, int, int, int, bool]], priced: bool, by_need: bool
) -> None:
    """Prefill and decode, rounding, NULLs: the fast way never differs from the plain one."""
    roots = np.zeros(len(spans), ROOT)
    roots["start_ns"] = START
    roots["end_ns"] = [START + length for length, *_ in spans]
    roots["first_token_ns"] = [0 if first < 0 else START + first for _, first, *_ in spans]
    roots["number"] = 1 + np.arange(len(spans))
    roots["ring"], roots["group"], roots["entity"] = 7, 3, np.arange(len(spans)) % 2
    roots["category"] = int(Category.DIRECT)
    times, units, energy, metered = (
        np.array([span[index] for span in spans]) for index in (2, 3, 4, 5)
    )
    method = Method.ROOFLINE_WINDOWS if by_need else Method.TIME_SHARE
    roots["method"] = int(method)
    prefill = times // 3
    known = units if priced else None
    rows = np.arange(len(spans))
    amounts = Amounts(rows, times, known, np.where(metered, energy, 0), metered, prefill)
    together, apart = Lines(1, 99), Lines(1, 99)
    together.post_many(roots, amounts, 5)
    for index, root in enumerate(roots):
        period = (int(root["start_ns"]), int(root["end_ns"]))
        durations = phase_durations(*period, int(root["first_token_ns"]), [])
        apart.post(
            Who(3, int(Category.DIRECT), int(root["entity"]), 7, int(root["number"])),
            period,
            by_method(durations, int(prefill[index]), int(times[index])) if by_need else durations,
            Quantity(
                int(times[index]),
                int(energy[index]) if metered[index] else None,
                int(units[index]) if priced else None,
            ),
            rate=5,
            method=int(method),
            reason=None,
            incomplete=False,
        )

    def unordered(lines: Lines) -> list[str]:
        return sorted(str(row[1:]) for row in lines.rows)

    assert unordered(together) == unordered(apart)
    assert together.by_phase == apart.by_phase
    assert [row[0] for row in together.rows] == list(range(1, len(together.rows) + 1))
