"""The error tree.

    ApportionError
    ├── ConfigError            a file, flag or variable that a person wrote is wrong
    │   ├── PriceTableError    ... in a price table
    │   ├── TraceFileError     ... in a recorded trace
    │   └── ProfileTraceError  ... in what a profiler wrote
    ├── ProfilerError          a running process could not be profiled
    ├── RingError              a ring file is not what its layout promises
    ├── CollectorError         a source of facts failed
    │   ├── NoData             the source is absent on this machine: not a fault
    │   ├── DeviceLost         one device no longer answers
    │   └── SourceLost         the whole source must be opened again
    └── LedgerError            the book could not be read or written
        ├── LedgerUnavailable  locked, full or gone: retry later, nothing is lost
        ├── LedgerDiverged     a shared ledger has commits that this agent never made
        └── SchemaMismatch     the schema is older or newer than this release can use

Every message names what failed, with which input, and what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from apportion.core.sample import Sample


class ApportionError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(ApportionError):
    """Something that a person wrote is wrong; `where` says in which file and line."""

    def __init__(
        self, message: str, *, path: Path | str | None = None, line: int | None = None
    ) -> None:
        self.path = path
        self.line = line
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(f"{where}{message}")


class PriceTableError(ConfigError):
    """A price table is malformed or contradicts itself."""


class TraceFileError(ConfigError):
    """A recorded trace of requests or engine iterations is malformed or contradicts itself."""


class ProfileTraceError(ConfigError):
    """A profiler's trace is malformed, cut off, or of a kind that cannot answer the question."""


class ProfilerError(ApportionError):
    """A running process could not be profiled. `reason` is a word for a metric."""

    def __init__(self, message: str, reason: str) -> None:
        self.reason = reason
        super().__init__(message)


class RingError(ApportionError):
    """A ring file is corrupt, hostile, truncated or of an unknown version."""


class CollectorError(ApportionError):
    """A source of facts failed; its series stop and a metric says so.

    `kind` is why, in one word, of a source of devices that knows it. `samples` are what is known
    all the same: which of its places failed, and how.
    """

    def __init__(
        self, message: str = "", *, kind: str | None = None, samples: tuple[Sample, ...] = ()
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.samples = samples


class NoData(CollectorError):
    """The source is absent on this machine. Logged at debug level, never an alert."""


class NotYet(CollectorError):
    """The source was started just now. Logged at debug level; what lasts is another error."""


class DeviceLost(CollectorError):
    """One device no longer answers; the others go on."""


class SourceLost(CollectorError):
    """The whole source must be shut down and opened again, with backoff."""


class LedgerError(ApportionError):
    """The ledger could not do what was asked."""


class LedgerUnavailable(LedgerError):
    """Locked, full or gone for now. The caller keeps its batch and retries."""


class LedgerDiverged(LedgerError):
    """Two ledgers ship as one agent. Nothing is applied until a person has decided."""


class SchemaMismatch(LedgerError):
    """The ledger's schema is not one that this release can use."""
