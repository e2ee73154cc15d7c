"""A flame graph in money is the ledger's amount: to the unit, in every category, in any order."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cost.test_report import fleet, seconds
from tests.profiles.stacking import stacks_of
from tests.profiles.written import document, kernel, launch, save, step

from apportion.agent.cli.command import main
from apportion.agent.priced_stacks import frame, priced
from apportion.agent.sample_spans import CATEGORY
from apportion.core.category import Category, Phase, SpanKind, SpanStatus
from apportion.core.errors import ConfigError
from apportion.core.units import UNITS_PER_CURRENCY
from apportion.cost.cost_by_category import CostByCategory, CostFilter
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.quantity import Quantity
from apportion.cost.report import report
from apportion.cost.testing import Claim
from apportion.profiles.flame_tree import flame_tree
from apportion.profiles.py_spy import PROCESS
from apportion.profiles.py_spy_events import AT
from apportion.profiles.rank_stacks import STEP
from apportion.profiles.speedscope import speedscope_json
from apportion.profiles.stacks import Stacks

PRETRAIN = ["--ledger", "LEDGER", "--workload", "pretrain"]
CENT = UNITS_PER_CURRENCY // 100
STACKS = st.lists(
    st.tuples(st.lists(st.sampled_from("abc"), max_size=3).map(";".join), st.integers(0, 1 << 50)),
    min_size=1,
    max_size=8,
)
SPENT = st.dictionaries(
    st.sampled_from(Category),
    st.builds(Quantity, st.integers(1, 1 << 58), st.integers(0, 1 << 58), st.integers(0, 1 << 58)),
    min_size=1,
    max_size=4,
)


@given(STACKS, SPENT, st.randoms())
def test_root_is_the_amount_to_the_unit(
    content: list[tuple[str, int]], amounts: dict[Category, Quantity], chance: Random
) -> None:
    """Money, energy and time: the root is the total, each frame of a category its category."""
    spent = CostByCategory(amounts, "USD", estimated=False, simulated=False)

    found = priced(stacks_of(content), spent)

    assert [weight.name for weight in found.weights] == ["cost", "time", "energy"]
    total = spent.total
    assert [found.total(row) for row in range(3)] == [total.units, total.device_ns, total.energy_mj]
    for row, of in enumerate(("units", "device_ns", "energy_mj")):
        tree = flame_tree(found, row)
        siblings = {
            tree.name(index): tree.widths[index]
            for index in range(1, len(tree))
            if tree.depth[index] == 1
        }
        assert siblings == {
            frame(category): getattr(quantity, of)
            for category, quantity in amounts.items()
            if getattr(quantity, of)
        }
    chance.shuffle(content)
    again = priced(stacks_of(content), spent)
    assert _by_stack(again) == _by_stack(found)


STEPS = st.dictionaries(
    st.integers(1, 4),
    st.builds(Quantity, st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 50)),
    max_size=4,
)


@given(STACKS, st.data(), STEPS, STEPS)
def test_a_steps_own_amount_stays_with_its_stacks(
    content: list[tuple[str, int]],
    data: st.DataObject,
    of_step: dict[int, Quantity],
    elsewhere: dict[int, Quantity],
) -> None:
    """The root is the total; each step's stacks have its amount, and their part of the others'."""
    chosen = st.lists(st.sampled_from(("1", "2", "3", None)), min_size=len(content))
    steps = data.draw(chosen)[: len(content)]
    stacks = stacks_of(content).labelled(STEP, steps)
    everything = [*of_step.values(), *(elsewhere.values()), Quantity(1, 1, 1)]
    spent = CostByCategory(
        {Category.DIRECT: sum(everything, Quantity())}, "USD", estimated=False, simulated=False
    )

    found = priced(stacks, spent, of_step)

    total = spent.total
    assert [found.total(row) for row in range(3)] == [total.units, total.device_ns, total.energy_mj]
    shown = {step for step in steps if step is not None and int(step) in of_step}
    left = spent.total.units or 0
    left -= sum(of_step[int(number)].units or 0 for number in shown)
    for number in shown:
        own = of_step[int(number)].units or 0
        is_own = np.array([one == number for one in found.label(STEP)])
        assert own <= found.where(is_own).total(0) <= own + left


def test_dear_steps_are_dear_in_the_picture() -> None:
    """Two steps of one length, one of them at five times the price: its stacks are five sixths."""
    stacks = stacks_of([("a", 10), ("b", 10)]).labelled(STEP, ["1", "2"])
    of_step = {1: Quantity(10, 50), 2: Quantity(10, 10)}
    amounts = {Category.DIRECT: Quantity(20, 60)}
    spent = CostByCategory(amounts, "USD", estimated=False, simulated=False)

    found = priced(stacks, spent, of_step)

    assert _by_stack(found) == {("[direct]", "a"): [50, 10], ("[direct]", "b"): [10, 10]}


def test_samples_stand_below_the_category_they_were_taken_in() -> None:
    """What was seen in a checkpoint is part of its cost; what was in no span stands nowhere."""
    stacks = stacks_of([("work", 3), ("save", 1), ("between", 9)])
    stacks = stacks.labelled(CATEGORY, ["direct", "checkpoint", None])
    amounts = {
        Category.DIRECT: Quantity(30, 30),
        Category.CHECKPOINT: Quantity(20, 20),
        Category.BETWEEN_STEPS: Quantity(5, 5),
    }

    found = priced(stacks, CostByCategory(amounts, "USD", estimated=False, simulated=False))

    assert _by_stack(found) == {
        ("[direct]", "work"): [30, 30],
        ("[checkpoint]", "save"): [20, 20],
        ("[between_steps]",): [5, 5],
    }


def _by_stack(stacks: Stacks) -> dict[tuple[str, ...], list[int]]:
    columns: list[list[int]] = stacks.values.T.tolist()
    return {tuple(stacks.stack(index)): column for index, column in enumerate(columns)}


def test_what_the_ledger_lacks_is_left_out() -> None:
    """No price is no cost of 0, and no energy source no energy of 0."""
    spent = CostByCategory({Category.DIRECT: Quantity(5)}, None, estimated=False, simulated=False)

    assert [one.name for one in priced(stacks_of([("a", 1)]), spent).weights] == ["time"]


def test_energy_below_nothing_costs_the_energy_alone() -> None:
    """A category that gave back more than it has in a period takes no money along."""
    amounts = {Category.DIRECT: Quantity(5, 7, 9), Category.ALLOCATED_IDLE: Quantity(1, 1, -1)}

    found = priced(
        stacks_of([("a", 1)]), CostByCategory(amounts, "USD", estimated=False, simulated=False)
    )

    assert [one.name for one in found.weights] == ["cost", "time"]
    assert found.total(0) == 8


@pytest.mark.parametrize(
    ("amounts", "said"),
    [
        ({}, "has nothing of what was asked for"),
        ({Category.DIRECT: Quantity(5, -1)}, "direct is below 0"),
        ({Category.DIRECT: Quantity(5, 1 << 63)}, "take a shorter period"),
    ],
)
def test_what_has_no_width_is_refused(amounts: dict[Category, Quantity], said: str) -> None:
    """A picture of nothing, or of less than nothing, would be read as an answer."""
    spent = CostByCategory(amounts, "USD", estimated=False, simulated=False)

    with pytest.raises(ConfigError, match=said):
        priced(stacks_of([("a", 1)]), spent)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """A rank's trace of the steps 1 and 2 of the ledger's trainer."""
    events = [
        step(1, 0, 100),
        step(2, 100, 100),
        launch(0, 1),
        kernel("gemm", 0, 75, 1),
        launch(100, 2),
        kernel("softmax", 120, 50, 2),
    ]
    return str(save(tmp_path / "rank0.json", document(events)))


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """The ledger of a SIMULATED server and trainer."""
    path = tmp_path / "ledger.db"
    fleet(simulated=True).ledger(path).close()
    return str(path)


def test_build_in_money(trace: str, ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A workload's whole cost: its steps divided by time, what is no step beside them."""
    of_trainer = ["--ledger", ledger, "--workload", "pretrain", "--weight", "money"]

    assert main(["flamegraph", "build", trace, *of_trainer]) == 0

    said = capsys.readouterr()
    stacks = {
        stack: int(units)
        for stack, _, units in (line.rpartition(" ") for line in said.out.splitlines())
    }
    assert stacks == {
        "[direct];gemm": 6 * CENT,
        "[direct];softmax": 4 * CENT,
        "[direct];[host_wait]": 36 * CENT // 10,
        "[direct];[idle]": 24 * CENT // 10,
        "[between_steps]": 6 * CENT,
        "[lost]": 8 * CENT,
    }
    assert sum(stacks.values()) == 30 * CENT
    assert "SIMULATED: devices of this ledger are simulated" in said.err
    assert "estimated: the amounts rest on assumed prices" in said.err


