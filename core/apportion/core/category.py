"""The closed sets: where a device-nanosecond went, in which phase, and how a span ended.

The numbers are stored in ledgers and rings: they never change, and new ones are appended.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Category(IntEnum):
    """Every device-nanosecond has exactly one: the lowest that holds for any workload on it.

    `LOST` comes only by reallocation, the last two only from price rules.
    """

    DIRECT = 1
    CHECKPOINT = 2
    EVALUATION = 3
    STARTUP = 4
    BETWEEN_STEPS = 5
    UNINSTRUMENTED = 6
    ALLOCATED_IDLE = 7
    UNALLOCATED = 8
    UNATTRIBUTED = 9
    LOST = 10
    COMMITMENT_UNUSED = 11
    BILLING_ROUNDING = 12

    @property
    def label(self) -> str:
        """The name used in metrics, reports and the ledger's exports."""
        return self.name.lower()


SETTLED: Final = tuple(category for category in Category if category < Category.LOST)
"""What settlement itself may assign, in order of precedence."""


class Phase(IntEnum):
    """A part of a span; `NONE` is the rest of it (NULL in the ledger)."""

    NONE = 0
    PREFILL = 1
    DECODE = 2
    GUARD_INPUT = 3
    GUARD_OUTPUT = 4
    CONSTRAIN = 5
    DATA_WAIT = 6
    FORWARD = 7
    BACKWARD = 8
    OPTIMIZER = 9
    COMMUNICATION = 10
    CHECKPOINT = 11
    EVALUATION = 12

    @property
    def label(self) -> str:
        """The name used in metrics and reports; empty for the rest of a span."""
        return self.name.lower() if self else ""


INPUT_PHASES: Final = frozenset({Phase.PREFILL, Phase.GUARD_INPUT})
"""What makes the input cost of a request; the rest of the request is its output cost."""


class SpanKind(IntEnum):
    """What a ring record describes. Roots compete for a device; phases divide their root.

    An `ITERATION` is no span: one forward pass of an engine, over the batch that shares it. Nor is
    `SCHEDULED`: iterations in a row that one request was in alike.
    """

    REQUEST = 1
    STEP = 2
    PHASE = 3
    CHECKPOINT = 4
    EVALUATION = 5
    ITERATION = 6
    SCHEDULED = 7

    @property
    def category(self) -> Category:
        """The category of a root span of this kind."""
        if self is SpanKind.CHECKPOINT:
            return Category.CHECKPOINT
        if self is SpanKind.EVALUATION:
            return Category.EVALUATION
        return Category.DIRECT

    @property
    def label(self) -> str:
        """The name used in reports."""
        return self.name.lower()


class SpanStatus(IntEnum):
    """How a span ended; `LOST` when its process died with it open."""

    OPEN = 0
    OK = 1
    ERROR = 2
    CANCELLED = 3
    LOST = 4

    @property
    def label(self) -> str:
        """The name used in metrics and reports."""
        return self.name.lower()


class PhaseClock(IntEnum):
    """Which clock a phase was read from.

    On CUDA the host's clock measures launches, so a `HOST_LAUNCH` phase is shown as host
    time and never divides cost. `HOST` means that the work was done when the call returned.
    """

    HOST = 0
    HOST_LAUNCH = 1
    DEVICE = 2
