"""MIG instances: their shares of a GPU's rate, and what is left, are together the rate."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.cost.prices.device_names import nvml_name
from apportion.cost.prices.mig import MIG_POLICIES, MigDevice

H100 = "NVIDIA H100 80GB HBM3"
LAYOUTS = {
    H100: ("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "1c.3g.40gb"),
    "NVIDIA A30": ("1g.6gb", "2g.12gb", "1g.6gb+me"),
    "NVIDIA H200": ("1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb"),
}


def named(gpu: str, *profiles: str, rest: bool = False) -> MigDevice:
    """A MIG device that has a name."""
    found = MigDevice.named(MigDevice(gpu, profiles, rest).name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("gpu", "profile", "compute", "memory"),
    [
        (H100, "1g.10gb", Fraction(1, 7), Fraction(1, 8)),
        (H100, "1g.20gb", Fraction(1, 7), Fraction(1, 4)),
        (H100, "3g.40gb", Fraction(3, 7), Fraction(1, 2)),
        (H100, "4g.40gb", Fraction(4, 7), Fraction(1, 2)),
        (H100, "7g.80gb", Fraction(1), Fraction(1)),
        (H100, "1c.3g.40gb", Fraction(1, 7), Fraction(1, 6)),
        (H100, "1g.10gb+me", Fraction(1, 7), Fraction(1, 8)),
        ("NVIDIA A30", "2g.12gb", Fraction(1, 2), Fraction(1, 2)),
        ("NVIDIA A100-SXM4-40GB", "1g.5gb", Fraction(1, 7), Fraction(1, 8)),
        ("NVIDIA A100-SXM4-40GB", "1g.10gb", Fraction(1, 7), Fraction(1, 4)),
        ("NVIDIA H100 NVL", "3g.47gb", Fraction(3, 7), Fraction(1, 2)),
        ("NVIDIA GH200 480GB", "1g.24gb", Fraction(1, 7), Fraction(1, 4)),
        ("NVIDIA H200", "2g.35gb", Fraction(2, 7), Fraction(1, 4)),
        ("NVIDIA H200", "3g.71gb", Fraction(3, 7), Fraction(1, 2)),
        ("NVIDIA B200", "1g.23gb", Fraction(1, 7), Fraction(1, 8)),
        ("NVIDIA B200", "4g.90gb", Fraction(4, 7), Fraction(1, 2)),
    ],
)
def test_shares_by_the_published_profiles(
    gpu: str, profile: str, compute: Fraction, memory: Fraction
) -> None:
    """The fractions of SMs and of memory that the profile's slices are."""
    device = named(gpu, profile)
    assert (device.share("compute"), device.share("memory")) == (compute, memory)


@given(st.data())
def test_instances_and_the_rest_are_always_the_whole(data: st.DataObject) -> None:
    """Exactly, by each policy, in any order, for any set of instances that a GPU can hold."""
    gpu = data.draw(st.sampled_from(sorted(LAYOUTS)))
    profiles = data.draw(st.lists(st.sampled_from(LAYOUTS[gpu]), max_size=7))
    for policy in MIG_POLICIES:
        shares = [named(gpu, profile).share(policy) for profile in profiles]
        known = [share for share in shares if share is not None]
        assert len(known) == len(shares)
        rest = named(gpu, *profiles, rest=True).share(policy)
        if sum(known) > 1:
            assert rest is None
        else:
            assert rest is not None
            assert sum(known, rest) == 1
            assert rest == named(gpu, *reversed(profiles), rest=True).share(policy)


def test_a_gpu_without_instances_is_all_unallocated() -> None:
    """In MIG mode and not cut yet: all of its rate belongs to nobody."""
    device = named(H100, rest=True)
    assert device.name == f"{H100} MIG unallocated"
    assert [device.share(policy) for policy in MIG_POLICIES] == [1, 1]


@pytest.mark.parametrize(
    "name",
    [
        H100,
        "MIG 1g.10gb",
        f"{H100} MIG",
        f"{H100} MIG ",
        f"{H100} MIG 0g.10gb",
        f"{H100} MIG 8g.10gb",
        f"{H100} MIG 4c.3g.40gb",
        f"{H100} MIG 1g.10gb,1g.10gb",
        f"{H100} MIG unallocated beside ",
        f"{H100} MIG unallocated beside 1g.10gb,",
        f"{H100} MIG 1g.\N{ARABIC-INDIC DIGIT ONE}0gb",
    ],
)
def test_other_names_are_no_mig_device(name: str) -> None:
    """A name that does not say a share is not guessed at."""
    assert MigDevice.named(name) is None


def test_a_gpu_whose_slices_are_not_known_has_no_share() -> None:
    """No price is better than one that was made up; so is more than a whole GPU."""
    assert named("NVIDIA Z1000", "1g.10gb").share("compute") is None
    assert named("NVIDIA A100-SXM4-40GB", "1g.80gb").share("memory") is None


def test_a_clouds_name_of_the_gpu_will_do() -> None:
    """As for whole devices."""
    assert nvml_name("H100 MIG 1g.10gb") == f"{H100} MIG 1g.10gb"
    assert nvml_name(f"{H100} MIG 1g.10gb") == f"{H100} MIG 1g.10gb"
    assert nvml_name("Z1000 MIG 1g.10gb") is None
    assert nvml_name("H100 MIG mini") is None
