"""`apportion profile`: what is kept, what is written down, and who may be sampled."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import threading
from pathlib import Path
from unittest.mock import ANY

import pytest
from tests.cost.test_report import fleet, seconds
from tests.profiles.written import document, kernel, launch, step

from apportion.agent.capture_request import CaptureRequest
from apportion.agent.cli.command import main
from apportion.agent.cli.profile_drawing import drawn
from apportion.agent.ingest.pod_directories import VOLUME
from apportion.agent.left_trace import LeftTrace
from apportion.agent.pipeline.node_time import boot_id
from apportion.agent.profile_pace import LONGEST_S, ProfilePace
from apportion.agent.profile_store import LOG, ProfileRecord, ProfileStore
from apportion.agent.profiled_process import ProfiledProcess
from apportion.client.layout import TRACE_SUFFIX
from apportion.core.category import SpanKind
from apportion.core.clock import ManualClock, SystemClock
from apportion.core.errors import ProfilerError
from apportion.core.units import UNITS_PER_CURRENCY
from apportion.cost.testing import LedgerBuilder
from apportion.profiles.speedscope import speedscope_json

BOOT = "b" * 32


def record(taken_s: int, file: str | None, error: str | None = None) -> ProfileRecord:
    return ProfileRecord(taken_s * 10**9, "cpu", "root", 5, "w", 10.0, 200, 0.1, file, error)


def test_a_burst_is_kept_drawn_and_written_down(
    worker: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command: the profile in the store, a page beside it, a line of who took it and when."""
    kept, page = tmp_path / "profiles", tmp_path / "cpu.html"
    how = ["--seconds", "1", "--rate", "50", "--dir", str(kept)]

    assert main(["profile", "cpu", "--pid", str(worker), *how, "-o", str(page)]) == 0

    said = capsys.readouterr().err
    assert re.search(r"cpu\.html: \d+ samples in all\n", said)
    assert "kept as" in said
    assert page.read_text().startswith("<!doctype html>")
    (file,) = ProfileStore(kept).files()
    assert main(["flamegraph", "build", str(file)]) == 0
    assert f"thread ({worker})" in capsys.readouterr().out
    assert main(["profile", "list", "--dir", str(kept), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["kind"], row["pid"], row["file"], row["error"]) == ("cpu", worker, file.name, None)
    assert row["steps"] is None
    assert row["who"]
    assert row["samples"] > 0


def test_a_failure_is_written_down_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that has gone: one line with the remedy, and one in the log; continuous ends."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    how = ["--pid", str(gone.pid), "--dir", str(tmp_path)]

    assert main(["profile", "cpu", *how]) == 2
    assert "is not there" in capsys.readouterr().err
    assert main(["profile", "continuous", *how]) == 1
    capsys.readouterr()
    assert main(["profile", "list", "--dir", str(tmp_path), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["error"] for row in rows] == ["gone", "gone"]
    # nothing ran, so nothing took any time
    assert {row[key] for row in rows for key in ("duration_s", "samples", "cpu_s")} == {None}


def test_continuous_takes_so_many(
    worker: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bursts follow one another; each is named on stdout when it is done."""
    how = ["--seconds", "1", "--every", "10ms", "--count", "2", "--dir", str(tmp_path)]

    assert main(["profile", "continuous", "--pid", str(worker), *how]) == 0

    names = capsys.readouterr().out.splitlines()
    assert names == [str(path) for path in ProfileStore(tmp_path).files()]
    assert len(names) == 2


def test_the_oldest_make_room(tmp_path: Path) -> None:
    """The newest stays whatever its size; the log still knows those that went."""
    store = ProfileStore(tmp_path, budget_bytes=1500)
    content = os.urandom(600)
    for second in range(4):
        store.add(record(second, store.name(second * 10**9, "cpu", "../evil w")), content)

    names = [path.name for path in store.files()]
    assert names == [f"19700101T00000{second}.000Z-cpu-evil_w.json.gz" for second in (2, 3)]
    assert len(store.records()) == 4
    assert store.content(names[1]) == content
    assert store.content("../log.jsonl") is None


def test_a_damaged_log_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """A line that was cut off in a crash takes no other along."""
    store = ProfileStore(tmp_path)
    store.note(record(1, None, "gone"))
    with (tmp_path / LOG).open("a") as file:
        file.write('{"taken\n[]\n{"other": 1}\n')
    store.note(record(2, None, "ptrace"))

    assert [one.error for one in store.records()] == ["gone", "ptrace"]


def test_bad_bursts_make_the_next_ones_seldom() -> None:
    """Twice as long after each, up to an hour, and back at once after a good one."""
    pace = ProfilePace.of(300.0)
    waits: list[float] = []
    for _ in range(6):
        pace = pace.after(bad=True)
        waits.append(pace.waiting_s)

    assert waits == [600.0, 1200.0, 2400.0, LONGEST_S, LONGEST_S, LONGEST_S]
    assert pace.after(bad=False) == ProfilePace.of(300.0)
    assert ProfilePace.of(7200.0).after(bad=True).waiting_s == 7200.0


def trainers(boot: str) -> LedgerBuilder:
    """Four processes of a trainer: one has ended, and one is of another boot."""
    builder = LedgerBuilder()
    none = [None] * 8
    for key, (rank, pid, ended_ns, own_boot) in enumerate(
        [(1, 11, None, boot), (0, 10, None, boot), (0, 9, 5, boot), (0, 8, None, "c" * 32)], 1
    ):
        said = json.dumps({"pid": pid, "workload": "train", "rank": rank})
        builder.batch.insert("ring", [(key, f"{key:032x}", own_boot, said, 0, None)])
        position = (key, "{}", 0, 0, ended_ns, None, None, 0, *none)
        builder.batch.replace("ring_position", [position])
    return builder


def test_a_workloads_process_is_that_of_its_lowest_rank() -> None:
    """Of this boot, alive, and of the rank that was asked for; else the message names others."""
    with trainers(BOOT).ledger() as ledger:
        assert ProfiledProcess.of(ledger, "train", BOOT, None).pid == 10
        assert ProfiledProcess.of(ledger, "train", BOOT, 1).pid == 11
        with pytest.raises(
            ProfilerError, match=r"of rank 7 of workload 'train'.*its live ranks: 0, 1;"
        ):
            ProfiledProcess.of(ledger, "train", BOOT, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        ["cpu"],
        ["cpu", "--pid", "1", "--workload", "w"],
        ["cpu", "--pid", "1", "--rate", "1000"],
        ["cpu", "--pid", "-5"],
        ["cpu", "--pid", "1", "--seconds", "0"],
        ["cpu", "--pid", "1", "--cpu-budget", "2"],
        ["continuous", "--pid", "1", "--every", "soon"],
        ["cpu", "--pid", "1", "-o", "x.png"],
    ],
)
def test_wrong_usage_starts_nothing(wrong: list[str], tmp_path: Path) -> None:
    """A slip of the pen profiles nobody and writes nothing down."""
    assert main(["profile", *wrong, "--dir", str(tmp_path)]) == 2

    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of an agent whose ledger knows the trainers; nobody runs."""
    for name in ("state", "rings"):
        (tmp_path / name).mkdir()
    trainers(boot_id(Path("/proc"))).ledger(tmp_path / "state" / "ledger.db").close()
    path = tmp_path / "apportion.yaml"
    keys = {"state_dir": str(tmp_path / "state"), "ring_dir": str(tmp_path / "rings")}
    path.write_text("".join(f"{key}: {json.dumps(text)}\n" for key, text in keys.items()))
    return path


def test_a_trace_is_asked_for_by_way_of_the_agent(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wish is what the agent repeats; what the trainer leaves is kept and written down."""
    said: list[object] = []

    def agent_and_trainer() -> None:
        request = CaptureRequest(tmp_path / "state", SystemClock(), boot_id(Path("/proc")))
        while not (wish := request.current()):
            if gone.wait(0.001):
                return
        said.append(wish)
        capture: dict[str, str] = wish["capture"]  # type: ignore[assignment]
        part = tmp_path / "rings" / "part"
        part.write_bytes(gzip.compress(b'{"traceEvents": []}'))
        part.rename(tmp_path / "rings" / f"{capture['ring']}.{capture['id']}{TRACE_SUFFIX}")

    gone = threading.Event()
    other = threading.Thread(target=agent_and_trainer)
    other.start()
    try:
        command = ["profile", "gpu", "--workload", "train", "--steps", "3", "--rank", "1"]
        assert main([*command, "--config", str(config), "--no-drawing"]) == 0
    finally:
        gone.set()
        other.join()

    (kept,) = ProfileStore(tmp_path / "state" / "profiles").files()
    assert capsys.readouterr().out == f"{kept}\n"
    assert kept.name.endswith("-gpu-train.json.gz")
    assert gzip.decompress(kept.read_bytes()) == b'{"traceEvents": []}'
    assert said == [{"capture": {"id": ANY, "ring": f"{1:032x}", "steps": 3}}]
    assert list((tmp_path / "rings").iterdir()) == []
    assert not (tmp_path / "state" / "capture").exists()
    (record,) = ProfileStore(tmp_path / "state" / "profiles").records()
    assert (record.kind, record.pid, record.error) == ("gpu", 11, None)
    assert (record.duration_s, record.samples, record.cpu_s, record.steps) == (None, None, None, 3)


def test_a_trace_is_drawn_in_money(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it cost by the ledger: a page where it was asked for, and one for /profiles."""
    builder = fleet()
    identity = json.dumps({"pid": 4711, "workload": "pretrain"})
    builder.batch.insert("ring", [(9, "9" * 32, "0f" * 16, identity, 0, None)])
    for number in (1, 2):
        interval = seconds(10 * number - 10, 10 * number - 2)
        builder.span(9, number, interval, SpanKind.STEP, entity=4, step=number)
    ledger = tmp_path / "ledger.db"
    builder.ledger(ledger).close()
    events = [step(1, 0, 100), step(2, 100, 100), launch(0, 1), kernel("gemm", 0, 90, 1)]
    store = ProfileStore(tmp_path / "profiles")
    content = gzip.compress(json.dumps(document(events)).encode())
    path = store.add(record(1, store.name(10**9, "gpu", "pretrain")), content)

    found = drawn(path, "pretrain", "9" * 32, str(ledger), ManualClock())

    stacks = found.stacks
    assert [weight.name for weight in stacks.weights] == ["cost", "time"]
    assert stacks.total(0) == 16 * UNITS_PER_CURRENCY // 100
    store.add_drawing(path.name, speedscope_json(stacks.merged(), "t"))
    assert store.files() == [path]
    assert store.drawing(path.name) is not None
    assert store.sizes()[0][1] > path.stat().st_size
    ProfileStore(store.directory, 1).make_room(keep=tmp_path)
    assert [one.name for one in store.directory.iterdir()] == [LOG]
    assert "SIMULATED" not in capsys.readouterr().err


def test_a_trace_of_unknown_steps_is_drawn_in_time(tmp_path: Path) -> None:
    """A ledger that never hears of them is waited for a minute, and no longer."""
    ledger, trace = tmp_path / "ledger.db", tmp_path / "trace.json"
    fleet().ledger(ledger).close()
    trace.write_text(json.dumps(document([step(7, 0, 9), launch(0, 1), kernel("k", 0, 9, 1)])))
    clock = ManualClock()

    found = drawn(trace, "pretrain", "9" * 32, str(ledger), clock)

    assert [weight.name for weight in found.stacks.weights] == ["time"]
    assert 60 * 10**9 <= clock.monotonic_ns() < 62 * 10**9


def test_nobody_leaves_a_trace(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Patience ends: the wish is taken back, the failure is on record, and the message helps."""
    command = ["profile", "gpu", "--workload", "train", "--patience", "10ms"]

    assert main([*command, "--config", str(config)]) == 2

    assert "is the agent running with this configuration" in capsys.readouterr().err
    assert not (tmp_path / "state" / "capture").exists()
    (record,) = ProfileStore(tmp_path / "state" / "profiles").records()
    assert record.error == "silent"


def test_a_trace_in_the_volume_of_a_pod(tmp_path: Path) -> None:
    """It is looked for where the ring is, which need not be the agent's own directory."""
    pods = tmp_path / "pods"
    volume = pods / "3f0c-pod" / VOLUME
    for directory in (tmp_path / "rings", pods / "no-volume", volume):
        directory.mkdir(parents=True)
    (volume / "ab.ring").touch()
    stale = volume / f"ab.0{TRACE_SUFFIX}"
    stale.touch()
    trace = LeftTrace("ab", "1", tmp_path / "rings", pods)
    assert (trace.directory, trace.is_there, stale.exists()) == (volume, False, False)

    (volume / f"ab.1{TRACE_SUFFIX}").write_bytes(b"content")
    assert trace.is_there
    assert trace.take() == b"content"
    assert [path.name for path in volume.iterdir()] == ["ab.ring"]

    assert LeftTrace("cd", "1", tmp_path / "rings", pods).directory == tmp_path / "rings"
    assert LeftTrace("ab", "1", tmp_path / "rings", None).directory == tmp_path / "rings"


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo", "directory", "huge"])
def test_a_trace_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Whoever writes there cannot have us read another file, wait for ever, or fill our memory."""
    monkeypatch.setattr("apportion.agent.left_trace.MOST_BYTES", 10)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    rings = tmp_path / "rings"
    rings.mkdir()
    trace = LeftTrace("ab", "1", rings, None)
    path = rings / f"ab.1{TRACE_SUFFIX}"
    if kind == "symlink":
        path.symlink_to(secret)
    elif kind == "hardlink":
        path.hardlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(bytes(11))
    assert trace.is_there
    with pytest.raises((ProfilerError, OSError)):
        trace.take()
    assert secret.read_text() == "secret"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"boot": "x"}', '{"capture": 3}'])
def test_a_damaged_wish_is_none(tmp_path: Path, text: str) -> None:
    """What the agent cannot understand it does not repeat."""
    (tmp_path / "capture").write_text(text)

    assert CaptureRequest(tmp_path, ManualClock(5), BOOT).current() == {}


def test_a_wish_ends(tmp_path: Path) -> None:
    """After its time, and after a reboot, nobody waits for it any more."""
    clock = ManualClock(5)
    request = CaptureRequest(tmp_path, clock, BOOT)
    request.ask("a" * 32, 5, 100)

    assert request.current()
    assert CaptureRequest(tmp_path, clock, "c" * 32).current() == {}
    clock.advance(100)
    assert request.current() == {}
