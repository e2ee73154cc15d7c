"""The lock files: every pin exact and hashed, all in step with pyproject.toml."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ;\\]+)")
# Apart, in requirements/torch.txt.
NOT_LOCKED = frozenset({"torch"})


def entries(lock: Path) -> list[str]:
    """A requirements file's entries, each with its continuation lines joined."""
    text = lock.read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith(("#", "-c"))]


def pins(lock: Path) -> dict[str, frozenset[str]]:
    """Each package of a lock file with the versions that it pins (one for each Python)."""
    found: dict[str, set[str]] = {}
    for entry in entries(lock):
        match = PIN.match(entry)
        assert match is not None, f"{lock.name}: not an exact pin: {entry[:60]}"
        found.setdefault(match["name"], set()).add(match["version"])
    return {name: frozenset(versions) for name, versions in found.items()}


def required(*extras: str) -> frozenset[str]:
    """The packages that the installed metadata asks for in these extras."""
    lines = [Requirement(line) for line in metadata.requires("apportion") or []]
    return frozenset(
        canonicalize_name(line.name)
        for line in lines
        if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in extras)
    )


@pytest.mark.parametrize("name", ["agent.txt", "build.txt", "dev.txt", "trainers.txt"])
def test_every_pin_has_hashes(repository: Path, name: str) -> None:
    """pip refuses a file that was changed on its way only if its hash is here."""
    lines = entries(repository / "requirements" / name)

    assert lines
    assert [] == [line[:60] for line in lines if "--hash=sha256:" not in line]


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("agent.txt", ["agent", "kubernetes", "otlp", "postgresql", "profiles", "sglang"]),
        (
            "dev.txt",
            [
                "agent",
                "bench",
                "demo",
                "dev",
                "export",
                "kubernetes",
                "otlp",
                "postgresql",
                "profiles",
                "sglang",
            ],
        ),
    ],
)
def test_lock_covers_its_extras(repository: Path, name: str, extras: list[str]) -> None:
    """A dependency that was added to pyproject.toml is pinned in the same change."""
    assert frozenset() == required(*extras) - pins(repository / "requirements" / name).keys()


@pytest.mark.parametrize("name", ["agent.txt", "build.txt", "torch-constraints.txt"])
def test_locks_agree(repository: Path, name: str) -> None:
    """What two lock files both pin they pin to the same versions: no install undoes another."""
    whole = pins(repository / "requirements" / "dev.txt")
    part = pins(repository / "requirements" / name)

    assert {} == {
        package: (versions, whole[package])
        for package, versions in part.items()
        if package in whole and versions != whole[package]
    }


def test_trainers_are_beside_the_rest(repository: Path) -> None:
    """What build/trainers holds comes first on the path: it hides nothing that is installed."""
    requirements = repository / "requirements"
    trainers = pins(requirements / "trainers.txt").keys()

    for name in ("dev.txt", "torch-constraints.txt"):
        assert frozenset() == trainers & pins(requirements / name).keys()


def test_torch_stays_apart(repository: Path) -> None:
    """PyTorch's build depends on the machine: one exact version, in no hashed lock."""
    requirements = repository / "requirements"

    assert "torch==2.13.0" in (requirements / "torch.txt").read_text().splitlines()
    for name in ("agent.txt", "dev.txt", "torch-constraints.txt", "trainers.txt"):
        assert frozenset() == NOT_LOCKED & pins(requirements / name).keys()


def test_locks_name_no_place(repository: Path) -> None:
    """A lock file works from any registry and any folder."""
    for lock in (repository / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "://" not in text, lock.name
        assert "--index-url" not in text, lock.name
        assert "--find-links" not in text, lock.name


def test_every_dependency_has_its_reason(repository: Path) -> None:
    """docs/dependencies.md names each direct dependency."""
    page = (repository / "docs" / "dependencies.md").read_text()

    missing = [
        name
        for name in required("agent", "bench", "demo", "dev", "export", "postgresql", "profiles")
        if f"`{name}`" not in page
    ]
    assert [] == sorted(missing)
