"""A report as plain text, at most 100 columns wide."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from apportion.core.units import money
from apportion.cost.figure_text import NOTHING
from apportion.cost.figure_text import count as _count
from apportion.cost.figure_text import instant as _instant
from apportion.cost.figure_text import joules as _joules
from apportion.cost.figure_text import seconds as _seconds
from apportion.cost.table import Table, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from apportion.cost.quantity import Quantity
    from apportion.cost.report_rows import Key, Proof, Report

WIDTH: Final = 100
ESTIMATED: Final = "*"
"""Marks the currency wherever it is shown, where amounts rest on estimated prices."""
_POOL: Final = "its workload's startup, between_steps, checkpoint, evaluation and allocated_idle"
_LOADING: Final = {
    "none": f"direct cost; nothing of {_POOL}",
    "weighted": f"direct cost, and {_POOL} in proportion to it",
    "even": f"direct cost, and {_POOL} in equal parts",
}
_ALL_DIGITS: Final = 60
"""More than any sum has; decimal's own 28 would round a fleet's year."""


def report_text(report: Report, *, decimals: int = 6) -> str:
    """The report for people. Amounts are rounded to `decimals`, those of the proof are exact."""
    page = _Page(report, decimals)
    blocks = [block for block in page.blocks() if block]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks) + "\n"


class _Page:
    def __init__(self, report: Report, decimals: int) -> None:
        self._report = report
        self._decimals = decimals
        mark = ESTIMATED if report.estimates else ""
        self._currency = f"{report.currency or 'money'}{mark}"

    def blocks(self) -> Iterator[list[str]]:
        yield self._banner()
        yield self._head()
        if not self._report.devices and not self._report.rows:
            yield ["Nothing is settled in this period."]
        else:
            yield from self._tables()
            yield self._prices()
            yield self._energy()
            yield self._proof()
        yield self._warnings()

    def _banner(self) -> list[str]:
        simulated = [row for row in self._report.devices if row.simulated]
        if not simulated:
            return []
        if len(simulated) == len(self._report.devices):
            return ["*** SIMULATED: these devices are simulated, no real money was spent. ***"]
        names = ", ".join(printable(row.device) for row in simulated)
        return _wrapped("*** ", f"SIMULATED: {names}: no real money was spent on them. ***")

    def _head(self) -> list[str]:
        report = self._report
        currency = self._currency if report.currency else "no price is known"
        if not report.devices:
            currency = "none"
        start, end = _instant(report.start_unix_ns), _instant(report.end_unix_ns)
        settled_until = _instant(report.settled_until_unix_ns) or "nothing is, in this period"
        settled = f"  settled until  {settled_until}"
        if report.as_of_unix_ns is not None:
            settled = f"  as of          {_instant(report.as_of_unix_ns)}; later lines are left out"
        return [
            f"Cost report of {report.ledger}",
            f"  period         {start or 'the beginning'} to {end or 'now'}, in whole hours",
            settled,
            f"  amounts        {currency}; metered = quantity x rate, nothing here is billed",
            *self._loaded(),
            *self._estimates(),
        ]

    def _loaded(self) -> list[str]:
        """How loaded cost comes about, and what of it is nobody's."""
        loaded = self._report.loaded
        if loaded is None:
            return []
        text = f"{loaded.policy}: {_LOADING[loaded.policy]}"
        if loaded.unshared_units:
            text += f"; {self._amount(loaded.unshared_units)} {self._currency} of it not shared"
        return _wrapped("  loaded         ", text)

    def _estimates(self) -> list[str]:
        names = sorted({row.device_name for row in self._report.estimates})
        if not names:
            return []
        part = "" if len(self._report.estimates) == len(self._report.rates) else "in part "
        text = f"estimated: rests {part}on assumed prices of {', '.join(names)} (see Prices)"
        return _wrapped(f"  {ESTIMATED:<15}", text)

    def _tables(self) -> Iterator[list[str]]:
        yield self._who()
        yield self._requests()
        yield self._training()
        yield self._phases()
        yield self._categories()
        yield self._devices()

    def _who(self) -> list[str]:
        by = self._report.by
        loaded = self._report.loaded
        money_columns = (f"cost {self._currency}", "of it direct", "not posted yet")
        more = () if loaded is None else ("loaded",)
        columns = (*by, *money_columns, *more, "device-s", "joules")
        table = Table("Who caused it", columns, len(by))
        for row in self._report.rows:
            mark = "" if row.incomplete_units is None else "~"
            table.add(
                *_names(row.key),
                mark + self._amount(row.total.units),
                self._amount(row.direct.units),
                self._amount(row.open_units),
                *(() if loaded is None else (self._amount(loaded.units.get(row.key)),)),
                _seconds(row.total.device_ns),
                _joules(row.total.energy_mj),
            )
        return table.lines(WIDTH)

    def _requests(self) -> list[str]:
        by = self._report.by
        price = f"{self._currency}/1M"
        counts = ("requests", "input", "cached", "output")
        table = Table("Requests", (*by, *counts, f"{price} input", f"{price} output"), len(by))
        for row in self._report.rows:
            if row.requests:
                table.add(
                    *_names(row.key),
                    _count(row.requests),
                    _count(row.input_tokens),
                    _count(row.cached_input_tokens),
                    _count(row.output_tokens),
                    self._amount(row.units_per_million_input_tokens),
                    self._amount(row.units_per_million_output_tokens),
                )
        return table.lines(WIDTH) if table.rows else []

    def _training(self) -> list[str]:
        by = self._report.by
        columns = (*by, "steps", "tokens", "tokens/s", f"{self._currency}/step")
        table = Table("Training", columns, len(by))
        for row in self._report.rows:
            if row.steps:
                rate = row.training_tokens_per_second
                table.add(
                    *_names(row.key),
                    _count(row.steps),
                    _count(row.training_tokens),
                    NOTHING if rate is None else f"{rate:,.1f}",
                    self._amount(row.units_per_step),
                )
        return table.lines(WIDTH) if table.rows else []

    def _phases(self) -> list[str]:
        by = self._report.phases_by
        columns = (*by, "phase", f"cost {self._currency}", "device-s", "joules")
        table = Table("Direct cost by phase", columns, len(by) + 1)
        for row in self._report.phases:
            table.add(
                *_names(row.key),
                row.phase.label or "(rest)",
                self._amount(row.total.units),
                _seconds(row.total.device_ns),
                _joules(row.total.energy_mj),
            )
        return table.lines(WIDTH) if table.rows else []

    def _categories(self) -> list[str]:
        rows = self._report.categories
        whole = self._report.proof.metered.device_ns
        columns = (
            "category",
            f"cost {self._currency}",
            "of it moved",
            "device-s",
            "time",
            "joules",
        )
        table = Table("Where the time went", columns, 1)
        for row in rows:
            total = row.total
            table.add(
                row.category.label,
                self._amount(total.units),
                self._amount(row.moved.units),
                _seconds(total.device_ns),
                f"{100 * total.device_ns / whole:.1f} %" if whole else NOTHING,
                _joules(total.energy_mj),
            )
        return table.lines(WIDTH) if rows else []

    def _devices(self) -> list[str]:
        columns = ("device", "category", f"metered {self._currency}", "device-s", "joules")
        table = Table("Devices, as first posted", columns, 2)
        several = len({row.node for row in self._report.devices}) > 1
        for row in self._report.devices:
            name = f"{row.node}/{row.device}" if several else row.device
            sources = ", ".join(row.energy_sources)
            kind = f"{row.name}; energy: {sources}" if sources else row.name
            self._device_row(table, name, kind, row.metered)
            for category, part in row.parts.items():
                self._device_row(table, "", f"  {category.label}", part)
            if row.repriced.units is not None:
                table.add("", "  + adjustments", self._amount(row.repriced.units), "", "")
        return table.lines(WIDTH) if table.rows else []

    def _device_row(self, table: Table, name: str, what: str, amount: Quantity) -> None:
        table.add(
            name,
            what,
            self._amount(amount.units),
            _seconds(amount.device_ns),
            _joules(amount.energy_mj),
        )

    def _prices(self) -> list[str]:
        if not self._report.rates:
            return []
        lines = ["Prices"]
        for row in (*self._report.rates, *self._report.replaced_rates):
            price = f"{row.device_name}: {row.per_hour} {row.currency} per hour for {row.covers}"
            facts = f"{row.basis}, as of {row.as_of}, from {row.source}"
            later = "; replaced by a later price" if row in self._report.replaced_rates else ""
            lines += _wrapped("  ", f"{price}, {facts}{later}")
        return lines

    def _energy(self) -> list[str]:
        """How what a device draws at rest was shared, and how much of it was known."""
        lines: list[str] = []
        for row in self._report.devices:
            energy_mj = row.metered.energy_mj
            if not energy_mj:
                continue
            shared = "the power at rest evenly, the rest by each line's method"
            if row.by_weights_mj == energy_mj:
                shared = "all by each line's method: its power at rest was not known yet"
            elif row.by_weights_mj:
                shared += f"; {_joules(row.by_weights_mj)} J from before it was known"
            known = [f"{mw / 1_000:,.1f} W {state}" for state, mw in row.idle_power_mw.items()]
            now = f" (at rest: {', '.join(known)})" if known else ""
            lines += _wrapped("  ", f"{row.device}: {shared}{now}")
        return ["Energy", *lines] if lines else []

    def _proof(self) -> list[str]:
        lines = ["Proof: metered = sum of parts"]
        for row in self._report.devices:
            right = row.metered.same_amounts(row.sum_of_parts)
            lines.append(f"  {printable(row.device)}")
            lines.append(f"    {self._equation(row.metered, row.sum_of_parts)}  {_verdict(right)}")
        return lines + self._total(self._report.proof)

    def _total(self, proof: Proof) -> list[str]:
        posted = self._exact(proof.posted)
        missing = "not posted yet" if self._report.as_of_unix_ns is None else "not posted then"
        lines = [
            "  all devices",
            f"    {self._equation(proof.metered, proof.parts)}",
            f"    = posted {posted}",
            f"    + {missing} {self._exact(proof.open)}",
            f"    moves sum to {self._exact(proof.moved)}",
        ]
        if proof.adjusted.units is not None:
            lines += [
                f"    + adjustments {_digits(proof.repriced.units)} by prices and their rules",
                f"    = in lines {_digits(proof.adjusted.units)} {self._currency}",
            ]
        return [*lines, f"    {_verdict(proof.holds)}"]

    def _equation(self, one: Quantity, other: Quantity) -> str:
        amounts = f"{_digits(one.units)} = {_digits(other.units)} {self._currency}"
        if one.units is None and other.units is None:
            amounts = "no price"
        energy = f"{one.energy_mj or 0:,} = {other.energy_mj or 0:,} mJ"
        if one.energy_mj is None and other.energy_mj is None:
            energy = "no energy source"
        return f"{amounts}, {energy}"

    def _exact(self, amount: Quantity) -> str:
        return f"{_digits(amount.units)} {self._currency}, {amount.energy_mj or 0:,} mJ"

    def _warnings(self) -> list[str]:
        if not self._report.warnings:
            return []
        lines = ["Warnings"]
        for line in self._report.warnings:
            lines += _wrapped("  - ", line)
        return lines

    def _amount(self, units: int | None) -> str:
        return NOTHING if units is None else decimal_amount(units, self._decimals)


def decimal_amount(units: int, decimals: int) -> str:
    """`units` in the currency, rounded half to even, without an exponent."""
    with localcontext() as context:
        context.prec = _ALL_DIGITS
        step = Decimal(1).scaleb(-decimals)
        return f"{money(units).quantize(step, rounding=ROUND_HALF_EVEN):f}"


def _wrapped(lead: str, text: str) -> list[str]:
    """`text` after `lead`, in lines that fit the page."""
    rest = " " * len(lead)
    return wrap(printable(text), WIDTH, initial_indent=lead, subsequent_indent=rest)


def _digits(units: int | None) -> str:
    return decimal_amount(units or 0, 12)


def _names(key: Key) -> Sequence[str]:
    """Nobody is a dash; a name that looks like nobody's is in quotation marks."""
    return [
        NOTHING if name is None else repr(name) if name in {NOTHING, ""} else name for name in key
    ]


def _verdict(holds: bool) -> str:  # noqa: FBT001 - the verdict itself
    return "OK" if holds else "DIFFERENT: run `apportion audit`"
