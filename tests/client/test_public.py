"""The public surface: what is exported, how it is typed, and that it never raises."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apportion import client
from apportion.client import counting

TYPED = """
from typing_extensions import assert_type
from apportion import client

assert_type(client.step(1), client.Span)
assert_type(client.request("r", tenant=None), client.Span)
assert_type(client.current_span(), client.Span)
assert_type(client.counts(), dict[str, int])

@client.request("r")
def plain(a: int, *, b: str = "") -> bytes:
    return b""

@client.step(1)
async def coroutine(a: int) -> bytes:
    return b""

assert_type(plain(1, b="x"), bytes)

async def use() -> None:
    assert_type(await coroutine(1), bytes)
    with client.step(1) as step, step.phase("forward") as phase:
        assert_type(step, client.Span)
        assert_type(phase, client.Phase)
        step.add(tokens=1, prompt_tokens=None)
    assert_type(client.request("r").start(), client.Span)

client.step("1")  # E
client.step()  # E
client.init(tags={"a": 1})  # E
plain("1")  # E
client.step(1).add(tokens="5")  # E
client.step(1).add(tokens=1.5)  # E
client.step(1).finish(1)  # E
"""

Anything: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=80),
    st.binary(max_size=20),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def test_exports() -> None:
    """Each exported name is there, documented, and the list is sorted."""
    assert sorted(client.__all__) == client.__all__
    for name in client.__all__:
        assert inspect.getdoc(getattr(client, name)), name


def test_types(tmp_path: Path) -> None:
    """A user's type checker sees the types, through decorators too, and finds mistakes."""
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    root = Path(client.__file__).parents[2]  # mypy finds an installed package by itself
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir=/dev/null",
         "--no-error-summary", str(program)],
        env={} if "site-packages" in str(root) else {"MYPYPATH": str(root)},
        capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path,
    )  # fmt: skip
    wrong = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    expected = {at for at, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# E")}
    assert expected == wrong, done.stdout


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    values=st.lists(Anything, min_size=12, max_size=12),
    names=st.lists(st.sampled_from(["tokens", "input_tokens", "x"]), max_size=3),
)
def test_nothing_is_raised(directory: Path, values: list[Any], names: list[str]) -> None:
    """Whatever values a program passes, no call raises, and every span has its record."""
    one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve = values
    with client.step(one) as step, step.phase(two) as phase, phase.phase(three):
        step.add(**dict.fromkeys(names, four))
    with client.request(
        five, tenant=six, model=seven, adapter=eight, traceparent=nine, arrival_ns=ten
    ) as span:
        span.add(**dict.fromkeys(names, eleven))
        span.finish(twelve)
    assert "internal_error" not in counting.counts()
    assert "ring_gone" not in counting.counts()


@pytest.mark.parametrize(
    "values",
    [
        {"workload": 5.5},
        {"directory": 5},
        {"capacity": "x"},
        {"tags": 5},
        {"devices": 5},
        {"rank": "0"},
        {"resumed_from_step": 1.5},
    ],
)
def test_init_does_not_raise(tmp_path: Path, values: dict[str, Any]) -> None:
    """A wrong argument of init() is ignored, counted, and never an exception."""
    given: dict[str, Any] = {"directory": tmp_path, **values}
    client.init(**given)
    client.ready()
    with client.step(1):
        pass
    assert client.counts()
