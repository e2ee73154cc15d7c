"""The network collector on fixture trees: units, absent counters, what is left out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from apportion.collectors.network import MOST_INTERFACES, Network, interfaces
from apportion.collectors.once import collect_once
from apportion.core.errors import CollectorError, NoData

Tree = Callable[[str], Path]
PUBLISHED = Path(__file__).parents[3] / "shared" / "fixtures"
PEERS_NAMES = {
    ("rdma_port_bytes_total", "transmit"): "port_data_transmitted_bytes",
    ("rdma_port_bytes_total", "receive"): "port_data_received_bytes",
    ("rdma_port_packets_total", "transmit"): "port_packets_transmitted",
    ("rdma_port_packets_total", "receive"): "port_packets_received",
    ("rdma_port_errors_total", "link_downed"): "link_downed",
    ("rdma_port_errors_total", "link_error_recovery"): "link_error_recovery",
    ("rdma_port_errors_total", "port_rcv_errors"): "port_errors_received",
    ("rdma_port_errors_total", "port_xmit_discards"): "port_discards_transmitted",
    ("rdma_port_congestion_total", "port_xmit_wait"): "port_transmit_wait",
    ("rdma_port_rate_bytes_per_second", ""): "rate_bytes_per_second",
}
"""Ours, and what node_exporter calls the same figure."""


@pytest.fixture
def sys_root(tree: Tree) -> Path:
    """Four adapters, an Ethernet interface, a virtual one and the loopback."""
    return tree("network_host") / "sys"


def told(sys_root: Path) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the texts of its labels."""
    batch = Network(sys_root).collect()
    assert batch.samples is not None
    found = {(name, *(text for _, text in labels)): value for name, value, labels in batch.samples}
    assert len(found) == len(batch.samples)
    return found


def test_traffic_is_in_bytes(sys_root: Path) -> None:
    """The kernel counts words of four bytes; the link's rate is in bytes too."""
    found = told(sys_root)
    assert found["rdma_port_bytes_total", "mlx5_0", "1", "transmit"] == 10**12
    assert found["rdma_port_bytes_total", "mlx5_0", "1", "receive"] == 4_000
    assert found["rdma_port_rate_bytes_per_second", "mlx5_0", "1"] == 50e9
    assert found["rdma_port_packets_total", "mlx5_0", "1", "receive"] == 8
    assert found["network_interface_bytes_total", "eth0", "transmit"] == 9_000
    assert found["network_interface_rate_bytes_per_second", "eth0"] == 3.125e9
    assert found["network_interface_errors_total", "eth0", "receive", "dropped"] == 5


def test_errors_and_congestion_keep_the_kernels_names(sys_root: Path) -> None:
    """A person finds the counter in the driver's documentation; what is no sign is left out."""
    found = told(sys_root)
    assert found["rdma_port_errors_total", "mlx5_0", "1", "symbol_error"] == 3
    assert found["rdma_port_congestion_total", "mlx5_0", "1", "port_xmit_wait"] == 55
    assert found["rdma_port_congestion_total", "mlx5_bond_0", "1", "np_cnp_sent"] == 11
    assert not [key for key in found if "lifespan" in key]


def test_link_layer_and_state_are_told(sys_root: Path) -> None:
    """RoCE is an adapter of the same kind over Ethernet; a port that is down says 0."""
    found = told(sys_root)
    assert found["rdma_port_up", "mlx5_0", "1", "InfiniBand"] == 1
    assert found["rdma_port_up", "mlx5_bond_0", "1", "Ethernet"] == 0


def test_an_adapter_without_counters_is_a_port_without_values(sys_root: Path) -> None:
    """`N/A (no PMA)` is neither 0 nor an error."""
    names = {key[0] for key in told(sys_root) if "i40iw0" in key}
    assert names == {"rdma_port_up", "rdma_port_rate_bytes_per_second"}


def test_a_stuck_short_counter_gives_way_to_the_long_one(sys_root: Path) -> None:
    """32 bits are full after 17 GB and stay so; without a longer one they are what there is."""
    found = told(sys_root)
    assert found["rdma_port_bytes_total", "mlx4_0", "2", "transmit"] == 20e9
    assert found["rdma_port_bytes_total", "mlx4_0", "2", "receive"] == 4 * (2**32 - 1)


def test_virtual_interfaces_count_only_where_there_is_no_other(sys_root: Path) -> None:
    """On a node a pod's traffic would count twice; in a container there is nothing else."""
    assert [path.name for path in interfaces(sys_root)] == ["eth0"]
    shutil.rmtree(sys_root / "class/net/eth0/device")
    assert [path.name for path in interfaces(sys_root)] == ["eth0", "veth0"]


def test_the_number_of_interfaces_has_a_bound(tmp_path: Path) -> None:
    """A node of a thousand pods does not become a thousand series."""
    for number in range(MOST_INTERFACES + 10):
        (tmp_path / f"class/net/veth{number:04}").mkdir(parents=True)
    assert len(interfaces(tmp_path)) == MOST_INTERFACES


def test_an_interface_that_is_down_has_no_rate(sys_root: Path) -> None:
    """Its speed is -1, or cannot be read at all."""
    (sys_root / "class/net/eth0/speed").write_text("-1\n")
    (sys_root / "class/net/eth0/carrier").unlink()
    found = told(sys_root)
    assert ("network_interface_rate_bytes_per_second", "eth0") not in found
    assert ("network_interface_up", "eth0") not in found
    assert found["network_interface_bytes_total", "eth0", "receive"] == 8_000


def test_nothing_at_all_is_no_fault(tmp_path: Path) -> None:
    """A machine without a network has no data, which is logged at debug level."""
    (tmp_path / "class").mkdir()
    with pytest.raises(NoData):
        Network(tmp_path).collect()
    result = collect_once("network", {"sys_root": str(tmp_path), "connect_deadline": "0.1"})
    assert (result["success"], result["absent"]) == (False, True)


@pytest.mark.parametrize("name", ["", "nonexistent"])
def test_without_a_sysfs_it_says_so(tmp_path: Path, name: str) -> None:
    """A mount that is missing, or an empty place of it, is no machine without a network."""
    with pytest.raises(CollectorError, match=r"there is no sysfs at .*: mount the host's /sys"):
        Network(tmp_path / name).collect()


def peers(text: str) -> Iterator[tuple[tuple[str, ...], float]]:
    """node_exporter's figures by name, adapter and port."""
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix("node_infiniband_")
        for sample in family.samples:
            yield (name, sample.labels["device"], sample.labels.get("port", "")), sample.value


def test_figures_are_those_of_a_peer() -> None:
    """node_exporter read the same published tree; so far as both tell a figure, it is the same."""
    folder = Path(os.environ.get("APPORTION_FIXTURES", PUBLISHED)) / "infiniband/node_exporter"
    if not folder.is_dir():
        pytest.skip("no published inputs: set APPORTION_FIXTURES to their folder")
    theirs = dict(peers((folder / "node_infiniband_e2e.prom").read_text()))
    compared = 0
    for (name, interface, port, *rest), value in told(folder / "sys").items():
        peers_name = PEERS_NAMES.get((name, rest[0] if rest else ""))
        if peers_name is not None:
            legacy = peers_name.replace("port_", "legacy_")
            figure = theirs.get(
                (peers_name, interface, port), theirs.get((legacy, interface, port))
            )
            assert value == figure, (name, interface, port)
            compared += 1
    assert compared > 15
