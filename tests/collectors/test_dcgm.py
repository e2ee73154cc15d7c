"""The dcgm collector, on recorded texts and on real servers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.collectors.metrics_server import Manners, MetricsServer, answer, unused_port

from apportion.collectors.collector import Batch
from apportion.collectors.dcgm import Dcgm, discovered
from apportion.collectors.dcgm_telemetry import FAMILIES, MOST_XIDS, XidErrors
from apportion.collectors.exposition_text import parse
from apportion.collectors.once import collect_once
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import ManualClock
from apportion.core.errors import SourceLost
from apportion.core.reading import Reading

SECOND = 10**9
HERE = Path(__file__).parent / "fixtures/dcgm"
WHOLE, MIG = (HERE / "whole.prom").read_text(), (HERE / "mig.prom").read_text()
ONE, TWO = "GPU-0000aaaa-1", "GPU-0000aaaa-2"
INTERVAL = 30 * SECOND


def made(*urls: str, **variables: str) -> tuple[Dcgm, ManualClock]:
    clock = ManualClock(monotonic_ns=100 * SECOND)
    options = CollectorOptions(dcgm_urls=urls, period_ns=INTERVAL, environment=variables)
    return Dcgm(options, clock), clock


def text(energy_mj: int, *, uuid: str = ONE, util: int = 50) -> str:
    return (
        f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0",UUID="{uuid}"}} {energy_mj}\n'
        f'DCGM_FI_DEV_GPU_UTIL{{gpu="0",UUID="{uuid}"}} {util}\n'
    )


def by_device(batch: Batch) -> dict[str, Reading]:
    return {reading.device: reading for reading in batch.readings}


def plain(batch: Batch) -> Any:
    """As JSON, without what is None or empty."""
    return json.loads(
        json.dumps(asdict(batch), default=str),
        object_hook=lambda pairs: {k: v for k, v in pairs.items() if v not in (None, {}, [])},
    )


@pytest.mark.parametrize("name", ["whole", "renamed", "mig"])
def test_golden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a hand-written text becomes."""
    monkeypatch.chdir(HERE)
    dcgm, _ = made(f"{name}.prom")
    assert plain(dcgm.collect()) == json.loads((HERE / f"{name}.json").read_text())


