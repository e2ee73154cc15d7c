"""What the pages say is true of the code: links, commands, examples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "adr/*.md", "simulator/*.md")
    for page in REPOSITORY.glob(pattern)
)
_LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)(?:#[^)]*)?\)")
_PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
_YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
_NAMES = """
import types
batches = [0, 1]
model = lambda batch: types.SimpleNamespace(backward=lambda: None)
optimizer = types.SimpleNamespace(step=lambda: None)
request_id, tenant = "request-1", "search"
generate = lambda: iter("ab")
"""
"""What the examples take from the reader's own program."""


def _examples() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for page in PAGES:
        text = page.read_text()
        for match in _PYTHON.finditer(text):
            line = text[: match.start()].count("\n") + 1
            found.append((f"{page.relative_to(REPOSITORY)}:{line}", match[1]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    """A page never points at a file that is not there."""
    for target in _LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(
    "source", [pytest.param(source, id=where) for where, source in _examples()]
)
def test_python_examples_run(source: str, tmp_path: Path) -> None:
    """A reader can paste an example; it works with an agent's directory there and without."""
    for directory in (tmp_path, tmp_path / "missing"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", f"{_NAMES}\n{source}"],
            env={**os.environ, "APPORTION_RING_DIR": str(directory)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_decision_ends_in_its_confirmation() -> None:
    """A decision record says which test or lint holds it."""
    for record in sorted((REPOSITORY / "adr").glob("0*.md")):
        assert "**Confirmation**" in record.read_text(), record.name


def test_readme_has_the_two_commands() -> None:
    """CI runs what the README says, in that order."""
    text = (REPOSITORY / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    assert "make test" in (REPOSITORY / ".ci/run").read_text()


@pytest.mark.needs_program("promtool")
def test_scrape_configurations_are_valid(tmp_path: Path) -> None:
    """Prometheus would load what a page tells a reader to put into its configuration."""
    checked = 0
    for page in PAGES:
        for block in _YAML.findall(page.read_text()):
            if not block.startswith(("scrape_configs:", "rule_files:")):
                continue
            file = tmp_path / "prometheus.yml"
            file.write_text(block)
            done = subprocess.run(
                ["promtool", "check", "config", "--syntax-only", str(file)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{page.name}: {done.stdout}{done.stderr}"
            checked += 1
    assert checked >= 2
