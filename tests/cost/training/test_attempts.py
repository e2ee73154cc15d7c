"""Attempts and rollbacks, against a plain model of what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.units import NS_PER_SECOND
from apportion.cost.training.attempts import Attempt, Outcome, Process, ProcessKey, attempts_of
from apportion.cost.training.rollback import EVER_NS, Fate, Rollback, fates, rollbacks

S = NS_PER_SECOND


def process(ring: int, attempt: str = "0", **facts: Any) -> Process:
    """A process of agent 1 that lives from second 0 on."""
    return replace(Process(ProcessKey(1, ring), attempt, 0), **facts)


def trained(
    ring: int, attempt: str, seconds: tuple[int, int], steps: tuple[int, int], **facts: Any
) -> Process:
    """A process that made its ring at a second, ran steps up to another one, and was killed."""
    start_ns, end_ns = seconds[0] * S, seconds[1] * S
    found: dict[str, Any] = {
        "start_ns": start_ns,
        "end_ns": end_ns,
        "first_step": steps[0],
        "first_step_ns": start_ns + S,
        "last_step": steps[1],
        "last_step_ns": end_ns - S,
        **facts,
    }
    return process(ring, attempt, **found)


def kept(attempts: Sequence[Attempt]) -> list[int | None]:
    """Below which step each attempt's work was kept."""
    return [fate.keeps_below for fate in fates(attempts)]


class Execution(NamedTuple):
    """One execution of a simulated run: it restores the state of `restored` and does `done` more.

    Steps count from 0; `restored` -1 is none at all.
    """

    restored: int
    done: int
    says_so: bool


@st.composite
def histories(draw: st.DrawFn) -> list[Execution]:
    """Executions of which each restores no more than there is."""
    found: list[Execution] = []
    reached = -1
    for _ in range(draw(st.integers(1, 6))):
        restored = draw(st.integers(-1, reached)) if found else -1
        done = draw(st.integers(1, 12))
        found.append(Execution(restored, done, draw(st.booleans())))
        reached = restored + done
    return found


LABELS = {"counted": "{execution}", "the same": "0", "random": "{execution}-{rank}"}


def processes_of(
    history: Sequence[Execution], ranks: int, nodes: int, labels: str, skew_ns: Sequence[int]
) -> list[Process]:
    """What the agents of `nodes` know of it; each execution takes a second a step, ranks drift."""
    found: list[Process] = []
    now_ns = 0
    for number, execution in enumerate(history):
        first = execution.restored + 1
        for rank in range(ranks):
            node = rank % nodes
            begin_ns = now_ns + skew_ns[node] + rank
            end_ns = begin_ns + (execution.done + 2) * S
            found.append(
                Process(
                    ProcessKey(node, 100 * number + rank),
                    LABELS[labels].format(execution=number, rank=rank),
                    begin_ns,
                    end_ns=end_ns,
                    rank=rank,
                    restart_count=number if labels == "counted" else None,
                    first_step=first,
                    first_step_ns=begin_ns + S,
                    last_step=first + execution.done - 1,
                    last_step_ns=begin_ns + (execution.done + 1) * S,
                    resumed_step=execution.restored
                    if execution.says_so and execution.restored >= 0
                    else None,
                )
            )
        now_ns += (execution.done + 90) * S
    return found


@given(
    history=histories(),
    ranks=st.integers(1, 5),
    nodes=st.integers(1, 3),
    labels=st.sampled_from(sorted(LABELS)),
    skew_s=st.lists(st.integers(-14, 14), min_size=3, max_size=3),
    data=st.data(),
)
def test_what_is_kept_is_what_the_last_state_was_made_of(
    history: list[Execution],
    ranks: int,
    nodes: int,
    labels: str,
    skew_s: list[int],
    data: st.DataObject,
) -> None:
    """A step counts if the last state contains it, whatever attempts are called."""
    state: dict[int, int] = {}
    for number, execution in enumerate(history):
        if execution.restored < 0 and number and labels != "counted":
            return  # a new training under an old name; another test
        state = {step: by for step, by in state.items() if step <= execution.restored}
        state |= dict.fromkeys(
            range(execution.restored + 1, execution.restored + 1 + execution.done), number
        )
    # Without names only the clock can tell which ranks stepped together.
    skew_ns = [0 if labels == "random" else second * S for second in skew_s]
    known = processes_of(history, ranks, nodes, labels, skew_ns)
    attempts = attempts_of(data.draw(st.permutations(known)))

    assert attempts == attempts_of(known)
    assert [attempt.number for attempt in attempts] == list(range(1, len(history) + 1))
    assert all(len(attempt.processes) == ranks for attempt in attempts)
    lost = list(rollbacks(attempts))
    for number, execution in enumerate(history):
        steps = range(execution.restored + 1, execution.restored + 1 + execution.done)
        for one in attempts[number].processes:
            mine = [lose for lose in lost if lose.process == one.key]
            retained = [s for s in steps if not any(s >= lose.first_step for lose in mine)]
            assert retained == [s for s in steps if state.get(s) == number]


