"""What did the crash cost? Two nodes of four SIMULATED GPUs, a job of eight ranks, and a lost GPU.

    python examples/crash.py

In the middle of a step the GPU of one rank is lost and its process dies; the seven others wait
for it in their all-reduce until the launcher kills them; the job starts again from its last
checkpoint and ends. Each node has an agent and a ledger of its own. The report is over both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from apportion.core.clock import SystemClock
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.training.run_data import run_json
from apportion.cost.training.run_report import run_report
from apportion.cost.training.run_text import run_text
from apportion.simulator import Simulator, build, environment
from demo import free_port
from devices import clean_environment
from processes import Child, ChildFailedError, Processes
from telemetry import Telemetry

EXAMPLES: Final = Path(__file__).resolve().parent
APPORTION: Final = str(Path(sys.executable).with_name("apportion"))
RUN: Final = "pretrain-8"
NODES: Final = ("node-a", "node-b")
GPUS: Final = 4
STEPS: Final = 20
CRASH_AT: Final = 13
CRASHED_RANK: Final = 5
SAVED: Final = 10
"""The last checkpoint before the crash."""
WATCHDOG_SECONDS: Final = 6.0
"""How long the launcher lets the others hang, as NCCL's watchdog does for minutes."""
PATIENCE_SECONDS: Final = 90.0
BUSY, QUIET = 0.9, 0.0
PRICES: Final = """\
- device: NVIDIA H100 80GB HBM3
  per_hour: "2.40"
  currency: USD
  covers: gpu
  basis: list-estimate
  source: the example
  as_of: 2026-11-01
"""


class Node:
    """One host: four simulated GPUs, an agent, its ledger and its ring directory."""

    def __init__(self, name: str, directory: Path, processes: Processes, seed: int) -> None:
        self.name, self._directory = name, directory
        (directory / "rings").mkdir(parents=True)
        (directory / "prices.yaml").write_text(PRICES)
        state = directory / "gpus"
        self.simulator = Simulator(state, devices=GPUS, seed=seed)
        port = free_port()
        self.telemetry = Telemetry(f"http://127.0.0.1:{port}")
        config = directory / "apportion.yaml"
        config.write_text(self._config(port))
        variables = {**clean_environment(), **environment(state, build())}
        command = [APPORTION, "agent", "--config", str(config)]
        self.agent = processes.start(name, command, variables)

    @property
    def ledger(self) -> Path:
        """Where its agent writes."""
        return self._directory / "state" / "ledger.db"

    @property
    def rings(self) -> Path:
        """Where its ranks' rings are."""
        return self._directory / "rings"

    def _config(self, port: int) -> str:
        keys = {
            "listen": f"127.0.0.1:{port}",
            "devices": "simulator",
            "state_dir": self._directory / "state",
            "ring_dir": self.rings,
            "lock_dir": self._directory / "locks",
            "prices": self._directory / "prices.yaml",
            "node": self.name,
            "sample_period": "500ms",
            "tick_period": "1s",
            "lateness": "1s",
        }
        return "".join(f"{key}: {json.dumps(str(value))}\n" for key, value in keys.items())


