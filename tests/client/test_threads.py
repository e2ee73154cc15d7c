"""Threads: no record lost or written twice, and each thread's spans are its own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.client.conftest import Run
from tests.client.decoded import only, read, rings

from apportion import client

THREADS = 8
SPANS = 2000


@pytest.fixture(autouse=True)
def _eager_switches() -> Iterator[None]:
    """Threads take turns as often as the interpreter lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(work: Callable[[int], None], threads: int = THREADS) -> None:
    """Run `work` in several threads that begin at the same time."""
    gate = threading.Barrier(threads)

    def run(index: int) -> None:
        gate.wait()
        work(index)

    all_of_them = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for each in all_of_them:
        each.start()
    for each in all_of_them:
        each.join()


@pytest.mark.parametrize("kind", ["step", "request", "started", "phase"])
def test_every_span_has_one_record(tmp_path: Path, kind: str) -> None:
    """Eight threads at once: every sequence once, every number once, nothing torn."""
    client.init(directory=tmp_path, capacity=THREADS * SPANS + 1)

    def work(index: int) -> None:
        for each in range(SPANS):
            number = index * SPANS + each
            if kind == "step":
                with client.step(number):
                    pass
            elif kind == "request":
                with client.request(str(number), tenant=f"tenant-{index}") as span:
                    span.add(input_tokens=number, output_tokens=number + 1)
            elif kind == "started":
                client.step(number).start().finish()
            else:
                outer.phase("decode").start().finish()

    with client.request("outer") as outer:
        together(work)
    records = only(tmp_path).records[:-1]

    assert list(range(1, THREADS * SPANS + 1)) == [each["sequence"] for each in records]
    assert THREADS * SPANS == len({each["number"] for each in records})
    assert all(0 < each["start_ns"] <= each["end_ns"] for each in records)
    if kind in {"step", "started"}:
        assert set(range(THREADS * SPANS)) == {each["step"] for each in records}
    if kind == "request":
        assert all(each["input_tokens"] + 1 == each["output_tokens"] for each in records)
    if kind != "phase":
        assert {0} == {each["parent"] for each in records}
    assert [] == only(tmp_path).open_slots
    assert {} == client.counts()


def test_a_span_that_all_finish_has_one_record(tmp_path: Path) -> None:
    """However many threads end the same span at the same time, one of them writes."""
    client.init(directory=tmp_path, capacity=4096)
    spans = [client.step(number).start() for number in range(1000)]

    def work(_: int) -> None:
        for span in spans:
            span.finish()

    together(work)
    assert list(range(1000)) == sorted(each["step"] for each in only(tmp_path).records)


def test_first_spans_make_one_ring(tmp_path: Path) -> None:
    """Threads that all come first share one ring."""
    client.init(directory=tmp_path, capacity=64)

    def work(index: int) -> None:
        with client.step(index):
            pass

    together(work)
    assert THREADS == len(only(tmp_path).records)


def test_records_name_the_thread_that_started(directory: Path) -> None:
    """A span that another thread ends still names the thread whose stack it is."""
    ids: list[int] = []

    def work(_: int) -> None:
        ids.append(threading.get_native_id())
        with client.step(1):
            pass
        started.append(client.request("r").start())

    started: list[client.Span] = []
    together(work, 2)
    for span in started:
        span.finish()
    assert sorted(ids * 2) == sorted(each["thread_id"] for each in only(directory).records)


def test_threads_do_not_nest(directory: Path) -> None:
    """A span that is open in one thread is no parent in another."""
    with client.step(1) as outer:

        def work(_: int) -> None:
            assert not client.current_span()
            with client.request("r"):
                assert client.current_span()

        together(work, 2)
        assert outer is client.current_span()
    assert {0} == {each["parent"] for each in only(directory).records}


FREE_THREADED = """
import sys, threading
sys._is_gil_enabled = lambda: False
from apportion import client
from apportion.client import locking
assert locking.FREE_THREADED

def work():
    for number in range(200):
        with client.step(number) as step, step.phase("forward"):
            step.add(tokens=number)
        with client.request(str(number), tenant="t") as request:
            request.add(input_tokens=1, output_tokens=2)

threads = [threading.Thread(target=work) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
import os
if os.fork() == 0:
    work()
    client.init()
    os._exit(0)
os.wait()
assert client.counts() == {}, client.counts()
"""


def test_an_interpreter_without_a_gil_takes_the_lock(tmp_path: Path, python: Run) -> None:
    """Where no GIL makes the stores of one thread one, a re-entrant lock does, forks included."""
    python(FREE_THREADED, APPORTION_RING_DIR=str(tmp_path))
    child, parent = sorted(
        ([each["sequence"] for each in read(path).records] for path in rings(tmp_path)), key=len
    )
    assert list(range(1, 2401)) == parent
    assert list(range(1, 601)) == child
