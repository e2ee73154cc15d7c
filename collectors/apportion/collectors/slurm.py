"""Which Slurm job has which GPU: the `slurm` collector reads a directory of mapping files.

A prolog writes them, an epilog clears them: one file for each GPU, called by its UUID or by its
index in NVML's order, holding one job id a line. It is the convention of dcgm-exporter's
`--hpc-job-mapping-dir`, so that one prolog serves both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from apportion.collectors.collector import Batch
from apportion.collectors.kubernetes import allocation_samples
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import BUILT_IN
from apportion.core.allocation import Allocation
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError, NoData
from apportion.core.ids import DeviceId

MOST_BYTES: Final = 65_536
"""Of one file; a job id is short."""
_JOB: Final = re.compile(r"[A-Za-z0-9_.+-]{1,64}", re.ASCII)
_DEVICE: Final = re.compile(r"\d{1,4}|(?:GPU|MIG)-[0-9a-fA-F-]+", re.ASCII)


class Slurm:
    """The `slurm` collector. Anything in the directory that is not of the form is left out."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._has_read = False

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "slurm"

    def start(self) -> None:
        """Nothing is held open."""

    def collect(self) -> Batch:
        """The allocations as they are now.

        Raises:
            NoData: no directory is configured, or it has other files only and never had a mapping.
            CollectorError: it cannot be read.
        """
        if self._directory is None:
            raise NoData("no directory of job mappings is named: set `job_mapping_dir`")
        try:
            paths = sorted(self._directory.iterdir())
        except OSError as error:
            raise CollectorError(
                f"the job mappings cannot be read: {self._directory}: {error.strerror}"
            ) from error
        mappings = [path for path in paths if _DEVICE.fullmatch(path.name)]
        self._has_read = self._has_read or bool(mappings)
        if paths and not self._has_read:
            raise NoData(
                f"{self._directory} has no job mapping: none of {len(paths)} files in it is called "
                "by a GPU's index or UUID"
            )
        allocations = tuple(_allocations(mappings))
        return Batch(samples=allocation_samples(allocations), allocations=allocations)

    def close(self) -> None:
        """Nothing is held open."""


def _allocations(mappings: Iterable[Path]) -> Iterator[Allocation]:
    for path in mappings:
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