class AllReduce:
    """Ends a step for all ranks when all have come; when one has died, never."""

    def __init__(self, path: Path, ranks: int) -> None:
        self.path = str(path)
        self._ranks = ranks
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(ranks)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No rank is left."""
        self._over.set()
        self._thread.join(PATIENCE_SECONDS)

    def _serve(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._listener)
            ranks = [stack.enter_context(self._listener.accept()[0]) for _ in range(self._ranks)]
            while all(rank.recv(1) for rank in ranks):
                for rank in ranks:
                    rank.sendall(b".")
            self._over.wait()  # one has died, or all have ended: nobody hears of it here


class Job:
    """The launcher: it starts eight ranks, watches them, kills them and starts them again."""

    def __init__(self, nodes: Sequence[Node], directory: Path, processes: Processes) -> None:
        self._nodes, self._directory, self._processes = nodes, directory, processes
        self._ranks: list[Child] = []
        self._all_reduce: AllReduce | None = None

    def start(self, attempt: int, resumed: int, crashed_rank: int | None = None) -> None:
        """All ranks of an attempt, four on each node; the GPU of one may be lost in its time."""
        path = self._directory / f"all-reduce-{attempt}"
        size = len(self._nodes) * GPUS
        self._all_reduce = AllReduce(path, size)
        self._ranks = []
        for rank in range(size):
            node, gpu = self._nodes[rank // GPUS], rank % GPUS
            variables = {
                **clean_environment(),
                "APPORTION_RING_DIR": str(node.rings),
                "APPORTION_WORKLOAD": "gpt",
                "TORCHELASTIC_RUN_ID": RUN,
                "TORCHELASTIC_RESTART_COUNT": str(attempt),
                "RANK": str(rank),
                "LOCAL_RANK": str(gpu),
                "WORLD_SIZE": str(size),
                "CUDA_VISIBLE_DEVICES": node.simulator.uuids[gpu],
            }
            log = str(self._directory / f"rank-{attempt}-{rank}.log")
            crash_at = CRASH_AT if rank == crashed_rank else 0
            arguments = (log, path, resumed, STEPS, crash_at)
            command = [sys.executable, str(EXAMPLES / "crash_rank.py"), *map(str, arguments)]
            self._ranks.append(self._processes.start(f"rank-{attempt}-{rank}", command, variables))
            node.simulator.set_utilization(gpu, BUSY)

    def watch(self, rank: int) -> None:
        """Until that rank's GPU is lost: its process dies of it, and it is not busy any more."""
        child = self._ranks[rank]
        _until(partial(_is_over, child), f"{child.name} dies")
        self._nodes[rank // GPUS].simulator.set_utilization(rank % GPUS, QUIET)

    def kill(self) -> None:
        """What is left of the attempt."""
        for rank, child in enumerate(self._ranks):
            child.kill_group()
            self._nodes[rank // GPUS].simulator.set_utilization(rank % GPUS, QUIET)
        for child in self._ranks:
            _until(partial(_is_over, child), f"{child.name} ends")
        if self._all_reduce is not None:
            self._all_reduce.close()

    def wait(self) -> None:
        """Until every rank has ended well."""
        for rank, child in enumerate(self._ranks):
            _until(partial(_is_over, child), f"{child.name} ends")
            child.require_success()
            self._nodes[rank // GPUS].simulator.set_utilization(rank % GPUS, QUIET)


def crash(directory: Path) -> tuple[Path, ...]:
    """Run it all; the ledgers.

    Raises:
        ChildFailedError: a process ended when it should not have, or not as it should have.
        TimeoutError: something did not happen.
    """
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(contextlib.closing(Processes(directory)))
        nodes = [
            Node(name, directory / name, processes, seed) for seed, name in enumerate(NODES, 1)
        ]
        for node in nodes:
            stack.enter_context(node.simulator)
            stack.enter_context(node.simulator.running())
            _until(node.telemetry.ready, f"the agent of {node.name} is ready")
        job = Job(nodes, directory, processes)
        _say(f"SIMULATED: {len(NODES)} nodes of {GPUS} H100s; eight ranks train")
        job.start(0, 0, CRASHED_RANK)
        job.watch(CRASHED_RANK)
        _say(f"in step {CRASH_AT} the GPU of rank {CRASHED_RANK} was lost; the others hang")
        time.sleep(WATCHDOG_SECONDS)
        killing_ns = time.monotonic_ns()
        job.kill()
        (directory / "killed").write_text(f"{killing_ns} {time.monotonic_ns()}\n")
        _say(f"they are killed; the job starts again from the checkpoint of step {SAVED}")
        job.start(1, SAVED)
        job.wait()
        _say(f"step {STEPS} is done; waiting until all of it is settled")
        ended_s = SystemClock().realtime_ns() / 1e9
        for node in nodes:
            _until(partial(_is_settled, node, ended_s + 1), f"{node.name} is settled")
        return tuple(node.ledger for node in nodes)


def _is_over(child: Child) -> bool:
    return not child.running()


def _is_settled(node: Node, until_s: float) -> bool:
    settled_s = node.telemetry.settled_until()
    return settled_s is not None and settled_s > until_s


def report(ledgers: Sequence[Path], form: str) -> str:
    """What `apportion report --run` says over both ledgers, for people or as JSON."""
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(LedgerReader.of(path)) for path in ledgers]
        found = run_report(readers, run=RUN)
    return run_json(found) if form == "json" else run_text(found)


def _until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it is not so after {PATIENCE_SECONDS:.0f} seconds that {what}")
        time.sleep(0.05)


def _say(text: str) -> None:
    print(f"# {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _directory(given: Path | None) -> Generator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
    else:
        with tempfile.TemporaryDirectory(prefix="apportion-crash-") as temporary:
            yield Path(temporary)


def main() -> int:
    """Run the example; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directory", type=Path, help="what to keep (default: nothing)")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    with _directory(options.directory) as directory:
        try:
            print(report(crash(directory), options.format), end="")
        except (ChildFailedError, TimeoutError) as error:
            print(f"crash: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
