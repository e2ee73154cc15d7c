"""What did the crash cost? The example, run, against a reckoning that shares no code with it."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from apportion.agent.cli import main

pytestmark = [pytest.mark.needs_program("cc"), pytest.mark.slow, pytest.mark.timeout(240)]

RANKS, SAVED, CRASH_AT, LAST, CRASHED = 8, 10, 13, 20, 5
SECOND = 1_000_000_000
UNITS_PER_3_NS = 2
"""2.40 USD an hour."""
POLLS_NS = 2 * SECOND
"""By so much an agent on a busy machine may have looked at a rank before it was killed."""


@pytest.fixture(scope="module")
def crash(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    """The example, run once: its directory, the run in its report, and what it said meanwhile."""
    directory = tmp_path_factory.mktemp("crash")
    done = subprocess.run(
        [sys.executable, repository / "examples" / "crash.py", "--directory", directory,
         "--format", "json"],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["simulated"]
    (run,) = report["runs"]
    return directory, run, done.stderr


def query(directory: Path, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows of both nodes' ledgers, in plain SQL."""
    for node in ("node-a", "node-b"):
        name = f"file:{directory / node / 'state' / 'ledger.db'}?mode=ro"
        with closing(sqlite3.connect(name, uri=True)) as connection:
            yield from connection.execute(sql)


def apportion(*arguments: object) -> subprocess.CompletedProcess[str]:
    """An `apportion` command that only reads a ledger, in this process: a second less each."""
    words = list(map(str, arguments))
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(words)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


class Window(NamedTuple):
    """When a rank was surely in a step, and when perhaps; its own clock."""

    before_ns: int
    in_ns: int
    ending_ns: int
    after_ns: int


def windows(directory: Path, attempt: int, rank: int) -> dict[int, Window]:
    """The finished steps of a rank by its own log."""
    times: dict[int, list[int]] = {}
    for line in (directory / f"rank-{attempt}-{rank}.log").read_text().splitlines():
        _, number, time_ns = line.rsplit(" ", 2)
        times.setdefault(int(number), []).append(int(time_ns))
    return {number: Window(*known) for number, known in times.items() if len(known) == 4}


def device_ns(run: dict[str, Any], *lines: str) -> int:
    """What lines of the report have together."""
    found = [row["total"]["device_ns"] for row in run["lines"] if row["line"] in lines]
    return sum(found)


STEPS = ("steps", "communication in steps")


def test_the_ranks_own_clocks_say_the_same(crash: tuple[Path, dict[str, Any], str]) -> None:
    """Kept and rolled-back steps cost what the ranks saw of them, between two bounds."""
    directory, run, _ = crash
    kept, vain = Counter[str](), Counter[str]()
    for attempt, rank in ((a, r) for a in (0, 1) for r in range(RANKS)):
        steps = windows(directory, attempt, rank)
        assert set(steps) == set(range(1, CRASH_AT) if attempt == 0 else range(SAVED + 1, LAST + 1))
        for number, window in steps.items():
            sums = vain if attempt == 0 and number > SAVED else kept
            sums["at least"] += window.ending_ns - window.in_ns
            sums["at most"] += window.after_ns - window.before_ns
    assert kept["at least"] <= device_ns(run, *STEPS) <= kept["at most"]
    assert vain["at least"] <= device_ns(run, "lost: rolled back") <= vain["at most"]


def test_the_hang_is_what_the_launcher_waited(crash: tuple[Path, dict[str, Any], str]) -> None:
    """From the beginning of the step until the kill, seven times; one rank died at once."""
    directory, run, _ = crash
    killing_ns, killed_ns = map(int, (directory / "killed").read_text().split())
    least = most = 0
    for rank in range(RANKS):
        log = (directory / f"rank-0-{rank}.log").read_text().splitlines()
        before, inside, *more = [
            int(line.rsplit(" ", 1)[1]) for line in log if f"step {CRASH_AT} " in line
        ]
        died = (more[0], more[0] + POLLS_NS) if rank == CRASHED else (killing_ns, killed_ns)
        least += max(0, died[0] - POLLS_NS - inside)
        most += died[1] - before
    assert least <= device_ns(run, "lost: open at death") <= most


