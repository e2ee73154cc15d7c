"""A kubelet's pod-resources service on a real socket, and its messages in the wire format."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

grpc: Any = import_module("grpc")  # it has no types


def field(number: int, content: bytes | str) -> bytes:
    """A length-delimited field of protobuf's wire format, made without the code under test."""
    data = content.encode() if isinstance(content, str) else content
    length, size = b"", len(data)
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def devices(resource: str, *ids: str) -> bytes:
    """ContainerDevices: its NUMA topology, which nobody here reads, is there too."""
    return field(1, resource) + b"".join(field(2, name) for name in ids) + field(3, field(1, b""))


def pod(namespace: str, name: str, container: str, *parts: bytes) -> bytes:
    """PodResources of one container, `parts` being its ContainerDevices."""
    inside = field(1, container) + b"".join(field(2, part) for part in parts)
    return field(1, field(1, name) + field(2, namespace) + field(3, inside))


def claim(driver: str, cdi: str) -> bytes:
    """A container's DynamicResource: what a claim of Dynamic Resource Allocation gave it."""
    resource = field(1, field(1, cdi)) + field(2, driver) + field(4, "gpu-0")
    return field(5, field(2, "my-claim") + field(3, "ml") + field(4, resource))


@contextmanager
def kubelet(answer: bytes | Callable[[], bytes]) -> Generator[Path]:
    """A server on a socket whose `List` gives `answer`."""

    def reply(_request: bytes, _context: object) -> bytes:
        return answer if isinstance(answer, bytes) else answer()

    handler = grpc.method_handlers_generic_handler(
        "v1.PodResourcesLister", {"List": grpc.unary_unary_rpc_method_handler(reply)}
    )
    # A short path: the kernel allows a socket's name 107 bytes.
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handler,))
        path = Path(folder) / "kubelet.sock"
        assert server.add_insecure_port(f"unix:{path}")
        server.start()
        try:
            yield path
        finally:
            server.stop(None).wait()
