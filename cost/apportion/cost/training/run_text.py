"""Runs as plain text, at most 100 columns wide."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Final

from apportion.core.units import NS_PER_SECOND
from apportion.cost.figure_text import NOTHING, count, instant, joules, seconds
from apportion.cost.report_text import WIDTH, decimal_amount
from apportion.cost.table import Table, printable
from apportion.cost.training.manifest_text import manifest_lines
from apportion.cost.training.run_rows import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apportion.cost.quantity import Quantity
    from apportion.cost.training.run_rows import AttemptRow, CheckpointRow, RunReport, RunRow

LONGEST_LABEL: Final = 4
MINUTE_S: Final = 60
HOUR_S: Final = 3600


def run_table(report: RunReport, *, decimals: int = 6) -> str:
    """A line for each run."""
    money = report.currency or "money"
    columns = (
        "workload",
        "run",
        "attempts",
        "steps kept",
        "of",
        f"cost {money}",
        "per step kept",
        "of it lost",
        "goodput",
    )
    table = Table("Runs", columns, 2)
    for row in report.runs:
        table.add(
            row.key.workload or NOTHING,
            row.key.run,
            count(len(row.attempts)),
            count(row.kept_steps),
            count(row.finished_steps),
            _amount(row.total.units, decimals),
            _amount(row.units_per_kept_step, decimals),
            _amount(row.sum_of(LOST).units, decimals),
            _percent(row.goodput_of_time),
        )
    warnings = [f"  {warning}" for warning in report.warnings]
    return "\n".join([*table.lines(WIDTH), *warnings]) + "\n"


def run_text(report: RunReport, *, decimals: int = 6) -> str:
    """Each run whole: its attempts, where its cost went, per step and token, checkpoints."""
    page = _Page(report, decimals)
    blocks = [block for block in page.blocks() if block]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks) + "\n"


class _Page:
    def __init__(self, report: RunReport, decimals: int) -> None:
        self._report, self._decimals = report, decimals
        self._currency = report.currency or "money"

    def blocks(self) -> Iterator[list[str]]:
        report = self._report
        if report.simulated:
            yield ["*** SIMULATED: these devices are simulated, no real money was spent. ***"]
        start, end = instant(report.start_unix_ns), instant(report.end_unix_ns)
        yield [
            f"Run report of {', '.join(report.ledgers)}",
            f"  period   {start or 'the beginning'} to {end or 'now'}, in whole hours",
            f"  amounts  {report.currency or 'no price is known'}; metered, nothing is billed",
        ]
        yield [f"warning: {warning}" for warning in report.warnings]
        for row in report.runs:
            yield self._head(row)
            yield self._attempts(row)
            yield self._attempt_costs(row)
            yield self._lines(row)
            yield self._figures(row)
            yield self._checkpoints(row.checkpoints)
            yield manifest_lines(row.attempts)
            yield self._notes(row)

    def _head(self, row: RunRow) -> list[str]:
        steps = f"{count(row.kept_steps)} steps kept of {count(row.finished_steps)} finished"
        return [
            f"Run {printable(row.key.run)} of {printable(row.key.workload or NOTHING)}",
            f"  {steps}; the last kept is {count(row.last_step)}",
        ]

    def _attempts(self, row: RunRow) -> list[str]:
        columns = ("attempt", "ended", "from", "to", "down s", "ranks", "resumed", "reached")
        table = Table("Attempts", columns, 4)
        for attempt in row.attempts:
            table.add(*self._attempt(attempt))
        return table.lines(WIDTH)

    def _attempt(self, row: AttemptRow) -> Iterator[str]:
        yield _short_name(row)
        yield row.outcome.value
        yield instant(row.start_unix_ns) or NOTHING
        yield instant(row.end_unix_ns) or NOTHING
        yield NOTHING if row.down_ns is None else f"{row.down_ns / NS_PER_SECOND:,.1f}"
        yield count(row.ranks) if row.world_size is None else f"{row.ranks}/{row.world_size}"
        yield count(row.resumed_step)
        yield count(row.last_step)

    def _attempt_costs(self, row: RunRow) -> list[str]:
        columns = ("attempt", "steps", "of them kept", f"cost {self._currency}", "of it lost")
        table = Table("What they cost", columns, 1)
        for attempt in row.attempts:
            table.add(
                _name(attempt),
                count(attempt.finished_steps),
                count(attempt.kept_steps),
                self._amount(attempt.total.units),
                self._amount(attempt.lost.units),
            )
        return table.lines(WIDTH)

    def _lines(self, row: RunRow) -> list[str]:
        columns = ("line", f"cost {self._currency}", "of it derived", "device-s", "time", "joules")
        table = Table("Where it went", columns, 1)
        for line in row.lines:
            derived = line.derived.units if line.derived.device_ns else None
            self._line(table, line.line.value, line.total, self._amount(derived), row.total)
        self._line(table, "total", row.total, "", row.total)
        return table.lines(WIDTH)

    def _line(self, table: Table, name: str, sums: Quantity, derived: str, total: Quantity) -> None:
        share = sums.device_ns / total.device_ns if total.device_ns else None
        table.add(
            name,
            self._amount(sums.units),
            derived,
            seconds(sums.device_ns),
            _percent(share),
            joules(sums.energy_mj),
        )

    def _figures(self, row: RunRow) -> list[str]:
        shares = f"{_percent(row.goodput_of_time)} of the time, {_percent(row.goodput_of_cost)} of"
        lines = [
            "What it comes to",
            f"  a finished step, over all ranks  {self._money(row.units_per_step)}",
            f"  a step that was kept             {self._money(row.units_per_kept_step)}",
        ]
        if row.tokens is not None:
            price = self._money(row.units_per_million_tokens)
            lines.append(f"  a million tokens that were kept  {price}")
        return [*lines, f"  goodput                          {shares} the cost"]

    def _checkpoints(self, row: CheckpointRow | None) -> list[str]:
        if row is None:
            return []
        each = self._money(row.units_each)
        lines = [
            "Checkpoints",
            f"  saved             {row.count:,}, {_time(row.checkpoint_s)} and {each} each",
            f"  interval          {_time(row.interval_s)} of work between two",
            f"  MTBF              {self._mtbf(row)}",
        ]
        if row.young_s is not None:
            least = "at least " if row.mtbf_is_bound else ""
            daly = f"{least}{_time(row.daly_s)} (Daly)"
            lines.append(f"  optimal interval  {daly}, {_time(row.young_s)} (Young)")
        if row.waste_ratio is not None:
            ratios = f"{_percent(row.waste_ratio)} of the work, {_percent(row.least_waste_ratio)}"
            lines.append(f"  wasted            {ratios} at the optimum")
        if row.wasted_units is not None:
            lines.append(f"  the difference    {self._money(row.wasted_units)}")
        return lines

    def _mtbf(self, row: CheckpointRow) -> str:
        if row.mtbf_is_given:
            return f"{_time(row.mtbf_s)}, as given"
        if row.mtbf_is_bound:
            return f"more than {_time(row.mtbf_s)}: no failure was seen"
        failures = "1 failure" if row.failures == 1 else f"{row.failures:,} failures"
        return f"{_time(row.mtbf_s)}, by {failures}; {_time(row.restart_s)} to come back"

    def _notes(self, row: RunRow) -> list[str]:
        notes = list(row.notes)
        if any(line.derived.device_ns for line in row.lines):
            notes.append(
                "derived: no agent has posted this as lost, because it has not seen the restart or "
                "is not that far; it follows from the attempts"
            )
        if row.unnumbered_steps:
            notes.append(
                f"{row.unnumbered_steps:,} steps have no number: they can be neither counted once "
                "over ranks nor rolled back"
            )
        lines = ["Notes"] if notes else []
        for note in notes:
            lines += wrap(printable(note), WIDTH, initial_indent="  - ", subsequent_indent="    ")
        return lines

    def _amount(self, units: int | None) -> str:
        return _amount(units, self._decimals)

    def _money(self, units: int | None) -> str:
        return NOTHING if units is None else f"{self._amount(units)} {self._currency}"


def _name(row: AttemptRow) -> str:
    return f"{row.number} ({row.label})"


def _short_name(row: AttemptRow) -> str:
    """With as much of a random label as leaves room for the times; `_name` has all of it."""
    if len(row.label) <= LONGEST_LABEL:
        return _name(row)
    return f"{row.number} ({row.label[:LONGEST_LABEL]}..)"


def _amount(units: int | None, decimals: int) -> str:
    return NOTHING if units is None else decimal_amount(units, decimals)


def _percent(ratio: float | None) -> str:
    return NOTHING if ratio is None else f"{100 * ratio:.1f} %"


def _time(time_s: float | None) -> str:
    """With a unit that suits it."""
    if time_s is None:
        return NOTHING
    if time_s < MINUTE_S:
        return f"{time_s:.1f} s"
    if time_s < HOUR_S:
        return f"{time_s / MINUTE_S:.1f} min"
    return f"{time_s / HOUR_S:.1f} h"