@given(history=histories(), cut=st.integers(1, 5))
def test_more_knowledge_only_loses_more(history: list[Execution], cut: int) -> None:
    """What was lost stays lost when later attempts come: nothing posted is ever taken back."""
    known = processes_of(history, 2, 1, "counted", [0])
    before = list(rollbacks(attempts_of(known[: 2 * cut])))
    after = {one.process: one.first_step for one in rollbacks(attempts_of(known))}
    assert all(after[one.process] <= one.first_step for one in before)


def test_no_attempts() -> None:
    """Nothing known, nothing lost; and a process without steps is no trainer."""
    assert attempts_of([]) == ()
    assert attempts_of([process(1)]) == ()
    assert list(rollbacks(())) == []


def test_two_restarts_of_which_the_second_goes_further_back() -> None:
    """The second restart throws away the first one's work, and more of the first attempt's."""
    attempts = attempts_of(
        [
            trained(1, "a", (0, 100), (0, 99)),
            trained(2, "b", (200, 250), (51, 80)),
            trained(3, "c", (300, 400), (41, 120)),
        ]
    )
    assert kept(attempts) == [41, 41, None]
    assert fates(attempts)[2] == Fate(restarts=True)


def test_what_was_finished_is_gone_on_with_days_later() -> None:
    """A trainer that ended properly and starts again from its last checkpoint lost nothing."""
    day = 24 * 3600
    attempts = attempts_of(
        [
            trained(1, "a", (0, 100), (0, 99), clean=True),
            trained(2, "b", (3 * day, 3 * day + 9), (100, 120)),
        ]
    )
    assert [attempt.outcome for attempt in attempts] == [Outcome.FINISHED, Outcome.INTERRUPTED]
    assert fates(attempts) == (Fate(followed=True, keeps_below=100), Fate(restarts=True))
    assert list(rollbacks(attempts)) == []


def test_a_step_that_never_ran_is_resumed_from() -> None:
    """A checkpoint of elsewhere, or a wrong number, takes nothing away."""
    attempts = attempts_of(
        [
            trained(1, "a", (0, 100), (0, 60)),
            trained(2, "b", (200, 300), (501, 600), resumed_step=500),
        ]
    )
    assert kept(attempts) == [501, None]
    assert list(rollbacks(attempts)) == []


def test_a_step_that_is_run_again_was_lost_whatever_was_said() -> None:
    """`resumed_from_step=100` of people who count steps that are done, and run step 100 next."""
    attempts = attempts_of(
        [
            trained(1, "a", (0, 100), (0, 110)),
            trained(2, "b", (200, 300), (100, 120), resumed_step=100),
        ]
    )
    assert list(rollbacks(attempts)) == [Rollback(ProcessKey(1, 1), 100, EVER_NS)]


def test_what_is_said_counts_before_the_first_step() -> None:
    """The checkpoint is loaded and the first step takes its time: the loss is known already."""
    again = process(2, "b", start_ns=200 * S, resumed_step=40, resumed_ns=201 * S)
    attempts = attempts_of([trained(1, "a", (0, 100), (0, 60)), again])
    assert list(rollbacks(attempts)) == [Rollback(ProcessKey(1, 1), 41, EVER_NS)]


