"""MIG instances that dcgm-exporter shows, priced: names, money and energy go by the same parts."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from apportion.collectors.dcgm import Dcgm
from apportion.collectors.mig_shares import shares
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import ManualClock
from apportion.cost.prices.mig import MigDevice

TEXT = Path(__file__).parents[1] / "collectors/fixtures/dcgm/mig.prom"


def test_instances_and_the_rest_share_the_rate_as_they_share_the_energy() -> None:
    """What a price table makes of the names is what the collector divides by; 1 together."""
    dcgm = Dcgm(CollectorOptions(dcgm_urls=(str(TEXT),)), ManualClock())
    named = [MigDevice.named(info.name) for info in dcgm.collect().devices]
    priced = [None if device is None else device.share("compute") for device in named]
    metered = shares({2: "3g.40gb", 9: "1g.10gb"}, "NVIDIA H100 80GB HBM3")
    assert priced == list(metered) == [Fraction(3, 7), Fraction(1, 7), Fraction(3, 7)]
