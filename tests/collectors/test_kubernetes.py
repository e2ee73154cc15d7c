"""The kubelet's allocations, asked of a real gRPC server that answers as a kubelet does."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest
from tests.collectors.kubelet import claim, devices, field, kubelet, pod

from apportion.collectors.kubernetes import Kubernetes
from apportion.collectors.once import collect_once
from apportion.core.allocation import Allocation
from apportion.core.errors import CollectorError, NoData
from apportion.core.ids import DeviceId

A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000001", "GPU-bbbbbbbb-0000-0000-0000-000000000002"
MIG = "MIG-cccccccc-0000-0000-0000-000000000003"


def test_every_way_to_be_given_a_gpu_is_read() -> None:
    """Whole, shared by replicas, a MIG instance, by claim; other resources are none."""
    answer = (
        pod("ml", "train-0", "main", devices("nvidia.com/gpu", A))
        + pod("ml", "notebook", "lab", devices("nvidia.com/gpu.shared", f"{B}::0", f"{B}::3"))
        + pod("web", "chat", "vllm", devices("nvidia.com/mig-1g.10gb", MIG))
        + pod("web", "sidecar", "nic", devices("example.com/rdma", "mlx5_0"))
        + pod("web", "cpu-only", "main")
    )
    with kubelet(answer) as path:
        batch = Kubernetes(path).collect()
    assert batch.allocations == (
        Allocation(DeviceId(A), "pod:ml/train-0", "main"),
        Allocation(DeviceId(B), "pod:ml/notebook", "lab"),
        Allocation(DeviceId(B), "pod:ml/notebook", "lab"),
        Allocation(DeviceId(MIG), "pod:web/chat", "vllm"),
    )


def test_a_claim_names_its_device() -> None:
    """Dynamic Resource Allocation has no device ids, but the device's name in the CDI name."""
    inside = field(1, "main") + claim("gpu.nvidia.com", f"k8s.gpu.nvidia.com/device=uid-{A}")
    answer = field(1, field(1, "train-0") + field(2, "ml") + field(3, inside))
    with kubelet(answer) as path:
        batch = Kubernetes(path).collect()
    assert batch.allocations == (Allocation(DeviceId(A), "pod:ml/train-0", "main"),)


def test_shares_of_a_device_add_up_to_it() -> None:
    """Three replicas of two pods: two thirds and one third, not three times the whole."""
    answer = pod("ml", "a", "main", devices("nvidia.com/gpu", f"{A}::0", f"{A}::1")) + pod(
        "ml", "b", "main", devices("nvidia.com/gpu", f"{A}::2")
    )
    with kubelet(answer) as path:
        result = collect_once("kubernetes", {"kubelet_socket": str(path)})
    shares = {row["labels"]["owner"]: row["value"] for row in result["samples"]}
    assert shares == {"pod:ml/a": 2 / 3, "pod:ml/b": 1 / 3}


def test_no_pods_is_an_answer() -> None:
    """The kubelet knows that nobody has anything: that is not silence."""
    with kubelet(b"") as path:
        assert Kubernetes(path).collect().allocations == ()


def test_without_a_kubelet_there_is_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bare hosts have none: no fault, no warning. One that somebody has named must be there."""
    monkeypatch.setattr("apportion.collectors.kubernetes.USUAL_SOCKET", tmp_path / "kubelet.sock")
    with pytest.raises(NoData, match="no kubelet here"):
        Kubernetes().collect()
    (tmp_path / "kubelet.sock").write_text("")
    with pytest.raises(NoData):
        Kubernetes().collect()
    with pytest.raises(CollectorError, match="no kubelet here") as caught:
        Kubernetes(tmp_path / "kubelet.sock").collect()
    assert not isinstance(caught.value, NoData)


def test_a_kubelet_that_fails_is_explained() -> None:
    """The code is named, and what to look at."""

    def fail() -> bytes:
        raise RuntimeError("no")

    with kubelet(fail) as path, pytest.raises(CollectorError, match=r"UNKNOWN.*pod-resources"):
        Kubernetes(path).collect()


def test_a_socket_that_nobody_serves_is_explained() -> None:
    """A kubelet that restarts leaves its socket for a moment."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kubelet.sock"
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(path))
        with pytest.raises(CollectorError, match="UNAVAILABLE"):
            Kubernetes(path).collect()


def test_garbage_is_an_error_of_this_source() -> None:
    """Bytes that are no message lose nothing but this answer."""
    with kubelet(b"\xff\xff\xff\xff") as path, pytest.raises(CollectorError):
        Kubernetes(path).collect()
