"""What NVIDIA's own tool says, to be held against what we say."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from apportion.core.errors import CollectorError

DEADLINE_S: Final = 30.0
_REFUSED: Final = re.compile(r'Field "([^"]+)" is not a valid field to query', re.ASCII)
_UUID: Final = "uuid"


@dataclass(frozen=True, slots=True)
class Compared:
    """One value: `field` as nvidia-smi calls it, `ours` as readings or facts call it.

    `scale` makes our units of theirs. They agree where they differ by no more than `least` (ours)
    or by `part` of theirs. `fact`: it is compared as text.
    """

    field: str
    ours: str
    unit: str = ""
    scale: float = 1.0
    least: float = 0.0
    part: float = 0.0
    fact: bool = False


COMPARED: Final = (
    Compared("name", "name", fact=True),
    Compared("driver_version", "driver_version", fact=True),
    Compared("power.draw.instant", "power_mw", "mW", 1e3, 20e3, 0.10),
    Compared("enforced.power.limit", "power_limit_mw", "mW", 1e3, 1e3),
    Compared("temperature.gpu", "temperature_celsius", "°C", 1.0, 3.0),
    Compared("utilization.gpu", "utilization_ratio", "ratio", 0.01, 0.25),
    Compared("memory.used", "memory_used_bytes", "bytes", 2**20, 64 * 2**20, 0.02),
    Compared("memory.total", "memory_total_bytes", "bytes", 2**20, 2**20),
    Compared("clocks.sm", "sm_clock_hz", "Hz", 1e6, 100e6, 0.10),
    Compared("clocks.mem", "memory_clock_hz", "Hz", 1e6, 100e6),
)
"""Tolerances are those of two looks that are a second apart on a GPU at steady work."""

Answer = Mapping[str, Mapping[str, str]]
"""By UUID and field, as printed, without units; what a GPU cannot tell is left out."""


class NvidiaSmi:
    """Asks `nvidia-smi` again and again; a field that this release does not know is given up."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.unknown: list[str] = []
        self._fields = [_UUID, *(each.field for each in COMPARED)]

    def ask(self) -> Answer:
        """All values of all GPUs now.

        Raises:
            CollectorError: it is not there, fails or does not answer in time.
        """
        while True:
            command = [self.program, f"--query-gpu={','.join(self._fields)}"]
            try:
                done = subprocess.run(
                    [*command, "--format=csv,noheader,nounits"],
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=DEADLINE_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise CollectorError(f"{self.program} cannot be asked: {error}") from error
            refused = _REFUSED.search(done.stdout + done.stderr)
            if refused is not None and refused[1] in self._fields[1:]:
                self._fields.remove(refused[1])
                self.unknown.append(refused[1])
            elif done.returncode:
                said = (done.stderr or done.stdout).strip()[:200]
                raise CollectorError(f"{self.program} ended with {done.returncode}: {said}")
            else:
                return self._read(done.stdout)

    def _read(self, text: str) -> Answer:
        found: dict[str, Mapping[str, str]] = {}
        for row in csv.reader(io.StringIO(text), skipinitialspace=True):
            if len(row) != len(self._fields):
                continue
            values = {field: value.strip() for field, value in zip(self._fields, row, strict=True)}
            uuid = values.pop(_UUID)
            found[uuid] = {
                field: value for field, value in values.items() if value and value[0] != "["
            }
        return found
