"""The doctor: what each check finds, how bad it is, what to do; and that nothing is changed."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from tests.postgres import PostgresServer

from apportion.agent.config_layers import LoadedConfig, load_config
from apportion.agent.doctor import Finding, Level, examine
from apportion.agent.doctor.devices import examine_price
from apportion.agent.doctor.doors import examine_doors
from apportion.agent.doctor.ledger import examine_ledger
from apportion.agent.doctor.ownership import examine_ownership
from apportion.agent.doctor.rings import (
    examine_heartbeat,
    examine_pods,
    examine_ring_directory,
    examine_unbound,
)
from apportion.agent.doctor.shared_ledger import examine_shared_ledger
from apportion.agent.ingest.pod_directories import VOLUME
from apportion.client import layout
from apportion.collectors.options import CollectorOptions
from apportion.collectors.otlp import Otlp
from apportion.core.clock import ManualClock, SystemClock
from apportion.core.errors import CollectorError
from apportion.cost.ledger.migration import migrate

NOW_NS = 5_000 * 10**9
MAY_FIRST_2026_NS = 1_777_593_600 * 10**9


def _load(tmp_path: Path, **flags: str) -> LoadedConfig:
    defaults = {
        "listen": "127.0.0.1:0",
        "state_dir": str(tmp_path / "state"),
        "ring_dir": str(tmp_path / "rings"),
        "lock_dir": str(tmp_path / "locks"),
        "devices": "cpu",
    }
    return load_config(None, {}, {**defaults, **flags}, uid=os.geteuid(), host_name="node-a")


def _levels(findings: list[Finding]) -> list[str]:
    return [finding.level.value for finding in findings]


def _ring(directory: Path, name: str, magic: int = layout.MAGIC) -> None:
    (directory / name).write_bytes(magic.to_bytes(8, "little") + bytes(layout.HEADER_BYTES))


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's file takes root to make")
def test_rings_of_another_group_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose they are, and what gives the agent access; in a pod's volume too."""
    volume = tmp_path / "pods/p-1" / VOLUME
    volume.mkdir(parents=True)
    for folder in (tmp_path, volume):
        (folder / f"{'a' * 32}.ring").touch(mode=0o640)
        os.chown(folder / f"{'a' * 32}.ring", 1000, 1001)

    def access(path: Path, *_: object, **__: object) -> bool:
        return not str(path).endswith(".ring")

    monkeypatch.setattr(os, "access", access)
    rings = examine_ring_directory(tmp_path, 65532)[-1]
    assert rings.found.endswith(
        "may not read 1 of 1 rings, such as aaaaaaaa of 1000:1001, mode 0640"
    )
    assert "`fsGroup`" in rings.remedy
    assert "pod p-1: " in examine_pods(tmp_path / "pods")[1].found


def test_a_directory_of_one_user_is_no_shared_one(tmp_path: Path) -> None:
    """Neither its group nor others can make a ring in it; pods have directories of their own."""
    tmp_path.chmod(0o3755)
    assert "nobody but uid" in examine_ring_directory(tmp_path, 0)[0].found
    tmp_path.chmod(0o3770)
    assert _levels(examine_ring_directory(tmp_path, 0, has_pods=True)) == ["ok", "ok"]


def test_a_fresh_machine_has_no_failure(tmp_path: Path) -> None:
    """What the agent makes by itself is no fault; what nobody can know is a warning."""
    findings = examine(_load(tmp_path), SystemClock(), uid=os.geteuid())
    by_check = {finding.check: finding for finding in findings}
    assert {"config", "ring directory", "agent", "price", "ownership", "ledger"} <= set(by_check)
    assert by_check["ring directory"].level is Level.OK
    assert by_check["agent"].level is Level.WARN
    assert by_check["price"].level is Level.WARN
    assert "set `prices`" in by_check["price"].remedy
    assert by_check["device"].found.startswith("cpu:node-a ")
    assert Level.FAIL not in {finding.level for finding in findings}
    assert all(finding.remedy for finding in findings if finding.level is not Level.OK)
    assert list(tmp_path.iterdir()) == []


