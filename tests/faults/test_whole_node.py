"""The daemon with every source at once: what /metrics shows, recorded, and what it never shows.

The golden files are written anew where APPORTION_WRITE_GOLDEN is set; look at the difference.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from difflib import unified_diff
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

import pytest
from dashboards.boards import BOARDS
from tests.faults.node import PATIENCE_S, Agent, eventually
from tests.faults.whole import CANARY, REQUESTS, Whole, whole_node
from tests.monitoring import Prometheus
from tests.queries import filled

HERE: Final = Path(__file__).parent
WRITE: Final = "APPORTION_WRITE_GOLDEN"
VOLATILE: Final = re.compile(
    r"""apportion_(
        agent_.*
        | (batch_size | goodput_ratio | idle_ratio)
        | build_info
        | collector_(duration|last_success_timestamp)_seconds
        | (phase_)?(cost_usd|device_seconds|energy_joules)_total
        | device_(energy_joules_total|(memory_)?temperature_celsius|unpriced_seconds_total)
        | device_kernel_xid_last_timestamp_seconds
        | device_(pcie|nvlink)_bytes(_per_second|_total)
        | ledger_.*
        | nvml_sweep_.*
        | request_(queue_)?seconds_(bucket|sum)
        | scrape_duration_seconds
        | series_ended_total
        | settle(d|ment)_.*
        | snapshot_timestamp_seconds
        | unbound_spans_total
    )""",
    re.VERBOSE,
)
"""Series whose values are those of a moment or a machine. Only their values are dropped."""
MOMENTARY: Final = re.compile(r".* apportion_nccl_(algorithm|bus)_bandwidth_bytes_per_second .*")
"""Families that are there only while something new is read. They are dropped whole."""
MOMENT: Final = re.compile(r'.*\{category="allocated_idle",.*run="run-1",.*')
"""Rows of the instant between a request's start and its admission, which may be none."""
HERE_IS: Final = (
    "an engine in `engine_urls`",
    "`engine_urls` or `dcgm_urls`",
    "an InfiniBand or RoCE port",
    "a network interface beside the loopback",
    "a distributed job (Flight Recorder or Inspector)",
    "the `kubernetes` or `slurm` collector",
    "the `kubernetes` collector",
    "a device that counts PCIe traffic",
)
"""What panels need and this node has."""
NOT_RECORDED: Final = {
    "Inference / Whole request": "the engine's recorded text has no request that ended",
    "Training / Waiting for slower ranks": "the recorded files stand still: no time passes in them",
    "Network and NCCL / Waiting": "the same",
    "Network and NCCL / Bus bandwidth": "shown only while something new is read",
    "Network and NCCL / Algorithm bandwidth": "the same",
}
_LINE: Final = re.compile(r"(?P<name>\w+)(?P<labels>\{.*\})? (?P<value>\S+)")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Whole]:
    """One node for all tests here; nothing in them changes it."""
    with whole_node(tmp_path_factory.mktemp("whole"), library) as node:
        yield node


