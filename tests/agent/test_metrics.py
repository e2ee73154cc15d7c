"""Metrics: the catalogue holds, the exposition says what the snapshot says, labels stay bounded."""

from __future__ import annotations

import gzip
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from apportion.agent.metrics import docs
from apportion.agent.metrics.catalogue import FAMILIES, by_name
from apportion.agent.metrics.emission import Emission, UndeclaredSampleError
from apportion.agent.metrics.exposition import Exposition
from apportion.agent.metrics.labels import MAX_CHARACTERS, OTHER, BoundedLabel, LabelFolder, clean
from apportion.agent.metrics.rendering import MetricsText, accepts_gzip
from apportion.agent.process_usage import ProcessUsage, UsageByPart
from apportion.agent.snapshot import (
    DeviceState,
    LedgerCounts,
    Snapshot,
    SnapshotBoard,
    Spend,
    SpendKey,
)
from apportion.agent.testing import GPU, UNPRICED_GPU, full_snapshot
from apportion.collectors.collector import DeviceFailure, FailureKind
from apportion.core.category import Category
from apportion.core.family import BOUNDS, Family
from apportion.core.ids import DeviceId

# prometheus_client's OpenMetrics parser has no types
open_metrics_families: Callable[[str], Iterable[Metric]] = import_module(
    "prometheus_client.openmetrics.parser"
).text_string_to_metric_families

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def _board(snapshot: Snapshot | None) -> SnapshotBoard:
    board = SnapshotBoard()
    if snapshot is not None:
        board.publish(snapshot)
    return board


def _families(snapshot: Snapshot | None) -> dict[str, Metric]:
    exposition = Exposition(_board(snapshot), "0.1.0", strict=True)
    return {metric.name: metric for metric in exposition.collect()}


def _classic(snapshot: Snapshot | None) -> str:
    board = _board(snapshot)
    text = MetricsText(board, Exposition(board, "0.1.0", strict=True))
    return text.render("", "").body.decode("utf-8")


def _value(snapshot: Snapshot, name: str, **labels: str) -> float | None:
    exposition = Exposition(_board(snapshot), "0.1.0", strict=True)
    return exposition.registry.get_sample_value(name, labels)


def _samples(snapshot: Snapshot) -> Iterator[tuple[str, dict[str, str], float]]:
    for metric in Exposition(_board(snapshot), "0.1.0", strict=True).collect():
        for sample in metric.samples:
            yield sample.name, dict(sample.labels), sample.value


def test_every_family_is_declared_once() -> None:
    """A name stands for one thing; by_name loses none."""
    assert len(by_name()) == len(FAMILIES)


def test_every_family_and_label_is_emitted_by_a_full_snapshot() -> None:
    """Nothing is declared that the code does not emit, and every label has its bound used."""
    emitted: dict[str, set[str]] = {}
    for name, labels, _ in _samples(full_snapshot(simulated=True)):
        emitted.setdefault(name, set()).update(labels)
    declared = {
        name.format(currency="usd"): {*labels, *(["simulated"] if family.simulated else [])}
        for family in FAMILIES
        for name, labels in family.sample_labels.items()
    }
    assert emitted == declared
    assert set().union(*declared.values()) == set(BOUNDS)


def test_amounts_are_converted_once_and_exactly() -> None:
    """10^-12 of the currency, millijoules and nanoseconds become base units."""
    snapshot = full_snapshot()
    labels = {
        "workload": "llm",
        "model": "llama-3.1-8b",
        "tenant": "search",
        "category": "direct",
    }
    assert _value(snapshot, "apportion_cost_usd_total", **labels) == 2.400000000001
    assert _value(snapshot, "apportion_energy_joules_total", **labels) == 2_520_000.123
    assert _value(snapshot, "apportion_device_seconds_total", **labels) == 3_600.0
    assert _value(snapshot, "apportion_device_power_watts", device=GPU) == 512.345
    assert (
        _value(
            snapshot,
            "apportion_device_rate_usd_per_hour",
            device=GPU,
            covers="gpu",
            basis="list-estimate",
        )
        == 2.4
    )
    assert _value(snapshot, "apportion_price_as_of_timestamp_seconds", device=GPU) == 1_777_593_600
    assert _value(snapshot, "apportion_settled_until_timestamp_seconds", device=GPU) == (
        1_779_999_998
    )
    name = "apportion_collector_last_success_timestamp_seconds"
    assert _value(snapshot, name, collector="nvml") == 1_779_999_999
    assert _value(snapshot, name, collector="host") is None


