"""A real PostgreSQL for tests: a server of its own in a temporary folder, a database a test."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg

PATIENCE_S: Final = 60.0
USER: Final = "apportion"
_FAST: Final = ("-c", "fsync=off", "-c", "full_page_writes=off")
"""The server under a test may die, its machine does not."""


class PostgresServer:
    """initdb and postgres on a loopback port, with a password. As root it runs as `nobody`.

    The kernel ends it when the thread that started it ends, whatever becomes of the tests.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="apportion-postgres-"))
        self.password = secrets.token_hex(8)
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.folder / "log"
        self._guard = ["setpriv", "--pdeathsig", "QUIT"]
        secret = self.folder / "password"
        secret.write_text(self.password)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            for path in (self.folder, secret):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            ids = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
            self._guard += ids
            if _unpacked() is not None:  # perhaps in a folder that is closed to others
                self._guard += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
                self._guard += ["--securebits=+no_setuid_fixup"]  # else access() forgets them
        command = [*self._guard, "initdb", "--pgdata", self.folder / "data", "--no-sync"]
        command += ["--username", USER, "--pwfile", secret, "--auth", "scram-sha-256"]
        command += ["--encoding", "UTF8", "--locale", "C"]
        done = subprocess.run(
            list(map(str, command)),
            cwd="/",
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self._databases = 0

    def url(self, database: str = "postgres", *, password: bool = True) -> str:
        """As a configuration has it; without a password libpq takes that of PGPASSWORD."""
        secret = f":{self.password}" if password else ""
        return f"postgresql://{USER}{secret}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, also again, and wait until it answers."""
        command = [*self._guard, "postgres", "-D", self.folder / "data", "-p", self.port, *_FAST]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                list(map(str, command)),
                cwd="/",
                env=_environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE_S
        while (refusal := self._refusal()) is not None:
            running = self._process.poll() is None and time.monotonic() < deadline
            assert running, f"no server: {refusal}\n{self._log.read_text()}"
            time.sleep(0.05)

    def stop(self) -> None:
        """An immediate shutdown, sessions or not, as by a machine that fails."""
        if self._process is not None:
            self.resume()
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(PATIENCE_S)
            self._process = None

    def pause(self) -> None:
        """Nothing in it runs: connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """The end of `pause`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it and remove what it had."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """One statement, outside any transaction."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    @contextmanager
    def database(self, template: str = "template1") -> Generator[str]:
        """The name of a new database, a copy of `template`; it is dropped afterwards."""
        self._databases += 1
        name = f"ledger_{self._databases}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            if self._process is not None:
                self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _refusal(self) -> str | None:
        """Why it takes no sessions; None: it does."""
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            return str(error)
        return None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        server = self._process.pid
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for pid in (server, *map(int, children)):
            with suppress(ProcessLookupError):  # a session that ended just now
                os.kill(pid, number)


def _unpacked() -> Path | None:
    """The `usr` folder of a server that was unpacked and not installed."""
    found = shutil.which("initdb")
    assert found is not None
    usr = Path(found).resolve().parents[4]
    return None if usr == Path("/usr") else usr


def _environment() -> dict[str, str]:
    """This process's, with messages in English and nothing that would lead libpq astray."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
    usr = _unpacked()
    if usr is not None:
        kept["LD_LIBRARY_PATH"] = ":".join(map(str, usr.glob("lib/*-linux-gnu*")))
    return {**kept, "LC_ALL": "C"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
