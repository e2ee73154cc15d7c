"""Which devices a ring used: who is believed, in which order, and who is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from apportion.agent.pipeline.binding import Binding, Node, RingSays, bind
from apportion.core.ids import DeviceId

GPUS = [DeviceId(f"GPU-{letter * 8}-0000") for letter in "abcd"]
CPU = DeviceId("cpu:host")
USER, STRANGER = 1000, 2000


def node(
    pids: Mapping[int, set[int]] | None = None,
    *,
    parents: Mapping[int, int] | None = None,
    jobs: Mapping[int, int] | None = None,
    uids: Mapping[int, int] | None = None,
    gpus: Sequence[DeviceId] = GPUS,
    cpu: DeviceId | None = None,
    numbered: bool = True,
) -> Node:
    """A host; `pids` maps an index of a GPU to its compute processes."""
    known = {gpus[index]: frozenset(found) for index, found in (pids or {}).items()}
    return Node(
        gpus,
        cpu,
        {gpu: known.get(gpu, frozenset()) for gpu in gpus},
        (parents or {}).get,
        (jobs or {}).get,
        (uids or {}).get,
        numbered,
    )


def ring(
    *,
    pid: int = 50,
    local_rank: int | None = None,
    devices: Sequence[str] = (),
    reported: Sequence[str] = (),
    **hints: str,
) -> RingSays:
    """What a process of `USER` says."""
    return RingSays(pid, USER, local_rank, devices, reported, hints)


def bound(says: RingSays, host: Node) -> tuple[list[int], str] | None:
    """Indices of the devices, and the source."""
    binding = bind(says, host)
    if binding is None:
        return None
    return [host.devices.index(device) for device in binding.devices], binding.source


@pytest.mark.parametrize(("listed", "expected"), [("3,2,1", [3, 2]), ("0,1", [2, 3]), ("", [2, 3])])
def test_engines_take_devices_in_the_order_of_their_list(listed: str, expected: list[int]) -> None:
    """NVML says which they are, and $CUDA_VISIBLE_DEVICES which is whose; one list may be old."""
    host = node({2: {51}, 3: {52}}, parents={51: 50, 52: 50})
    says = ring(CUDA_VISIBLE_DEVICES=listed)._replace(in_order=True)
    assert bound(says, host) == (expected, "nvml_process")
    in_nvml_order = bound(says._replace(in_order=False), host)
    assert in_nvml_order == ([2, 3], "nvml_process")


def test_what_the_user_says_wins_over_everything() -> None:
    """Devices named in the program, in that order."""
    says = ring(devices=[GPUS[2], GPUS[0]], reported=[GPUS[1]], CUDA_VISIBLE_DEVICES="3")
    assert bound(says, node({3: {50}}, uids={50: USER})) == ([2, 0], "user")


@pytest.mark.parametrize(
    ("name", "found"), [("1", [1]), ("GPU-bbbb", [1]), (GPUS[1], [1]), ("GPU-", None), ("9", None)]
)
def test_a_device_may_be_named_by_index_uuid_or_its_beginning(
    name: str, found: list[int] | None
) -> None:
    """As CUDA does; an ambiguous beginning or an index too large names nothing."""
    assert bound(ring(devices=[name]), node()) == (None if found is None else (found, "user"))


def test_the_framework_knows_better_than_processes_and_hints() -> None:
    """UUIDs that CUDA reported in the process itself."""
    says = ring(reported=[GPUS[1]], CUDA_VISIBLE_DEVICES="0,1,2,3")
    assert bound(says, node({0: {50}}, uids={50: USER})) == ([1], "framework")


def test_a_permuted_list_keeps_its_order() -> None:
    """CUDA_VISIBLE_DEVICES=2,0 makes CUDA's device 0 the node's third."""
    assert bound(ring(CUDA_VISIBLE_DEVICES="2, 0"), node()) == ([2, 0], "environment")
    assert bound(ring(local_rank=1, CUDA_VISIBLE_DEVICES="2,0"), node()) == ([0], "environment")
    assert bound(ring(local_rank=3, CUDA_VISIBLE_DEVICES="2"), node()) == ([2], "environment")
    assert bound(ring(local_rank=2, CUDA_VISIBLE_DEVICES="2,0"), node()) is None


def test_uuid_prefixes_and_unknown_devices_in_the_list() -> None:
    """What follows an unknown device is not visible, as in CUDA itself."""
    assert bound(ring(CUDA_VISIBLE_DEVICES="GPU-dddd,0,7,1"), node()) == ([3, 0], "environment")
    assert bound(ring(NVIDIA_VISIBLE_DEVICES="all"), node()) is None
    assert bound(ring(CUDA_VISIBLE_DEVICES=""), node()) is None


def test_numbers_count_within_the_container() -> None:
    """CUDA's device 0 is the first of those that the container was given."""
    given = f"{GPUS[3]},{GPUS[1]}"
    says = ring(NVIDIA_VISIBLE_DEVICES=given, CUDA_VISIBLE_DEVICES="0")
    assert bound(says, node()) == ([1], "environment")
    assert bound(ring(NVIDIA_VISIBLE_DEVICES=given), node()) == ([3, 1], "environment")
    beyond = ring(NVIDIA_VISIBLE_DEVICES=given, CUDA_VISIBLE_DEVICES="2")
    assert bound(beyond, node()) is None


