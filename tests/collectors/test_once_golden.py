"""`apportion once --collector NAME --format json`: every collector, on every fixture of its kind.

The golden files are written anew where APPORTION_WRITE_GOLDEN is set; look at the difference.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from tests.collectors.kubelet import devices, kubelet, pod

from apportion.agent.cli import main
from apportion.collectors.registry import built_in
from apportion.core.clock import ManualClock
from apportion.simulator import Simulator, environment

FIXTURES: Final = Path(__file__).parent / "fixtures"
GOLDEN: Final = FIXTURES / "once"
WRITE: Final = "APPORTION_WRITE_GOLDEN"
VOLATILE: Final = frozenset({"duration_ns", "time_ns"})
"""Keys whose values are another time's."""
VOLATILE_SAMPLES: Final = (
    "duration_seconds",
    "sweep_seconds",
    "lateness_seconds",
    "last_timestamp_seconds",
)
"""How the names of such samples end."""
GPU: Final = "GPU-aaaaaaaa-0000-0000-0000-000000000001"


def host(*trees: str) -> Callable[[Path], list[str]]:
    """The arguments for one procfs and sysfs, of several fixture trees laid over each other."""

    def arguments(root: Path) -> list[str]:
        for tree in trees:
            shutil.copytree(FIXTURES / tree, root, dirs_exist_ok=True)
        return ["--proc-root", str(root / "proc"), "--sys-root", str(root / "sys")]

    return arguments


def text(flag: str, name: str) -> Callable[[Path], list[str]]:
    """The argument for a recorded text or a directory of the fixtures."""
    return lambda _root: [flag, str(FIXTURES / name)]


def recordings(root: Path) -> list[str]:
    """Dumps beside rings, and the Inspector's logs."""
    shutil.copytree(FIXTURES / "nccl", root / "nccl")
    return ["--ring-dir", str(root / "nccl/rings"), "--nccl-dirs", str(root / "nccl/logs")]


CASES: Final[dict[str, tuple[str, Callable[[Path], list[str]]]]] = {
    "dcgm-whole": ("dcgm", text("--dcgm-url", "dcgm/whole.prom")),
    "dcgm-renamed": ("dcgm", text("--dcgm-url", "dcgm/renamed.prom")),
    "dcgm-mig": ("dcgm", text("--dcgm-url", "dcgm/mig.prom")),
    "engines-vllm": ("engines", text("--engine-url", "engines/vllm.prom")),
    "engines-sglang": ("engines", text("--engine-url", "engines/sglang.prom")),
    "host-bare": ("host", host("bare_host")),
    "host-container-v2": ("host", host("bare_host", "container_v2")),
    "host-container-v1": ("host", host("bare_host", "container_v1")),
    "kmsg": ("kmsg", text("--kmsg", "kmsg/records.log")),
    "nccl": ("nccl", recordings),
    "network": ("network", host("network_host")),
    "slurm": ("slurm", text("--job-mapping-dir", "slurm/jobs")),
    "system-bare": ("system", host("bare_host")),
    "system-container-v2": ("system", host("bare_host", "container_v2")),
    "system-container-v1": ("system", host("bare_host", "container_v1")),
}
"""By golden file: the collector, and the arguments that lead it to its fixture."""


def told(arguments: list[str], capsys: pytest.CaptureFixture[str], root: Path) -> str:
    """What the command prints, without what changes, as the golden files are written."""
    status = main(["once", *arguments, "--period", "0.1", "--format", "json"])
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, ""), printed.out
    steady = _steady(json.loads(printed.out))
    written = json.dumps(steady, indent=1).replace(str(root), "ROOT")
    written = written.replace(str(FIXTURES), "FIXTURES")
    return f"{written}\n".replace(f'"cpu:{os.uname().nodename}"', '"cpu:HOST"')


def _steady(told: dict[str, Any]) -> dict[str, Any]:
    def kept(record: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in record.items() if key not in VOLATILE}

    samples: list[Any] = [
        sample for sample in told["samples"] if not sample["name"].endswith(VOLATILE_SAMPLES)
    ]
    readings = [kept(reading) for reading in told["readings"]]
    return {**kept(told), "readings": readings, "samples": samples}


def compare(name: str, found: str) -> None:
    """The golden file says the same."""
    path = GOLDEN / f"{name}.json"
    if os.environ.get(WRITE):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_on_a_fixture(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole output, by paths alone: nothing of this machine is read."""
    collector, arguments = CASES[name]
    found = told(["--collector", collector, *arguments(tmp_path)], capsys, tmp_path)
    compare(name, found)


def test_kubernetes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kubelet is a socket with a real server behind it; the API server a recorded list."""
    answer = pod("ml", "train-0", "main", devices("nvidia.com/gpu", f"{GPU}::0", f"{GPU}::1"))
    answer += pod("ml", "notebook", "lab", devices("nvidia.com/gpu", f"{GPU}::2"))
    with kubelet(answer) as path:
        arguments = ["--collector", "kubernetes", "--kubelet-socket", str(path)]
        arguments += ["--pod-labels", "team,tier", "--kubernetes-url"]
        arguments.append(str(FIXTURES / "kubernetes" / "pods.json"))
        compare("kubernetes", told(arguments, capsys, tmp_path))


def test_nvml(
    tmp_path: Path,
    library: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two SIMULATED GPUs, one of them cut by MIG, at one moment."""
    with Simulator(tmp_path / "state", devices=2, clock=ManualClock(10**12)) as simulator:
        simulator.set_mig(1, ["3g.40gb"])
        for variable, value in environment(simulator.state, library).items():
            monkeypatch.setenv(variable, value)
        compare("nvml", told(["--collector", "nvml"], capsys, tmp_path))


def test_every_collector_has_a_golden_file() -> None:
    """A new one is noticed here. A door has none: it reads nothing, it waits for what comes."""
    collectors = {collector for collector, _ in CASES.values()}
    collectors |= {"kubernetes", "nvml", "otlp", "sglang"}
    assert collectors == {each.name for each in built_in().registrations()}
    assert {path.stem for path in GOLDEN.iterdir()} == {*CASES, "kubernetes", "nvml"}


def directory_of(root: Path, file: Path) -> Path:
    """A directory with this dump or log alone, as NCCL would have left it."""
    folder = root / file.stem
    folder.mkdir()
    shutil.copy(file, folder / (f"{file.stem}.log" if file.suffix == ".jsonl" else file.name))
    return folder


def test_on_every_published_input(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What real nodes said is read to the end. What it becomes is each collector's own tests'."""
    cases = [("dcgm", "--dcgm-url", path) for path in sorted(published.glob("dcgm/*.prom"))]
    cases += [("engines", "--engine-url", path) for path in sorted(published.glob("engines/*.txt"))]
    cases += [
        ("kmsg", "--kmsg", path)
        for path in sorted(published.glob("kmsg/*.log"))
        if path.name.startswith("kmsg")
    ]
    cases.append(("network", "--sys-root", published / "infiniband/node_exporter/sys"))
    cases += [
        ("nccl", "--nccl-dirs", directory_of(tmp_path, path))
        for path in sorted(published.glob("nccl/*.json*"))
    ]
    assert {collector for collector, _, _ in cases} == {
        "dcgm",
        "engines",
        "kmsg",
        "nccl",
        "network",
    }
    for collector, flag, path in cases:
        arguments = ["--collector", collector, flag, str(path), "--period", "0.001"]
        status = main(["once", *arguments, "--format", "json"])
        printed = json.loads(capsys.readouterr().out)
        assert (status, printed["success"], printed["error"]) == (0, True, None), path