def test_use_is_a_share_of_what_the_device_has() -> None:
    """Peaks by the data sheet; MFU and MBU by the device's own counters, and which ones."""
    snapshot = full_snapshot()
    peaks = {
        precision: _value(
            snapshot, "apportion_device_peak_operations_per_second", device=GPU, precision=precision
        )
        for precision in ("16bit", "8bit")
    }
    assert peaks == {"16bit": 989e12, "8bit": 1979e12}
    memory = "apportion_device_peak_memory_bytes_per_second"
    assert _value(snapshot, memory, device=GPU) == 3350e9
    assert _value(snapshot, memory, device=UNPRICED_GPU) is None
    mfu = "apportion_device_mfu_ratio"
    assert _value(snapshot, mfu, device=GPU, method="tensor_active") == 0.46


def test_what_is_unknown_is_absent_and_never_zero() -> None:
    """A device without reading or price has its facts and its time, and nothing else."""
    names = {
        name
        for name, labels, _ in _samples(full_snapshot())
        if labels.get("device") == UNPRICED_GPU
    }
    assert names == {
        "apportion_device_info",
        "apportion_device_unpriced_seconds_total",
        "apportion_device_up",
        "apportion_device_failure",
        "apportion_settled_until_timestamp_seconds",
        "apportion_settlement_lag_seconds",
    }
    unpriced = {"category": "unallocated"}
    assert _value(full_snapshot(), "apportion_cost_usd_total", **unpriced) is None
    assert _value(full_snapshot(), "apportion_energy_joules_total", **unpriced) is None
    assert _value(full_snapshot(), "apportion_device_seconds_total", **unpriced) == 1.0


def test_a_device_that_is_not_owned_has_telemetry_but_no_account() -> None:
    """Only the owner says how far a device is settled."""
    snapshot = full_snapshot()
    foreign = replace(snapshot.devices[0], owned=False)
    names = {name for name, _, _ in _samples(replace(snapshot, devices=(foreign,)))}
    assert "apportion_device_power_watts" in names
    assert "apportion_settlement_lag_seconds" not in names
    assert "apportion_device_unpriced_seconds_total" not in names


def test_a_device_without_a_name_is_shown_by_its_place() -> None:
    """A GPU that was lost before anybody read it must not be silent."""
    lost = DeviceFailure(None, 3, "GPU is lost", FailureKind.LOST)
    snapshot = replace(full_snapshot(), nameless=(lost,))
    place = "index:3"
    assert _value(snapshot, "apportion_device_up", device=place) == 0
    assert _value(snapshot, "apportion_device_failure", device=place, reason="lost") == 1


def test_without_a_currency_there_is_no_money() -> None:
    """No price table: quantities, and no family with a currency in its name."""
    text = _classic(replace(full_snapshot(), currency=None))
    assert "usd" not in text
    assert "none" not in text
    assert "apportion_device_seconds_total" in text


def test_everything_behind_a_simulator_says_so() -> None:
    """simulated="true" is on all that a simulator is behind, on nothing else, and never false."""
    simulated = {
        name.format(currency="usd") for f in FAMILIES if f.simulated for name in f.sample_labels
    }
    for name, labels, _ in _samples(full_snapshot(simulated=True)):
        assert (labels.get("simulated") == "true") == (name in simulated), name
    assert "simulated" not in _classic(full_snapshot())


def test_before_the_first_settlement_there_is_a_version() -> None:
    """A scrape that comes early is answered, not failed."""
    assert set(_families(None)) == {"apportion_build_info", "apportion_undeclared_samples"}


def test_both_formats_say_the_same() -> None:
    """Classic text and OpenMetrics parse to equal samples."""
    board = _board(full_snapshot())
    text = MetricsText(board, Exposition(board, "0.1.0", strict=True))
    classic = text.render("", "").body.decode("utf-8")
    opened = text.render(OPEN_METRICS, "").body.decode("utf-8")
    parsed = [
        {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for metric in families
            for sample in metric.samples
        }
        for families in (text_string_to_metric_families(classic), open_metrics_families(opened))
    ]
    assert parsed[0] == parsed[1]
    assert len(parsed[0]) > len(FAMILIES)


