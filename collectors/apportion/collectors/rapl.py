"""The CPU packages' energy counters of Linux powercap (RAPL, Intel and AMD)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_MICROJOULES_PER_MILLIJOULE = 1_000


@dataclass(slots=True)
class _Package:
    """One package domain: where its counter is, when it wraps, what it said last."""

    counter: Path
    range_uj: int
    last_uj: int


class Rapl:
    """The energy of all packages since this object was made, unwrapped and summed.

    Only top-level `intel-rapl:N` zones named `package-...` count: their core and uncore zones
    are parts of them, `psys` contains them, and `intel-rapl-mmio` shows the same packages again.
    The counters are readable by root only since Linux 5.10.
    """

    def __init__(self, sys_root: Path) -> None:
        self._packages: list[_Package] = []
        self._total_uj = 0
        self._reason = ""
        zones = sorted((sys_root / "class/powercap").glob("intel-rapl:*"))
        for zone in zones:
            if zone.name.count(":") == 1:
                self._add(zone)
        if not self._packages and not self._reason:
            self._reason = f"there is no package zone in {sys_root / 'class/powercap'}"

    @property
    def packages(self) -> int:
        """How many packages are read; 0 where there is no energy to tell."""
        return len(self._packages)

    @property
    def reason(self) -> str:
        """Why there is no energy; empty where there is."""
        return self._reason

    def energy_mj(self) -> int | None:
        """Millijoules so far; None where not every package can be read.

        A counter that is smaller than before has wrapped once; at full load the shortest
        range takes many minutes to wrap, so once is all that a period can hold.
        """
        if not self._packages:
            return None
        values: list[int] = []
        for package in self._packages:
            value = _number(package.counter)
            if isinstance(value, str):
                self._reason = value
                return None
            values.append(value)
        for package, value_uj in zip(self._packages, values, strict=True):
            grown_uj = value_uj - package.last_uj
            if grown_uj < 0:
                grown_uj += package.range_uj
            self._total_uj += max(0, grown_uj)
            package.last_uj = value_uj
        self._reason = ""
        return self._total_uj // _MICROJOULES_PER_MILLIJOULE

    def _add(self, zone: Path) -> None:
        """Take `zone` in if it is a package that can be read."""
        try:
            name = (zone / "name").read_text().strip()
        except OSError:
            return
        if not name.startswith("package"):
            return
        last_uj = _number(zone / "energy_uj")
        range_uj = _number(zone / "max_energy_range_uj")
        for value in (last_uj, range_uj):
            if isinstance(value, str):
                self._reason = value
        if isinstance(last_uj, int) and isinstance(range_uj, int):
            self._packages.append(_Package(zone / "energy_uj", range_uj, last_uj))


def _number(path: Path) -> int | str:
    """The whole number in a file, or the sentence that says why there is none."""
    try:
        text = path.read_text().strip()
    except PermissionError:
        return f"{path} may be read by root only; run the agent with CAP_DAC_READ_SEARCH"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return int(text) if text.isdecimal() else f"{path} holds {text[:40]!r}, not a whole number"
