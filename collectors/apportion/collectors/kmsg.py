"""XID errors from the kernel's log: a second source, which lives while NVML is dead.

It also has those from before the agent started, as far back as the log reaches. Of a line the
GPU's address and the number are taken and nothing else: there are names of processes in it.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from apportion.collectors.collector import Batch
from apportion.collectors.kernel_log import KernelLog
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import BUILT_IN
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError, NoData
from apportion.core.family import Family
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_device_kernel_xid_errors_total",
        "counter",
        "errors",
        ("device", "xid"),
        "XID errors in the kernel's log since boot, as far back as it reaches.",
        "kmsg",
        simulated=True,
    ),
    Family(
        "apportion_device_kernel_xid_last_timestamp_seconds",
        "gauge",
        "seconds",
        ("device", "xid"),
        "When such an error was last logged, as unix time.",
        "kmsg",
        simulated=True,
    ),
)

PERIOD_NS: Final = 2 * NS_PER_SECOND
USUAL_LOG: Final = Path("/dev/kmsg")
MOST_KEYS: Final = 64
_XID: Final = re.compile(
    r"NVRM: Xid \((?:PCI:)?([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})[^)]*\): (\d{1,5})"
)
_NAMED: Final = re.compile(
    r"NVRM: GPU at (?:PCI:)?([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})\S*: (GPU-[0-9a-f-]{36})"
)
_UUID: Final = re.compile(r"^GPU UUID:\s*(GPU-[0-9a-f-]{36})$", re.MULTILINE)
_LOG: Final = logging.getLogger(__name__)


class Xid(NamedTuple):
    """An XID of the GPU at a PCI address."""

    address: str
    number: int


class Kmsg:
    """The `kmsg` collector. `path` None: the usual one, which few users may read."""

    def __init__(self, path: Path | None, proc_root: Path, clock: Clock) -> None:
        self._is_named = path is not None
        self._log = KernelLog(path or USUAL_LOG)
        self._has_read = False
        self._gpus = proc_root / "driver" / "nvidia" / "gpus"
        self._clock = clock
        self._counts: Counter[Xid] = Counter()
        self._last_ns: dict[Xid, int] = {}
        self._uuids: dict[str, str] = {}
        self._is_news = False

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "kmsg"

    def start(self) -> None:
        """The log is opened by the first `collect`."""

    def collect(self) -> Batch:
        """Everything that was counted so far.

        Raises:
            NoData: there is no such log here, this user may not read it, or nothing is in it.
            CollectorError: it cannot be read; or a person has named it, and it is not there.
        """
        try:
            for record in self._log.read():
                self._has_read = True
                self._take(record.text, record.uptime_ns)
        except OSError as error:
            is_absent = isinstance(error, (FileNotFoundError, PermissionError))
            kind = NoData if is_absent and not self._is_named else CollectorError
            message = f"{self._log.path}: {error.strerror}; XIDs come from NVML alone"
            raise kind(message) from error
        if not self._has_read:
            raise NoData(f"{self._log.path} has no message of the kernel")
        self._is_news = True
        return Batch(samples=tuple(self._samples()))

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _take(self, text: str, uptime_ns: int | None) -> None:
        named = _NAMED.match(text)
        if named is not None:
            self._uuids[named[1]] = named[2]
        found = _XID.match(text)
        if found is None:
            return
        xid = Xid(found[1], int(found[2]))
        if xid not in self._counts and len(self._counts) >= MOST_KEYS:
            return
        self._counts[xid] += 1
        if uptime_ns is not None:
            self._last_ns[xid] = uptime_ns
        if self._is_news:
            _LOG.warning("the kernel's log has XID %d of %s", xid.number, self._device(xid.address))

    def _samples(self) -> list[Sample]:
        samples: list[Sample] = []
        boot_ns = self._clock.realtime_ns() - self._clock.monotonic_ns()
        for xid, count in self._counts.items():
            labels = (("device", self._device(xid.address)), ("xid", str(xid.number)))
            samples.append(Sample("device_kernel_xid_errors_total", count, labels))
            last_ns = self._last_ns.get(xid)
            if last_ns is not None:
                at = (boot_ns + last_ns) / NS_PER_SECOND
                samples.append(Sample("device_kernel_xid_last_timestamp_seconds", at, labels))
        return samples

    def _device(self, address: str) -> str:
        """The UUID of the GPU at an address, by the driver; the address where it cannot be told."""
        if address not in self._uuids:
            for path in self._gpus.glob(f"{address}.*/information"):
                try:
                    found = _UUID.search(path.read_text(errors="replace"))
                except OSError:
                    continue
                if found is not None:
                    self._uuids[address] = found[1]
        return self._uuids.get(address, f"pci:{address}")


@BUILT_IN.register("kmsg", default=True, devices=False, period_ns=PERIOD_NS)
def make_kmsg(options: CollectorOptions, clock: Clock) -> Kmsg:
    """The collector of the kernel's log."""
    return Kmsg(options.kmsg, options.proc_root, clock)
