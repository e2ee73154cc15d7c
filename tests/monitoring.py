"""A real Prometheus, a real Alertmanager and a webhook, on loopback, for one test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import yaml
from prometheus_client.parser import text_string_to_metric_families

PATIENCE_S = 60.0
_LISTENING = re.compile(r'msg="Listening on" address=127\.0\.0\.1:(\d+)')
_direct = build_opener(ProxyHandler({}))


class Server:
    """A program of Prometheus' family that chooses its own port and says it in its log."""

    def __init__(self, command: Sequence[str], log: Path, within: Sequence[str] = ()) -> None:
        self._log = log
        with log.open("xb") as stream:
            self._process = subprocess.Popen(
                [*within, "setpriv", "--pdeathsig", "KILL", *command], stdout=stream, stderr=stream
            )
        self.address = ""
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_ready():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.stop()
                raise AssertionError(f"{command[0]} does not serve:\n{log.read_text()}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        found = _LISTENING.search(self._log.read_text())
        if found is None:
            return False
        self.address = f"127.0.0.1:{found[1]}"
        try:
            with _direct.open(f"http://{self.address}/-/ready", timeout=PATIENCE_S):
                return True
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        """An answer of its API, as JSON."""
        url = f"http://{self.address}{path}?{urlencode(parameters)}"
        with _direct.open(url, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def stop(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait(PATIENCE_S)


class Prometheus(Server):
    """Scrapes `targets`, addresses by job, and evaluates `rules`, both every second.

    `labels` are those of all targets; what targets say themselves is honoured then.
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, Sequence[str]],
        rules: Mapping[str, Any],
        alertmanager: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir()
        for name, document in rules.items():
            (folder / name).write_text(yaml.safe_dump(document))
        config: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": list(rules),
            "scrape_configs": [
                {
                    "job_name": job,
                    "honor_labels": bool(labels),
                    "static_configs": [{"targets": list(places), "labels": dict(labels or {})}],
                }
                for job, places in targets.items()
            ],
        }
        if alertmanager is not None:
            static = [{"targets": [alertmanager]}]
            config["alerting"] = {"alertmanagers": [{"static_configs": static}]}
        file = folder / "prometheus.yaml"
        file.write_text(yaml.safe_dump(config))
        super().__init__(
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            folder / "log",
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        answer = self.get("/api/v1/query", query=expression)
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def own(self, name: str) -> float:
        """The sum of one of its own metrics."""
        with _direct.open(f"http://{self.address}/metrics", timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]
        assert found, f"Prometheus has no {name}"
        return sum(found)


class Alertmanager(Server):
    """Routes as a configuration says."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        folder.mkdir()
        self.file = folder / "alertmanager.yaml"
        self.file.write_text(yaml.safe_dump(config))
        super().__init__(
            [
                "prometheus-alertmanager",
                f"--config.file={self.file}",
                f"--storage.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                "--cluster.listen-address=",
            ],
            folder / "log",
            _with_templates(),
        )


def _with_templates() -> Sequence[str]:
    """Debian's Alertmanager wants its templates below /usr/share, where an unpacked one has none.

    So it gets a mount namespace of its own, in which the unpacked folder is /usr/share.
    """
    program = shutil.which("prometheus-alertmanager")
    assert program is not None
    share = Path(program).parents[1] / "share"
    if share == Path("/usr/share"):
        return ()
    as_root = () if os.geteuid() == 0 else ("--map-root-user",)
    mount = 'mount --bind "$0" /usr/share && exec "$@"'
    return ("unshare", "--mount", *as_root, "sh", "-c", mount, str(share))


class Webhook:
    """Keeps every alert that it is told of."""

    def __init__(self) -> None:
        received: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.extend(body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of http.server
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._received = received
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def alerts(self, name: str, status: str) -> list[dict[str, Any]]:
        """What it was told of an alert, in this state."""
        return [
            alert
            for alert in list(self._received)
            if alert["labels"]["alertname"] == name and alert["status"] == status
        ]

    def names(self) -> set[str]:
        """The names of all alerts so far."""
        return {alert["labels"]["alertname"] for alert in list(self._received)}

    @contextmanager
    def listening(self) -> Generator[Webhook]:
        """Answers meanwhile."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
