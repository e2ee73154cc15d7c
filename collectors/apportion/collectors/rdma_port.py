"""Ports of InfiniBand and RoCE adapters: traffic, errors and congestion from sysfs.

`port_xmit_data` and `port_rcv_data` count words of four bytes (InfiniBand Architecture
Specification, PortCounters). An adapter without a performance agent writes `N/A (no PMA)` into
every file: those values are absent, the port is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from apportion.collectors.sysfs import number_in, text_in
from apportion.core.family import Family
from apportion.core.sample import Sample

_PORT: Final = ("interface", "port")
FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_rdma_port_up",
        "gauge",
        "boolean",
        (*_PORT, "link_layer"),
        "Whether the port of the adapter is active.",
        "sysfs",
    ),
    Family(
        "apportion_rdma_port_rate_bytes_per_second",
        "gauge",
        "bytes per second",
        _PORT,
        "The link's rate in each direction.",
        "sysfs",
    ),
    Family(
        "apportion_rdma_port_bytes_total",
        "counter",
        "bytes",
        (*_PORT, "direction"),
        "Link traffic of the port, whoever caused it: not NCCL's alone.",
        "sysfs",
    ),
    Family(
        "apportion_rdma_port_packets_total",
        "counter",
        "packets",
        (*_PORT, "direction"),
        "Packets of the port.",
        "sysfs",
    ),
    Family(
        "apportion_rdma_port_errors_total",
        "counter",
        "errors",
        (*_PORT, "counter"),
        "Errors that the port counted, by the kernel's name of the counter.",
        "sysfs",
    ),
    Family(
        "apportion_rdma_port_congestion_total",
        "counter",
        "events",
        (*_PORT, "counter"),
        "Signs of congestion and of retransmission, by the kernel's name of the counter.",
        "sysfs",
    ),
)

_BYTES_PER_WORD: Final = 4
_LEGACY_FULL: Final = (1 << 32) - 1
"""Where a 32-bit counter stands still until somebody resets it."""
_BITS_PER_BYTE: Final = 8
_GIGA: Final = 1_000_000_000
_ERRORS: Final = (
    "excessive_buffer_overrun_errors",
    "link_downed",
    "link_error_recovery",
    "local_link_integrity_errors",
    "port_rcv_constraint_errors",
    "port_rcv_discards",
    "port_rcv_errors",
    "port_rcv_remote_physical_errors",
    "port_rcv_switch_relay_errors",
    "port_xmit_constraint_errors",
    "port_xmit_discards",
    "symbol_error",
)
_CONGESTION: Final = (
    "local_ack_timeout_err",
    "np_cnp_sent",
    "np_ecn_marked_roce_packets",
    "out_of_sequence",
    "packet_seq_err",
    "rnr_nak_retry_err",
    "roce_slow_restart",
    "rp_cnp_handled",
)
"""Of `hw_counters`: what the drivers of RoCE adapters count."""
_RATE: Final = re.compile(r"([\d.]+) Gb/sec", re.ASCII)


def rdma_ports(sys_root: Path) -> Iterator[Path]:
    """The directory of each port, in order; none where there is no adapter."""
    yield from sorted((sys_root / "class/infiniband").glob("*/ports/*"))


def read_port(port: Path) -> Iterator[Sample]:
    """Everything that one port tells now; what it does not count is left out."""
    place = (("interface", port.parent.parent.name), ("port", port.name))
    state, layer = text_in(port / "state"), text_in(port / "link_layer")
    if state is not None:
        up = float(state.partition(":")[0].strip() == "4")
        yield Sample("rdma_port_up", up, (*place, ("link_layer", layer or "unknown")))
    rate = _RATE.match(text_in(port / "rate") or "")
    if rate is not None:
        bytes_per_second = float(rate[1]) * _GIGA / _BITS_PER_BYTE
        yield Sample("rdma_port_rate_bytes_per_second", bytes_per_second, place)
    for word, direction in (("xmit", "transmit"), ("rcv", "receive")):
        labels = (*place, ("direction", direction))
        words = _counter(port, f"port_{word}_data")
        if words is not None:
            yield Sample("rdma_port_bytes_total", words * _BYTES_PER_WORD, labels)
        packets = _counter(port, f"port_{word}_packets")
        if packets is not None:
            yield Sample("rdma_port_packets_total", packets, labels)
    for family, folder, names in (
        ("rdma_port_errors_total", "counters", _ERRORS),
        ("rdma_port_congestion_total", "counters", ("port_xmit_wait",)),
        ("rdma_port_congestion_total", "hw_counters", _CONGESTION),
    ):
        for name in names:
            count = number_in(port / folder / name)
            if count is not None:
                yield Sample(family, count, (*place, ("counter", name)))


def _counter(port: Path, name: str) -> int | None:
    """A counter of traffic; old adapters keep a 64-bit one beside a short one that gets stuck."""
    count = number_in(port / "counters" / name)
    if count is None or count == _LEGACY_FULL:
        long_count = number_in(port / "counters_ext" / f"{name}_64")
        return count if long_count is None else long_count
    return count