def test_devices_by_way_of_an_exporter(tmp_path: Path) -> None:
    """They are listed; one that does not answer is a failure that says why."""
    text = Path(__file__).parents[1] / "collectors/fixtures/dcgm/whole.prom"
    config = _load(tmp_path, devices="dcgm", dcgm_urls=str(text))
    by_check = {each.check: each for each in examine(config, SystemClock(), uid=os.geteuid())}
    assert by_check["dcgm-exporter"].found.startswith("2 devices; ")
    assert "NVIDIA H100 80GB HBM3" in by_check["device"].found
    missing = _load(tmp_path, devices="dcgm", dcgm_urls=str(tmp_path / "missing"))
    by_check = {each.check: each for each in examine(missing, SystemClock(), uid=os.geteuid())}
    assert by_check["dcgm-exporter"].level is Level.FAIL
    assert "No such file" in by_check["dcgm-exporter"].found


def test_a_wrong_price_table_fails(tmp_path: Path) -> None:
    """The daemon would refuse to start with it."""
    findings = examine(_load(tmp_path, prices="/no/such/table"), SystemClock(), uid=os.geteuid())
    failed = {finding.check for finding in findings if finding.level is Level.FAIL}
    assert failed == {"config", "price"}


def test_a_price_is_found_by_the_device_name(tmp_path: Path) -> None:
    """The rate in force is shown with its basis, source and date."""
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        'prices:\n  - {device: "NVIDIA H100 80GB HBM3", per_hour: "2.40", currency: USD, '
        "covers: gpu, basis: list, source: a test, as_of: 2026-05-01}\n",
        encoding="utf-8",
    )
    config = _load(tmp_path, prices=str(prices)).config
    clock = ManualClock(realtime_ns=MAY_FIRST_2026_NS)
    found = examine_price({"name": "NVIDIA H100 80GB HBM3"}, config, clock)
    assert found.level is Level.OK
    assert "2.40 USD/h, list of a test, as of 2026-05-01 (0 days ago)" in found.found
    later = ManualClock(realtime_ns=MAY_FIRST_2026_NS + 91 * 86_400 * 10**9)
    old = examine_price({"name": "NVIDIA H100 80GB HBM3"}, config, later)
    assert (old.level, old.remedy) == (Level.WARN, "look the price up again")
    early = examine_price({"name": "NVIDIA H100 80GB HBM3"}, config, ManualClock(realtime_ns=0))
    assert (early.level, early.remedy.endswith("in the future")) == (Level.WARN, True)
    missing = examine_price({"name": "Tesla T4"}, config, clock)
    assert missing.level is Level.WARN
    assert str(prices) in missing.remedy


def test_an_estimate_is_called_one(tmp_path: Path) -> None:
    """Money without a table comes from the built-in one, which is nobody's bill; or from none."""
    clock = ManualClock(realtime_ns=MAY_FIRST_2026_NS)
    found = examine_price({"name": "NVIDIA H100 80GB HBM3"}, _load(tmp_path).config, clock)
    assert found.level is Level.WARN
    assert "2.95 USD/h, list-estimate of Nebius" in found.found
    assert "an estimate of nobody's bill" in found.remedy
    none = _load(tmp_path, prices="none").config
    missing = examine_price({"name": "NVIDIA H100 80GB HBM3"}, none, clock)
    assert "has no price now" in missing.found
    assert "set `prices`" in missing.remedy


def test_rings_are_counted_and_bad_ones_seen(tmp_path: Path) -> None:
    """A ring has the magic; a link, a FIFO or another file under such a name has not."""
    tmp_path.chmod(0o3770)
    assert _levels(examine_ring_directory(tmp_path, 0)) == ["ok", "warn"]
    _ring(tmp_path, "a.ring")
    (tmp_path / layout.AGENT_FILE).write_text("{}", encoding="utf-8")
    assert [f.found for f in examine_ring_directory(tmp_path, 0)][1:] == ["1 rings"]
    _ring(tmp_path, "b.ring", magic=7)
    os.mkfifo(tmp_path / "c.ring")
    (tmp_path / "d.ring").symlink_to(tmp_path / "a.ring")
    assert "3 of 4 files" in examine_ring_directory(tmp_path, 0)[1].found