def test_numbers_mean_nothing_where_the_source_sees_more_than_the_pod() -> None:
    """A sidecar that reads its node's dcgm-exporter must not charge its pod for GPU 0."""
    host = node(numbered=False)
    assert bound(ring(devices=["0"]), host) is None
    assert bound(ring(CUDA_VISIBLE_DEVICES="0,1"), host) is None
    assert bound(ring(NVIDIA_VISIBLE_DEVICES="0"), host) is None
    assert bound(ring(devices=[GPUS[2]]), host) == ([2], "user")
    assert bound(ring(reported=[GPUS[2]], CUDA_VISIBLE_DEVICES="0"), host) == ([2], "framework")
    given = ring(NVIDIA_VISIBLE_DEVICES=GPUS[2], CUDA_VISIBLE_DEVICES="0")
    assert bound(given, host) == ([2], "environment")


def test_an_instance_whose_name_begins_another_is_found() -> None:
    """A whole name wins over being the beginning of others."""
    parts = [DeviceId("GPU-a/1g.10gb/1"), DeviceId("GPU-a/1g.10gb/13")]
    assert bound(ring(devices=[parts[0]]), node(gpus=parts)) == ([0], "user")
    assert bound(ring(devices=["GPU-a"]), node(gpus=parts)) is None


def test_processes_win_over_hints() -> None:
    """NVML saw the process itself on a device, or its child."""
    says = ring(CUDA_VISIBLE_DEVICES="3")
    assert bound(says, node({0: {50}, 2: {50}})) == ([0, 2], "nvml_process")
    assert bound(says, node({1: {51}}, parents={51: 50})) == ([1], "nvml_process")


def test_siblings_count_only_within_one_engine() -> None:
    """An engine's workers share its process group; two jobs of one shell share only the shell."""
    parents, says = {50: 40, 51: 40, 52: 40}, ring()
    engine = node({0: {51}, 1: {52}}, parents=parents, jobs={50: 40, 51: 40, 52: 40})
    assert bound(says, engine) == ([0, 1], "nvml_process")
    jobs = node({0: {51}}, parents=parents, jobs={50: 50, 51: 51})
    assert bound(says, jobs) is None
    # A rank has a device of its own: its siblings' are not its.
    assert bound(ring(local_rank=0), engine) is None
    # Children of init are no family.
    assert bound(says, node({0: {51}}, parents={50: 1, 51: 1}, jobs={50: 9, 51: 9})) is None


def test_a_device_of_other_users_is_refused() -> None:
    """A ring may not make another user's job pay, whatever it says."""
    host = node({0: {77}, 1: {78}}, uids={77: STRANGER, 78: USER})
    says = ring(devices=[GPUS[0]], reported=[GPUS[0]], CUDA_VISIBLE_DEVICES="0")
    assert bound(says, host) is None
    assert bound(ring(devices=[GPUS[1]]), host) == ([1], "user")
    fallen_back = bind(ring(devices=[GPUS[0]], CUDA_VISIBLE_DEVICES="1"), host)
    assert fallen_back is not None
    assert fallen_back.source == "environment"
    assert fallen_back.refused is not None
    assert "uid 1000" in fallen_back.refused


def test_root_and_processes_that_are_gone_are_no_evidence_against() -> None:
    """A pid whose owner is unknown may be the ring's own."""
    host = node({0: {77}}, uids={})
    assert bound(ring(devices=[GPUS[0]]), host) == ([0], "user")
    root = ring(devices=[GPUS[0]])._replace(uid=0)
    assert bound(root, node({0: {77}}, uids={77: STRANGER})) == ([0], "user")


def test_a_host_without_gpus_binds_to_its_cpu() -> None:
    """Everything runs on the one device there is; beside GPUs the CPU must be asked for."""
    assert bind(ring(), node(gpus=[], cpu=CPU)) == Binding((CPU,), "cpu")
    assert bind(ring(), node(cpu=CPU)) is None
    assert bind(ring(devices=["cpu"]), node(cpu=CPU)) == Binding((CPU,), "user")


def test_without_any_source_a_ring_stays_unbound() -> None:
    """Its spans are kept without money."""
    assert bind(ring(), node()) is None


def test_workers_of_a_servers_engine() -> None:
    """vLLM with tensor parallelism: the server's child is the engine, whose children compute."""
    parents = {50: 10, 60: 50, 61: 60, 62: 60, 70: 10, 71: 70}
    host = node({1: {61}, 2: {62}, 3: {71}}, parents=parents, jobs={50: 5, 61: 5, 62: 5, 71: 7})
    assert bound(ring(pid=50), host) == ([1, 2], "nvml_process")


def test_several_servers_of_one_engine() -> None:
    """API servers and the engine are children of one process; another job's are not theirs."""
    parents = {50: 40, 51: 40, 60: 40, 61: 60, 62: 60, 40: 10, 71: 10}
    jobs = {50: 5, 51: 5, 61: 5, 62: 5, 71: 7}
    host = node({0: {61}, 1: {62}, 3: {71}}, parents=parents, jobs=jobs)
    for server in (50, 51):
        assert bound(ring(pid=server), host) == ([0, 1], "nvml_process")


def test_a_circle_of_parents_ends() -> None:
    """Pids are used again while they are read: what cannot be is no ancestor."""
    host = node({0: {61}}, parents={61: 62, 62: 61}, jobs={61: 5})
    assert bound(ring(pid=50), host) is None
