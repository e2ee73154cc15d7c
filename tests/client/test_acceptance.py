"""The work of `apportion doctor --accept`. No GPU was there: PyTorch with CUDA is a stand-in."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apportion.client import acceptance, layout

MM_S, LAUNCH_MS = 0.0004, 1.5


class Event:
    """A CUDA event that was recorded when so many products had been launched."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._launched = 0

    def record(self) -> None:
        self._launched = self._cuda.launched

    def elapsed_time(self, later: Event) -> float:
        """Milliseconds, as PyTorch has it."""
        return LAUNCH_MS * (later._launched - self._launched)


class Cuda:
    """As much of `torch.cuda` as is used."""

    def __init__(self) -> None:
        self.launched = 0
        self.synchronized = 0

    def Event(self, *, enable_timing: bool) -> Event:  # noqa: N802 - PyTorch's name
        assert enable_timing
        return Event(self)

    def synchronize(self) -> None:
        self.synchronized += 1

    def is_initialized(self) -> bool:
        return False


def stand_in() -> tuple[Any, Cuda]:
    """A `torch` that counts matrix products."""
    cuda = Cuda()

    def product(_a: object, _b: object) -> None:
        cuda.launched += 1
        time.sleep(MM_S)

    def rand(rows: int, columns: int, device: str) -> object:
        return rows, columns, device

    return SimpleNamespace(cuda=cuda, rand=rand, mm=product), cuda


def test_phases_by_both_clocks() -> None:
    """The device's are by its events, the host's those of launches; the first step is left out."""
    torch, cuda = stand_in()
    found = acceptance.clocks(2, torch)
    products = 2 * acceptance.PRODUCTS
    milliseconds = {name: times * products * LAUNCH_MS for name, times in acceptance.PHASES}
    assert found["device_ns"] == {name: round(ms * 1e6) for name, ms in milliseconds.items()}
    for name, times in acceptance.PHASES:
        assert times * products * MM_S * 1e9 <= found["host_ns"][name] <= found["steps_ns"]
    assert cuda.synchronized == 2 * 3
    assert cuda.launched == 3 * 3 * acceptance.PRODUCTS


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_work_is_of_the_size_that_is_asked(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many steps and one before them; without an agent's directory nothing is written."""
    monkeypatch.setenv(layout.DIRECTORY_VARIABLE, str(tmp_path / "none"))
    torch, cuda = stand_in()
    found = acceptance.work(3, torch if device == "cuda" else None)
    assert (found["device"], found["steps"]) == (device, 3)
    assert found["seconds"] > 0
    assert cuda.launched == (4 * 3 * acceptance.PRODUCTS if device == "cuda" else 0)
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that cannot be measured is missing, not 0; another word is refused."""
    monkeypatch.setattr(acceptance, "DRIVERS", ())
    assert acceptance.main(["clocks", "3"]) == 0
    assert "no PyTorch with CUDA" in json.loads(capsys.readouterr().out)["missing"]
    assert acceptance.main(["sleep", "3"]) == 2