def test_the_ledgers_rows_say_exactly_the_same(crash: tuple[Path, dict[str, Any], str]) -> None:
    """Each line is the sum of its spans, and all lines that of everything that the run has."""
    directory, run, _ = crash
    spans = Counter[str]()
    for attempt, kind, status, step, length_ns in query(
        directory,
        "select json_extract(identity, '$.attempt'), kind, status, step, end_ns - start_ns "
        "from span join ring using (agent_id, ring_key) where parent = 0",
    ):
        if kind == 4:
            spans["checkpoints"] += length_ns
        elif status == 4:
            spans["open"] += length_ns
        else:
            spans["vain" if attempt == "0" and step > SAVED else "kept"] += length_ns
    assert device_ns(run, *STEPS) == spans["kept"]
    assert device_ns(run, "lost: rolled back") == spans["vain"]
    assert device_ns(run, "lost: open at death") == spans["open"]
    assert device_ns(run, "checkpoints") == spans["checkpoints"]

    everything = [
        row
        for table in ("charge", "accrual")
        for row in query(
            directory,
            f"select device_ns, units, energy_mj from {table} "
            "join entity using (agent_id, entity_key) where run = 'pretrain-8'",
        )
    ]
    for place, name in enumerate(("device_ns", "units", "energy_mj")):
        expected = sum(row[place] or 0 for row in everything)
        assert run["total"][name] == expected
        assert sum(line["total"][name] or 0 for line in run["lines"]) == expected
    for line in run["lines"]:
        # A line's rows are rounded one by one.
        metered = line["total"]["device_ns"] * UNITS_PER_3_NS // 3
        assert abs(line["total"]["units"] - metered) <= len(everything)


def test_the_answer(crash: tuple[Path, dict[str, Any], str]) -> None:
    """What a person reads: attempts, steps, what they cost, goodput, checkpoints."""
    _, run, said = crash
    assert "SIMULATED" in said
    one, two = run["attempts"]
    assert (one["label"], one["outcome"], one["ranks"], one["nodes"]) == ("0", "interrupted", 8, 2)
    assert (two["label"], two["outcome"], two["ranks"], two["nodes"]) == ("1", "finished", 8, 2)
    assert (one["finished_steps"], one["kept_steps"], one["last_step"]) == (12, 10, 12)
    assert (two["resumed_step"], two["kept_steps"], two["last_step"]) == (SAVED, 10, LAST)
    assert (run["finished_steps"], run["kept_steps"], run["last_step"]) == (22, 20, LAST)
    assert run["kept_tokens"] == 20 * RANKS * 4096
    total = run["total"]["units"]
    assert run["units_per_kept_step"] == (2 * total + 20) // 40
    assert run["units_per_kept_step"] > run["units_per_step"]
    assert 0 < run["goodput_of_time"] < 1
    assert run["goodput_of_time"] == pytest.approx(run["goodput_of_cost"], rel=1e-3)
    saved = run["checkpoints"]
    assert (saved["count"], saved["failures"], saved["mtbf_is_bound"]) == (4, 1, False)
    assert saved["wasted_units"] >= 0
    assert run["notes"] == []
    assert all(row["total"]["device_ns"] > 0 for row in run["lines"])


def test_both_ledgers_are_proved(crash: tuple[Path, dict[str, Any], str]) -> None:
    """Moves of lost work sum to zero, lines are what the meter said."""
    directory, _, _ = crash
    for node in ("node-a", "node-b"):
        done = apportion("audit", "--ledger", directory / node / "state" / "ledger.db")
        assert done.returncode == 0, done.stdout + done.stderr
    reasons = {row[0] for row in query(directory, "select distinct reason from charge")}
    assert {"rolled_back", "process_died"} <= reasons


def test_the_command_on_one_node(crash: tuple[Path, dict[str, Any], str]) -> None:
    """One ledger of two: half of the run, and it says so; in every format, and what is refused."""
    directory, run, _ = crash
    ledger = ("--ledger", directory / "node-a" / "state" / "ledger.db")
    name = ("--run", "pretrain-8")
    text = apportion("report", *ledger, *name, "--mtbf", "3h")
    assert (text.returncode, text.stderr) == (0, "")
    assert "attempt 1: 4 of 8 ranks are in these ledgers" in text.stdout
    assert "MTBF              3.0 h, as given" in text.stdout

    (half,) = json.loads(apportion("report", *ledger, *name, "--format", "json").stdout)["runs"]
    assert half["kept_steps"] == run["kept_steps"]
    assert half["total"]["units"] < run["total"]["units"]
    table = apportion("report", *ledger, *name, "--format", "csv").stdout
    rows = list(csv.DictReader(table.splitlines()))
    assert sum(int(row["units"]) for row in rows) == half["total"]["units"]

    by_run = apportion("report", *ledger, "--by", "run")
    assert by_run.stdout.splitlines()[-1].split()[:3] == ["gpt", "pretrain-8", "2"]
    document = json.loads(apportion("report", *ledger, "--by", "run", "--format", "json").stdout)
    assert document["runs"][0]["total"] == half["total"]
    mine = next(row for row in document["rows"] if row["run"] == "pretrain-8")
    assert mine["total"]["units"] == half["total"]["units"]
    assert mine["steps"] == run["finished_steps"]

    for wrong, message in (
        (("--mtbf", "3h"), "name it with --run"),
        (("--run", "another"), "no run 'another'"),
        ((*name, "--mtbf", "soon"), "is not a duration"),
        ((*name, "--mtbf", "0"), "more than nothing"),
    ):
        refused = apportion("report", *ledger, *wrong)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert message in refused.stderr
