"""A node on which every source of facts is there, and a word in all of them that nobody may tell.

Procfs, sysfs, kernel log, NCCL's files, Slurm's files and engines' texts are copies of the
collectors' fixtures; kubelet, API server and one engine are real servers; the GPUs are SIMULATED.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.collectors.api_server import ApiServer, Pod, account, api_server
from tests.collectors.kubelet import devices, field, kubelet, pod
from tests.collectors.metrics_server import MetricsServer
from tests.faults.node import Agent, Node, Workload

from apportion.simulator import ProcessLoad, Simulator

FIXTURES: Final = Path(__file__).parents[1] / "collectors" / "fixtures"
CANARY: Final = "tell-nobody-7f3a"
"""In command lines, environments, prompts, passwords and comments: never on a door or in a log."""
STRANGER: Final = 42
"""A process on the second GPU that is no client: its pod is known by its control group."""
POD_UID: Final = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
REQUESTS: Final = 12


@dataclass(frozen=True, slots=True)
class Whole:
    """The node and its two agents: one reads SIMULATED GPUs by NVML, one a recorded exporter."""

    node: Node
    by_nvml: Agent
    by_dcgm: Agent
    engine: MetricsServer
    api: ApiServer
    workload: Workload


@contextmanager
def whole_node(root: Path, library: Path) -> Generator[Whole]:
    """Everything is started and has something to tell."""
    with ExitStack() as stack:
        simulator = stack.enter_context(
            Simulator(root / "simulator.state", devices=2, pcie_query_ns=0)
        )
        simulator.set_processes(1, [ProcessLoad(STRANGER, 1 << 30, 0.5)])
        simulator.set_utilization(1, 0.5)
        simulator.set_utilization(0, 0.0)
        stack.enter_context(simulator.running())
        node = Node(root, simulator, library)
        stack.callback(node.close)
        engine = stack.enter_context(MetricsServer().running())
        engine.text = leaking(FIXTURES / "engines/vllm.prom")
        socket = stack.enter_context(kubelet(given(simulator.uuids)))
        labels = {"team": "nlp", "prompt": CANARY}
        pods = [Pod("ml", name, labels, "fault-node", CANARY) for name in ("train-0", "notebook")]
        api = stack.enter_context(api_server(*pods))
        plant(root)
        secret = {"OPENAI_API_KEY": CANARY}
        by_nvml = node.agent(
            "nvml",
            variables=secret,
            log_level="debug",
            lateness="2s",  # who holds the GPUs is known before their time is settled
            proc_root=str(root / "proc"),
            sys_root=str(root / "sys"),
            kmsg=str(root / "kmsg"),
            job_mapping_dir=str(root / "jobs"),
            nccl_dirs=[str(root / "nccl/logs"), str(root / "nccl/rings")],
            kubelet_socket=str(socket),
            pod_labels=["team"],
            kubernetes_url=api.url,
            service_account_dir=str(account(root / "account")),
            engine_urls=[
                f"http://reader:{CANARY}@127.0.0.1:{engine.port}/metrics?key={CANARY}",
                str(root / "sglang.prom"),
            ],
        )
        by_dcgm = node.agent(
            "dcgm",
            variables=secret,
            log_level="debug",
            devices="dcgm",
            collectors=[],
            dcgm_interval="10m",  # a recorded text never changes: for so long that is no failure
            ring_dir=str(root / "no-rings"),
            dcgm_urls=[str(root / "whole.prom"), str(root / "mig.prom")],
        )
        by_nvml.eventually(lambda: by_nvml.door.value("apportion_device_up") == 2, "GPUs are read")
        workload = node.workload(
            "bursts",
            "serve",
            simulator.uuids[0],
            4096,
            APPORTION_RUN="run-1",
            OPENAI_API_KEY=CANARY,
        )
        workload.say(REQUESTS)
        yield Whole(node, by_nvml, by_dcgm, engine, api, workload)


def given(uuids: tuple[str, ...]) -> bytes:
    """The kubelet's answer: the first GPU in three replicas, two of them one pod's."""
    shared = devices("nvidia.com/gpu", f"{uuids[0]}::0", f"{uuids[0]}::1")
    # A field that no version has yet.
    unknown = field(14, CANARY)
    return pod("ml", "train-0", "main", shared, unknown) + pod(
        "ml", "notebook", "lab", devices("nvidia.com/gpu", f"{uuids[0]}::2")
    )


def plant(root: Path) -> None:
    """The host's files below `root`."""
    for tree in ("bare_host", "network_host"):
        shutil.copytree(FIXTURES / tree, root, dirs_exist_ok=True)
    shutil.copytree(FIXTURES / "nccl", root / "nccl")
    boot = "sys/kernel/random/boot_id"
    (root / "proc" / boot).parent.mkdir(parents=True)
    shutil.copy(Path("/proc") / boot, root / "proc" / boot)  # rings of another boot are not read
    for pid in (STRANGER, 77):
        process = root / "proc" / str(pid)
        process.joinpath("cmdline").write_text(f"python\0serve.py\0--api-key={CANARY}\0")
        process.joinpath("environ").write_text(f"HF_TOKEN={CANARY}\0PATH=/bin\0")
        process.joinpath("comm").write_text(f"{CANARY}\n")
        stat = process.joinpath("stat").read_text()
        process.joinpath("stat").write_text(stat.replace("trainer", CANARY))
    group = f"0::/kubepods/burstable/pod{POD_UID}/{CANARY}\n"
    (root / "proc" / str(STRANGER) / "cgroup").write_text(group)
    records = (FIXTURES / "kmsg/records.log").read_text()
    (root / "kmsg").write_text(records.replace("secret-job", CANARY))
    (root / "jobs").mkdir()
    (root / "jobs/1").write_text(f"4711\n4712_3\n# sbatch --export=TOKEN={CANARY} {CANARY}\n")
    (root / f"jobs/{CANARY}").write_text("4711\n")
    dump = root / "nccl/rings/rank0.nccl"
    head, _, body = dump.read_text().partition("\n")
    document = json.loads(body)
    document["entries"][0]["frames"] = [{"name": CANARY, "filename": CANARY, "line": 1}]
    dump.write_text(f"{head}\n{json.dumps(document)}")
    with (root / "nccl/logs/node-7-pid7.log").open("a") as log:
        log.write(f"NCCL INFO NCCL_CONF_FILE set to {CANARY}\n")
    for name in ("engines/sglang.prom", "dcgm/whole.prom", "dcgm/mig.prom"):
        (root / Path(name).name).write_text(leaking(FIXTURES / name))


def leaking(text: Path) -> str:
    """A text of metrics with a prompt where a careless program might put it."""
    first, *rest = text.read_text().splitlines()
    kept = [first, f"# HELP last_prompt {CANARY}", f'last_prompt{{text="{CANARY}"}} 1']
    for line in rest:
        labelled = "{" in line and not line.startswith("#")
        kept.append(line.replace("{", f'{{prompt="{CANARY}",', 1) if labelled else line)
    return os.linesep.join([*kept, ""])
