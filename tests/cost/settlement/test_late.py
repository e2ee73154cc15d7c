"""What is learnt late moves within a span as it was charged."""

from __future__ import annotations

import numpy as np
import pytest

from apportion.core.category import Category, Phase
from apportion.cost.ledger.schema import charge
from apportion.cost.settlement.late import Move, MoveKey, Payer, reallocation_rows
from apportion.cost.settlement.work import ROOT

COLUMNS = [column.name for column in charge.c if column.name != "agent_id"]
"""Of a row; the ledger adds whose it is."""
PHASE, DEVICE_NS, UNITS = map(COLUMNS.index, ("phase", "device_ns", "units"))


@pytest.mark.parametrize("period", [(900, 1_000), (900, 1_050), (1_200, 1_300), (0, 2_000)])
def test_what_is_taken_back_is_of_all_its_phases(period: tuple[int, int]) -> None:
    """Also where the request was not even admitted in the time that is apportioned anew."""
    root = np.zeros(1, ROOT)
    root["start_ns"], root["first_token_ns"], root["end_ns"] = 1_000, 1_100, 1_500
    root["ring"], root["number"] = 3, 7
    payer = Payer(1, Category.DIRECT, 4, 3, 7, "")
    rows = reallocation_rows(
        {MoveKey(payer, 0, 1): Move(-100, None, -10)},
        period=period,
        reason="learnt_late",
        roots=root,
        slices=lambda _ring, _number: [],
        first_charge_key=1,
        posted_ns=9_000,
    )
    assert {int(Phase.PREFILL): (-20, -2), int(Phase.DECODE): (-80, -8)} == {
        row[PHASE]: (row[DEVICE_NS], row[UNITS]) for row in rows
    }
