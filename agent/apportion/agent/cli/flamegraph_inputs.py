"""The files that `apportion flamegraph` reads, and what of them is left out."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Final

from apportion.agent.cli.flamegraph_choices import unit_of
from apportion.agent.cli.said import say
from apportion.agent.cli.trace_inputs import reduced
from apportion.core.errors import ConfigError, ProfileTraceError
from apportion.profiles.rank_collectives import RankCollectives
from apportion.profiles.rank_stacks import STEP, RankStacks
from apportion.profiles.stack_file import read_stacks
from apportion.profiles.stack_filter import costliest, of_steps, steps_of
from apportion.profiles.stack_stream import is_stack_file
from apportion.profiles.stacks import Stacks
from apportion.profiles.step_range import StepRange
from apportion.profiles.stragglers import matched

_NEED_STEPS: Final = (
    "--steps and --costliest-steps need marked steps: a trace with steps, or, with --ledger, a "
    "profile of apportion profile cpu of a process whose steps the ledger has"
)


@dataclass(frozen=True, slots=True)
class FoundStacks:
    """What files hold. is_complete: none of them was left out. source: the first of them."""

    stacks: Stacks
    is_complete: bool = True
    source: Path | None = None

    def together(self, other: FoundStacks) -> FoundStacks:
        """Both.

        Raises:
            ProfileTraceError: their weights are not the same.
        """
        try:
            return replace(self, stacks=self.stacks.together(other.stacks))
        except ProfileTraceError as error:
            raise ProfileTraceError(str(error), path=other.source) from error


def stacks_of(options: argparse.Namespace, paths: Sequence[Path]) -> FoundStacks:
    """The stacks of all files, those of the steps that were asked for.

    Raises:
        ConfigError: a file cannot be used, or nothing is left.
    """
    found = read_files(options, paths)
    stacks = found.stacks
    if options.steps is not None:
        stacks = stacks.where(of_steps(stacks, STEP, options.steps))
    if options.costliest_steps is not None:
        row = stacks.weight(options.weight)
        stacks = stacks.where(costliest(stacks, row, STEP, options.costliest_steps))
    if not len(found.stacks):
        raise ConfigError("there is no stack in it: nothing ran while it was recorded")
    if not len(stacks):
        raise nothing_left(steps_of(found.stacks, STEP), options.steps)
    return replace(found, stacks=stacks)


def nothing_left(seen: Collection[int], asked: StepRange | None) -> ConfigError:
    """Why no stack is of the steps that were asked for. seen: the steps that have stacks."""
    if not seen or asked is None:
        return ConfigError(f"no stack is left: {_NEED_STEPS}")
    return ConfigError(
        f"no stack is left: none is of --steps {asked}; {len(seen)} steps have stacks, from "
        f"{min(seen)} to {max(seen)}"
    )


def read_files(options: argparse.Namespace, paths: Sequence[Path]) -> FoundStacks:
    """The stacks of all files; those that cannot be used are said, where others can.

    Raises:
        ConfigError: none can be used, or their weights are not the same.
    """
    unit = unit_of(options)
    found: list[FoundStacks] = []
    refused: list[ProfileTraceError] = []
    traces: list[Path] = []
    for path in paths:
        if not is_stack_file(path):
            traces.append(path)
            continue
        try:
            found.append(FoundStacks(read_stacks(path, unit), source=path))
        except ProfileTraceError as error:
            refused.append(error)
    if traces:
        try:
            found.append(_traced(argparse.Namespace(**{**vars(options), "files": traces})))
        except ProfileTraceError as error:
            refused.append(error)
    if not found:
        say(str(error) for error in refused[:-1])
        raise refused[-1]
    say(str(error) for error in refused)
    whole = replace(
        reduce(FoundStacks.together, found),
        is_complete=not refused and all(one.is_complete for one in found),
    )
    if not whole.is_complete:
        say(["not every file that was named is in this graph, as said above"])
    return whole


def status_of(*found: FoundStacks) -> int:
    """The exit status: 1 where a graph was made without all of its files."""
    return 0 if all(one.is_complete for one in found) else 1


def _traced(options: argparse.Namespace) -> FoundStacks:
    """Traces as stacks; with several ranks, each below a frame of its own."""
    waits_ns: dict[str, list[int | None]] = {}
    if len(options.files) > 1:
        # who waited for whom is known only from all of them
        communication, _ = reduced(options, RankCollectives.of, is_quiet=True)
        for one in matched(communication).operations:
            waits_ns.setdefault(one.trace.source, []).append(one.wait_ns)
    ranks, is_complete = reduced(options, partial(RankStacks.of, waits_ns=waits_ns))
    if len(ranks) == 1:
        return FoundStacks(ranks[0].stacks, is_complete, options.files[0])
    named = [
        one.stacks.under(one.source if one.rank is None else f"rank {one.rank}") for one in ranks
    ]
    return FoundStacks(reduce(Stacks.together, named), is_complete, options.files[0])
