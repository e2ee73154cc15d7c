"""Requests as plain text, at most 100 columns wide: what each cost, and why."""

from __future__ import annotations

from math import floor, log10
from textwrap import wrap
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.category import INPUT_PHASES, Phase
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.figure_text import NOTHING, count, instant, joules, seconds
from apportion.cost.quantity import Quantity
from apportion.cost.report_text import WIDTH, decimal_amount
from apportion.cost.table import Table, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apportion.cost.serving.request_rows import Others, RequestReport, RequestRow, Work

DECIMALS: Final = 9
"""A request costs little."""
DIGITS: Final = 4
ALIKE: Final = 0.1
"""Nearer to the mean than this part of it nothing has to be explained."""
REST: Final = "(rest)"


def request_text(report: RequestReport) -> str:
    """Each request whole."""
    blocks = [[line] for line in _caveats(report)]
    for row in report.requests:
        blocks += _Request(row, report.currency).blocks()
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks) + "\n"


def requests_table(report: RequestReport) -> str:
    """A line for each request."""
    money = report.currency or "money"
    columns = ("request", "workload", "tenant", "model", f"cost {money}", "device-s", "input")
    table = Table("The requests that cost most", (*columns, "cached", "output"), 4)
    for row in report.requests:
        names = (row.request_id or row.trace_id, row.workload, row.tenant, row.model)
        work, total = row.work, row.work.total + row.running
        table.add(
            *(name or NOTHING for name in names),
            _cost(total),
            seconds(total.device_ns),
            count(work.input_tokens),
            count(work.cached_tokens),
            count(work.output_tokens),
        )
    caveats = [each for line in _caveats(report) for each in (line, "")]
    lines = [*caveats, *table.lines(WIDTH), "", "  `apportion report --request ID` says why."]
    return "\n".join(lines) + "\n"


def _caveats(report: RequestReport) -> Iterator[str]:
    if report.simulated:
        yield "*** SIMULATED: these devices are simulated, no real money was spent. ***"
    if report.estimated:
        yield "The amounts are estimates: they rest on assumed prices (`apportion prices show`)."


class _Factor(NamedTuple):
    """A figure of this request and of the mean one."""

    name: str
    this: float | None
    mean: float | None

    @property
    def times(self) -> float | None:
        return None if self.this is None or not self.mean else self.this / self.mean


class _Request:
    def __init__(self, row: RequestRow, currency: str | None) -> None:
        self._row, self._currency = row, currency or "money"

    def blocks(self) -> Iterator[list[str]]:
        yield self._head()
        yield self._cost()
        if self._row.others is None:
            yield ["No other request of its workload and model ended in that hour."]
        else:
            yield self._beside(self._row.others)

    def _head(self) -> list[str]:
        row, work = self._row, self._row.work
        whose = f"tenant {row.tenant or NOTHING}, model {row.model or NOTHING}, {row.status.label}"
        times = [f"took {seconds(work.duration_ns)} s"]
        if work.waited_ns is not None:
            times.append(f"waited {seconds(work.waited_ns)} s")
        if row.ttft_ns is not None:
            times.append(f"first token after {seconds(row.ttft_ns)} s")
        if row.preemptions:
            times.append(f"preempted {row.preemptions} times")
        tokens = (
            f"{count(work.computed_tokens)} tokens of input computed, {count(work.cached_tokens)} "
            f"cached; {count(work.output_tokens)} of output"
        )
        name = printable(row.request_id or row.trace_id or "without an id")
        lines = [f"Request {name} of {printable(row.workload or NOTHING)}"]
        lines.append(f"  {printable(whose)}; began {instant(row.start_unix_ns)}")
        lines += [f"  {', '.join(times)}", f"  {tokens}"]
        if row.devices:
            where = f"on {', '.join(row.devices)}, divided by {', '.join(row.methods)}"
            lines += wrap(where, WIDTH, initial_indent="  ", subsequent_indent="  ")
        if row.trace_id is not None:
            lines.append(f"  trace {printable(row.trace_id)}")
        return lines

    def _cost(self) -> list[str]:
        row, total = self._row, self._row.work.total + self._row.running
        columns = ("phase", f"cost {self._currency}", "device-s", "joules", "of the time")
        table = Table("What it cost", columns, 1)
        for phase, amount in row.work.phases.items():
            self._line(table, phase.label or REST, amount, total)
        if not row.running.same_amounts(Quantity()):
            self._line(table, "not posted yet", row.running, total)
        self._line(table, "total", total, total)
        return table.lines(WIDTH)

    def _line(self, table: Table, name: str, amount: Quantity, total: Quantity) -> None:
        of_it = f"{100 * amount.device_ns / total.device_ns:.1f} %" if total.device_ns else NOTHING
        table.add(name, _cost(amount), seconds(amount.device_ns), joules(amount.energy_mj), of_it)

    def _beside(self, others: Others) -> list[str]:
        row = self._row
        whose = f"{row.workload or NOTHING}, {row.model or 'no model named'}"
        s = "" if others.count == 1 else "s"
        title = f"Beside {others.count:,} other{s} of {printable(whose)} that ended in that hour"
        table = Table(title, ("", "this one", "the mean", "times"), 1)
        for factor in self._factors(others):
            if factor.this is None and factor.mean is None:
                continue
            times = NOTHING if factor.times is None else f"{factor.times:,.2f}"
            table.add(factor.name, _figure(factor.this), _figure(factor.mean), times)
        said = _said(row.work, others)
        return [
            *table.lines(WIDTH),
            *wrap(said, WIDTH, initial_indent="  ", subsequent_indent="  "),
        ]

    def _factors(self, others: Others) -> Iterator[_Factor]:
        this, mean = self._row.work, others.work
        number = others.count
        yield _Factor(f"cost {self._currency}", _money(this.total), _money(mean.total, number))
        yield _Factor("device-s", _time(this.total), _time(mean.total, number))
        yield from _of_tokens(this, mean, number)
        yield _Factor(f"{self._currency} a device-hour", _price(this.total), _price(mean.total))
        yield _Factor("waited s", _over(this.waited_ns), _over(mean.waited_ns, number))
        yield _Factor("took s", _over(this.duration_ns), _over(mean.duration_ns, number))


