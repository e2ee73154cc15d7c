"""Links between devices and between nodes, and what NCCL does over them."""

from __future__ import annotations

from typing import Final

from dashboards.panel import Board, Panel, Query, Row, rate, series, share, total

_NCCL: Final = "a distributed job (Flight Recorder or Inspector)"
_RDMA: Final = "an InfiniBand or RoCE port"
_PORT: Final = "{{instance}} {{interface}}/{{port}}"
_USED: Final = total("instance, interface, port, direction", rate("rdma_port_bytes_total"))
_LINK_RATE: Final = total("instance, interface, port", series("rdma_port_rate_bytes_per_second"))


def _counter(title: str, description: str, name: str, by: str, needs: str, unit: str) -> Panel:
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return Panel(title, description, unit, (Query(total(by, rate(name)), legend),), needs=needs)


BOARD: Final = Board(
    "network",
    "Network and NCCL",
    "NVLink, PCIe, InfiniBand, Ethernet, and collectives over them.",
    (
        Row(
            "Inside a node",
            (
                _counter(
                    "NVLink",
                    "Bytes a second over all links.",
                    "device_nvlink_bytes_total",
                    "device, direction",
                    "",
                    "Bps",
                ),
                _counter(
                    "PCIe",
                    "Bytes a second.",
                    "device_pcie_bytes_total",
                    "device, direction",
                    "a device that counts PCIe traffic",
                    "Bps",
                ),
                _counter(
                    "NVLink errors",
                    "Errors a second.",
                    "device_nvlink_errors_total",
                    "device, counter",
                    "",
                    "short",
                ),
                _counter(
                    "PCIe replays",
                    "Packets a second that were sent again.",
                    "device_pcie_replays_total",
                    "device",
                    "",
                    "short",
                ),
                Panel(
                    "PCIe link",
                    "Width now, and the most that is possible.",
                    "short",
                    (Query(series("device_pcie_link_width"), "{{device}} {{bound}}"),),
                ),
            ),
        ),
        Row(
            "Between nodes",
            (
                Panel(
                    "RDMA",
                    "Share of the link's rate in use.",
                    "percentunit",
                    (
                        Query(
                            f"{_USED} / on (instance, interface, port) group_left () {_LINK_RATE}",
                            f"{_PORT} {{{{direction}}}}",
                        ),
                    ),
                    needs=_RDMA,
                ),
                _counter(
                    "RDMA errors",
                    "Errors a second by the kernel's name of the counter.",
                    "rdma_port_errors_total",
                    "instance, interface, port, counter",
                    _RDMA,
                    "short",
                ),
                _counter(
                    "Congestion",
                    "Signs of congestion and retransmission a second.",
                    "rdma_port_congestion_total",
                    "instance, interface, port, counter",
                    _RDMA,
                    "short",
                ),
                Panel(
                    "Ports",
                    "1 while the port is active.",
                    "bool",
                    (Query(series("rdma_port_up"), _PORT),),
                    needs=_RDMA,
                ),
                _counter(
                    "Interfaces",
                    "Bytes a second through the kernel; RDMA passes it by.",
                    "network_interface_bytes_total",
                    "instance, interface, direction",
                    "a network interface beside the loopback",
                    "Bps",
                ),
                _counter(
                    "Bad packets",
                    "Packets a second that were bad or left out.",
                    "network_interface_errors_total",
                    "instance, interface, counter",
                    "a network interface beside the loopback",
                    "pps",
                ),
            ),
        ),
        Row(
            "NCCL",
            (
                Panel(
                    "Bus bandwidth",
                    "Of the last operations: comparable with the links' own.",
                    "Bps",
                    (
                        Query(
                            series("nccl_bus_bandwidth_bytes_per_second"),
                            "{{communicator}} {{collective}}",
                        ),
                    ),
                    needs=_NCCL,
                ),
                Panel(
                    "Algorithm bandwidth",
                    "Bytes of the operation over its time.",
                    "Bps",
                    (
                        Query(
                            series("nccl_algorithm_bandwidth_bytes_per_second"),
                            "{{communicator}} {{collective}}",
                        ),
                    ),
                    needs=_NCCL,
                ),
                _counter(
                    "Operations",
                    "Operations a second over the node's ranks.",
                    "nccl_operations_total",
                    "communicator, collective",
                    _NCCL,
                    "ops",
                ),
                _counter(
                    "Bytes",
                    "Bytes a second of collectives.",
                    "nccl_bytes_total",
                    "communicator, collective",
                    _NCCL,
                    "Bps",
                ),
                Panel(
                    "Waiting",
                    "Share of the time in collectives that is waiting for slower ranks.",
                    "percentunit",
                    (
                        Query(
                            share(
                                "communicator, collective",
                                rate("nccl_wait_seconds_total"),
                                rate("nccl_seconds_total"),
                            ),
                            "{{communicator}} {{collective}}",
                        ),
                    ),
                    needs=_NCCL,
                ),
                Panel(
                    "Missed",
                    "Operations that a buffer had overwritten, and records that could not be read.",
                    "short",
                    (
                        Query(rate("nccl_missed_operations_total"), "missed {{instance}}"),
                        Query(rate("nccl_unreadable_total"), "unreadable {{instance}}"),
                    ),
                    needs=_NCCL,
                ),
            ),
        ),
    ),
)