@pytest.fixture(scope="module")
def watcher(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes both agents as a cluster's does: it knows the pod that each of them is in."""
    targets = {"apportion": [each.door.address for each in (whole.by_nvml, whole.by_dcgm)]}
    labels = {"namespace": "apportion", "pod": "apportion-7xkq2"}
    watcher = Prometheus(
        tmp_path_factory.mktemp("watcher") / "prometheus", targets, {}, labels=labels
    )
    yield watcher
    watcher.stop()


def steady(text: str, whole: Whole) -> list[str]:
    """The lines of /metrics without what changes, and without help, which docs/metrics.md has.

    Samples of a family are in the order of their labels, not of their first appearance.
    """
    families: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            families.append([])
        if line.startswith("# HELP") or MOMENT.fullmatch(line):
            continue
        found = _LINE.fullmatch(line)
        if found is not None and VOLATILE.fullmatch(found["name"]):
            labels = re.sub(r'version="[^"]*"', 'version="VERSION"', found["labels"] or "")
            line = f"{found['name']}{labels}"  # noqa: PLW2901 - the same line, less its value
        line = line.replace(str(whole.node.root), "ROOT")  # noqa: PLW2901
        families[-1].append(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", line))
    return [
        line for family in families if not MOMENTARY.fullmatch(family[0]) for line in sorted(family)
    ]


def compare(agent: Agent, golden: Path, whole: Whole) -> None:
    """The agent soon shows what the file says, and nothing else."""
    seen: list[str] = []
    wanted = golden.read_text().splitlines()

    def same() -> bool:
        seen[:] = steady(agent.door.text(), whole)
        return bool(seen) and seen == wanted

    try:
        patience_s = 15 if os.environ.get(WRITE) else PATIENCE_S
        agent.eventually(same, f"/metrics is as in {golden.name}", patience_s=patience_s)
    except AssertionError:
        if os.environ.get(WRITE):
            golden.write_text("\n".join([*seen, ""]))
        difference = "\n".join(unified_diff(wanted, seen, golden.name, "/metrics", lineterm=""))
        pytest.fail(difference, pytrace=False)


def test_nvml_and_all_beside_it(whole: Whole) -> None:
    """Every family and label of a full node, and every value that does not change."""
    compare(whole.by_nvml, HERE / "golden_nvml.prom", whole)


def test_an_exporter_in_place_of_nvml(whole: Whole) -> None:
    """Whole GPUs and MIG instances, by way of recorded texts."""
    compare(whole.by_dcgm, HERE / "golden_dcgm.prom", whole)


@pytest.mark.needs_program("prometheus", "setpriv")
def test_pictures_that_need_more_have_it_here(watcher: Prometheus) -> None:
    """Those that `test_dashboard_queries` leaves out: engines, ports, collectives, shared GPUs."""
    missing = [
        (f"{board.title} / {panel.title}", filled(query.expr))
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
        if panel.needs in HERE_IS and f"{board.title} / {panel.title}" not in NOT_RECORDED
    ]
    assert len(missing) > 20

    def all_there() -> bool:
        missing[:] = [each for each in missing if not watcher.query(each[1])]
        return not missing

    try:
        eventually(all_there, "each query has data", every_s=1)
    except AssertionError:
        pytest.fail("\n".join(f"{where}: {query}" for where, query in missing))


@pytest.mark.needs_program("prometheus", "setpriv")
def test_pods_are_those_of_the_cost(watcher: Prometheus) -> None:
    """With `honor_labels` a pod's cost is its own, and nobody's is not the agent's pod's."""
    for pod in ("train-0", "notebook"):
        wanted = f'{{namespace="ml",pod="{pod}",workload="pod:ml/{pod}"}}'
        for name in ("cost_usd_total", "energy_joules_total", "device_seconds_total"):
            query = f"apportion_{name}{wanted}"
            eventually(partial(watcher.query, query), f"{query} is there")
    assert watcher.query('apportion_device_seconds_total{pod=""}')
    assert watcher.query('apportion_device_seconds_total{pod="apportion-7xkq2"}') == []
    assert watcher.query('apportion_agent_degraded{pod="apportion-7xkq2"}')


@pytest.mark.needs_program("promtool")
def test_promtool_is_silent(whole: Whole) -> None:
    """Prometheus' own tool has nothing to say of either."""
    for agent in (whole.by_nvml, whole.by_dcgm):
        text = agent.until_ready().door.text()
        command = ["promtool", "check", "metrics"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_of_a_person_is_told(whole: Whole) -> None:
    """No command line, environment, prompt or password: on no door, in no log, ledger or ring.

    The canary is in all of them; the agents write all that they have to say at level debug. Ids of
    requests are in rings and ledgers, and nowhere else.
    """
    for agent in (whole.by_nvml, whole.by_dcgm):
        agent.until_ready()
    book = whole.by_nvml.book
    whole.by_nvml.eventually(lambda: book.count("span") >= REQUESTS, "the requests are read")
    told = {
        f"{name} of {agent.book.path.parent.name}": text
        for agent in (whole.by_nvml, whole.by_dcgm)
        for name, text in (
            ("/metrics", agent.door.text()),
            ("/readyz", agent.door.says()),
            ("log", agent.log),
        )
    }
    assert all(told.values())
    assert [name for name, text in told.items() if CANARY in text] == []
    assert [name for name, text in told.items() if "burst-" in text] == []
    written = [*whole.node.root.glob("state-*/ledger.db*"), *whole.node.rings.iterdir()]
    assert {path.suffix for path in written} >= {".db", ".ring", ".json"}
    assert [path.name for path in written if CANARY.encode() in path.read_bytes()] == []


def test_the_canary_is_where_it_was_put(whole: Whole) -> None:
    """Else the test above would prove nothing."""
    root = whole.node.root
    places = chain((root / "proc").rglob("*"), root.glob("*.prom"), (root / "jobs").iterdir())
    planted = {path.name for path in places if path.is_file() and CANARY in path.read_text()}
    assert planted >= {"cmdline", "environ", "comm", "cgroup", "stat", "1", "sglang.prom"}
    assert planted >= {"whole.prom", "mig.prom"}
    assert CANARY in (root / "kmsg").read_text()
    environment = Path(f"/proc/{whole.workload.pid}/environ").read_bytes()
    assert CANARY.encode() in environment
    assert CANARY in whole.engine.text
