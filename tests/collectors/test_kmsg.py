"""XIDs from the kernel's log: records and printed lines, what is no XID, and what is not told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.kernel_log import KernelLog, parse_record
from apportion.collectors.kmsg import MOST_KEYS, Kmsg
from apportion.collectors.once import collect_once
from apportion.core.clock import ManualClock
from apportion.core.errors import CollectorError, NoData
from apportion.core.units import NS_PER_SECOND

RECORDS = Path(__file__).parent / "fixtures" / "kmsg" / "records.log"
GPU = "GPU-11111111-2222-3333-4444-555555555555"
COUNT, LAST = "device_kernel_xid_errors_total", "device_kernel_xid_last_timestamp_seconds"


def told(collector: Kmsg) -> dict[tuple[str, str, str], float]:
    """Each sample by its name, device and number."""
    batch = collector.collect()
    assert batch.samples is not None
    return {
        (name, dict(labels)["device"], dict(labels)["xid"]): v for name, v, labels in batch.samples
    }


def line(number: int, address: str = "0000:17:00") -> str:
    """A line of the log about an XID."""
    return f"3,1,5000000,-;NVRM: Xid (PCI:{address}): {number}, pid=1, name=x, and so on\n"


def test_records_are_counted_by_gpu_and_number(tmp_path: Path) -> None:
    """The log names GPUs by address, once also by UUID; programs' and other lines do not count."""
    clock = ManualClock(100 * NS_PER_SECOND, 1_000_100 * NS_PER_SECOND)
    assert told(Kmsg(RECORDS, tmp_path, clock)) == {
        (COUNT, GPU, "48"): 2,
        (LAST, GPU, "48"): 1_000_062,
        (COUNT, "pci:0000:65:00", "79"): 1,
        (LAST, "pci:0000:65:00", "79"): 1_000_063,
        (COUNT, "pci:0000:b3:00", "31"): 1,
        (LAST, "pci:0000:b3:00", "31"): 1_000_066,
    }


def test_the_driver_says_which_gpu_is_at_an_address(tmp_path: Path) -> None:
    """Where the log no longer reaches back to it."""
    information = tmp_path / "driver" / "nvidia" / "gpus" / "0000:17:00.0" / "information"
    information.parent.mkdir(parents=True)
    information.write_text(f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 16\nGPU UUID: \t {GPU}\n")
    log = tmp_path / "log"
    log.write_text(line(94))
    assert told(Kmsg(log, tmp_path, ManualClock()))[COUNT, GPU, "94"] == 1


def test_what_is_new_is_added(tmp_path: Path) -> None:
    """Each line counts once; half a line waits for its end."""
    log = tmp_path / "log"
    log.write_text(line(79))
    collector = Kmsg(log, tmp_path, ManualClock())
    device = "pci:0000:17:00"
    assert told(collector)[COUNT, device, "79"] == 1
    with log.open("a") as stream:
        stream.write(line(79) + line(48)[:20])
    assert told(collector)[COUNT, device, "79"] == 2
    with log.open("a") as stream:
        stream.write(line(48)[20:])
    found = told(collector)
    assert (found[COUNT, device, "79"], found[COUNT, device, "48"]) == (2, 1)
    collector.close()


def test_series_are_bounded(tmp_path: Path) -> None:
    """More numbers than there are do not make more series."""
    log = tmp_path / "log"
    log.write_text("".join(map(line, range(1_000))))
    collector = Kmsg(log, tmp_path, ManualClock())
    assert len(told(collector)) == 2 * MOST_KEYS
    log.write_text("")


def test_a_log_that_is_not_there_or_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual one is absent, which is no failure; one that somebody named must be a log."""
    monkeypatch.setattr("apportion.collectors.kmsg.USUAL_LOG", tmp_path / "none")
    with pytest.raises(NoData, match="XIDs come from NVML alone"):
        Kmsg(None, tmp_path, ManualClock()).collect()
    with pytest.raises(CollectorError, match="No such file") as caught:
        Kmsg(tmp_path / "none", tmp_path, ManualClock()).collect()
    assert not isinstance(caught.value, NoData)
    with pytest.raises(CollectorError, match="directory"):
        Kmsg(tmp_path, tmp_path, ManualClock()).collect()


def test_a_log_without_any_message_is_no_log(tmp_path: Path) -> None:
    """The kernel always has something to say: nothing was read."""
    log = tmp_path / "log"
    log.write_text("")
    collector = Kmsg(log, tmp_path, ManualClock())
    with pytest.raises(NoData, match="has no message of the kernel"):
        collector.collect()
    log.write_text("6,1,5000000,-;hello\n")
    assert collector.collect().samples == ()
    collector.close()


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="the kernel's log takes root")
def test_the_kernels_own_log_does_not_block(tmp_path: Path) -> None:
    """All that there is, and then nothing, at once."""
    log = KernelLog(Path("/dev/kmsg"))
    try:
        first = list(log.read())
    except PermissionError:
        pytest.skip("the kernel's log takes root")
    assert all("\n" not in record.text for record in first)
    assert len(list(log.read())) <= len(first)
    log.close()


def test_names_and_texts_are_not_told() -> None:
    """A process's name stands in the log, and in nothing that leaves the collector."""
    said = json.dumps(collect_once("kmsg", {"kmsg": str(RECORDS)}))
    assert "secret-job" not in said
    assert '"xid": "48"' in said


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_none(data: bytes) -> None:
    """Whatever is in the log, reading goes on."""
    record = parse_record(data)
    assert record is None or record.uptime_ns is None or record.uptime_ns >= 0


def test_published_logs(published: Path) -> None:
    """Of real nodes: as `dmesg` prints it, and as the kernel gives it."""
    found = collect_once("kmsg", {"kmsg": str(published / "kmsg" / "kmsg__dmesg-with-xid-119.log")})
    assert found["samples"] == [
        {
            "name": COUNT,
            "value": 5,
            "labels": {"device": "GPU-509665ad-b600-ac93-3616-d754b23d636d", "xid": "119"},
        }
    ]
    quiet = collect_once("kmsg", {"kmsg": str(published / "kmsg" / "kmsg__kmsg.1.log")})
    assert (quiet["success"], quiet["samples"]) == (True, [])
