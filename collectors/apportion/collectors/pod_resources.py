"""The kubelet's pod-resources service: which container was given which device.

Facts: Kubernetes, kubelet API `podresources/v1`, `PodResourcesLister.List` on a unix socket. The
messages are declared here field by field, as many as are used; protobuf skips the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from apportion.core.allocation import Allocation
from apportion.core.errors import CollectorError
from apportion.core.ids import DeviceId

grpc: Final[Any] = import_module("grpc")  # it has no types

DEADLINE_SECONDS: Final = 5
_PACKAGE: Final = "v1"
_LIST: Final = f"/{_PACKAGE}.PodResourcesLister/List"
_REPLICA: Final = re.compile(r"::\d+$", re.ASCII)
"""What NVIDIA's device plugin appends to the id of a time-sliced or MPS device."""
_UUID: Final = re.compile(r"(GPU|MIG)-[0-9a-fA-F-]+", re.ASCII)

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_MESSAGES: Final[dict[str, tuple[tuple[str, int, str, bool], ...]]] = {
    "ListPodResourcesRequest": (),
    "ListPodResourcesResponse": (("pod_resources", 1, "PodResources", True),),
    "PodResources": (
        ("name", 1, "", False),
        ("namespace", 2, "", False),
        ("containers", 3, "ContainerResources", True),
    ),
    "ContainerResources": (
        ("name", 1, "", False),
        ("devices", 2, "ContainerDevices", True),
        ("dynamic_resources", 5, "DynamicResource", True),
    ),
    "ContainerDevices": (("resource_name", 1, "", False), ("device_ids", 2, "", True)),
    "DynamicResource": (("claim_resources", 4, "ClaimResource", True),),
    "ClaimResource": (
        ("cdi_devices", 1, "CDIDevice", True),
        ("driver_name", 2, "", False),
        ("device_name", 4, "", False),
    ),
    "CDIDevice": (("name", 1, "", False),),
}
"""By message: (field, number, message or "" for a string, repeated)."""


@cache
def message(name: str) -> type[Any]:
    """The class of one of the messages."""
    file = descriptor_pb2.FileDescriptorProto(
        name="podresources.proto", package=_PACKAGE, syntax="proto3"
    )
    for title, fields in _MESSAGES.items():
        declared = file.message_type.add(name=title)
        for field, number, kind, repeated in fields:
            declared.field.add(
                name=field,
                number=number,
                type=_FIELD.TYPE_MESSAGE if kind else _FIELD.TYPE_STRING,
                type_name=f".{_PACKAGE}.{kind}" if kind else None,
                label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found: type[Any] = message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    )
    return found


def list_allocations(socket: Path) -> tuple[Allocation, ...]:
    """Every NVIDIA device that the kubelet has given to a container, in a stable order.

    Raises:
        CollectorError: the kubelet does not answer, or not in time.
    """
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        call = channel.unary_unary(
            _LIST,
            request_serializer=message("ListPodResourcesRequest").SerializeToString,
            response_deserializer=message("ListPodResourcesResponse").FromString,
        )
        try:
            response = call(message("ListPodResourcesRequest")(), timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            raise CollectorError(
                f"the kubelet does not answer at {socket} ({_reason(error)}): mount the directory "
                "/var/lib/kubelet/pod-resources and run as a user who may use the socket"
            ) from error
    return tuple(sorted(_allocations(response), key=lambda each: (each.device, each.owner)))


def _reason(error: Any) -> str:
    """The status of a call that failed; other errors of gRPC have none."""
    return str(error.code().name) if hasattr(error, "code") else type(error).__name__


def _allocations(response: Any) -> Iterator[Allocation]:
    for pod in response.pod_resources:
        owner = f"pod:{pod.namespace}/{pod.name}"
        for container in pod.containers:
            for device in _devices(container):
                yield Allocation(DeviceId(device), owner, container.name)


def _devices(container: Any) -> Iterator[str]:
    """UUIDs by device plugins (a replica's without its number), and by resource claims."""
    for devices in container.devices:
        if devices.resource_name.startswith("nvidia.com/"):
            for name in devices.device_ids:
                plain = _REPLICA.sub("", name)
                if _UUID.fullmatch(plain):
                    yield plain
    for resource in container.dynamic_resources:
        for claim in resource.claim_resources:
            for device in claim.cdi_devices:
                found = _UUID.search(device.name)
                if found is not None:
                    yield found[0]
