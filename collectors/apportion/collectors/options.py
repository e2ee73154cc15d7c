"""Outside paths, periods and the environment of child processes, as one parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from apportion.core.errors import ConfigError
from apportion.core.units import NS_PER_SECOND


@dataclass(frozen=True, slots=True)
class CollectorOptions:
    """What any collector may need from outside.

    `period_ns` is the time between two readings. A source that is silent for `deadline_ns`
    (`connect_deadline_ns` before its first reading) is abandoned and opened again.
    `environment` replaces the whole environment of child processes; None inherits ours. `dcgm_urls`
    and `engine_urls` are URLs of metrics or paths of recorded texts (`Target.parse`).
    `kubernetes_url` and `service_account_dir` are None where they are as a pod finds them,
    `kubelet_socket` and `kmsg` where they are on most hosts: nobody has asked for them, so that
    they may be absent. `otlp_http` and `otlp_grpc` are addresses to listen on, `sglang_logs` are
    SERVICE=DIR, `sglang_forward_passes` SERVICE=ipc://PATH. `service_devices` says SERVICE=ID+ID,
    on which devices a service runs whose requests come through a door, `service_models` the model
    of those that name none. With an `id_key_file` doors store `hashed_ids` (both kinds where it is
    empty) as keyed hashes.
    """

    proc_root: Path = Path("/proc")
    sys_root: Path = Path("/sys")
    host_name: str | None = None
    kubelet_socket: Path | None = None
    job_mapping_dir: Path | None = None
    ring_dir: Path | None = None
    nccl_dirs: tuple[Path, ...] = ()
    period_ns: int = NS_PER_SECOND
    deadline_ns: int = 5 * NS_PER_SECOND
    connect_deadline_ns: int = 30 * NS_PER_SECOND
    environment: Mapping[str, str] | None = None
    dcgm_urls: tuple[str, ...] = ()
    engine_urls: tuple[str, ...] = ()
    kmsg: Path | None = None
    pod_labels: tuple[str, ...] = ()
    kubernetes_url: str | None = None
    service_account_dir: Path | None = None
    node_name: str | None = None
    otlp_http: str | None = None
    otlp_grpc: str | None = None
    service_devices: tuple[str, ...] = ()
    otlp_tenant_attribute: str | None = None
    sglang_logs: tuple[str, ...] = ()
    sglang_forward_passes: tuple[str, ...] = ()
    sglang_tenant_label: str | None = None
    service_models: Mapping[str, str] = field(default_factory=dict[str, str])
    id_key_file: Path | None = None
    hashed_ids: tuple[str, ...] = ()
    state_dir: Path | None = None

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> CollectorOptions:
        """Options as a command line gives them: text by name, seconds, lists with commas.

        Raises:
            ConfigError: an unknown name, or a duration that is not a positive number.
        """
        values: dict[str, Any] = {}
        for name, text in texts.items():
            if name in _PATHS:
                values[name] = Path(text)
            elif name in _DURATIONS:
                values[f"{name}_ns"] = _duration_ns(name, text)
            elif name == "nccl_dirs":
                values[name] = tuple(map(Path, _listed(text)))
            elif name in _LISTS:
                values[name] = _listed(text)
            elif name in _TEXTS:
                values[name] = text
            else:
                known = ", ".join((*_PATHS, *_DURATIONS, *_LISTS, "nccl_dirs", *_TEXTS))
                raise ConfigError(f"unknown collector option {name!r}; known are {known}")
        return cls(**values)


_PATHS: Final = (
    "proc_root",
    "sys_root",
    "kmsg",
    "kubelet_socket",
    "job_mapping_dir",
    "ring_dir",
    "service_account_dir",
    "id_key_file",
    "state_dir",
)
_LISTS: Final = (
    "dcgm_urls",
    "engine_urls",
    "pod_labels",
    "service_devices",
    "sglang_logs",
    "sglang_forward_passes",
    "hashed_ids",
)
_TEXTS: Final = (
    "host_name",
    "node_name",
    "kubernetes_url",
    "otlp_http",
    "otlp_grpc",
    "otlp_tenant_attribute",
    "sglang_tenant_label",
)
_DURATIONS: Final = ("period", "deadline", "connect_deadline")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _duration_ns(name: str, text: str) -> int:
    """Seconds as text to whole nanoseconds."""
    try:
        duration = Decimal(text)
    except InvalidOperation:
        duration = Decimal(0)
    if not duration.is_finite() or not 0 < duration <= 86_400:
        raise ConfigError(
            f"collector option {name}={text!r}: give seconds above 0 and up to 86400, such as 1.5"
        )
    return max(1, int(duration * NS_PER_SECOND))
