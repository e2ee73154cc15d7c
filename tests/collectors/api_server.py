"""An HTTPS server on loopback that answers as a Kubernetes API server does, for lists of pods."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

CERTIFICATES: Final = Path(__file__).parent / "fixtures" / "api_server"
TOKEN: Final = "a-token-of-a-service-account"
METADATA_ONLY: Final = "as=PartialObjectMetadataList"


def account(folder: Path, token: str = TOKEN) -> Path:
    """A service account as a pod has it mounted."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(f"{token}\n")
    (folder / "ca.crt").write_text((CERTIFICATES / "authority.pem").read_text())
    return folder


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with more than anybody should see."""

    namespace: str
    name: str
    labels: dict[str, Any]
    node: str = "node-7"
    secret: str = "a secret"

    def document(self, *, metadata_only: bool) -> dict[str, Any]:
        """As the API gives it, whole or its metadata alone."""
        found: dict[str, Any] = {
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "labels": self.labels,
                "annotations": {"note": self.secret},
            }
        }
        if not metadata_only:
            environment = [{"name": "API_KEY", "value": self.secret}]
            container = {"name": "main", "args": [self.secret], "env": environment}
            found["spec"] = {"nodeName": self.node, "containers": [container]}
        return found


@dataclass(slots=True)
class ApiServer:
    """What it has, how it behaves from now on, and what was asked of it."""

    pods: list[Pod] = field(default_factory=list[Pod])
    may_list: bool = True
    expired: int = 0
    """How many of the next pages have expired."""
    page: int = 500
    hangs: threading.Event = field(default_factory=threading.Event)
    """Set: it does not answer."""
    body: bytes | None = None
    """Its answer, whatever is asked."""
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    url: str = ""

    def answer(self, query: dict[str, str], headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body."""
        self.asked.append({**query, "Accept": headers.get("Accept", "")})
        if self.body is not None:
            return 200, self.body
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, status(401, "Unauthorized")
        if not self.may_list:
            return 403, status(403, "Forbidden")
        if "continue" in query and self.expired:
            self.expired -= 1
            return 410, status(410, "Expired")
        _, _, node = query["fieldSelector"].partition("spec.nodeName=")
        pods = [pod for pod in self.pods if pod.node == node]
        first = int(query.get("continue", "0"))
        last = first + min(int(query["limit"]), self.page)
        further = {"continue": str(last)} if last < len(pods) else {}
        metadata_only = METADATA_ONLY in headers.get("Accept", "")
        items = [pod.document(metadata_only=metadata_only) for pod in pods[first:last]]
        listed = {"metadata": {"resourceVersion": "7", **further}, "items": items}
        return 200, json.dumps(listed).encode()


def status(code: int, reason: str) -> bytes:
    """The API's way to say no."""
    return json.dumps({"kind": "Status", "code": code, "reason": reason}).encode()


@contextmanager
def api_server(*pods: Pod) -> Generator[ApiServer]:
    """It listens until the block ends; its certificate is of the authority in `account`."""
    served = ApiServer(list(pods))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            code, body = served.answer(query, dict(self.headers.items()))
            while served.hangs.is_set():
                threading.Event().wait(0.02)
            with suppress(OSError):
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "server.pem", CERTIFICATES / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    served.url = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.hangs.clear()
        server.shutdown()
        server.server_close()
        thread.join()