def test_a_process_goes_back_by_itself() -> None:
    """A loss spike: the same process loads an older checkpoint; what it does again is kept."""
    alone = trained(1, "a", (0, 100), (0, 60), resumed_step=40, resumed_ns=80 * S)
    assert list(rollbacks(attempts_of([alone]))) == [Rollback(ProcessKey(1, 1), 41, 80 * S)]
    before = replace(alone, resumed_ns=S // 2)
    assert list(rollbacks(attempts_of([before]))) == []


def test_a_new_training_under_an_old_name() -> None:
    """Each launch begins at 0 and nobody calls it a restart: the finished trainings stay."""
    first = trained(1, "x", (0, 100), (0, 99), clean=True)
    second = trained(2, "y", (200, 300), (0, 60))
    third = trained(3, "z", (400, 500), (41, 99))
    attempts = attempts_of([first, second, third])
    assert kept(attempts) == [None, 41, None]
    counted = attempts_of([first, replace(second, restart_count=1), third])
    assert kept(counted) == [0, 41, None]
    said = attempts_of([first, replace(second, resumed_step=0), third])
    assert kept(said) == [0, 41, None]


def test_side_by_side_is_no_restart() -> None:
    """Two executions of one run at one time: a mistake of names, and neither's work is lost."""
    attempts = attempts_of(
        [trained(1, "a", (0, 100), (0, 99)), trained(2, "b", (50, 200), (41, 200))]
    )
    assert kept(attempts) == [None, None]


def test_ranks_without_a_common_name_are_one_attempt() -> None:
    """No launcher numbered them: what steps at one time with different ranks belongs together."""
    ranks = [trained(n, f"x{n}", (n, 100 + n), (0, 99), rank=n) for n in range(4)]
    (attempt,) = attempts_of(ranks)
    assert [one.rank for one in attempt.processes] == [0, 1, 2, 3]
    assert attempt.label == "x0"


@pytest.mark.parametrize("rank", [None, 0])
def test_pods_that_restart_count_from_zero(rank: int | None) -> None:
    """One attempt name for two executions: the second began when the first was over."""
    attempts = attempts_of(
        [
            trained(1, "0", (0, 100), (1, 60), rank=rank),
            trained(2, "0", (110, 200), (41, 90), rank=rank),
        ]
    )
    assert kept(attempts) == [41, None]


def test_one_rank_restarts_before_the_others_are_killed() -> None:
    """Pods restart one by one: the rank that comes back begins the next execution."""
    ranks = [trained(n, "0", (0, 100 + 10 * n), (1, 60), rank=n) for n in range(3)]
    again = [trained(10 + n, "0", (105 + 10 * n, 300), (41, 90), rank=n) for n in range(3)]
    for one in range(3):
        again[one] = replace(again[one], first_step_ns=140 * S)
        ranks[one] = replace(ranks[one], last_step_ns=60 * S)
    attempts = attempts_of([*ranks, *again])
    assert [len(attempt.processes) for attempt in attempts] == [3, 3]
    assert kept(attempts) == [41, None]


def test_a_replaced_rank_of_a_job_that_goes_on_loses_nothing() -> None:
    """Fault-tolerant training: one rank is replaced and the others never stop."""
    ranks = [trained(n, "0", (0, 300), (1, 200), rank=n) for n in range(3)]
    dead = trained(8, "0", (0, 100), (1, 60), rank=3)
    other = trained(9, "0", (110, 300), (61, 200), rank=3)
    attempts = attempts_of([*ranks, dead, other])
    assert list(rollbacks(attempts)) == []


@pytest.mark.parametrize("skew_s", [-40, 0, 40])
def test_nodes_whose_clocks_differ(skew_s: int) -> None:
    """A job that moves to another node, whose clock is ahead or behind, is still a restart."""
    here = trained(1, "0", (100, 200), (1, 60))
    there = trained(2, "1", (210 + skew_s, 300 + skew_s), (41, 90))
    there = replace(there, key=ProcessKey(2, 2))
    attempts = attempts_of([here, there])
    assert kept(attempts) == [41, None]


def test_how_attempts_end() -> None:
    """Running while one process lives; interrupted by one that did not say that it ended."""
    running = process(1, first_step=1, first_step_ns=S)
    finished = replace(running, end_ns=S, clean=True)
    killed = replace(running, end_ns=S)
    for members, outcome in (
        ([running], Outcome.RUNNING),
        ([finished], Outcome.FINISHED),
        ([running, finished], Outcome.RUNNING),
        ([finished, killed], Outcome.INTERRUPTED),
        ([running, killed], Outcome.INTERRUPTED),
    ):
        named = [replace(one, key=ProcessKey(1, n), rank=n) for n, one in enumerate(members)]
        (attempt,) = attempts_of(named)
        assert attempt.outcome is outcome
        assert (attempt.end_ns is None) == (running in members)