def test_build_in_money_of_steps(trace: str, ledger: str, tmp_path: Path) -> None:
    """Of one step the stacks and the money are that step's, in every weight of the file."""
    out = tmp_path / "step.json"
    of_step = ["--ledger", ledger, "--workload", "pretrain", "--steps", "2"]

    assert main(["flamegraph", "build", trace, *of_step, "-o", str(out)]) == 0

    found = json.loads(out.read_text())
    assert [one["name"] for one in found["profiles"]] == ["cost, 10^-12 USD", "time"]
    assert [one["endValue"] for one in found["profiles"]] == [8 * CENT, 8 * 10**9]


def test_the_costliest_step_is_the_ledgers(
    trace: str, ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the longest in the trace, but the one that cost most: here another one."""
    with LedgerReader.of(ledger) as book:
        costs = CostByCategory.by_step(book, CostFilter(steps=((1, 3),)))
    assert {step: own.total.units for step, own in costs.items()} == dict.fromkeys(
        (1, 2, 3), 8 * CENT
    )
    builder = fleet()
    builder.device(3, "GPU-3")
    builder.ring(3)
    builder.span(3, 1, seconds(10, 12), SpanKind.STEP, entity=4, step=2)
    builder.settle(3, seconds(10, 12), [Claim(Category.DIRECT, 3, 4, 3, 1)], rate=1)
    dearer = tmp_path / "dearer.db"
    builder.ledger(dearer).close()
    of_trainer = ["--ledger", str(dearer), "--workload", "pretrain", "--costliest-steps", "1"]

    assert main(["flamegraph", "build", trace, *of_trainer]) == 0

    assert capsys.readouterr().out.splitlines() == [
        f"[direct];softmax {40 * CENT // 10}",
        f"[direct];[host_wait] {36 * CENT // 10}",
        f"[direct];[idle] {24 * CENT // 10}",
    ]
    # of the trace alone it is the one with the most kernels
    assert main(["flamegraph", "build", trace, "--costliest-steps", "1"]) == 0


def test_samples_of_a_process_are_found_by_step_and_phase(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kept CPU profile and a ledger: the stacks of one step with its money, to the unit."""
    builder = fleet()
    builder.batch.insert("boot", [("0f" * 16, 0, 0)])
    identity = json.dumps({"pid": 4711, "workload": "pretrain"})
    builder.batch.insert("ring", [(9, "9" * 32, "0f" * 16, identity, 0, None)])
    for number, first in ((1, 0), (2, 10)):
        interval = seconds(first, first + 8)
        builder.span(9, number, interval, SpanKind.STEP, entity=4, step=number)
    # it ends 5 ms behind one of its two samples
    begin_ns, end_ns = seconds(10, 12).start_ns, seconds(10, 12).end_ns + 5_000_000
    head = (9, 3, 3, 2, int(SpanKind.PHASE), int(SpanStatus.OK), int(Phase.BACKWARD), 0, 4, None)
    rest = (*[None] * 11, 0, end_ns, None)
    builder.batch.insert("span", [(*head, begin_ns, None, None, end_ns, *rest)])
    path = tmp_path / "ledger.db"
    builder.ledger(path).close()
    stacks = stacks_of([("first", 1), ("second;x", 1), ("second;y", 1), ("between", 1)])
    at_s = [1, 11, 12, 9]
    stacks = stacks.labelled(AT, [str(seconds(at, at).start_ns) for at in at_s])
    stacks = stacks.labelled(PROCESS, [f"{'0f' * 16}/4711"] * 4)
    profile = tmp_path / "cpu.json"
    profile.write_bytes(speedscope_json(stacks, ""))
    money = ["flamegraph", "build", str(profile), "--ledger", str(path), "--workload", "pretrain"]

    assert main([*money, "--steps", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"[direct];second;x {4 * CENT}",
        f"[direct];second;y {4 * CENT}",
    ]
    # in step 3, which was lost, no sample was taken; its money is not that of any other
    assert main([*money, "--steps", "2-3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"[direct];second;x {4 * CENT}",
        f"[direct];second;y {4 * CENT}",
        f"[lost] {8 * CENT}",
    ]
    assert main(money) == 0
    rows = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert sum(map(int, rows.values())) == 30 * CENT
    assert not any("between;" in stack or stack.endswith(";between") for stack in rows)
    assert main([*money, "--phase", "backward"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"[direct];second;x {4 * CENT}",
        f"[direct];second;y {4 * CENT}",
        f"[lost] {4 * CENT}",
    ]
    assert "50.0 % of the samples below phase 'backward' would be of another" in said.err
    assert main([*money, "--steps", "3"]) == 2
    assert "of --steps 3; 2 steps have stacks, from 1 to 2" in capsys.readouterr().err
    stacks = stacks.labelled(PROCESS, [f"{'0f' * 16}/12"] * 4)
    profile.write_bytes(speedscope_json(stacks, ""))
    assert main(money) == 0
    assert "no sample was taken in a step or request" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--workload", "pretrain"], "--workload chooses in a ledger: give --ledger, too"),
        (["--weight", "money"], "has no weight 'money', but time"),
        ([*PRETRAIN, "--weight", "energy"], "the ledger has no energy of it: no device that it"),
        ([*PRETRAIN, "--weight", "samples"], "--weight can be: money, time"),
        ([*PRETRAIN, "--steps", "7-9"], "of --steps 7-9; 2 steps have stacks, from 1 to 2"),
        (["--ledger", "LEDGER", "--workload", "nobody"], "has nothing of what was asked for"),
        (["--ledger", "LEDGER", "--since", "7 days"], "'7 days' is not an instant"),
    ],
)
def test_what_cannot_be_priced_is_one_line(
    trace: str, ledger: str, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wish that no ledger can answer is refused with the remedy."""
    given = [ledger if word == "LEDGER" else word for word in more]

    assert main(["flamegraph", "build", trace, *given]) == 2

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_every_workload_of_a_ledger(
    trace: str, ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The root is all that was metered; who has a profile has stacks, the others categories."""
    out = tmp_path / "whole.json"
    whole = ["flamegraph", "build", "--ledger", ledger, "--profile", f"pretrain={trace}"]

    assert main(whole) == 0
    stacks = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert main([*whole, "-o", str(out)]) == 0
    with LedgerReader.of(ledger) as book:
        metered = report(book).proof.metered
    assert int(stacks["pretrain;[direct];gemm"]) == 6 * CENT
    assert int(stacks["pretrain;[lost]"]) == 8 * CENT
    assert int(stacks["llama-serve;[direct]"]) == 20 * CENT
    assert sum(map(int, stacks.values())) == metered.units == 60 * CENT
    ends = [one["endValue"] for one in json.loads(out.read_text())["profiles"]]
    assert ends == [metered.units, metered.device_ns, metered.energy_mj]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--profile", "stranger=TRACE"],
            "no cost of workload 'stranger' in the ledger; it has",
        ),
        (["--profile", "TRACE"], "is not WORKLOAD=FILE"),
        (["--profile", "pretrain=TRACE", "TRACE"], "not both"),
        (["--steps", "1"], "choose in a FILE: name it"),
    ],
)
def test_wrong_wishes_of_a_whole_ledger(
    trace: str, ledger: str, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A profile of nobody's, or of everybody's and somebody's, has no honest picture."""
    given = [word.replace("TRACE", trace) for word in more]

    assert main(["flamegraph", "build", "--ledger", ledger, *given]) == 2

    assert said in capsys.readouterr().err
