"""Where the demo's GPUs come from: the host's own ones, or simulated ones that say so."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/version")
SIMULATED_NAME: Final = "NVIDIA H100 80GB HBM3"
ASK_TORCH: Final = (
    "import json, torch; count = torch.cuda.device_count() if torch.cuda.is_available() else 0; "
    "print(json.dumps([torch.cuda.get_device_name(index) for index in range(count)]))"
)


@dataclass(frozen=True)
class Devices:
    """The GPUs that the demo meters: their names, and why it is these."""

    names: tuple[str, ...]
    simulated: bool
    reason: str

    @property
    def trainer(self) -> dict[str, str]:
        """Environment that puts the trainer on the first GPU."""
        return {} if self.simulated else {"CUDA_VISIBLE_DEVICES": "0"}

    @property
    def server(self) -> dict[str, str]:
        """Environment that puts the server on the last GPU, the same one where there is but one."""
        return {} if self.simulated else {"CUDA_VISIBLE_DEVICES": str(len(self.names) - 1)}


def choose_devices(driver: Path = NVIDIA_DRIVER) -> Devices:
    """Real GPUs where there is a driver and PyTorch can use them, else two simulated ones."""
    if not driver.exists():
        return _simulated(f"there is no NVIDIA driver here ({driver} does not exist)")
    asked = subprocess.run(
        [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, check=False
    )
    names: list[str] = json.loads(asked.stdout) if asked.returncode == 0 else []
    if not names:
        return _simulated("there is an NVIDIA driver, but this PyTorch cannot use its GPUs")
    return Devices(tuple(names), simulated=False, reason=f"the driver of {driver}")


def _simulated(reason: str) -> Devices:
    return Devices((SIMULATED_NAME, SIMULATED_NAME), simulated=True, reason=reason)


def simulator_command(state: Path, pids: tuple[int, int]) -> list[str]:
    """Two simulated H100s: each follows the CPU use of one process, a busy core is a busy GPU."""
    command = [sys.executable, "-m", "apportion.simulator", "--state", str(state)]
    command += ["--profile", "h100", "--gpus", "2", "--mirror-cores", "1"]
    for device, pid in enumerate(pids):
        command += ["--mirror", f"{pid}:{device}"]
    return command


def simulator_environment(lines: list[str]) -> dict[str, str] | None:
    """The variables that the simulator printed; None while it is not ready."""
    if "# ready" not in lines:
        return None
    exports = [line.removeprefix("export ") for line in lines if line.startswith("export ")]
    pairs = [shlex.split(export)[0].partition("=") for export in exports]
    return {name: value for name, _, value in pairs}


def clean_environment() -> dict[str, str]:
    """This process's environment without what would configure apportion behind the demo's back."""
    return {name: value for name, value in os.environ.items() if not name.startswith("APPORTION_")}