def test_rings_without_devices_are_named(tmp_path: Path) -> None:
    """By workload and pid, from the agent's own file, of pods too; a strange file harms nobody."""
    assert examine_unbound(tmp_path, None) == []
    pod, damaged = (tmp_path / "pods" / name / VOLUME for name in ("a", "b"))
    for folder, unbound in (
        (tmp_path, {"1" * 32: "workload 'train', pid 7"}),
        (pod, {f"{n:032x}": f"workload 'serve', pid {n}" for n in range(25)}),
        (damaged, ["no", "mapping"]),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / layout.AGENT_FILE).write_text(json.dumps({"unbound": unbound}))
    findings = examine_unbound(tmp_path, tmp_path / "pods")
    assert _levels(findings) == ["warn"] * 21
    assert (
        findings[0].found == "workload 'train', pid 7: no device is known, its spans have no money"
    )
    assert "devices=[...]" in findings[0].remedy
    assert findings[-1].found == "and 6 more"


def test_pods_that_share_rings_are_counted(tmp_path: Path) -> None:
    """Which pods take part, and what to do where none does or nobody can look."""
    assert examine_pods(None) == []
    (tmp_path / "plain").mkdir()
    (found,) = examine_pods(tmp_path)
    assert (found.level, found.found.split()[0]) == (Level.WARN, "0")
    (tmp_path / "pod" / VOLUME).mkdir(parents=True)
    assert _levels(examine_pods(tmp_path)) == ["ok"]
    (found,) = examine_pods(tmp_path / "missing")
    assert found.level is Level.FAIL
    assert "mount the kubelet's directory" in found.remedy


def test_a_directory_that_anybody_may_change_is_a_warning(tmp_path: Path) -> None:
    """Without the sticky bit one workload could replace another's ring."""
    tmp_path.chmod(0o777)
    finding = examine_ring_directory(tmp_path, 0)[0]
    assert finding.level is Level.WARN
    assert "3770" in finding.remedy
    tmp_path.chmod(0o700)


def test_a_ring_directory_that_is_none_fails(tmp_path: Path) -> None:
    """A file where the directory should be cannot be mended by the agent."""
    path = tmp_path / "rings"
    path.write_text("", encoding="utf-8")
    assert _levels(examine_ring_directory(path, 0)) == ["fail"]


@pytest.mark.parametrize(
    ("content", "level"),
    [
        (json.dumps({"heartbeat_monotonic_ns": NOW_NS - 10**9}), Level.OK),
        (json.dumps({"heartbeat_monotonic_ns": NOW_NS - 60 * 10**9}), Level.WARN),
        (json.dumps({"heartbeat_monotonic_ns": NOW_NS + 60 * 10**9}), Level.WARN),
        ("{}", Level.WARN),
        ("[" * 30_000, Level.WARN),
        ("not json", Level.WARN),
        (None, Level.WARN),
    ],
)
def test_the_heartbeat_says_whether_an_agent_runs(
    tmp_path: Path, content: str | None, level: Level
) -> None:
    """Fresh is running; old, from another boot, or unreadable is not."""
    if content is not None:
        (tmp_path / layout.AGENT_FILE).write_text(content, encoding="utf-8")
    assert examine_heartbeat(tmp_path, ManualClock(NOW_NS)).level is level


def test_the_doctor_tries_what_the_agent_would(tmp_path: Path) -> None:
    """Sockets and paths that the configuration names fail where they are not there, by name."""
    absent = {
        name: str(tmp_path / name)
        for name in ("kubelet_socket", "job_mapping_dir", "nccl_dirs", "kmsg", "sys_root")
    }
    config = _load(tmp_path, **absent, engine_urls="127.0.0.1:1", devices="auto")
    by_check = {each.check: each for each in examine(config, SystemClock(), uid=os.geteuid())}
    assert by_check["config"].found.startswith("read from --devices, --engine-urls, ")
    found = {
        check.removeprefix("collector "): finding.found
        for check, finding in by_check.items()
        if finding.level is Level.FAIL
    }
    assert set(found) >= {"devices", "engines", "kmsg", "kubernetes", "nccl", "network", "slurm"}
    for name, key in (
        *(("kubernetes", "kubelet_socket"), ("slurm", "job_mapping_dir"), ("nccl", "nccl_dirs")),
        *(("kmsg", "kmsg"), ("network", "sys_root"), ("devices", "sys_root")),
    ):
        assert absent[key] in found[name]


