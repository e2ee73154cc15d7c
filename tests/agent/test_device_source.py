"""Which collectors run, and how far settlement stays behind each source of devices."""

from __future__ import annotations

import pytest

from apportion.agent.config import AgentConfig
from apportion.agent.config_layers import load_config
from apportion.agent.device_source import DeviceSource, beside, collector_options
from apportion.core.errors import ConfigError

SECOND = 10**9


def config(**flags: str) -> AgentConfig:
    return load_config(None, {}, flags, uid=0, host_name="node-a").config


def test_nvml_is_sampled_as_the_configuration_says() -> None:
    """Whatever it says of exporters."""
    source = DeviceSource.of(config(devices="nvml", sample_period="2s", dcgm_interval="60s"))
    assert (source.found.collector, source.period_ns, source.lateness_ns, source.numbered) == (
        "nvml",
        2 * SECOND,
        2 * SECOND,
        True,
    )


@pytest.mark.parametrize(
    ("interval", "lateness", "expected"), [("30s", "2s", 60), ("1s", "2s", 2), ("1s", "9s", 9)]
)
def test_settlement_stays_two_intervals_behind_an_exporter(
    interval: str, lateness: str, expected: int
) -> None:
    """Its values may be an interval old, and the next ones an interval away."""
    source = DeviceSource.of(config(devices="dcgm", dcgm_interval=interval, lateness=lateness))
    assert source.found.collector == "dcgm"
    assert source.lateness_ns == expected * SECOND


@pytest.mark.parametrize(("mode", "numbered"), [("node", True), ("pod", False)])
def test_a_sidecar_cannot_know_what_its_pods_numbers_mean(mode: str, *, numbered: bool) -> None:
    """It sees the whole node; the pod counts its own devices."""
    assert DeviceSource.of(config(devices="dcgm", mode=mode)).numbered is numbered


def test_collectors_get_what_they_need() -> None:
    """URLs as they are written; variables are looked up by whoever scrapes."""
    options = collector_options(
        config(dcgm_urls="http://$(HOST_IP):9400", engine_urls="a:1, b:2"), 5 * SECOND
    )
    assert options.dcgm_urls == ("http://$(HOST_IP):9400",)
    assert options.engine_urls == ("a:1", "b:2")
    assert options.period_ns == 5 * SECOND


def test_what_nobody_named_may_be_absent() -> None:
    """A default place is looked at; one that somebody has named is expected to be there."""
    options = collector_options(config(), SECOND)
    assert (options.kubelet_socket, options.kmsg) == (None, None)
    named = collector_options(config(kubelet_socket="/run/k.sock", kmsg="/run/kmsg"), SECOND)
    assert (str(named.kubelet_socket), str(named.kmsg)) == ("/run/k.sock", "/run/kmsg")


def test_naming_an_engine_runs_its_collector() -> None:
    """Beside those that run anyway, and also where those are turned off."""
    assert "engines" not in {each.name for each in beside(config())}
    assert "engines" in {each.name for each in beside(config(engine_urls="a:1"))}
    assert [each.name for each in beside(config(engine_urls="a:1", collectors=""))] == ["engines"]
    with pytest.raises(ConfigError, match="dcgm"):
        config(collectors="dcgm")
