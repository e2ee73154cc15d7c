"""A ledger read from outside while the agent writes: plain SQL and Python integers."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from apportion.core.category import Category, Phase, SpanKind, SpanStatus

HOUR_NS: Final = 3_600_000_000_000
_CHARGE, _REALLOCATION = 1, 2

Row = tuple[Any, ...]
Interval = tuple[int, int]


class Book:
    """One SQLite ledger. Every question opens it anew, as any reader would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._snapshot: sqlite3.Connection | None = None

    def rows(self, query: str, *values: object) -> list[Row]:
        """The rows of a query; none where there is no ledger yet."""
        if self._snapshot is not None:
            return self._snapshot.execute(query, values).fetchall()
        if not self.path.exists():
            return []
        with closing(self._open()) as connection:
            try:
                return connection.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # not migrated yet
                    return []
                raise

    @contextmanager
    def _one_moment(self) -> Generator[None]:
        """All queries within see the same commits, while the agent goes on."""
        with closing(self._open()) as connection:
            connection.execute("begin")
            self._snapshot = connection
            try:
                yield
            finally:
                self._snapshot = None

    def _open(self) -> sqlite3.Connection:
        name = f"file:{self.path}?mode=ro"
        return sqlite3.connect(name, uri=True, timeout=20, isolation_level=None)

    def count(self, table: str) -> int:
        """How many rows a table has."""
        found = self.rows(f"select count(*) from {table}")
        return int(found[0][0]) if found else 0

    def names(self) -> Counter[str]:
        """How often each finished span is there, by the names of `programs/traffic.py`."""
        names: dict[tuple[int, int], str] = {}
        found: Counter[str] = Counter()
        for ring, number, status, name in self.rows(
            "select ring_key, number, status, coalesce(request_id, workload || '/' || step) "
            "from span join entity using (agent_id, entity_key) "
            "where parent = 0 and kind in (?, ?)",
            int(SpanKind.REQUEST),
            int(SpanKind.STEP),
        ):
            names[ring, number] = name
            if status != int(SpanStatus.LOST):
                found[name] += 1
        for ring, parent, phase in self.rows(
            "select ring_key, parent, phase from span where kind = ?", int(SpanKind.PHASE)
        ):
            found[f"{names[ring, parent]}/{Phase(phase).name.lower()}"] += 1
        return found

    def all_charged(self) -> bool:
        """Whether every device is settled past the end of every span, and each span is posted."""
        query = """
            select (select max(end_ns) from span) <= (select min(settled_ns) from watermark)
                and not exists (select * from accrual where ring_key != 0)
        """
        return self.rows(query) == [(1,)]

    def device_ns(self) -> dict[Category, int]:
        """Settled device time by category, reallocations included."""
        spent: Counter[int] = Counter()
        for category, device_ns in self.rows(
            "select category, device_ns from charge union all "
            "select category, device_ns from accrual"
        ):
            spent[category] += device_ns
        return {Category(category): ns for category, ns in spent.items() if ns}

    def groups(self) -> dict[int, tuple[str, ...]]:
        """The devices of each device group, in their order."""
        groups = self.rows("select group_key, device_keys from device_group")
        # After them, because the agent goes on: what a row names is there by now.
        names: dict[int, str] = dict(self.rows("select device_key, device from device"))
        return {group: tuple(names[int(key)] for key in keys.split(",")) for group, keys in groups}

    def bindings(self) -> dict[str, tuple[tuple[str, ...], str]]:
        """By workload and rank (`name` or `name/rank`): the last devices and the source."""
        query = """
            select json_extract(identity, '$.workload'), json_extract(identity, '$.rank'),
                   group_key, source
            from binding join ring using (agent_id, ring_key) order by since_ns
        """
        rows = self.rows(query)
        groups = self.groups()
        return {
            workload if rank is None else f"{workload}/{rank}": (groups[group], source)
            for workload, rank, group, source in rows
        }

    def faults(self) -> list[str]:
        """Whatever does not add up, in sentences; the checks share no code with the ledger's."""
        with self._one_moment():
            return [*self._gaps(), *self._parts(), *self._lines(), *self._moves()]

    def _gaps(self) -> list[str]:
        faults: list[str] = []
        last: dict[int, int] = {}
        for device, start_ns, end_ns in self.rows(
            "select device_key, start_ns, end_ns from settlement order by device_key, start_ns"
        ):
            if not start_ns < end_ns:
                faults.append(f"device {device}: empty settlement at {start_ns}")
            if last.get(device, start_ns) != start_ns:
                faults.append(f"device {device}: {start_ns} follows {last[device]}")
            last[device] = end_ns
        for device, settled_ns in self.rows("select device_key, settled_ns from watermark"):
            if last.get(device, settled_ns) != settled_ns:
                faults.append(f"device {device}: settled to {last[device]}, mark {settled_ns}")
        return faults

    def _parts(self) -> list[str]:
        """Each settlement equals the sum of its parts, in time, money and energy."""
        whole = {
            (device, start_ns): (end_ns - start_ns, units or 0, energy_mj or 0)
            for device, start_ns, end_ns, units, energy_mj in self.rows(
                "select device_key, start_ns, end_ns, units, energy_mj from settlement"
            )
        }
        parts = _sums(
            ((device, start_ns), amounts)
            for device, start_ns, *amounts in self.rows(
                "select device_key, start_ns, device_ns, units, energy_mj from settlement_part"
            )
        )
        return [
            f"settlement {key}: {whole.get(key)} but its parts are {parts.get(key)}"
            for key in sorted(whole.keys() | parts.keys())
            if whole.get(key) != parts.get(key)
        ]

    def _lines(self) -> list[str]:
        """Per group and category: parts equal charges and running sums."""
        parts = _sums(
            ((group, category), amounts)
            for group, category, *amounts in self.rows(
                "select group_key, category, device_ns, units, energy_mj from settlement_part"
            )
        )
        lines = _sums(
            ((group, category), amounts)
            for group, category, *amounts in self.rows(
                "select group_key, category, device_ns, units, energy_mj from charge "
                "where kind = ? union all "
                "select group_key, category, device_ns, units, energy_mj from accrual",
                _CHARGE,
            )
        )
        return [
            f"group and category {key}: parts {parts.get(key)} but lines {lines.get(key)}"
            for key in sorted(parts.keys() | lines.keys())
            if parts.get(key, (0, 0, 0)) != lines.get(key, (0, 0, 0))
        ]

    def _moves(self) -> list[str]:
        """Reallocations sum to zero within each instant of posting and reason."""
        moved = _sums(
            ((posted_ns, reason), amounts)
            for posted_ns, reason, *amounts in self.rows(
                "select posted_ns, reason, device_ns, units, energy_mj from charge where kind = ?",
                _REALLOCATION,
            )
        )
        return [f"moves of {key} leave {left}" for key, left in moved.items() if any(left)]

    def direct_faults(self) -> list[str]:
        """Per device the direct and lost time must be the union of its root spans, clipped.

        That is the whole of time-sharing seen from the device: wherever a step or a request ran
        on it, its time went to one of them.
        """
        faults: list[str] = []
        with self._one_moment():
            claims, spent = self._claims(), self._spent()
            marks = self.rows("select device_key, since_ns, settled_ns from watermark")
        for device, since_ns, settled_ns in marks:
            covered_ns = _covered(claims.get(device, []), since_ns, settled_ns)
            if covered_ns != spent.get(device, 0):
                faults.append(f"device {device}: {spent.get(device, 0)} ns, spans {covered_ns} ns")
        return faults

    def _claims(self) -> dict[int, list[Interval]]:
        """By device the intervals of root steps and requests (by when they were scheduled)."""
        query = """
            select device_keys, coalesce(scheduled_ns, start_ns), end_ns
            from span join (select agent_id, ring_key, group_key, max(since_ns) from binding
                            group by agent_id, ring_key) using (agent_id, ring_key)
            join device_group using (agent_id, group_key)
            where parent = 0 and kind in (?, ?)
        """
        claims: dict[int, list[Interval]] = {}
        kinds = (int(SpanKind.REQUEST), int(SpanKind.STEP))
        for keys, start_ns, end_ns in self.rows(query, *kinds):
            for key in keys.split(","):
                claims.setdefault(int(key), []).append((start_ns, end_ns))
        return claims

    def _spent(self) -> dict[int, int]:
        """Direct and lost time by device; only for groups of one device."""
        query = """
            select device_keys, sum(device_ns) from
            (select agent_id, group_key, category, device_ns from charge union all
             select agent_id, group_key, category, device_ns from accrual)
            join device_group using (agent_id, group_key)
            where category in (?, ?) group by device_keys
        """
        kinds = (int(Category.DIRECT), int(Category.LOST))
        spent: Counter[int] = Counter()
        for keys, device_ns in self.rows(query, *kinds):
            spent[int(keys)] += device_ns
        return spent


def _sums(lines: Iterable[tuple[Any, Iterable[int | None]]]) -> dict[Any, tuple[int, ...]]:
    """Amounts (time, money, energy) added up by key; nothing counts as 0 here."""
    totals: dict[Any, tuple[int, ...]] = {}
    for key, amounts in lines:
        before = totals.get(key, (0, 0, 0))
        totals[key] = tuple(a + (b or 0) for a, b in zip(before, amounts, strict=True))
    return totals


def _covered(intervals: list[Interval], since_ns: int, until_ns: int) -> int:
    """The length of the union of half-open intervals, inside [since, until)."""
    covered_ns, reached_ns = 0, since_ns
    for start_ns, end_ns in sorted(intervals):
        first_ns, last_ns = max(start_ns, reached_ns), min(end_ns, until_ns)
        if first_ns < last_ns:
            covered_ns += last_ns - first_ns
            reached_ns = last_ns
    return covered_ns