def test_the_doctor_runs_the_collectors_of_the_configuration(tmp_path: Path) -> None:
    """Those alone; one that is not here is no failure unless it was asked for by name."""
    config = _load(tmp_path, collectors="system,slurm")
    found = {each.check: each for each in examine(config, SystemClock(), uid=os.geteuid())}
    assert [check for check in found if check.startswith("collector ")] == [
        "collector slurm",
        "collector system",
    ]
    assert found["collector system"].found.endswith(" series")
    assert found["collector slurm"].level is Level.FAIL
    some = _load(tmp_path, collectors="default", otlp_http="127.0.0.1:0")
    found = {each.check: each for each in examine(some, SystemClock(), uid=os.geteuid())}
    assert found["collector slurm"].found.startswith("nothing to read here: no directory of job")
    assert found["collector slurm"].level is Level.OK
    assert "collector otlp" not in found


def test_locks_that_procfs_does_not_tell_of(tmp_path: Path) -> None:
    """As in another container: who holds them is unknown, and that is said."""
    loaded = _load(tmp_path, proc_root=str(tmp_path / "proc"))
    (finding,) = examine_ownership(loaded.config, [])
    assert finding.found == f"no agent has made a lock in {tmp_path / 'locks'}"
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "GPU-7.lock").touch()
    (finding,) = examine_ownership(loaded.config, [])
    assert "shows nobody who holds one of the 1 locks" in finding.found


def test_a_held_lock_names_its_process(tmp_path: Path) -> None:
    """Who meters a device already is seen without taking the lock."""
    loaded = _load(tmp_path, own="cpu:node-a,GPU-7")
    locks = tmp_path / "locks"
    locks.mkdir()
    with (locks / "cpu_node-a.lock").open("w", encoding="ascii") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        findings = examine_ownership(loaded.config, [{"device": "cpu:node-a"}])
    assert findings[0].level is Level.WARN
    assert "GPU-7" in findings[0].found
    if len(Path("/proc/locks").read_text(encoding="ascii")):
        assert f"process {os.getpid()} holds" in findings[1].found


def test_a_ledger_in_order_can_be_written(tmp_path: Path) -> None:
    """It is tried with the write lock, and nothing is left behind."""
    path = tmp_path / "ledger.db"
    assert "not there yet" in examine_ledger(str(path), str(path))[0].found
    assert not path.exists()
    migrate(path)
    (finding,) = examine_ledger(str(path), str(path))
    assert finding.level is Level.OK
    assert "can be written" in finding.found


