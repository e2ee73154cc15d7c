"""Forks: a child has a ring of its own, and what was open in the parent ends in the parent."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

from tests.client.conftest import Run
from tests.client.decoded import read, rings

from apportion import client
from apportion.client import layout


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a forked child that ends without exit handlers; it must not raise."""
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the child must not go on with the parent's test
            os._exit(1)
        os._exit(0)
    assert 0 == os.waitpid(pid, 0)[1]


def by_pid(directory: Path) -> dict[int, list[int]]:
    """The steps in each process's ring."""
    found = map(read, rings(directory))
    return {ring.header["pid"]: [each["step"] for each in ring.records] for ring in found}


def test_a_child_makes_its_own_ring(directory: Path) -> None:
    """Parent and child never write the same ring; run and attempt are the same."""
    with client.step(1):
        pass
    (mine,) = rings(directory)
    before = mine.read_bytes()

    def child() -> None:
        assert not client.current_span()
        with client.step(2):
            assert client.current_span()

    in_child(child)
    assert before == mine.read_bytes()
    with client.step(3):
        pass
    found = by_pid(directory)
    assert [1, 3] == found.pop(os.getpid())
    assert [[2]] == list(found.values())
    identities = [read(path).identity for path in rings(directory)]
    names = [(identity["run"], identity["attempt"]) for identity in identities]
    assert [("run", "1")] * 2 == names


def test_open_spans_end_in_the_parent_only(directory: Path) -> None:
    """A child that finishes, or leaves the block of, a span of its parent writes nothing."""
    request = client.request("r").start()
    with client.step(1) as step:
        phase = step.phase("forward").start()

        def child() -> None:
            request.add(input_tokens=5)
            request.first_token()
            request.finish()
            phase.finish()
            with step.phase("backward"):
                pass
            step.__exit__(None, None, None)

        in_child(child)
        (ring,) = rings(directory)
        assert 3 == len(read(ring).open_slots)
        assert [] == read(ring).records
        phase.finish()
    request.finish()
    assert 3 == len(read(ring).records)
    assert {layout.ABSENT} == {each["input_tokens"] for each in read(ring).records}


def test_a_child_that_forks_inside_a_span_is_not_inside_it(directory: Path) -> None:
    """The first span of a child is a root, whatever was open around the fork."""
    with client.evaluation(), client.step(1):

        def child() -> None:
            with client.step(2), client.request("r"):
                pass

        in_child(child)
    found = {read(path).header["pid"]: read(path).records for path in rings(directory)}
    del found[os.getpid()]
    (records,) = found.values()
    request, step = records
    assert (step["number"], 0) == (request["parent"], step["parent"])


def test_the_parent_keeps_its_lock(directory: Path, python: Run) -> None:
    """A child that forgets its parent's ring does not unlock it."""
    with client.step(1):
        pass
    (ring,) = rings(directory)

    def child() -> None:
        with client.step(2):
            pass

    in_child(child)
    ask = (
        "import fcntl, struct, sys\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    told = fcntl.fcntl(file, fcntl.F_GETLK,\n"
        "        struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 1, 0))\n"
        "print(struct.unpack('hhqqi4x', told)[4])\n"
    )
    assert f"{os.getpid()}\n" == python(ask, str(ring)).stdout


def _work(number: int) -> None:
    with client.step(number):
        pass


def test_multiprocessing(directory: Path) -> None:
    """Workers of multiprocessing's fork method each write a ring and leave the parent's alone."""
    with client.step(0):
        pass
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(number,)) for number in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert 0 == worker.exitcode
    assert [[0], [1], [2]] == sorted(by_pid(directory).values())
