"""Running sums of what is not posted yet: state, and no lines of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from apportion.cost.methods.names import Method, of_both
from apportion.cost.quantity import plus

if TYPE_CHECKING:
    from apportion.cost.ledger.batch import Row


class AccrualKey(NamedTuple):
    """What makes one future charge. `ring` and `number` are 0 for time without a span."""

    group: int
    category: int
    entity: int
    ring: int
    number: int
    bucket_ns: int
    rate: int
    reason: str


@dataclass(frozen=True, slots=True)
class Accrual:
    """A running sum over [start_ns, end_ns)."""

    start_ns: int
    end_ns: int
    device_ns: int
    energy_mj: int | None
    units: int | None
    incomplete: bool = False
    prefill_ns: int = 0
    """Of `device_ns`, what the method gave to prefill."""
    method: int = int(Method.TIME_SHARE)

    def plus(self, other: Accrual) -> Accrual:
        """Both together."""
        return Accrual(
            min(self.start_ns, other.start_ns),
            max(self.end_ns, other.end_ns),
            self.device_ns + other.device_ns,
            plus(self.energy_mj, other.energy_mj),
            plus(self.units, other.units),
            self.incomplete or other.incomplete,
            self.prefill_ns + other.prefill_ns,
            of_both(self.method, other.method),
        )


def accrual_row(key: AccrualKey, accrual: Accrual) -> Row:
    """The row of `accrual`, without agent_id."""
    return (
        *key,
        accrual.start_ns,
        accrual.end_ns,
        accrual.device_ns,
        accrual.energy_mj,
        accrual.units,
        accrual.method,
        int(accrual.incomplete),
        accrual.prefill_ns,
    )


def accrual_of(row: Row) -> tuple[AccrualKey, Accrual]:
    """The inverse of `accrual_row`."""
    start_ns, end_ns, device_ns, energy_mj, units, method, incomplete, prefill_ns = row[8:]
    sums = (start_ns, end_ns, device_ns, energy_mj, units, bool(incomplete), prefill_ns, method)
    return AccrualKey(*row[:8]), Accrual(*sums)
