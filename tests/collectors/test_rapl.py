"""RAPL's counters on a fixture tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.rapl import Rapl

Tree = Callable[[str], Path]
RANGE_UJ = 262_143_328_850


@pytest.fixture
def sys_root(tree: Tree) -> Path:
    """Two packages: the first is 0.14 J from its range's end."""
    return tree("bare_host") / "sys"


def counter(sys_root: Path, package: int) -> Path:
    return sys_root / f"class/powercap/intel-rapl:{package}/energy_uj"


def test_packages_only(sys_root: Path) -> None:
    """Core, dram, psys and the second view of the same package would count joules twice."""
    rapl = Rapl(sys_root)
    assert rapl.packages == 2
    for zone in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        (sys_root / f"class/powercap/{zone}/energy_uj").write_text("99999999999\n")
    assert rapl.energy_mj() == 0


def test_energy_is_summed_and_unwrapped(sys_root: Path) -> None:
    """A wrap is not a reset: the energy goes on."""
    rapl = Rapl(sys_root)
    assert rapl.energy_mj() == 0
    counter(sys_root, 1).write_text("8000999\n")
    assert rapl.energy_mj() == 3_000
    counter(sys_root, 0).write_text("1\n")
    wrapped_uj = RANGE_UJ - 262_000_000_000 + 1
    assert rapl.energy_mj() == (3_000_999 + wrapped_uj) // 1_000


def test_one_unreadable_package_hides_the_energy_but_loses_none(sys_root: Path) -> None:
    """Half of the energy is a wrong number; afterwards all of it is there."""
    rapl = Rapl(sys_root)
    counter(sys_root, 1).write_text("gone\n")
    assert rapl.energy_mj() is None
    assert "'gone'" in rapl.reason
    counter(sys_root, 1).write_text("7000000\n")
    assert rapl.energy_mj() == 2_000
    assert rapl.reason == ""


def test_no_powercap(tmp_path: Path) -> None:
    """Virtual machines have none."""
    rapl = Rapl(tmp_path)
    assert rapl.energy_mj() is None
    assert "no package zone" in rapl.reason


def test_permission_denied(sys_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's default since 5.10: no energy, and the sentence says who may read it."""
    read_text = Path.read_text

    def refused(self: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self, encoding, errors)

    monkeypatch.setattr(Path, "read_text", refused)
    rapl = Rapl(sys_root)
    assert rapl.energy_mj() is None
    assert "root only" in rapl.reason


@given(steps=st.lists(st.integers(0, RANGE_UJ - 1), max_size=30))
def test_any_walk_of_the_counter(
    steps: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However it goes round, the sum is exact and never falls."""
    zone = tmp_path_factory.mktemp("sys") / "class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (zone / "energy_uj").write_text("0\n")
    rapl = Rapl(zone.parents[2])
    total_uj, before_mj = 0, 0
    for step_uj in steps:
        total_uj += step_uj
        (zone / "energy_uj").write_text(f"{total_uj % RANGE_UJ}\n")
        energy_mj = rapl.energy_mj()
        assert energy_mj is not None
        assert energy_mj == total_uj // 1_000
        assert energy_mj >= before_mj
        before_mj = energy_mj