def test_readings_come_when_values_are_new(server: MetricsServer) -> None:
    """Looks at a third of the interval; a reading an interval, stamped between two looks."""
    dcgm, clock = made(server.url)
    times: list[int] = []
    for look in range(10):
        server.text = text(1 + 1_000_000 * (look // 3))
        times += [reading.time_ns // SECOND for reading in dcgm.collect().readings]
        clock.advance(10 * SECOND)
    assert times == [100, 125, 155, 185]
    assert len(server.requests) == 10


def test_an_exporter_that_is_frozen_says_so(server: MetricsServer) -> None:
    """Its web server lives on when its DCGM has stopped; one GPU alone is a failure of its own."""
    server.text = text(1) + text(1, uuid=TWO)
    dcgm, clock = made(server.url)
    dcgm.collect()
    clock.advance(3 * INTERVAL)
    server.text = text(2) + text(1, uuid=TWO)
    batch = dcgm.collect()
    assert (set(by_device(batch)), batch.failures) == ({ONE}, ())
    clock.advance(SECOND)
    server.text = text(3) + text(1, uuid=TWO)
    batch = dcgm.collect()
    assert set(by_device(batch)) == {ONE}
    assert [(each.device, each.kind.value) for each in batch.failures] == [(TWO, "stale")]
    clock.advance(SECOND)
    dcgm.collect()
    clock.advance(3 * INTERVAL)
    with pytest.raises(SourceLost, match=f"same values of {ONE} all the time") as caught:
        dcgm.collect()
    assert caught.value.kind == "stale"
    server.text = text(4) + text(2, uuid=TWO)
    clock.advance(SECOND)
    assert dcgm.collect().failures == ()


def test_facts_come_once_and_when_they_change(server: MetricsServer) -> None:
    """A driver that was updated, an energy counter that appears."""

    def row(driver: str) -> str:
        labels = f'UUID="GPU-1",modelName="M",DCGM_FI_DRIVER_VERSION="{driver}"'
        return f"DCGM_FI_DEV_POWER_USAGE{{{labels}}} 5.0\n"

    server.text = row("580")
    dcgm, clock = made(server.url)
    first = dcgm.collect()
    assert [(info.device, info.driver_version) for info in first.devices] == [("GPU-1", "580")]
    assert [each.energy_source for each in first.sources] == ["power_integrated"]
    clock.advance(INTERVAL)
    again = dcgm.collect()
    assert (again.devices, again.sources) == ((), ())
    server.text = row("590") + 'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{UUID="GPU-1"} 9000\n'
    clock.advance(INTERVAL)
    changed = dcgm.collect()
    assert [info.driver_version for info in changed.devices] == ["590"]
    assert [each.energy_source for each in changed.sources] == ["energy_counter"]


def test_mig_energy_is_divided_and_never_counted_twice(server: MetricsServer) -> None:
    """What the GPU used is what its instances and the rest used, to the millijoule."""
    dcgm, clock = made(server.url)
    total_mj = 126272106318
    sums: list[int] = []
    readings: dict[str, Reading] = {}
    for grown_mj in (0, 1, 2, 3, 1_000_003, 7):
        total_mj += grown_mj
        server.text = MIG.replace("126272106318", str(total_mj))
        readings = by_device(dcgm.collect())
        if not grown_mj:
            assert {reading.energy_mj for reading in readings.values()} == {0}
        sums.append(sum(reading.energy_mj or 0 for reading in readings.values()))
        clock.advance(INTERVAL)
    assert sums == [0, 1, 3, 6, 1_000_009, 1_000_016]
    uuid = "GPU-0000bbbb-1"
    large, small, rest = (
        readings[f"{uuid}/{part}"] for part in ("3g.40gb/2", "1g.10gb/9", "unallocated")
    )
    assert [each.energy_mj for each in (large, rest, small)] == pytest.approx(
        [1_000_016 * 3 / 7, 1_000_016 * 3 / 7, 1_000_016 / 7], abs=6
    )
    assert [each.power_mw for each in (large, rest, small)] == [150_000, 150_000, 50_000]
    assert {each.energy_source for each in readings.values()} == {"energy_counter_share"}
    assert (small.utilization_ratio, small.activity_source) == (0.0, "dcgm_engine_active")
    assert (rest.utilization_ratio, rest.activity_source) == (0.0, "unallocated")


def test_two_exporters(server: MetricsServer) -> None:
    """A GPU that both show is read from the first; each has its own health."""
    server.text = text(1_000)
    with MetricsServer().running() as other:
        other.text = text(5_000) + text(7_000, uuid=TWO)
        dcgm, _ = made(server.url, other.url)
        batch = dcgm.collect()
    energies = {device: reading.energy_mj for device, reading in by_device(batch).items()}
    assert energies == {ONE: 1_000, TWO: 7_000}
    assert [s.value for s in batch.samples or () if s.name == "scrape_success"] == [1, 1]


def test_one_of_two_exporters_is_gone(server: MetricsServer) -> None:
    """Its GPUs fail with the reason; the others' readings go on; all come back."""
    server.text = text(1_000)
    with MetricsServer().running() as other:
        other.text = text(7_000, uuid=TWO)
        dcgm, clock = made(server.url, other.url)
        dcgm.collect()
        other.manners = lambda handler: answer(handler, b"", status=500)
        for look in range(4):
            clock.advance(INTERVAL)
            server.text = text(2_000 + look)
            batch = dcgm.collect()
            assert set(by_device(batch)) == {ONE}
            (failure,) = batch.failures
            assert failure.device == TWO
            assert "500" in failure.reason
        other.manners, other.text = None, text(9_000, uuid=TWO)
        clock.advance(600 * SECOND)
        server.text = text(8_000)
        assert set(by_device(dcgm.collect())) == {ONE, TWO}


def test_a_gpu_that_is_no_longer_shown(server: MetricsServer) -> None:
    """It fails by name, and comes back."""
    server.text = text(1) + text(1, uuid=TWO)
    dcgm, clock = made(server.url)
    dcgm.collect()
    server.text = text(2)
    clock.advance(INTERVAL)
    (failure,) = dcgm.collect().failures
    assert (failure.device, failure.index) == (TWO, 0)
    assert "no longer" in failure.reason
    server.text = text(3) + text(3, uuid=TWO)
    clock.advance(INTERVAL)
    batch = dcgm.collect()
    assert batch.failures == ()
    assert set(by_device(batch)) == {ONE, TWO}


FAILING: list[tuple[Manners, str]] = [
    (lambda handler: answer(handler, b"", status=500), "answered 500"),
    (lambda handler: answer(handler, b"<html></html>"), "HTML"),
    (lambda handler: answer(handler, WHOLE.encode()[:1_500]), "middle of a line"),
    (lambda handler: answer(handler, b"go_goroutines 5\n"), "shows no GPU"),
    (lambda handler: answer(handler, b""), "without any metric"),
    (lambda handler: answer(handler, b"x", length=99), "too early"),
]


@pytest.mark.parametrize(("manners", "reason"), FAILING)
def test_an_exporter_that_fails(server: MetricsServer, manners: Manners, reason: str) -> None:
    """Every kind of failure is one sentence, lasts while it lasts, and ends by itself."""
    dcgm, clock = made(server.url)
    server.manners = manners
    for _ in range(4):
        with pytest.raises(SourceLost, match=reason):
            dcgm.collect()
        clock.advance(SECOND)
    server.manners, server.text = None, WHOLE
    clock.advance(600 * SECOND)
    assert set(by_device(dcgm.collect())) == {ONE, TWO}
    dcgm.close()


def test_nobody_listens() -> None:
    """The usual case where there is no exporter on the node."""
    dcgm, _ = made(f"http://127.0.0.1:{unused_port()}")
    with pytest.raises(SourceLost, match="connection refused"):
        dcgm.collect()


def test_discovery_by_the_environment() -> None:
    """The node's address where the pod's manifest gives it, then the host itself."""
    assert discovered({}) == ("http://localhost:9400",)
    assert discovered({"HOST_IP": "10.0.0.7"}) == (
        "http://$(HOST_IP):9400",
        "http://localhost:9400",
    )
    assert discovered({"NODE_IP": "x", "HOST_IP": ""})[0] == "http://$(NODE_IP):9400"


def test_the_first_place_that_answers_is_kept(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places that were only guessed are no errors once one of them is right."""
    places = (f"http://127.0.0.1:{unused_port()}", server.url)

    def found(variables: Mapping[str, str]) -> tuple[str, ...]:
        del variables
        return places

    monkeypatch.setattr("apportion.collectors.dcgm.discovered", found)
    server.text = text(1)
    dcgm, clock = made()
    assert len(by_device(dcgm.collect())) == 1
    clock.advance(INTERVAL)
    health = [s for s in dcgm.collect().samples or () if s.name == "scrape_success"]
    assert [dict(s.labels)["target"] for s in health] == [f"127.0.0.1:{server.port}"]


def test_xid_errors_are_changes_of_the_last_code() -> None:
    """A latched code is no event of now, and the same one twice in a row cannot be seen."""
    errors = XidErrors()

    def counts(code: int | None) -> dict[str, float]:
        return {
            dict(sample.labels).get("xid", "last"): sample.value
            for sample in errors.samples(code, {})
        }

    assert counts(31) == {"last": 31}
    assert counts(31) == {"last": 31}
    assert counts(79) == {"last": 79, "79": 1}
    assert counts(31) == {"last": 31, "31": 1, "79": 1}
    assert counts(0) == {"last": 0, "31": 1, "79": 1}
    assert counts(79) == {"last": 79, "31": 1, "79": 2}
    assert counts(None) == {"31": 1, "79": 2}


def test_the_exporters_own_counter_of_xids_is_preferred() -> None:
    """It counts each one; codes are bounded."""
    told = XidErrors().samples(79, {79: 3, 13: 1})
    assert [(s.name, s.value, s.labels) for s in told[1:]] == [
        ("device_xid_errors_total", 1, (("xid", "13"),)),
        ("device_xid_errors_total", 3, (("xid", "79"),)),
    ]
    many = XidErrors().samples(None, dict.fromkeys(range(1, 1_000), 1))
    assert len(many) == MOST_XIDS


def test_profiling_that_stopped_is_no_idleness(server: MetricsServer) -> None:
    """An XID 31 can leave engine activity at 0 while the GPU works."""
    row = f'DCGM_FI_PROF_GR_ENGINE_ACTIVE{{UUID="{ONE}"}} 0.000000\n'
    server.text = text(1, util=80) + row
    dcgm, clock = made(server.url)
    (reading,) = dcgm.collect().readings
    assert (reading.utilization_ratio, reading.activity_source) == (0.8, "dcgm_gpu_util")
    server.text = text(2, util=0) + row
    clock.advance(INTERVAL)
    (reading,) = dcgm.collect().readings
    assert (reading.utilization_ratio, reading.activity_source) == (0.0, "dcgm_engine_active")


def test_every_sample_is_declared() -> None:
    """With its labels, by the block of this collector."""
    declared = {family.name: set(family.labels) for family in FAMILIES}
    for name in ("whole", "renamed", "mig"):
        dcgm, _ = made(str(HERE / f"{name}.prom"))
        batch = dcgm.collect()
        samples = [each for reading in batch.readings for each in reading.samples]
        assert samples or name == "mig"
        for sample in samples:
            assert {label for label, _ in sample.labels} | {"device"} == (
                declared[f"apportion_{sample.name}"]
            )


def test_once() -> None:
    """`apportion once --collector dcgm --dcgm-url PATH`."""
    result = collect_once("dcgm", {"dcgm_urls": str(HERE / "whole.prom"), "period": "0.01"})
    assert result["success"]
    assert [reading["device"] for reading in result["readings"]] == [ONE, TWO]
    assert result["readings"][0]["power_mw"] == 310_250


PUBLISHED: dict[str, tuple[int, int | None, float | None]] = {
    "ericsson-v1.35": (1, 15152422938, 0.156205),
    "issue-317-a30-mig-energy-duplicated": (6, 0, None),
    "issue-490-h100-some-gpus-without-pod": (3, None, 0.0),
    "issue-512-h100-mig-pods": (4, None, 0.0),
    "lke-rtx4000ada-pod-labels": (1, 455497156, 0.004656),
    "nvidia-docs-a100-mig": (2, 0, 0.995687),
    "rafay-v1.35": (1, 48287135, 0.0),
    "vks-v1.35": (1, None, 0.0),
}
"""By file: how many devices, and the first one's energy and activity."""


def test_every_published_text(published: Path) -> None:
    """Whole GPUs, MIG, a vGPU; every GPU becomes devices with readings, none twice."""
    paths = {path.stem: path for path in (published / "dcgm").glob("*.prom")}
    assert set(paths) == set(PUBLISHED)
    for name, path in paths.items():
        dcgm, _ = made(str(path))
        batch = dcgm.collect()
        count, energy_mj, busy_ratio = PUBLISHED[name]
        assert len({reading.device for reading in batch.readings}) == count, name
        assert [info.device for info in batch.devices] == [r.device for r in batch.readings]
        first = batch.readings[0]
        assert (first.energy_mj, first.utilization_ratio) == (energy_mj, busy_ratio), name
        whole = {uuid.split("/")[0] for uuid in (info.device for info in batch.devices)}
        assert len(whole) == len(
            {
                row.labels.get("UUID")
                for rows in parse(path.read_text()).samples.values()
                for row in rows
            }
        ), name
