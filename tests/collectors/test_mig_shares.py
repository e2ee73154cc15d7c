"""A GPU's energy among its MIG instances."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.mig_shares import divided, rest_name, shares

H100, A30 = "NVIDIA H100 80GB HBM3", "NVIDIA A30"


@pytest.mark.parametrize(
    ("model", "profiles", "expected"),
    [
        (H100, ["3g.40gb", "1g.10gb"], ["3/7", "1/7", "3/7"]),
        (H100, ["7g.80gb"], ["1", "0"]),
        (H100, [], ["1"]),
        (H100, ["1g.10gb+me", "2c.3g.40gb"], ["1/7", "3/7", "3/7"]),
        (A30, ["1g.6gb"] * 4, ["1/4"] * 4 + ["0"]),
        (A30, ["2g.12gb"], ["1/2", "1/2"]),
        ("a model of eight slices", ["4g.48gb", "4g.48gb"], ["1/2", "1/2", "0"]),
        (H100, ["unreadable", "1g.10gb"], ["0", "1/7", "6/7"]),
    ],
)
def test_shares(model: str, profiles: list[str], expected: list[str]) -> None:
    """By compute slices; what nobody holds is left over."""
    found = shares(dict(enumerate(profiles)), model)
    assert found == tuple(Fraction(text) for text in expected)
    assert sum(found) == 1


@given(
    st.integers(0, 10**15),
    st.lists(st.integers(0, 7), min_size=1, max_size=8).filter(any),
)
def test_divided_to_the_last_unit(amount: int, sizes: list[int]) -> None:
    """The parts are exactly the whole, and each is within one of its share."""
    whole = sum(sizes)
    parts = {f"part-{index}": Fraction(size, whole) for index, size in enumerate(sizes)}
    given_to = divided(amount, parts)
    assert sum(given_to.values()) == amount
    assert all(abs(given_to[part] - amount * share) < 1 for part, share in parts.items())
    assert all(given_to[part] == 0 for part, share in parts.items() if share == 0)


def test_the_name_of_the_rest() -> None:
    """As price tables name it."""
    assert rest_name(["3g.40gb", "1g.10gb"]) == " MIG unallocated beside 1g.10gb,3g.40gb"
    assert rest_name([]) == " MIG unallocated"