def test_a_ledger_that_another_process_holds_fails(tmp_path: Path) -> None:
    """A write lock that is not given back is told from a damaged file."""
    path = tmp_path / "ledger.db"
    migrate(path)
    holder = sqlite3.connect(path, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        (finding,) = examine_ledger(str(path), str(path))
    finally:
        holder.close()
    assert finding.level is Level.FAIL
    assert "lock" in finding.found


def test_another_file_is_no_ledger(tmp_path: Path) -> None:
    """A path that is something else is refused and left as it is."""
    path = tmp_path / "ledger.db"
    path.write_bytes(b"something of value" * 100)
    (finding,) = examine_ledger(str(path), str(path))
    assert finding.level is Level.FAIL
    assert path.read_bytes() == b"something of value" * 100


def test_a_ledger_whose_database_has_no_driver_fails() -> None:
    """A URL of a kind that is not installed is named, without its password."""
    (finding,) = examine_ledger("nosuch://ann:secret@db/x", "nosuch://ann:***@db/x")
    assert finding.level is Level.FAIL
    assert "secret" not in finding.found


def _shared(url: str, clock: SystemClock | ManualClock | None = None) -> list[Finding]:
    return examine_shared_ledger(url, "the shared one", clock or SystemClock())


def test_a_shared_ledger_that_can_be_written(tmp_path: Path, shared_url: str) -> None:
    """A reachable PostgreSQL with our schema and our rights is fine, and its name has no secret."""
    (finding,) = _shared(shared_url)
    assert (finding.level, finding.found) == (Level.OK, "the shared one can be written")
    found = examine(_load(tmp_path, shared_ledger=shared_url), SystemClock(), uid=os.geteuid())
    (named,) = [each for each in found if each.check == "shared ledger"]
    assert named.found.startswith("postgresql://apportion:***@127.0.0.1:")


def test_a_shared_ledger_that_nobody_made(postgres: PostgresServer) -> None:
    """Without tables, or without a server, the finding names the command or the reason."""
    with postgres.database() as name:
        (finding,) = _shared(postgres.url(name))
    assert finding.level is Level.FAIL
    assert "run `apportion ledger migrate --ledger" in finding.found
    (finding,) = _shared("postgresql://apportion@127.0.0.1:1/x")
    assert finding.level is Level.FAIL
    assert "the shared one could not be read" in finding.found


def test_a_role_that_may_only_read(shared_url: str, postgres: PostgresServer) -> None:
    """Every missing right is named, before an agent trips over the first."""
    with psycopg.connect(shared_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE reader LOGIN PASSWORD 'x'")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        connection.execute("GRANT INSERT, UPDATE, DELETE ON charge TO reader")
        try:
            url = shared_url.replace(f"apportion:{postgres.password}", "reader:x")
            (finding,) = _shared(url)
        finally:
            connection.execute("DROP OWNED BY reader")
            connection.execute("DROP ROLE reader")
    assert finding.level is Level.FAIL
    assert "INSERT on span" in finding.found
    assert "DELETE on accrual" in finding.found
    assert "on charge" not in finding.found
    assert "SELECT" not in finding.found


def test_clocks_that_disagree(shared_url: str) -> None:
    """A host or a server without NTP is worth knowing before its hours are compared."""
    clock = ManualClock(realtime_ns=SystemClock().realtime_ns() - 60 * 10**9)
    (finding,) = _shared(shared_url, clock)
    assert finding.level is Level.WARN
    assert finding.found.startswith("the server's clock is +60.")


def _free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


def test_the_doctor_asks_the_door(tmp_path: Path) -> None:
    """It sends an empty export over both protocols; what else listens there is no door."""
    http, grpc = _free(), _free()
    config = _load(tmp_path, otlp_http=http, otlp_grpc=grpc).config
    assert [each.found for each in examine_doors(config, agent_runs=False)] == [
        f"{http} is free for an agent's door",
        f"{grpc} is free for an agent's door",
    ]
    missing = examine_doors(config, agent_runs=True)
    assert _levels(missing) == ["fail", "fail"]
    assert "an agent runs, and " in missing[0].found
    door = Otlp(CollectorOptions(ring_dir=tmp_path, otlp_http=http, otlp_grpc=grpc), SystemClock())
    door.start()
    try:
        deadline = time.monotonic() + 60
        listens = False
        while not listens:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            with suppress(CollectorError):
                listens = bool(door.collect().samples)
        assert [each.found for each in examine_doors(config, agent_runs=True)] == [
            f"{http} takes exports",
            f"{grpc} takes exports",
        ]
        swapped = _load(tmp_path, otlp_http=grpc).config
        (other,) = examine_doors(swapped, agent_runs=True)
        assert other.found.startswith(f"what listens on {grpc} is no door: ")
    finally:
        door.close()


def test_the_doctor_looks_for_ranks(tmp_path: Path) -> None:
    """A server that was started without the flag, and one whose directory is not shared."""
    name = f"ipc://{tmp_path}/run/fpm"
    config = _load(tmp_path, sglang_forward_passes=f"chat={name}").config
    (finding,) = examine_doors(config, agent_runs=True)
    assert (finding.level, finding.check) == (Level.FAIL, "sglang chat forward passes")
    (tmp_path / "run").mkdir()
    (finding,) = examine_doors(config, agent_runs=True)
    assert (finding.level, finding.found) == (
        Level.WARN,
        f"there is no socket {tmp_path}/run/fpm.0",
    )
    assert f"--forward-pass-metrics-ipc-name {name}" in (finding.remedy or "")
    with socket.socket(socket.AF_UNIX) as rank:
        rank.bind(f"{tmp_path}/run/fpm.0")
        (finding,) = examine_doors(config, agent_runs=True)
    assert (finding.level, finding.found) == (Level.OK, f"1 ranks at {tmp_path}/run/fpm.*")


def test_the_doctor_looks_for_logs(tmp_path: Path) -> None:
    """A directory that is not there is a failure, one without logs may be a server without work."""
    config = _load(tmp_path, sglang_logs=f"chat={tmp_path / 'logs'}").config
    (finding,) = examine_doors(config, agent_runs=True)
    assert (finding.level, finding.check) == (Level.FAIL, "sglang chat")
    (tmp_path / "logs").mkdir()
    (finding,) = examine_doors(config, agent_runs=True)
    assert finding.level is Level.WARN
    (tmp_path / "logs" / "sglang-request-metrics-20261126_10.log").touch()
    (finding,) = examine_doors(config, agent_runs=True)
    assert finding.level is Level.OK
