"""CUDA and OpenTelemetry, as the program already has them; neither is ever started by us."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tests.client.conftest import Run
from tests.client.decoded import only, read, rings

from apportion import client
from apportion.client import layout, tracing
from apportion.client.devices_here import devices_here
from apportion.client.ring import NUMBER_BLOCK
from apportion.client.session import session
from apportion.client.surroundings import surroundings

UUID = "00000000-1111-2222-3333-444444444444"


class Torch:
    """A torch whose CUDA is initialised when the test says so; it counts what is asked."""

    def __init__(self, uuid: object = UUID) -> None:
        self.initialised = False
        self.asked = 0
        self.cuda: object = SimpleNamespace(
            is_initialized=lambda: self.initialised,
            current_device=lambda: 3,
            get_device_properties=self._properties,
        )
        self.uuid = uuid

    def _properties(self, index: int) -> SimpleNamespace:
        assert self.initialised, "CUDA would have been initialised"
        assert index == 3
        self.asked += 1
        if isinstance(self.uuid, Exception):
            raise self.uuid
        return SimpleNamespace(uuid=self.uuid) if self.uuid else SimpleNamespace()


def as_module(torch: Torch) -> ModuleType:
    """The module that a program would have imported."""
    module = ModuleType("torch")
    module.__dict__["cuda"] = torch.cuda
    return module


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Torch], Torch]:
    """Puts a torch where a program that imported it has it."""

    def put(torch: Torch) -> Torch:
        monkeypatch.setitem(sys.modules, "torch", as_module(torch))
        surroundings.look()
        return torch

    return put


def clocks(directory: Path) -> list[int]:
    """The clock of each record."""
    return [each["clock"] for each in only(directory).records]


def devices(directory: Path) -> list[str]:
    """The devices that the framework reported."""
    return [text for kind, text in only(directory).words.values() if kind == layout.WORD_DEVICE]


@pytest.mark.parametrize("kind", ["step", "request", "started"])
def test_spans_say_which_clock(directory: Path, use: Callable[[Torch], Torch], kind: str) -> None:
    """Before CUDA the host's clock is the work's, after it launches; phases carry it on."""

    def span() -> None:
        if kind == "step":
            with client.step(1) as step:
                step.phase("forward").start().finish()
        elif kind == "request":
            with client.request("r") as request:
                request.phase("decode").start().finish()
        else:
            started = client.step(1).start()
            started.phase("forward").start().finish()
            started.finish()

    span()
    torch = use(Torch())
    span()
    torch.initialised = True
    span()
    span()
    host, launch = layout.CLOCK_HOST, layout.CLOCK_HOST_LAUNCH
    assert [host] * 4 + [launch] * 4 == clocks(directory)
    assert [f"GPU-{UUID}"] == devices(directory)
    assert 1 == torch.asked


@pytest.mark.parametrize("uuid", [f"GPU-{UUID}", f"MIG-{UUID}"])
def test_a_uuid_that_says_what_it_is(
    directory: Path, use: Callable[[Torch], Torch], uuid: str
) -> None:
    """A UUID that has its prefix keeps it."""
    torch = use(Torch(uuid))
    torch.initialised = True
    with client.step(1):
        pass
    assert [uuid] == devices(directory)


def test_a_new_ring_names_the_device_again(directory: Path, use: Callable[[Torch], Torch]) -> None:
    """Each ring stands alone: the device is in the one after init() too."""
    use(Torch()).initialised = True
    with client.step(1):
        pass
    client.init(directory=directory)
    with client.step(1):
        pass
    words = b"".join(path.read_bytes() for path in directory.iterdir())
    assert 2 == words.count(f"GPU-{UUID}".encode())


@pytest.mark.parametrize("uuid", [None, RuntimeError("no device")])
def test_a_torch_without_a_uuid(
    directory: Path, use: Callable[[Torch], Torch], uuid: object
) -> None:
    """An old or a failing torch: the clock is known, the device is not, the span goes on."""
    torch = use(Torch(uuid))
    torch.initialised = True
    for number in range(3):
        with client.step(number):
            pass
    assert [] == devices(directory)
    assert [layout.CLOCK_HOST_LAUNCH] * 3 == clocks(directory)
    assert 1 == torch.asked


@pytest.mark.parametrize(
    "cuda", [None, SimpleNamespace(), SimpleNamespace(is_initialized=lambda: 1)]
)
def test_a_half_imported_torch(
    directory: Path, use: Callable[[Torch], Torch], cuda: object
) -> None:
    """A torch that is just being imported, or another module of the name, is no CUDA."""
    torch = Torch()
    torch.cuda = cuda
    use(torch)
    with client.step(1):
        pass
    assert [layout.CLOCK_HOST] == clocks(directory)
    assert {} == client.counts()


def test_torch_imported_later_is_noticed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody says so: the next phase notices, and where there is none, one of the next spans."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # other tests' own
    monkeypatch.setattr(surroundings, "modules", 0)  # nor what they left behind
    with client.step(0):
        pass
    torch = Torch()
    torch.initialised = True
    monkeypatch.setitem(sys.modules, "torch", as_module(torch))
    with client.step(1) as span, span.phase("forward"):
        pass
    with client.step(2):
        pass
    host, launch = layout.CLOCK_HOST, layout.CLOCK_HOST_LAUNCH
    assert [host, launch, host, launch] == clocks(directory)
    client.init(directory=directory)
    monkeypatch.delitem(sys.modules, "torch")
    with client.step(0):
        pass
    monkeypatch.setitem(sys.modules, "torch", as_module(torch))
    for number in range(NUMBER_BLOCK + 1):
        with client.step(number):
            pass
    (new,) = (ring for ring in map(read, rings(directory)) if len(ring.records) > 4)
    assert launch == new.records[-1]["clock"]


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ({}, False),
        ({"sys/bus/pci/devices/0000:00:01.0/vendor": "0x8086\n"}, False),
        ({"sys/bus/pci/devices/0000:00:01.0/other": ""}, False),
        ({"sys/bus/pci/devices/0000:3b:00.0/vendor": "0x10de\n"}, True),
        ({"sys/bus/pci/devices/0000:3b:00.0/vendor": "0x1002\n"}, True),
        ({"dev/nvidiactl": ""}, True),
        ({"dev/kfd": ""}, True),
    ],
)
def test_devices_by_their_files(tmp_path: Path, paths: dict[str, str], found: bool) -> None:
    """No driver is asked: a process whose CUDA was touched cannot fork ranks that use it."""
    for name, text in paths.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert devices_here(f"{tmp_path}/") is found


@pytest.mark.parametrize("devices", [False, True])
def test_a_pytorch_for_cuda_on_a_machine_without(
    directory: Path, use: Callable[[Torch], Torch], devices: bool
) -> None:
    """It is decided once, and spans take the short way; with a device they look for it."""
    surroundings.devices = devices
    torch = use(Torch())
    for number in range(2):
        with client.step(number) as step, step.phase("forward"):
            pass
    assert (session.short is None) is surroundings.cuda is devices
    assert not torch.initialised
    assert [layout.CLOCK_HOST] * 4 == clocks(directory)


def test_the_client_imports_no_framework() -> None:
    """Not torch, not asyncio, not OpenTelemetry, nor anything slow: it sits in every image."""
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from apportion import client\n"
        "client.init(workload='w', directory='/nonexistent')\n"
        "with client.step(1): pass\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    slow = {"asyncio", "inspect", "opentelemetry", "torch", "numpy", "subprocess", "logging"}
    assert set() == slow & loaded
    ours = {name for name in loaded if name.startswith("apportion.")}
    assert {"client"} == {name.split(".")[1] for name in ours}


def test_the_trace_of_opentelemetry(directory: Path) -> None:
    """With init(otel=True) root spans carry the current trace; nested ones and others do not."""
    client.init(directory=directory, otel=True)
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("request") as theirs:
        with client.request("r"), client.request("nested"):
            pass
        with client.step(1):
            pass
    with client.step(2):
        pass
    context = theirs.get_span_context()
    expected = (context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big"))
    none = (bytes(16), bytes(8))
    assert [none, expected, expected, none] == [
        (each["trace_id"], each["trace_parent"]) for each in only(directory).records
    ]
    assert {} == client.counts()


def test_a_traceparent_wins(directory: Path) -> None:
    """What the caller said stays, whatever OpenTelemetry's current span is."""
    client.init(directory=directory, otel=True)
    with (
        TracerProvider().get_tracer("test").start_as_current_span("request"),
        client.request("r", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
    ):
        pass
    assert [b"\xaa" * 16] == [each["trace_id"] for each in only(directory).records]


def test_a_failing_opentelemetry(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever OpenTelemetry raises, the span is recorded without a trace, and it is counted."""

    def fail() -> None:
        raise RuntimeError

    monkeypatch.setattr(trace, "get_current_span", fail)
    client.init(directory=directory, otel=True)
    with client.step(1):
        pass
    assert [bytes(16)] == [each["trace_id"] for each in only(directory).records]
    assert {"internal_error": 1} == client.counts()


def test_no_opentelemetry(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be imported, spans go on without a trace, and init() counts it."""
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    assert tracing.current_trace() is None
    client.init(directory=directory, otel=True)
    with client.step(1):
        pass
    assert 1 == len(only(directory).records)
    assert {"opentelemetry_missing": 1} == client.counts()


def test_tasks_of_other_loops(tmp_path: Path, python: Run) -> None:
    """Where trio or gevent may switch tasks, spans use the context, as under asyncio."""
    said = python(
        "import sys, types\n"
        "from apportion.client.surroundings import surroundings\n"
        "from apportion import client\n"
        "def running():\n"
        "    surroundings.look()\n"
        "    loop = surroundings.running_loop\n"
        "    return loop is not None and loop() is not None\n"
        "print(running())\n"
        "import asyncio\n"
        "async def main(): return running()\n"
        "print(running(), asyncio.run(main()))\n"
        "trio = types.ModuleType('trio')\n"
        "trio.lowlevel = types.SimpleNamespace(in_trio_run=lambda: trio.on)\n"
        "trio.on = False\n"
        "sys.modules['trio'] = trio\n"
        "print(running(), asyncio.run(main()))\n"
        "trio.on = True\n"
        "print(running())\n"
        "trio.on = False\n"
        "sys.modules['gevent'] = types.ModuleType('gevent')\n"
        "print(running())\n"
    ).stdout
    assert ["False", "False", "True", "False", "True", "True", "True"] == said.split()
