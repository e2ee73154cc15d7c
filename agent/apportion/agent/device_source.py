"""Which collectors the configuration asks for, and how often each of them has something new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apportion.collectors.discovery import Discovery, discover
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import Registration, built_in
from apportion.core.units import NS_PER_SECOND

if TYPE_CHECKING:
    from apportion.agent.config import AgentConfig


@dataclass(frozen=True, slots=True)
class DeviceSource:
    """The source of devices, and what follows from it.

    `period_ns` is the time between two readings. Settlement stays `lateness_ns` behind now: two
    periods of a source that is slower than what the configuration says of sampling.
    `numbered`: a number that a workload gives as a device is a place in this source's order. A
    sidecar that sees its whole node by way of dcgm-exporter cannot know what its pod's numbers
    mean.
    """

    found: Discovery
    period_ns: int
    lateness_ns: int
    numbered: bool

    @classmethod
    def of(cls, config: AgentConfig) -> DeviceSource:
        """By the configuration's `devices`, on this machine."""
        found = discover(
            config.devices,
            sys_root=config.sys_root,
            proc_root=config.proc_root,
            has_dcgm=bool(config.dcgm_urls),
        )
        if found.collector != "dcgm":
            return cls(found, config.sample_period.ns, config.lateness.ns, numbered=True)
        period_ns = config.dcgm_interval.ns
        lateness_ns = max(config.lateness.ns, 2 * period_ns)
        return cls(found, period_ns, lateness_ns, numbered=config.mode == "node")


def collector_options(config: AgentConfig, period_ns: int) -> CollectorOptions:
    """What the configuration says to any collector.

    What only the defaults name may be absent: see `CollectorOptions`.
    """
    named = config.model_fields_set
    return CollectorOptions(
        proc_root=config.proc_root,
        sys_root=config.sys_root,
        kmsg=config.kmsg if "kmsg" in named else None,
        kubelet_socket=config.kubelet_socket if "kubelet_socket" in named else None,
        pod_labels=config.pod_labels,
        kubernetes_url=config.kubernetes_url,
        service_account_dir=config.service_account_dir,
        node_name=config.node,
        job_mapping_dir=config.job_mapping_dir,
        ring_dir=config.ring_dir,
        nccl_dirs=config.nccl_dirs,
        period_ns=period_ns,
        # A source that is read often is known soon to be stuck.
        deadline_ns=min(5 * NS_PER_SECOND, max(5 * period_ns, NS_PER_SECOND)),
        dcgm_urls=config.dcgm_urls,
        engine_urls=config.engine_urls,
        otlp_http=config.otlp_http,
        otlp_grpc=config.otlp_grpc,
        service_devices=config.service_devices,
        otlp_tenant_attribute=config.otlp_tenant_attribute,
        sglang_logs=config.sglang_logs,
        sglang_forward_passes=config.sglang_forward_passes,
        sglang_tenant_label=config.sglang_tenant_label,
        service_models=config.service_models,
        id_key_file=config.id_key_file,
        hashed_ids=config.hashed_ids,
        state_dir=config.state_dir,
    )


def beside(config: AgentConfig) -> tuple[Registration, ...]:
    """The collectors that run beside the source of devices.

    Raises:
        ConfigError: the configuration names one that there is not.
    """
    engines = ("engines",) if config.engine_urls else ()
    otlp = ("otlp",) if config.otlp_http or config.otlp_grpc else ()
    sglang = ("sglang",) if config.sglang_logs else ()
    return built_in().beside((*config.collectors, *engines, *otlp, *sglang))
