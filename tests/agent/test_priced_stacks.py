"""A flame graph in money is the ledger's amount: to the unit, in every category, in any order."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cost.test_report import fleet
from tests.profiles.stacking import stacks_of
from tests.profiles.written import document, kernel, launch, save, step

from apportion.agent.cli.command import main
from apportion.agent.priced_stacks import frame, priced
from apportion.core.category import Category
from apportion.core.errors import ConfigError
from apportion.core.units import UNITS_PER_CURRENCY
from apportion.cost.cost_by_category import CostByCategory
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.quantity import Quantity
from apportion.cost.report import report
from apportion.profiles.flame_tree import flame_tree
from apportion.profiles.stacks import Stacks

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
            tree.name(index): int(tree.widths[index])
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


def _by_stack(stacks: Stacks) -> dict[tuple[str, ...], list[int]]:
    columns: list[list[int]] = stacks.values.T.tolist()
    return {tuple(stacks.stack(index)): column for index, column in enumerate(columns)}


def test_what_the_ledger_lacks_is_left_out() -> None:
    """No price is no cost of 0, and no energy source no energy of 0."""
    spent = CostByCategory({Category.DIRECT: Quantity(5)}, None, estimated=False, simulated=False)

    assert [one.name for one in priced(stacks_of([("a", 1)]), spent).weights] == ["time"]


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


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--workload", "pretrain"], "--workload chooses in a ledger: give --ledger, too"),
        (["--weight", "money"], "has no weight 'cost', but time"),
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
