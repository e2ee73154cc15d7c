"""Rules of the tree that no linter holds: the namespace, sizes, names, who imports what."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PARTS = ("agent", "client", "collectors", "core", "cost", "doors", "profiles", "simulator")
LONGEST_MODULE_LINES = 400
VAGUE_NAMES = frozenset({"common", "helper", "helpers", "manager", "misc", "util", "utils"})


def modules(repository: Path, *parts: str) -> list[Path]:
    """The parts' Python files, in a stable order."""
    return sorted(file for part in parts for file in (repository / part).rglob("*.py"))


def roots_imported_on_import(tree: ast.Module) -> Iterator[str]:
    """The top-level names that importing a module imports at once (not in its functions)."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield (
                ".".join(module.split(".")[:2])
                if module.startswith("apportion")
                else (module.split(".")[0])
            )
        waiting.extend(ast.iter_child_nodes(node))


def test_namespace_has_no_init(repository: Path) -> None:
    """An apportion/__init__.py in one root would hide the other six."""
    assert [] == [part for part in PARTS if (repository / part / "apportion/__init__.py").exists()]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_a_typed_package(repository: Path, part: str) -> None:
    """Each source root holds one package of its own name, with its types declared."""
    package = repository / part / "apportion" / part

    assert (package / "__init__.py").is_file()
    assert (package / "py.typed").is_file()
    assert [part] == [
        found.name for found in package.parent.iterdir() if found.name != "__pycache__"
    ]


def test_modules_are_short(repository: Path) -> None:
    """A module owns one public noun: past 400 lines it owns two."""
    lengths = {file: file.read_text().count("\n") for file in modules(repository, *PARTS)}

    assert {} == {
        str(file.relative_to(repository)): lines
        for file, lines in lengths.items()
        if lines > LONGEST_MODULE_LINES
    }


def test_modules_have_names_that_say_something(repository: Path) -> None:
    """Code that belongs nowhere has no room: no utils, no manager, no helpers."""
    assert [] == [file for file in modules(repository, *PARTS) if file.stem in VAGUE_NAMES]


@pytest.mark.parametrize(
    ("part", "third_parties"), [("client", frozenset[str]()), ("core", frozenset({"numpy"}))]
)
def test_light_parts_import_little(
    repository: Path, part: str, third_parties: frozenset[str]
) -> None:
    """The client is standard library only; core may use numpy beside it."""
    allowed = sys.stdlib_module_names | third_parties | {f"apportion.{part}"}
    heavy = {
        f"{file.relative_to(repository)}: {root}"
        for file in modules(repository, part)
        for root in roots_imported_on_import(ast.parse(file.read_text()))
        if root not in allowed
    }

    assert set() == heavy


def test_client_parses_on_the_oldest_python(repository: Path) -> None:
    """Training images pin old Pythons: the client's grammar stays at 3.10."""
    for file in modules(repository, "client"):
        ast.parse(file.read_text(), filename=str(file), feature_version=(3, 10))


def test_every_test_says_what_it_protects(repository: Path) -> None:
    """A test without its sentence cannot be judged when it fails."""
    silent = [
        f"{file.relative_to(repository)}:{node.lineno} {node.name}"
        for file in sorted((repository / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]

    assert [] == silent


@pytest.mark.parametrize(
    "name",
    ["CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md", "docs", "adr"],
)
def test_house_is_complete(repository: Path, name: str) -> None:
    """What a stranger looks for first is there."""
    assert (repository / name).exists()


def test_decisions_end_in_their_confirmation(repository: Path) -> None:
    """Each decision names the test or lint that holds it, or it is only an opinion."""
    decisions = sorted((repository / "adr").glob("*.md"))

    assert decisions
    for decision in decisions:
        last = decision.read_text().rstrip().split("\n\n")[-1]
        assert last.startswith("**Confirmation**: "), decision.name