def _of_tokens(this: Work, mean: Work, number: int) -> Iterator[_Factor]:
    """Tokens and what each took: of prompts and answers apart where their time is known apart."""
    parts: list[tuple[str, Phase, str]] = [
        ("input tokens computed", Phase.PREFILL, "computed_tokens"),
        ("output tokens", Phase.DECODE, "output_tokens"),
    ]
    for name, phase, counter in parts:
        counted = (getattr(this, counter), getattr(mean, counter))
        yield _Factor(name, counted[0], None if counted[1] is None else counted[1] / number)
        if phase in this.phases:
            each = [
                _milliseconds(work.phases.get(phase), tokens)
                for work, tokens in zip((this, mean), counted, strict=True)
            ]
            yield _Factor("  device-ms of each", *each)
    if not {Phase.PREFILL, Phase.DECODE} & set(this.phases):
        each = [
            _milliseconds(work.total, (work.computed_tokens or 0) + (work.output_tokens or 0))
            for work in (this, mean)
        ]
        yield _Factor("  device-ms of each, both", *each)


def _said(this: Work, others: Others) -> str:
    """Where the difference to the mean is, in a sentence."""
    priced = this.total.units is not None and others.work.total.units is not None
    size = _units if priced else _ns
    mean = size(others.work.total) / others.count
    more = size(this.total) - mean
    if not mean or abs(more) < ALIKE * mean:
        return "It cost about as much as the mean."
    parts = {
        phase: size(this.phases.get(phase, Quantity()))
        - size(others.work.phases.get(phase, Quantity())) / others.count
        for phase in {**this.phases, **others.work.phases}
    }
    largest = max(parts, key=lambda phase: parts[phase] / more)
    times = size(this.total) / mean
    share = f"{100 * parts[largest] / more:.0f} % of the difference is {largest.label or REST}"
    sentence = f"It cost {times:,.1f} times the mean: {share}"
    tokens = "computed_tokens" if largest in INPUT_PHASES else "output_tokens"
    counted, all_of = getattr(this, tokens), getattr(others.work, tokens)
    if largest in {Phase.PREFILL, Phase.DECODE} and counted and all_of:
        of_tokens = counted * others.count / all_of
        took = this.phases.get(largest, Quantity()).device_ns
        mean_took = others.work.phases.get(largest, Quantity()).device_ns / others.count
        if mean_took:
            each = took / mean_took / of_tokens
            sentence += f", with {of_tokens:,.1f} times the tokens and {each:,.1f} times the "
            sentence += "device time of each"
    return f"{sentence}."


def _units(amount: Quantity) -> int:
    return amount.units or 0


def _ns(amount: Quantity) -> int:
    return amount.device_ns


def _money(amount: Quantity, number: int = 1) -> float | None:
    return None if amount.units is None else amount.units / 1e12 / number


def _time(amount: Quantity, number: int = 1) -> float:
    return amount.device_ns / NS_PER_SECOND / number


def _price(amount: Quantity) -> float | None:
    priced_ns = amount.device_ns - amount.unpriced_ns
    if amount.units is None or not priced_ns:
        return None
    return amount.units / 1e12 * NS_PER_HOUR / priced_ns


def _over(duration_ns: int | None, number: int = 1) -> float | None:
    return None if duration_ns is None else duration_ns / NS_PER_SECOND / number


def _milliseconds(amount: Quantity | None, tokens: int | None) -> float | None:
    return None if amount is None or not tokens else amount.device_ns / 1e6 / tokens


def _cost(amount: Quantity) -> str:
    return NOTHING if amount.units is None else decimal_amount(amount.units, DECIMALS)


def _figure(value: float | None) -> str:
    """Whole, or with four digits that count, without an exponent."""
    if value is None:
        return NOTHING
    if not value or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.{max(0, DIGITS - 1 - floor(log10(abs(value))))}f}"
