"""`apportion flamegraph build --ledger`: the money, and what is said beside it.

It needs the extra `agent`, and is imported where a ledger is asked only.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from apportion.agent.cli.flamegraph_filter import PHASES, WHOSE
from apportion.agent.cli.flamegraph_inputs import FoundStacks, nothing_left, read_files
from apportion.agent.cli.instant import unix_ns_of
from apportion.agent.cli.ledger_option import ledgers_of
from apportion.agent.cli.said import say
from apportion.agent.priced_stacks import NO_STEPS, priced, priced_whole, without_energy
from apportion.agent.sample_spans import CATEGORY, MODEL, PHASE, REQUEST, TENANT, with_spans
from apportion.core.category import Category
from apportion.core.clock import Clock, SystemClock
from apportion.core.errors import ConfigError
from apportion.cost.cost_by_category import NOTHING_SPENT, CostByCategory, CostFilter
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.several import open_ledgers
from apportion.cost.quantity import Quantity
from apportion.profiles.py_spy_events import AT
from apportion.profiles.rank_stacks import STEP
from apportion.profiles.stack_filter import of_steps, steps_of
from apportion.profiles.stacks import Stacks
from apportion.profiles.step_range import StepRange
from apportion.profiles.weight import COST, ENERGY

CLOCKS_APART_NS: Final = 10_000_000
"""By how much samples may be beside the spans that they were taken in, on an overloaded machine."""


def priced_by_ledger(options: argparse.Namespace, found: FoundStacks) -> FoundStacks:
    """The stacks of files in money, energy and device time of what was chosen.

    Raises:
        ConfigError, LedgerError: the ledger cannot be used, or has nothing of it.
    """
    clock = SystemClock()
    chosen = _chosen(options, clock)
    with open_ledgers(ledgers_of(options), clock) as ledger:
        stacks = _of_filters(options, found.stacks, ledger)
        if options.steps is None and options.costliest_steps is None:
            spent, of_step = CostByCategory.of(ledger, chosen), NO_STEPS
        else:
            steps = _Steps.of(options, stacks, ledger, chosen)
            stacks, spent, of_step = steps.stacks, steps.spent, steps.direct
    weighed = priced(stacks, spent, of_step)
    _hold_to_weight(options.weight, weighed, spent)
    say(_beside(spent))
    return replace(found, stacks=weighed)


def whole_ledger(options: argparse.Namespace) -> FoundStacks:
    """Every workload of the ledger, with the profiles of those that have some.

    Raises:
        ConfigError, LedgerError: as `priced_by_ledger`; or single spans were asked for.
    """
    if options.steps is not None or options.costliest_steps is not None or options.request:
        raise ConfigError("--steps, --costliest-steps and --request choose in a FILE: name it")
    paths: dict[str, list[Path]] = {}
    for text in options.profile:
        workload, equals, path = text.partition("=")
        if not (workload and equals and path):
            raise ConfigError(f"--profile {text!r} is not WORKLOAD=FILE")
        paths.setdefault(workload, []).append(Path(path))
    found = {name: read_files(options, own) for name, own in paths.items()}
    clock = SystemClock()
    with open_ledgers(ledgers_of(options), clock) as ledger:
        spent = CostByCategory.by_workload(ledger, _chosen(options, clock))
        profiles = {name: _of_filters(options, own.stacks, ledger) for name, own in found.items()}
    total = sum(spent.values(), NOTHING_SPENT)
    weighed = priced_whole(profiles, spent)
    _hold_to_weight(options.weight, weighed, total)
    say(_beside(total, *spent.values()))
    complete = all(own.is_complete for own in found.values())
    return FoundStacks(weighed, complete)


def _joined(stacks: Stacks, ledger: LedgerReader) -> Stacks:
    """Samples with the steps and requests that they were in."""
    found = with_spans(stacks, ledger)
    if AT in found.labels and CATEGORY not in found.labels:
        message = (
            "no sample was taken in a step or request that this ledger has, so all of them stand "
            "for what was chosen; is it the ledger of that process's agent, and has it settled "
            "that time?"
        )
        say([message])
    return found


def _of_filters(options: argparse.Namespace, found: Stacks, ledger: LedgerReader) -> Stacks:
    """The stacks of the tenant, model, request and phase that are asked for.

    Stacks that nobody told it stand for all: they are a sample of everybody's work.

    Raises:
        ConfigError: others were seen, but not this one.
    """
    stacks = _joined(found, ledger)
    if options.phase is not None and AT in found.labels and PHASE in stacks.labels:
        say(_misplaced(options.phase, found, stacks, ledger))
    for key in (TENANT, MODEL, REQUEST, PHASE):
        wanted = getattr(options, key)
        if wanted is None or key not in stacks.labels:
            continue
        stacks = stacks.where(np.array([name == wanted for name in stacks.label(key)]))
        if not len(stacks):
            raise ConfigError(
                f"no sample was taken in {key} {wanted!r}: take more or longer bursts, or build "
                "without that filter"
            )
    return stacks


def _misplaced(phase: str, found: Stacks, joined: Stacks, ledger: LedgerReader) -> Iterator[str]:
    """How many samples of a phase would be another's, were they as far off as they may be."""
    is_own = np.array([one == phase for one in joined.label(PHASE)])
    if not is_own.any():
        return
    worst = 0.0
    for shift_ns in (-CLOCKS_APART_NS, CLOCKS_APART_NS):
        shifted = np.array(
            [one == phase for one in with_spans(found, ledger, shift_ns).label(PHASE)]
        )
        worst = max(worst, float(np.mean(~shifted[is_own])))
    yield (
        "the instants of samples are good to a millisecond or two, on an overloaded machine to "
        f"{CLOCKS_APART_NS // 1_000_000}: were all of them that far off, {100 * worst:.1f} % of "
        f"the samples below phase {phase!r} would be of another one"
    )


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps that were chosen: their stacks, what they cost, and what is direct of each."""

    stacks: Stacks
    spent: CostByCategory
    direct: Mapping[int, Quantity]

    @classmethod
    def of(
        cls, options: argparse.Namespace, stacks: Stacks, ledger: LedgerReader, chosen: CostFilter
    ) -> _Steps:
        """Those in the range; of these, for samples, also steps in which none was taken.

        Raises:
            ConfigError: no stack is of such a step.
        """
        asked: StepRange | None = options.steps
        seen = steps_of(stacks, STEP)
        known = {step for step in seen if asked is None or step in asked}
        if (STEP in stacks.labels or options.costliest_steps is not None) and not known:
            raise nothing_left(seen, asked)
        if asked is not None and STEP in stacks.labels:
            stacks = stacks.where(of_steps(stacks, STEP, asked))
        if asked is None:
            asked = StepRange(min(known), max(known))
        costs = CostByCategory.by_step(ledger, replace(chosen, steps=[(asked.first, asked.last)]))
        if options.costliest_steps is not None:
            taken = _costliest(costs, known, options.costliest_steps)
        elif STEP in stacks.labels and AT not in stacks.labels:
            taken = known
        else:
            taken = set(costs)
        if STEP in stacks.labels:
            of_taken = [step is not None and int(step) in taken for step in stacks.label(STEP)]
            stacks = stacks.where(np.array(of_taken))
        costs = {step: own for step, own in costs.items() if step in taken}
        direct = {step: own.amounts.get(Category.DIRECT, Quantity()) for step, own in costs.items()}
        return cls(stacks, sum(costs.values(), NOTHING_SPENT), direct)


def _costliest(
    costs: Mapping[int, CostByCategory], known: Iterable[int], percent: float
) -> set[int]:
    """Of the steps that have stacks those that cost most, at least one; of equal ones the first."""
    totals = {step: costs.get(step, NOTHING_SPENT).total for step in known}
    order = sorted(
        totals, key=lambda step: (-(totals[step].units or 0), -totals[step].device_ns, step)
    )
    return set(order[: max(1, math.floor(len(order) * percent / 100))])


def _chosen(options: argparse.Namespace, clock: Clock) -> CostFilter:
    now_ns = clock.realtime_ns()
    since_ns, until_ns = (
        None if text is None else unix_ns_of(text, now_ns)
        for text in (options.since, options.until)
    )
    return CostFilter(
        **{name: getattr(options, name) for name in WHOSE},
        phase=None if options.phase is None else PHASES[options.phase],
        start_unix_ns=since_ns,
        end_unix_ns=until_ns,
    )


def _hold_to_weight(name: str | None, stacks: Stacks, spent: CostByCategory) -> None:
    """Hold the wish for a weight to what the ledger has figures of.

    Raises:
        ConfigError: it has none of it, and why.
    """
    if name is None or name in {weight.name for weight in stacks.weights}:
        return
    others = ", ".join(weight.asked_as for weight in stacks.weights)
    if name == COST:
        why = "has no money of it: no price is known; add one and run apportion prices apply"
    elif name == ENERGY.name and spent.total.energy_mj is None:
        why = "has no energy of it: no device that it ran on has an energy source"
    elif name == ENERGY.name:
        why = "has an energy below 0 in a category of it: take a longer period"
    else:
        why = f"knows nothing of {name!r}"
    raise ConfigError(f"the ledger {why}; --weight can be: {others}")


def _beside(spent: CostByCategory, *parts: CostByCategory) -> Iterator[str]:
    total: Quantity = spent.total
    if below := without_energy(spent, *parts):
        yield (
            f"energy of {', '.join(category.label for category in below)} is below 0 in this "
            "period, which no width shows: there is no energy in this graph"
        )
    if spent.simulated:
        yield "SIMULATED: devices of this ledger are simulated, no real money was spent"
    if spent.estimated:
        yield "estimated: the amounts rest on assumed prices; see apportion prices quote"
    if total.unpriced_ns:
        yield (
            f"{total.unpriced_ns / 1e9:,.3f} device-seconds have no price and no width in money; "
            "add one and run apportion prices apply"
        )
    if total.unmetered_ns and total.energy_mj is not None:
        yield f"{total.unmetered_ns / 1e9:,.3f} device-seconds have no energy source"