@pytest.mark.needs_program("promtool")
@pytest.mark.parametrize("simulated", [False, True])
def test_promtool_has_nothing_to_say(*, simulated: bool) -> None:
    """Names, units, types and help follow Prometheus' own conventions."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=_classic(full_snapshot(simulated=simulated)).encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_no_counter_falls_when_the_snapshot_rises() -> None:
    """A larger snapshot never shows a smaller counter."""
    small = {(n, tuple(sorted(ls.items()))): v for n, ls, v in _samples(full_snapshot())}
    for name, labels, value in _samples(full_snapshot(scale=3)):
        if name.endswith("_total"):
            assert value >= small[name, tuple(sorted(labels.items()))]


def test_an_undeclared_sample_raises_in_tests() -> None:
    """Neither a family nor a label comes out that the catalogue does not have."""
    emission = Emission("USD")
    emission.put("surprise_total", 1)
    emission.put("open_spans", 1, {"request_id": "r-1"})
    assert list(emission.metrics()) == []
    assert len(emission.undeclared) == 2
    assert "request_id" in emission.undeclared[1]


def test_a_histogram_is_one_family_of_three_kinds_of_samples() -> None:
    """`le` belongs to its buckets alone; both formats read it back as a histogram."""
    family = Family("apportion_took_seconds", "histogram", "seconds", ("target",), "help", "here")
    assert family.sample_labels == {
        "apportion_took_seconds_bucket": ("target", "le"),
        "apportion_took_seconds_sum": ("target",),
        "apportion_took_seconds_count": ("target",),
    }


def test_an_example_is_with_its_bucket_in_open_metrics() -> None:
    """Ids are exemplars, never labels; the classic format has none."""
    board = _board(full_snapshot())
    text = MetricsText(board, Exposition(board, "0.1.0", strict=True))
    found = {
        (sample.name, sample.labels["le"]): sample.exemplar
        for metric in open_metrics_families(text.render(OPEN_METRICS, "").body.decode("utf-8"))
        for sample in metric.samples
        if sample.exemplar is not None
    }
    exemplar = found["apportion_request_seconds_bucket", "0.01"]
    assert exemplar is not None
    assert exemplar.labels == {
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "request_id": "request-1",
    }
    assert (exemplar.value, float(exemplar.timestamp or 0)) == (0.007, 1_780_000_000)
    assert len(found) == 6
    assert "request-1" not in text.render("", "").body.decode("utf-8")


def test_an_undeclared_sample_is_left_out_and_counted_in_production(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mistake in the exporter costs one sample and a counter, not the scrape."""
    without = tuple(f for f in FAMILIES if f.name != "apportion_rings_attached")
    declared = {family.name: family for family in without}
    monkeypatch.setattr("apportion.agent.metrics.emission.by_name", lambda: declared)
    strict = Exposition(_board(full_snapshot()), "0.1.0", strict=True)
    with pytest.raises(UndeclaredSampleError, match="rings_attached"):
        list(strict.collect())
    lenient = Exposition(_board(full_snapshot()), "0.1.0")
    list(lenient.collect())
    families = {metric.name: metric for metric in lenient.collect()}
    assert "apportion_rings_attached" not in families
    assert families["apportion_undeclared_samples"].samples[0].value == 2


@pytest.mark.parametrize(
    ("name", "kind", "labels"),
    [
        ("apportion_things", "counter", ()),
        ("apportion_things_total", "gauge", ()),
        ("things", "gauge", ()),
        ("apportion_things", "gauge", ("pid",)),
        ("apportion_things", "histogram", ("le",)),
    ],
)
def test_a_family_against_the_rules_cannot_be_declared(
    name: str, kind: str, labels: tuple[str, ...]
) -> None:
    """Suffix, prefix and a bound for each label are checked where it is declared."""
    with pytest.raises(ValueError, match=name):
        Family(name, kind, "", labels, "help", "source")  # type: ignore[arg-type]


@given(st.text(max_size=300))
def test_hostile_label_values_are_escaped(value: str) -> None:
    """Whatever a tenant calls itself, the text still parses and holds one such sample."""
    tenant = LabelFolder(dict.fromkeys(("workload", "run", "tenant", "model", "pod"), 9)).tenant(
        value
    )
    snapshot = replace(
        full_snapshot(), spend={SpendKey(Category.DIRECT, tenant=tenant): Spend(1, 1, 1)}
    )
    parsed = {
        sample.labels.get("tenant", "")
        for metric in text_string_to_metric_families(_classic(snapshot))
        for sample in metric.samples
        if sample.name == "apportion_cost_usd_total"
    }
    assert parsed == {tenant}


@given(st.lists(st.text(min_size=1, max_size=20), max_size=60), st.integers(1, 10))
def test_a_label_stays_within_its_bound_and_is_sticky(values: list[str], limit: int) -> None:
    """At most `limit` values and `other`; a value keeps the name that it got first."""
    label = BoundedLabel(limit)
    first = {value: label.fold(value) for value in values}
    assert {value: label.fold(value) for value in values} == first
    assert len({text for text in first.values() if text not in {OTHER, ""}}) <= limit
    assert label.folded <= len(set(values))


