"""A workload that no agent watches must not notice."""

from __future__ import annotations

from tests.faults.node import Node, SmallFileSystem


def test_no_directory(node: Node) -> None:
    """No agent was ever here: nothing is raised, printed or made."""
    assert node.workload("quiet").end() == (0, "")
    assert not node.rings.exists()


def test_no_agent(node: Node) -> None:
    """A directory without an agent: a ring is left behind, and that is all."""
    node.rings.mkdir()
    assert node.workload("quiet").end() == (0, "")
    assert len(list(node.rings.iterdir())) == 1


def test_read_only_directory(node: Node) -> None:
    """A directory that the workload may not write."""
    node.rings.mkdir(mode=0o555)
    assert node.workload("quiet", override_rights=False).end() == (0, "")
    assert list(node.rings.iterdir()) == []


def test_full_directory(node: Node, small_file_system: SmallFileSystem) -> None:
    """A file system without room for a ring: not even an empty file is left."""
    small_file_system(node.rings, 1 << 20)
    assert node.workload("quiet").end() == (0, "")
    assert list(node.rings.iterdir()) == []
