"""The `devices:` rule."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from apportion.collectors.discovery import DeviceChoice, Discovery, discover, nvidia_gpus
from apportion.core.errors import ConfigError

Tree = Callable[[str], Path]


def on(root: Path, choice: str, *, has_dcgm: bool = False) -> Discovery:
    return discover(
        choice,
        sys_root=root / "sys",
        proc_root=root / "proc",
        dev_root=root / "dev",
        has_dcgm=has_dcgm,
    )


def test_gpus_only(tree: Tree) -> None:
    """Not NVIDIA's sound, not its switches, not others' displays."""
    assert nvidia_gpus(tree("gpu_host") / "sys") == ("0000:17:00.0", "0000:65:00.0")


def test_auto_with_gpus(tree: Tree) -> None:
    """They are there and nothing is missing."""
    found = on(tree("gpu_host"), "auto")
    assert (found.choice, found.collector, found.missing) == (DeviceChoice.AUTO, "nvml", ())
    assert "2 NVIDIA GPUs" in found.reason


def test_auto_without_any_nvidia_device(tree: Tree) -> None:
    """Only then the CPU is metered."""
    found = on(tree("bare_host"), "auto")
    assert (found.collector, found.missing) == ("host", ())


def test_auto_never_meters_the_cpu_of_a_broken_gpu_node(tree: Tree) -> None:
    """It says what is missing instead."""
    root = tree("gpu_host")
    shutil.rmtree(root / "dev")
    found = on(root, "auto")
    assert found.collector == "nvml"
    assert "NVIDIA runtime" in found.reason
    shutil.rmtree(root / "proc/driver")
    found = on(root, "auto")
    assert found.collector == "nvml"
    assert "modprobe nvidia" in found.reason
    assert "not metered instead" in found.reason


def test_auto_with_a_driver_but_no_pci_devices(tree: Tree) -> None:
    """As in a virtual machine whose sysfs is hidden."""
    root = tree("gpu_host")
    shutil.rmtree(root / "sys")
    found = on(root, "auto")
    assert found.collector == "nvml"
    assert found.missing == ("sysfs lists no NVIDIA GPU",)


@pytest.mark.parametrize(
    ("choice", "collector"),
    [("nvml", "nvml"), ("dcgm", "dcgm"), ("cpu", "host"), ("simulator", "nvml")],
)
@pytest.mark.parametrize("machine", ["gpu_host", "bare_host"])
def test_a_named_source_is_obeyed(tree: Tree, machine: str, choice: str, collector: str) -> None:
    """Whatever the machine has."""
    assert on(tree(machine), choice).collector == collector


def test_auto_takes_a_named_exporter_only_where_nvml_cannot_be_read(tree: Tree) -> None:
    """One source of devices at a time, and NVML before dcgm-exporter."""
    root = tree("gpu_host")
    assert on(root, "auto", has_dcgm=True).collector == "nvml"
    shutil.rmtree(root / "dev")
    found = on(root, "auto", has_dcgm=True)
    assert found.collector == "dcgm"
    assert "nvidiactl is absent" in found.reason
    shutil.rmtree(root)
    assert on(root, "auto", has_dcgm=True).collector == "dcgm"


@pytest.mark.parametrize("name", ["", "sys"])
def test_without_sysfs_nobody_knows_whether_there_are_gpus(tmp_path: Path, name: str) -> None:
    """It is not there, or an empty directory as in an image: no reason to meter the CPU."""
    (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(ConfigError, match=r"no sysfs at .*/sys: mount the host's /sys there"):
        on(tmp_path, "auto")
    assert on(tmp_path, "cpu").collector == "host"


def test_the_simulator_says_so(tree: Tree) -> None:
    """In the reason that the agent logs."""
    assert "SIMULATED" in on(tree("bare_host"), "simulator").reason


@pytest.mark.parametrize("choice", ["dcgm-exporter", "gpu", "", "NVML"])
def test_unknown_choices_are_refused(tree: Tree, choice: str) -> None:
    """With the ones that are known."""
    with pytest.raises(ConfigError, match="auto, nvml, dcgm, cpu, simulator"):
        on(tree("bare_host"), choice)
