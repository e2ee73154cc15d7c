"""What every test shares: where things are, what may be missing, and how hypothesis runs."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.examples.forks import Forks
    from tests.postgres import PostgresServer

REPOSITORY = Path(__file__).resolve().parents[1]
UNPACKED = REPOSITORY / "build" / "debian"
WORK = """
def busy():
    while True:
        sum(range(1000))
print("ready", flush=True)
busy()
"""
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")

# A thread each: PyTorch's pool waits actively, and other tests want the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: how long an example takes is the machine's business, never a test's verdict.
settings.register_profile("apportion", deadline=None, print_blob=True, max_examples=50)
settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "apportion"))


def pytest_configure() -> None:
    """Put what packaging/install-debian.sh unpacked on PATH, for pytest run by hand."""
    # Debian keeps a server's programs out of the way, in a folder for each version.
    roots = (UNPACKED / "postgresql", Path("/"))
    servers = [found for root in roots for found in root.glob("usr/lib/postgresql/*/bin")]
    servers.sort(key=lambda folder: float(folder.parent.name), reverse=True)
    path = os.environ.get("PATH", "").split(os.pathsep)
    for folder in map(str, (UNPACKED / "usr" / "bin", *servers)):
        if folder not in path:
            path.append(folder)
    os.environ["PATH"] = os.pathsep.join(path)


def pytest_report_header() -> str:
    """Say which apportion is under test: the tree's, or the wheel's."""
    spec = importlib.util.find_spec("apportion")
    places = spec.submodule_search_locations if spec is not None else None
    return f"apportion imported from: {', '.join(places or ['nowhere'])}"


def pytest_collection_finish() -> None:
    """What was made so far stays until the end, and statements that are compiled once do.

    The garbage collector need not look at tests and modules again: it would each time, which was
    an eighth of the processor time of what the tests do.
    """
    if "sqlalchemy" in sys.modules:
        from tests.compiled import share  # noqa: PLC0415 - the tests of the client have no SQLAlchemy

        share()
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, by name and reason, a test whose needs are missing; with CI=true that is a failure."""
    if item.get_closest_marker("gpu") is not None and not NVIDIA_DRIVER.exists():
        pytest.skip(f"gpu: no NVIDIA driver here ({NVIDIA_DRIVER} does not exist)")
    for marker in item.iter_markers("needs_program"):
        for program in marker.args:
            need_program(program)
    for marker in item.iter_markers("needs_module"):
        for module in marker.args:
            if importlib.util.find_spec(module) is None:
                lack(f"the module {module} is not installed: see requirements/{module}.txt")


def need_program(program: str) -> None:
    """The running test needs a program that Debian's packages bring."""
    if shutil.which(program) is None:
        lack(f"the program {program} is not on PATH: run packaging/install-debian.sh")


def lack(reason: str) -> None:
    """Skip the running test for a reason, or fail it where CI=true promises that all is there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published traces and measurements, which is no part of the project."""
    default = REPOSITORY.parent / "shared" / "fixtures"
    folder = Path(os.environ.get("APPORTION_FIXTURES", default))
    if not folder.is_dir():
        pytest.skip("no published inputs: set APPORTION_FIXTURES to their folder")
    return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated libnvidia-ml.so.1, compiled once for all tests and all of xdist's workers."""
    from apportion.simulator import build  # noqa: PLC0415 - many tests need no simulator

    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    return build(shared / "library")


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Where programs with PyTorch begin, but those whose start is what a test is about."""
    from tests.examples.forks import Forks  # noqa: PLC0415 - few tests need it

    server = Forks()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def worker() -> Iterator[int]:
    """The pid of a Python process at work, in its function `busy`."""
    process = subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel: the one that `make test` made, or one built now from the tree."""
    given = os.environ.get("APPORTION_WHEEL")
    if given is not None:
        return Path(given)
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(REPOSITORY)], check=True, capture_output=True, timeout=100)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def postgres_programs() -> None:
    """What uses it is skipped by name where a PostgreSQL's programs are missing."""
    for program in ("initdb", "postgres", "setpriv"):
        need_program(program)


@pytest.fixture(scope="session")
def postgres(postgres_programs: None) -> Iterator[PostgresServer]:
    """A running PostgreSQL, which nobody may stop: every test has a database of its own."""
    from tests.postgres import PostgresServer  # noqa: PLC0415 - psycopg may be missing with it

    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def ledger_template(postgres: PostgresServer) -> str:
    """The name of a database that is an empty shared ledger, to be copied."""
    from apportion.cost.ledger.migration import migrate  # noqa: PLC0415 - few tests need it

    postgres.execute("CREATE DATABASE ledger_template")
    migrate(postgres.url("ledger_template"))
    return "ledger_template"


@pytest.fixture
def shared_url(postgres: PostgresServer, ledger_template: str) -> Iterator[str]:
    """The URL of a new, empty shared ledger."""
    with postgres.database(ledger_template) as name:
        yield postgres.url(name)
