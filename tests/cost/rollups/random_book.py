"""Random ledgers in which everything happens: late spans and lines, moves, adjustments, restarts.

Every tick goes to two ledgers alike. One is rolled up now and then, the other never.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.cost.shipped import ShippedLedger, roller
from typing_extensions import Self

from apportion.core.category import Category, Phase, SpanKind, SpanStatus
from apportion.core.clock import ManualClock
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.ledger.batch import UNADJUSTED, ChargeKind, Row, TickBatch
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.methods.names import Method

T0 = 472_222 * NS_PER_HOUR
"""2023-11-14 22:00 UTC: two hours before a day ends, and 26 before a week does."""
GROUPS = {1: (1,), 2: (2,), 3: (1, 2)}
RINGS = (1, 2, 3)
ENTITIES = 6
UNITS_PER_NS = {1: 7, 2: 10**6, None: 0}
"""By rate; the second is so dear that a day of it does not fit 64 bits."""
METHODS = (1, 2)
REPRICED_NS = 5
"""How much of an hour is priced anew: its first nanoseconds, on the first device."""


@dataclass
class Span:
    """One that has lines; `record` says whether its row is in the ledger."""

    ring: int
    number: int
    entity: int
    kind: SpanKind
    start_ns: int
    step: int | None = None
    end_ns: int | None = None
    record: bool = False


@dataclass
class Pair:
    """Two ledgers with the same rows. The first is rolled up by `roll`."""

    random: Random
    folder: Path | None = None
    shared_url: str | None = None
    """Where the first one is shipped to, read and rolled up; None: it is rolled up itself."""
    lengths_s: tuple[int, ...] = (60, 1_500, 4_000, 20_000)
    """How long a tick may take, at most."""
    furthest_hours: int = 60
    """How far back something may be learnt."""
    now_ns: int = T0
    batch: TickBatch = field(default_factory=TickBatch)
    spans: list[Span] = field(default_factory=list[Span])
    open: dict[int, Span] = field(default_factory=dict[int, Span])
    running: list[tuple[Row, Row]] = field(default_factory=list[tuple[Row, Row]])
    rates_at_edge: dict[int, int | None] = field(default_factory=dict[int, "int | None"])
    """By hour what its first nanoseconds cost on the first device by now."""
    holders: dict[int, list[Row]] = field(default_factory=dict[int, list[Row]])
    """By hour who has a line in it."""
    up: int = 0
    down: int = 0
    numbers: int = 0
    marks: dict[int, int] = field(default_factory=lambda: {1: T0, 2: T0})

    def __post_init__(self) -> None:
        places: list[Path | str] = ["sqlite://", "sqlite://"]
        if self.folder is not None:
            places = [self.folder / "rolled.db", self.folder / "plain.db"]
        self.clock = ManualClock(realtime_ns=T0)
        self.rolled: Ledger | ShippedLedger
        self.rolled, self.plain = (
            Ledger.open(
                place, node="node-1", cluster="c", currency=None, version="0", clock=self.clock
            )
            for place in places
        )
        if self.shared_url is not None:
            self.rolled = ShippedLedger(self.rolled, self.shared_url)
        self.roller = roller(self.rolled, most_rows=self.random.choice((15, 200)))
        (self.agent_id,) = self.roller.agents()
        self._names()

    def _names(self) -> None:
        batch = self.batch
        batch.insert("method", [(key, Method(key).label) for key in METHODS])
        batch.insert("device", [(key, f"GPU-{key}", "H100", "nvml", 0) for key in (1, 2)])
        batch.insert("device_group", [(k, ",".join(map(str, m))) for k, m in GROUPS.items()])
        for key in (1, 2):
            fraction = (str(UNITS_PER_NS[key] * NS_PER_HOUR), "1")
            facts = ("USD", "gpu", "contract", "a test", "2023-11-01", None, None)
            batch.insert("rate", [(key, "H100", str(key), *fraction, *facts)])
        for key in range(1, ENTITIES + 1):
            run = "run" if key % 3 == 0 else None
            names = (f"w{key % 3}", run, run and "1", f"t{key % 2}", None, None, None)
            batch.insert("entity", [(key, *names)])
        for ring in RINGS:
            batch.insert("ring", [(ring, f"{ring:032x}", "b" * 32, "{}", 0, None)])
            batch.replace("ring_position", [(ring, "{}", 1, 0, None, None, None, 0, *[None] * 8)])

    # -- what happens ----------------------------------------------------------------------------
    def tick(self) -> None:
        """Some time goes by and is settled; some things are learnt late; all is committed."""
        random = self.random
        length_ns = random.choice(self.lengths_s) * NS_PER_SECOND
        self.now_ns += random.randrange(1, length_ns)
        self._post_running()
        for device in (1, 2):
            if random.random() < 0.9:  # else it lags behind
                self._settle(device)
        self._records()
        for chance, happens in ((0.3, self._move), (0.2, self._adjust), (0.1, self._unbound)):
            if random.random() < chance:
                happens()
        marks = [(key, end_ns, T0, None, None) for key, end_ns in self.marks.items()]
        self.batch.replace("watermark", marks)
        self.commit()

    def commit(self) -> None:
        """Write what was said to both."""
        batch, self.batch = self.batch, TickBatch()
        for ledger in (self.rolled, self.plain):
            ledger.commit(batch)
        self.clock.advance(1)

    def roll(self, most: int | None = None) -> None:
        """Roll the first one up, by some pieces or wholly."""
        for _ in range(10**6 if most is None else most):
            if not self.roller.step(self.agent_id):
                break

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.rolled.close()
        self.plain.close()

    # -- how -------------------------------------------------------------------------------------
    def _settle(self, device: int) -> None:
        start_ns, until_ns = self.marks[device], self.now_ns - 1
        while start_ns < until_ns:
            edge_ns = start_ns - start_ns % NS_PER_HOUR + NS_PER_HOUR
            end_ns = min(until_ns, edge_ns, start_ns + self.random.randrange(1, NS_PER_HOUR))
            self._piece(device, start_ns, end_ns)
            start_ns = end_ns
        self.marks[device] = max(self.marks[device], until_ns)

    def _piece(self, device: int, start_ns: int, end_ns: int) -> None:
        random = self.random
        rate = random.choice((1, 1, 2, None)) if device == 1 else 1
        energy = random.choice((None, 3, 1_000)) if device == 1 else None
        units = None if rate is None else UNITS_PER_NS[rate] * (end_ns - start_ns)
        source = None if energy is None else random.choice(("energy_counter", "power"))
        idle = random.choice((None, 50_000))
        row: Row = (device, start_ns, end_ns, rate, units, energy, source, idle)
        self.batch.insert("settlement", [row])
        if device == 1 and start_ns % NS_PER_HOUR == 0 and end_ns - start_ns >= REPRICED_NS:
            self.rates_at_edge[start_ns] = rate
        who = self._who(device, start_ns, end_ns)
        weights = [random.randrange(1, 5) for _ in who]
        parts: dict[tuple[int, int], list[int | None]] = {}
        for index, (category, group, entity, span) in enumerate(who):
            amounts = [
                None if whole is None else _share(whole, weights, index)
                for whole in (end_ns - start_ns, energy, units)
            ]
            known = parts.setdefault((int(category), group), [0, None, None])
            for at, value in enumerate(amounts):
                if value is not None:
                    known[at] = (known[at] or 0) + value
            self._line(category, group, entity, span, (start_ns, end_ns), amounts, rate)
        self.batch.insert(
            "settlement_part",
            [(device, start_ns, *key, t, u, e) for key, (t, e, u) in parts.items()],
        )

    def _who(
        self, device: int, start_ns: int, end_ns: int
    ) -> list[tuple[Category, int, int | None, Span | None]]:
        random = self.random
        idle = random.choice((Category.ALLOCATED_IDLE, Category.BETWEEN_STEPS))
        found: list[tuple[Category, int, int | None, Span | None]] = [
            (idle, device, random.choice((None, *range(1, ENTITIES + 1))), None)
        ]
        span = self.open.get(device)
        if span is None and random.random() < 0.7:
            span = self._begin(start_ns, RINGS[device - 1])
            self.open[device] = span
        if span is not None:
            category = Category.CHECKPOINT if span.kind is SpanKind.CHECKPOINT else Category.DIRECT
            found.append((category, random.choice((device, 3)), span.entity, span))
            if random.random() < 0.6:
                span.end_ns = end_ns
                del self.open[device]
        return found

    def _begin(self, start_ns: int, ring: int) -> Span:
        random = self.random
        self.numbers += 1
        kind = random.choice((SpanKind.REQUEST, SpanKind.STEP, SpanKind.STEP, SpanKind.CHECKPOINT))
        step = random.choice((None, self.numbers // 2, self.numbers % 7))
        entity = random.choice((3, 6)) if kind is SpanKind.STEP else random.randrange(1, ENTITIES)
        span = Span(ring, self.numbers, entity, kind, start_ns, step)
        self.spans.append(span)
        return span

    def _line(
        self,
        category: Category,
        group: int,
        entity: int | None,
        span: Span | None,
        period: tuple[int, int],
        amounts: list[int | None],
        rate: int | None,
    ) -> None:
        random = self.random
        phases: tuple[int | None, ...] = (None,)
        if span is not None and category is Category.DIRECT:
            phases = random.choice(((None,), (int(Phase.PREFILL), int(Phase.DECODE))))
        place = (None, None) if span is None else (span.ring, span.number)
        incomplete, method = int(random.random() < 0.1), random.choice(METHODS)
        if span is not None and random.random() < 0.2:
            hour_ns = period[0] - period[0] % NS_PER_HOUR
            key: Row = (group, int(category), entity or 0, *place, hour_ns, rate or 0)
            key = (*key, f"{self.numbers}-{random.random()}")
            device_ns, energy, units = amounts
            row: Row = (*key, *period, device_ns, energy, units, method, incomplete, 0)
            head = (int(ChargeKind.CHARGE), group, int(category), None, entity, *place, *period)
            line: Row = (*head, None, *amounts, rate, method, None, incomplete)
            self.batch.accruals_changed.append(row)
            self.running.append((key, line))
            return
        weights = [1] * len(phases)
        for index, phase in enumerate(phases):
            part = [None if a is None else _share(a, weights, index) for a in amounts]
            head = (int(ChargeKind.CHARGE), group, int(category), phase, entity, *place, *period)
            self._post((*head, None, *part, rate, method, None, incomplete))

    def _post(self, line: Row, *, by_command: bool = False, adjusts: Row = UNADJUSTED) -> None:
        """`line` without its key; its tenth value, the time of posting, is put in."""
        if by_command:
            self.down -= 1
        else:
            self.up += 1
        key = self.down if by_command else self.up
        self.batch.insert("charge", [(key, *line[:9], self.now_ns, *line[10:], *adjusts)])
        if line[0] != ChargeKind.ADJUSTMENT:
            self.holders.setdefault(line[7] - line[7] % NS_PER_HOUR, []).append(line[1:7])

    def _post_running(self) -> None:
        if self.random.random() < 0.6:
            for key, line in self.running:
                self.batch.accruals_removed.append(key)
                self._post(line)
            self.running.clear()

    def _records(self) -> None:
        """Most records of ended spans come at once, some much later."""
        for span in self.spans:
            if span.end_ns is None or span.record:
                continue
            late_ns = self.now_ns - span.end_ns
            if self.random.random() < 0.3 and late_ns < self.furthest_hours // 4 * NS_PER_HOUR:
                continue
            span.record = True
            self._record(span, span.end_ns)

    def _record(self, span: Span, end_ns: int) -> None:
        random = self.random
        lost = span.kind is SpanKind.STEP and random.random() < 0.2
        status = SpanStatus.LOST if lost else SpanStatus.OK
        head = (span.ring, span.number, span.number, 0, int(span.kind), int(status), 0, 0)
        first = random.choice((None, span.start_ns + 1))
        times = (None, span.start_ns, None, first, end_ns)
        tokens = [random.choice((None, random.randrange(1, 1_000))) for _ in range(4)]
        counters = (span.step, *tokens, None, None, None, None, None, None)
        self.batch.insert("span", [(*head, span.entity, *times, *counters, 0, self.now_ns, None)])

    def _unbound(self) -> None:
        """A span of a ring that has no device: it has no line."""
        span = self._begin(self.now_ns - self.random.randrange(1, 10 * NS_PER_HOUR), 3)
        span.record, span.end_ns = True, span.start_ns + 1
        self._record(span, span.end_ns)

    def _past(self) -> tuple[int, int]:
        hours = self.random.choice((0, 1, 5, self.furthest_hours))
        hour_ns = self.now_ns - self.now_ns % NS_PER_HOUR - hours * NS_PER_HOUR
        return max(T0, hour_ns), max(T0, hour_ns) + 5

    def _holder(self, period: tuple[int, int]) -> Row:
        random = self.random
        spans = [
            s for s in self.spans if s.start_ns < period[1] and (s.end_ns or period[0]) >= period[0]
        ]
        span = random.choice([None, *spans])
        place = (None, None) if span is None else (span.ring, span.number)
        phase = random.choice((None, int(Phase.PREFILL)))
        category = random.choice((Category.DIRECT, Category.ALLOCATED_IDLE, Category.LOST))
        entity = random.choice((None, 1, 3)) if span is None else span.entity
        return (1, int(category), phase, entity, *place)

    def _move(self) -> None:
        period = self._past()
        rate = self.random.choice((1, None))
        amounts = [self.random.randrange(1, 10**6) for _ in range(3)]
        for sign in (-1, 1):
            part = [sign * amount for amount in amounts]
            row: Row = (int(ChargeKind.REALLOCATION), *self._holder(period), *period, None)
            self._post((*row, part[0], part[1], part[2] if rate else None, rate, 1, "late", 0))

    def _adjust(self) -> None:
        """Some hours of the first device cost something else from now on."""
        for hour_ns in {self._past()[0] for _ in range(3)} & self.rates_at_edge.keys():
            before, whole = self.rates_at_edge[hour_ns], REPRICED_NS
            after = self.random.choice([rate for rate in (1, 2) if rate != before])
            units = (UNITS_PER_NS[after] - UNITS_PER_NS[before]) * whole
            end_ns = hour_ns + whole
            row: Row = (1, hour_ns, self.now_ns, end_ns, before, after, units)
            self.batch.insert("repricing", [row])
            self.rates_at_edge[hour_ns] = after
            chosen = self.random.choices(self.holders[hour_ns], k=self.random.randrange(1, 4))
            weights = [1] * len(chosen)
            for index, holder in enumerate(chosen):
                part, priced_ns = (_share(all_, weights, index) for all_ in (units, whole))
                line: Row = (int(ChargeKind.ADJUSTMENT), *holder, hour_ns, end_ns, None)
                line = (*line, 0, None, part, after, 2, "price", 0)
                adjusts: Row = (before, priced_ns if before is None else None)
                self._post(line, by_command=True, adjusts=adjusts)


def _share(whole: int, weights: list[int], index: int) -> int:
    edges = [whole * sum(weights[:at]) // sum(weights) for at in (index, index + 1)]
    return edges[1] - edges[0]