def test_folded_values_are_counted_once_each() -> None:
    """The count is of distinct values, not of samples; nothing and `other` take no place."""
    folder = LabelFolder({"workload": 1, "run": 1, "tenant": 2, "model": 1, "pod": 1})
    assert [folder.tenant(t) for t in (None, "", OTHER, "a", "b", "c", "d", "c", "a")] == [
        *("", "", OTHER, "a", "b", OTHER, OTHER, OTHER, "a")
    ]
    assert folder.folded == {"workload": 0, "run": 0, "tenant": 2, "model": 0, "pod": 0}


@given(st.text(max_size=400))
def test_a_cleaned_value_is_one_short_printable_line(value: str) -> None:
    """Control characters, surrogates and length cannot leave the label."""
    text = clean(value)
    assert len(text) <= MAX_CHARACTERS
    assert "\n" not in text
    text.encode("utf-8")
    assert clean(text) == text


def test_a_text_is_made_once_for_each_snapshot() -> None:
    """Scrapes between two snapshots get the same bytes; a new snapshot makes new ones."""
    board = _board(full_snapshot())
    text = MetricsText(board, Exposition(board, "0.1.0", strict=True))
    assert text.cached("", "") is None
    first = text.render("", "")
    assert text.render("", "") is first
    assert text.cached("", "") is first
    packed = text.render("", "gzip")
    assert gzip.decompress(packed.body) == first.body
    assert packed.headers["Content-Encoding"] == "gzip"
    assert text.render(OPEN_METRICS, "").content_type.startswith("application/openmetrics-text")
    board.publish(full_snapshot(scale=2))
    assert text.cached("", "") is None
    assert text.render("", "").body != first.body


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, identity", False),
        ("*", False),
    ],
)
def test_gzip_only_where_it_is_wanted(header: str, *, expected: bool) -> None:
    """Accept-Encoding is read as HTTP means it."""
    assert accepts_gzip(header) is expected


def test_the_page_of_metrics_is_in_step(repository: Path, tmp_path: Path) -> None:
    """docs/metrics.md is what the catalogue makes of it, and a difference is noticed."""
    assert docs.main(["--check", str(repository / "docs" / "metrics.md")]) == 0
    stale = tmp_path / "metrics.md"
    assert docs.main(["--check", str(stale)]) == 1
    assert docs.main([str(stale)]) == 0
    assert docs.main(["--check", str(stale)]) == 0
    stale.write_text(stale.read_text(encoding="utf-8") + "x", encoding="utf-8")
    assert docs.main(["--check", str(stale)]) == 1


def test_a_board_gives_one_consistent_pair() -> None:
    """A generation belongs to one snapshot, and publishing is a sign of life."""
    board = SnapshotBoard()
    seen = [(board.published, board.last_beat_ns, board.stopping)]
    board.beat(5)
    seen.append((board.published, board.last_beat_ns, board.stopping))
    snapshot = Snapshot(monotonic_ns=9, unix_ns=100)
    board.publish(snapshot)
    board.stop()
    seen.append((board.published, board.last_beat_ns, board.stopping))
    assert seen == [((0, None), None, False), ((0, None), 5, False), ((1, snapshot), 9, True)]
    assert snapshot.unix_of(10) == 101


def test_a_snapshot_finds_its_devices() -> None:
    """By id; an unknown one is None."""
    snapshot = full_snapshot()
    found = snapshot.device(GPU)
    assert isinstance(found, DeviceState)
    assert found.info.device == GPU
    assert snapshot.device(DeviceId("GPU-x")) is None
    assert LedgerCounts().up


def test_the_usage_of_a_process_is_the_kernels() -> None:
    """The agent's own cost is what the kernel says of its processes; a gone one is absent."""
    before = time.process_time_ns()
    usage = ProcessUsage.read("agent", os.getpid())
    assert usage is not None
    tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
    assert abs(usage.cpu_ns - before) <= 10 * tick_ns + time.process_time_ns() - before
    assert usage.resident_bytes > 1 << 20
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
        assert ProcessUsage.read("nvml", gone.pid) is None


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), max_size=20))
def test_cpu_time_of_a_part_goes_on_with_its_next_process(steps: list[tuple[int, int]]) -> None:
    """A reader that is replaced starts at 0; the counter of its part never falls."""
    usage, shown, own_ns, pid_before = UsageByPart(), [0], 0, 0
    for pid, spent_ns in steps:
        own_ns = own_ns + spent_ns if pid == pid_before else spent_ns
        pid_before = pid
        shown.append(usage.of(ProcessUsage("nvml", own_ns, 1), pid).cpu_ns)
    assert shown == sorted(shown)
    assert shown[-1] == sum(spent_ns for _, spent_ns in steps)
