"""The node's network: ports of InfiniBand and RoCE adapters, and Ethernet interfaces.

Bytes here are link traffic of everything on the node. What NCCL moved is told by NCCL alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from apportion.collectors.collector import Batch
from apportion.collectors.options import CollectorOptions
from apportion.collectors.rdma_port import FAMILIES as RDMA_FAMILIES
from apportion.collectors.rdma_port import rdma_ports, read_port
from apportion.collectors.registry import BUILT_IN
from apportion.collectors.sysfs import is_sysfs, no_sysfs, number_in
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError, NoData
from apportion.core.family import Family
from apportion.core.sample import Sample

FAMILIES: Final[tuple[Family, ...]] = (
    *RDMA_FAMILIES,
    Family(
        "apportion_network_interface_up",
        "gauge",
        "boolean",
        ("interface",),
        "Whether the interface has a link.",
        "sysfs",
    ),
    Family(
        "apportion_network_interface_rate_bytes_per_second",
        "gauge",
        "bytes per second",
        ("interface",),
        "The link's rate in each direction.",
        "sysfs",
    ),
    Family(
        "apportion_network_interface_bytes_total",
        "counter",
        "bytes",
        ("interface", "direction"),
        "Link traffic of the interface through the kernel; RDMA passes it by.",
        "sysfs",
    ),
    Family(
        "apportion_network_interface_errors_total",
        "counter",
        "packets",
        ("interface", "direction", "counter"),
        "Packets that were bad (errors) or left out (dropped).",
        "sysfs",
    ),
)

MOST_INTERFACES: Final = 64
"""On a node with more, those that sort first; a node of many pods has as many virtual ones."""
_MEGABIT_BYTES: Final = 125_000
_DIRECTIONS: Final = (("tx", "transmit"), ("rx", "receive"))


class Network:
    """The `network` collector."""

    def __init__(self, sys_root: Path) -> None:
        self._sys_root = sys_root

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "network"

    def start(self) -> None:
        """Nothing is held open."""

    def collect(self) -> Batch:
        """Every port and interface as it is now.

        Raises:
            NoData: the node has neither.
            CollectorError: there is no sysfs.
        """
        if not is_sysfs(self._sys_root):
            raise CollectorError(no_sysfs(self._sys_root))
        samples = [each for port in rdma_ports(self._sys_root) for each in read_port(port)]
        for interface in interfaces(self._sys_root):
            samples += read_interface(interface)
        if not samples:
            raise NoData(f"{self._sys_root / 'class'} lists no network interface but the loopback")
        return Batch(samples=tuple(samples))

    def close(self) -> None:
        """Nothing is held open."""


def interfaces(sys_root: Path) -> list[Path]:
    """The interfaces that hardware is behind; where none is (in a container), all but `lo`."""
    found = sorted(
        path for path in (sys_root / "class/net").glob("*") if path.name != "lo" and path.is_dir()
    )
    physical = [path for path in found if (path / "device").exists()]
    return (physical or found)[:MOST_INTERFACES]


def read_interface(interface: Path) -> Iterator[Sample]:
    """Everything that one interface tells now."""
    place = (("interface", interface.name),)
    carrier = number_in(interface / "carrier")
    if carrier is not None:
        yield Sample("network_interface_up", carrier, place)
    megabits = number_in(interface / "speed")
    if megabits:
        rate = megabits * _MEGABIT_BYTES
        yield Sample("network_interface_rate_bytes_per_second", rate, place)
    for prefix, direction in _DIRECTIONS:
        labels = (*place, ("direction", direction))
        count = number_in(interface / "statistics" / f"{prefix}_bytes")
        if count is not None:
            yield Sample("network_interface_bytes_total", count, labels)
        for name in ("errors", "dropped"):
            count = number_in(interface / "statistics" / f"{prefix}_{name}")
            if count is not None:
                labelled = (*labels, ("counter", name))
                yield Sample("network_interface_errors_total", count, labelled)


@BUILT_IN.register("network", default=True, devices=False)
def make_network(options: CollectorOptions, clock: Clock) -> Network:
    """The network collector."""
    del clock
    return Network(options.sys_root)
