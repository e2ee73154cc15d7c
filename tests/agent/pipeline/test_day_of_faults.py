"""A day of random faults of SIMULATED GPUs, read by the real collector, on the manual clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from apportion.simulator import environment

PROGRAM = "tests.agent.pipeline.day_of_faults"
SEED, HOURS = 27, 8
"""A third of a day in which each kind of trouble happens; with the profile `thorough`, a day."""


@pytest.mark.slow
def test_a_day_of_faults_adds_up(tmp_path: Path, library: Path) -> None:
    """Whatever failed, came back or was cut by MIG: each instant and each joule is there once."""
    state = tmp_path / "simulator.state"
    hours = 24 if settings().max_examples >= 1_000 else HOURS
    done = subprocess.run(
        [*(sys.executable, "-m", PROGRAM), *map(str, (state, SEED, hours))],
        env={**os.environ, **environment(state, library)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    day = json.loads(done.stdout)
    assert day["findings"] == []
    assert day["settled_ns"] == [day["metered_ns"]] * 2
    assert 0 < day["settled_mj"] <= day["used_mj"]
    assert {"direct", "lost", "unattributed", "unallocated"} <= set(day["categories"])
    for what in ("fault", "library", "played", "mig", "agent killed", "ledger failed", "killed"):
        assert day["happened"][what], f"nothing {what} in this day: give it another seed"
