"""What Kubernetes has given to whom on this node: the `kubernetes` collector.

A pod that holds a GPU without saying what it does with it is still somebody: its idle and its
uninstrumented time goes to it by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from apportion.collectors.collector import Batch
from apportion.collectors.options import CollectorOptions
from apportion.collectors.pod_labels import PodLabels, pod_labels_of
from apportion.collectors.registry import BUILT_IN
from apportion.core.allocation import Allocation
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError, NoData
from apportion.core.family import Family
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_allocation_ratio",
        "gauge",
        "ratio",
        ("gpu", "owner", "namespace", "pod", "container"),
        "The part of a device that its scheduler has given to a container or job; the sum over all "
        "of them is 1.",
        "kubelet or Slurm",
    ),
)
PERIOD_NS: Final = 10 * NS_PER_SECOND
USUAL_SOCKET: Final = Path("/var/lib/kubelet/pod-resources/kubelet.sock")


class Kubernetes:
    """Asks the kubelet. gRPC is loaded only where there is a socket to speak to.

    `socket` None: the usual one, which most hosts do not have.
    """

    def __init__(self, socket: Path | None = None, labels: PodLabels | None = None) -> None:
        self._is_named = socket is not None
        self._socket = socket or USUAL_SOCKET
        self._labels = labels

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "kubernetes"

    def start(self) -> None:
        """Nothing is held open."""

    def collect(self) -> Batch:
        """The allocations as they are now.

        Raises:
            NoData: there is no kubelet's socket on this machine.
            CollectorError: it is there, but gRPC is not installed or the kubelet is silent; or a
                person has named it, and it is not there.
        """
        if not self._socket.is_socket():
            kind = CollectorError if self._is_named else NoData
            raise kind(f"{self._socket} is no socket: there is no kubelet here, or not mounted")
        try:
            from apportion.collectors.pod_resources import list_allocations  # noqa: PLC0415
        except ImportError as error:
            raise CollectorError(
                f"the kubelet's socket {self._socket} is there, but {error.name} is not installed: "
                "pip install 'apportion[kubernetes]'"
            ) from error
        allocations = list_allocations(self._socket)
        samples = allocation_samples(allocations)
        if self._labels is not None:
            samples += self._labels.samples({each.owner for each in allocations})
        return Batch(samples=samples, allocations=allocations)

    def close(self) -> None:
        """Nothing is held open."""


def allocation_samples(allocations: Sequence[Allocation]) -> tuple[Sample, ...]:
    """The part of its device that each container or job was given."""
    replicas = Counter(each.device for each in allocations)
    held = Counter((each.device, each.owner, each.container) for each in allocations)
    return tuple(
        Sample(
            "allocation_ratio",
            count / replicas[device],
            (("gpu", device), ("owner", owner), *pod_labels_of(owner), ("container", container)),
        )
        for (device, owner, container), count in sorted(held.items())
    )


@BUILT_IN.register("kubernetes", default=True, devices=False, period_ns=PERIOD_NS)
def make_kubernetes(options: CollectorOptions, clock: Clock) -> Kubernetes:
    """The kubernetes collector."""
    return Kubernetes(options.kubelet_socket, PodLabels(options, clock))
