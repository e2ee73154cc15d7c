"""What part of a GPU's rate a MIG instance pays, and what part is left for nobody.

A driver calls an instance after its GPU and its profile: `NVIDIA H100 80GB HBM3 MIG 3g.40gb`. A
profile says compute slices and memory, `2c.3g.40gb` also how many of a GPU instance's compute
slices a compute instance has. What no instance holds is a device of its own, whose name lists the
instances beside it: `... MIG unallocated beside 1g.10gb,3g.40gb`. So a name alone says the share,
and the shares of a GPU's instances and of its rest are always 1 together, as exact fractions.

How many slices a GPU has: NVIDIA's MIG user guide, supported profiles, read 2026-11.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

MIG_POLICIES: Final = ("compute", "memory")
"""By which slices a share goes; the first is the default."""

_INFIX: Final = " MIG "
_REST: Final = "unallocated"
_BESIDE: Final = f"{_REST} beside "
_PROFILE: Final = re.compile(
    r"(?:([1-7])c\.)?([1-7])g\.(\d{1,3})gb(?:[+-][a-z.]+)*", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Slices:
    """How a GPU is cut: into so many slices of compute and of memory."""

    compute: int
    memory: int
    memory_gb: int


_SLICES: Final = {
    "NVIDIA A30": _Slices(4, 4, 24),
    "NVIDIA A100-SXM4-40GB": _Slices(7, 8, 40),
    "NVIDIA A100-PCIE-40GB": _Slices(7, 8, 40),
    "NVIDIA A100-SXM4-80GB": _Slices(7, 8, 80),
    "NVIDIA A100 80GB PCIe": _Slices(7, 8, 80),
    "NVIDIA H100 80GB HBM3": _Slices(7, 8, 80),
    "NVIDIA H100 PCIe": _Slices(7, 8, 80),
    "NVIDIA H100 NVL": _Slices(7, 8, 94),
    "NVIDIA GH200 480GB": _Slices(7, 8, 96),
    "NVIDIA H200": _Slices(7, 8, 141),
    "NVIDIA H200 NVL": _Slices(7, 8, 141),
    "NVIDIA B200": _Slices(7, 8, 180),
}


class _Profile(NamedTuple):
    """`part` of a GPU instance with `compute` slices and so many GB."""

    part: Fraction
    compute: int
    memory_gb: int

    @classmethod
    def read(cls, text: str) -> _Profile | None:
        """From a profile's name; None for any other text."""
        found = _PROFILE.fullmatch(text)
        if found is None:
            return None
        compute = int(found[2])
        part = Fraction(int(found[1] or compute), compute)
        return cls(part, compute, int(found[3])) if part <= 1 else None

    def share(self, slices: _Slices, policy: str) -> Fraction:
        """Of the GPU that is cut into `slices`."""
        if policy == "compute":
            return self.part * Fraction(self.compute, slices.compute)
        # A profile's gigabytes are rounded: 1g.18gb of an H200 has an eighth of its 141.
        taken = round(Fraction(slices.memory * self.memory_gb, slices.memory_gb))
        return self.part * Fraction(taken, slices.memory)


@dataclass(frozen=True, slots=True)
class MigDevice:
    """A MIG instance; where `rest`, what the instances of `profiles` leave of their GPU."""

    gpu: str
    profiles: tuple[str, ...]
    rest: bool = False

    @classmethod
    def named(cls, device_name: str) -> MigDevice | None:
        """The device that a driver or `name` calls so; None for any other name."""
        gpu, infix, text = device_name.partition(_INFIX)
        beside = text.removeprefix(_BESIDE)
        rest = text == _REST or beside != text
        profiles = () if text == _REST else tuple(beside.split(",")) if rest else (text,)
        if not infix or None in map(_Profile.read, profiles):
            return None
        return cls(gpu, profiles, rest)

    @property
    def name(self) -> str:
        """What `DeviceInfo.name` has to be for it to be priced."""
        if not self.rest:
            return f"{self.gpu}{_INFIX}{self.profiles[0]}"
        beside = ",".join(sorted(self.profiles))
        return f"{self.gpu}{_INFIX}{_BESIDE if beside else _REST}{beside}"

    def share(self, policy: str) -> Fraction | None:
        """Its exact part of the GPU's rate by a policy of `MIG_POLICIES`.

        None where it is not known here how that GPU is cut, or where the instances would be more
        than the whole of it.
        """
        slices = _SLICES.get(self.gpu)
        if slices is None:
            return None
        known = (_Profile.read(profile) for profile in self.profiles)
        taken = sum((one.share(slices, policy) for one in known if one is not None), Fraction(0))
        if taken > 1:
            return None
        return 1 - taken if self.rest else taken
