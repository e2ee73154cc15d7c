"""Which Slurm job has which GPU: the `slurm` collector reads a directory of mapping files.

A prolog writes them, an epilog clears them: one file for each GPU, called by its UUID or by its
index in NVML's order, holding one job id a line. It is the convention of dcgm-exporter's
`--hpc-job-mapping-dir`, so that one prolog serves both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from apportion.collectors.collector import Batch
from apportion.collectors.kubernetes import allocation_samples
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import BUILT_IN
from apportion.core.allocation import Allocation
from apportion.core.clock import Clock
from apportion.core.errors import NoData
from apportion.core.ids import DeviceId

MOST_BYTES: Final = 65_536
"""Of one file; a job id is short."""
_JOB: Final = re.compile(r"[A-Za-z0-9_.+-]{1,64}", re.ASCII)
_DEVICE: Final = re.compile(r"\d{1,4}|(?:GPU|MIG)-[0-9a-fA-F-]+", re.ASCII)


class Slurm:
    """The `slurm` collector. Anything in the directory that is not of the form is left out."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "slurm"

    def start(self) -> None:
        """Nothing is held open."""

    def collect(self) -> Batch:
        """The allocations as they are now.

        Raises:
            NoData: no directory is configured, or it is not there.
        """
        if self._directory is None or not self._directory.is_dir():
            raise NoData(f"there is no directory of job mappings ({self._directory})")
        allocations = tuple(self._allocations(self._directory))
        return Batch(samples=allocation_samples(allocations), allocations=allocations)

    def close(self) -> None:
        """Nothing is held open."""

    def _allocations(self, directory: Path) -> Iterator[Allocation]:
        for path in sorted(directory.iterdir()):
            if not _DEVICE.fullmatch(path.name):
                continue
            try:
                with path.open(errors="replace") as file:
                    text = file.read(MOST_BYTES)
            except OSError:  # cleared by the epilog just now
                continue
            # A line with anything beside a job's id is none: its words are not ours to tell.
            for line in sorted({line.strip() for line in text.splitlines()}):
                if _JOB.fullmatch(line):
                    yield Allocation(DeviceId(path.name), f"slurm:{line}")


@BUILT_IN.register("slurm", default=True, devices=False)
def make_slurm(options: CollectorOptions, clock: Clock) -> Slurm:
    """The slurm collector."""
    del clock
    return Slurm(options.job_mapping_dir)
