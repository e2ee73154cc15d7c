"""A real vLLM and a real agent on this machine, each in a process group of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from apportion.core.device_facts import DeviceFacts

if TYPE_CHECKING:
    from typing_extensions import Self

SITE: Final = "site"
"""Of the test's own modules that vLLM's processes import."""
START_SECONDS: Final = 900.0
STOP_SECONDS: Final = 60.0
HOST_CPU: Final = DeviceFacts("Host CPU", 13e9, 2e9)
"""With it the tiny model takes as long by its roofline as vLLM takes for it on two cores. No list
has a host's processor, and without facts requests share by time."""
_AGENT: Final = f"""
import sys
from apportion.core import device_facts
from apportion.agent.cli import main
host_cpu = device_facts.DeviceFacts{astuple(HOST_CPU)}
device_facts._KNOWN[host_cpu.name] = host_cpu
sys.exit(main(sys.argv[1:]))
"""
_PRICES: Final = """prices:
  - device: Host CPU
    per_hour: "1.20"
    currency: USD
    covers: gpu+host
    basis: list-estimate
    source: made up for this run
    as_of: 2026-11-01
"""
_CONFIG: Final = """listen: 127.0.0.1:0
devices: cpu
collectors: []
prices: {folder}/prices.yaml
state_dir: {folder}/state
ring_dir: {folder}/rings
lock_dir: {folder}/locks
tick_period: 1s
node: vllm-run
models:
  tiny: {folder}/model/config.json
"""
_OTLP_CONFIG: Final = "otlp_http: 127.0.0.1:{port}\n"
_HERE: Final = Path(__file__).parent
_ENTRY_POINT: Final = "[{group}]\n{module} = {module}:{function}\n"


class ProgramError(Exception):
    """A program ended, or did not come up."""


class Program:
    """One program and its log; `with` ends it, and its group where it does not end by itself."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self._name, self.log = name, folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the program's first process."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for a condition while the program runs.

        Raises:
            ProgramError: it ended, or the condition did not come.
        """
        deadline = time.monotonic() + START_SECONDS
        while not holds():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
                why = "ended" if ended else f"took more than {START_SECONDS:.0f} s"
                raise ProgramError(f"{self._name} {why} before {what}:\n{tail}")
            time.sleep(0.2)

    def stop(self) -> None:
        """SIGTERM, and patience."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


def agent(folder: Path, otlp_port: int | None) -> Program:
    """An agent that meters the host's CPU, and takes traces where it is given a port for them."""
    (folder / "rings").mkdir()
    (folder / "prices.yaml").write_text(_PRICES)
    otlp = "" if otlp_port is None else _OTLP_CONFIG.format(port=otlp_port)
    (folder / "agent.yaml").write_text(_CONFIG.format(folder=folder) + otlp)
    command = (sys.executable, "-c", _AGENT, "agent", "--config", str(folder / "agent.yaml"))
    started = Program("agent", command, os.environ, folder)
    started.until(lambda: "listening on" in started.log.read_text(), "it listened")
    return started


def importable(module: str, folder: Path, group: str = "", function: str = "") -> None:
    """Let vLLM's processes import a module of the test, whose other modules they do not see.

    In an entry point's `group` vLLM finds `function` of it by itself.
    """
    site = folder / SITE
    site.mkdir(exist_ok=True)
    shutil.copy(_HERE / f"{module}.py", site)
    if group:
        metadata = site / f"{module}-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        found = _ENTRY_POINT.format(group=group, module=module, function=function)
        (metadata / "entry_points.txt").write_text(found)


def vllm(
    folder: Path, python: Path, port: int, flags: Sequence[str], variables: Mapping[str, str]
) -> Program:
    """A vLLM that serves the model in `folder`; it finds the plugin by itself."""
    environment = {
        **{name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder / SITE),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "APPORTION_WORKLOAD": "vllm",
        "APPORTION_RING_DIR": str(folder / "rings"),
        "APPORTION_TENANT_FROM": "header:x-tenant",
        "APPORTION_TRUSTED_PROXIES": "127.0.0.0/8",
        **variables,
    }
    command = (
        *(str(python.with_name("vllm")), "serve", str(folder / "model")),
        *("--served-model-name", "tiny"),
        *("--load-format", "dummy", "--dtype", "float32", "--max-model-len", "2048"),
        *("--enforce-eager", "--max-num-seqs", "32", "--enable-prompt-tokens-details"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *flags,
    )
    started = Program(f"vllm-{port}", command, environment, folder)

    def healthy() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    started.until(healthy, "it was healthy")
    return started


def free_port() -> int:
    """A port on loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
