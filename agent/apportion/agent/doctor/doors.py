"""The doctor's look at doors: whether OTLP's answers or could be opened, whether logs are there."""

from __future__ import annotations

import fnmatch
import http.client
import os
import socket
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from apportion.agent.doctor.finding import Finding, Level
from apportion.collectors.otlp import is_installed
from apportion.collectors.sglang import LOGS, PASSES_SCHEME, can_hear

if TYPE_CHECKING:
    from collections.abc import Callable

    from apportion.agent.config import AgentConfig

_PATH: Final = "/v1/traces"
_KIND: Final = "application/x-protobuf"
_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_WAIT_S: Final = 5.0
_TAKEN: Final = "stop what listens there, or choose another address"
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""What stands for all addresses of a host, and one of them."""


def examine_doors(config: AgentConfig, *, agent_runs: bool) -> list[Finding]:
    """An empty export, over each protocol that has an address.

    Where nobody listens and no agent runs, only whether an agent could.
    """
    found: list[Finding] = []
    for name, address, ask in (
        ("otlp http", config.otlp_http, _http),
        ("otlp grpc", config.otlp_grpc, _grpc),
    ):
        if address is not None:
            found.append(_examine(name, address, ask, agent_runs=agent_runs))
    found += [_log(*text.partition("=")[::2]) for text in config.sglang_logs]
    found += [_passes(*text.partition("=")[::2]) for text in config.sglang_forward_passes]
    return found


def _log(service: str, text: str) -> Finding:
    check, folder = f"sglang {service}", Path(text)
    remedy = (
        "start SGLang with --export-metrics-to-file --export-metrics-to-file-dir, share that "
        "directory with the agent, and let its user read it"
    )
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        return Finding(check, Level.FAIL, f"{folder}: {error.strerror}", remedy)
    logs = fnmatch.filter(names, LOGS)
    if not logs:
        return Finding(
            check, Level.WARN, f"{folder} has no {LOGS}", f"{remedy}; or no request came"
        )
    closed = [name for name in logs if not os.access(folder / name, os.R_OK)]
    if closed:
        return Finding(check, Level.FAIL, f"{folder / closed[0]} cannot be read", remedy)
    return Finding(check, Level.OK, f"{folder} has {len(logs)} logs")


def _passes(service: str, name: str) -> Finding:
    check = f"sglang {service} forward passes"
    path = Path(name.removeprefix(PASSES_SCHEME))
    if not can_hear():
        remedy = "pip install 'apportion[sglang]'"
        return Finding(check, Level.FAIL, "what they need is not installed", remedy)
    remedy = (
        f"start SGLang with --enable-forward-pass-metrics --forward-pass-metrics-ipc-name {name}, "
        "share that directory with the agent, and let its user write to the sockets there"
    )
    try:
        ranks = [each for each in path.parent.iterdir() if each.stem == path.name]
        ranks = [each for each in ranks if each.suffix[1:].isdecimal() and each.is_socket()]
    except OSError as error:
        return Finding(check, Level.FAIL, f"{path.parent}: {error.strerror}", remedy)
    if not ranks:
        return Finding(check, Level.WARN, f"there is no socket {path}.0", remedy)
    closed = [each for each in ranks if not os.access(each, os.W_OK)]
    if closed:
        return Finding(check, Level.FAIL, f"{closed[0]} cannot be connected to", remedy)
    return Finding(check, Level.OK, f"{len(ranks)} ranks at {path}.*")


def _examine(
    check: str, address: str, ask: Callable[[str, int], str | None], *, agent_runs: bool
) -> Finding:
    if not is_installed():
        remedy = "pip install 'apportion[otlp]'"
        return Finding(check, Level.FAIL, "what it needs is not installed", remedy)
    host, _, text = address.rpartition(":")
    bind, port = host.strip("[]"), int(text)
    if not port:
        return Finding(check, Level.OK, "it takes a free port, which its log names")
    try:
        socket.create_connection((_ANY.get(bind, bind), port), _WAIT_S).close()
    except OSError as error:
        return _closed(check, address, bind, port, error, agent_runs=agent_runs)
    problem = ask(_ANY.get(bind, bind), port)
    if problem is None:
        return Finding(check, Level.OK, f"{address} takes exports")
    return Finding(check, Level.FAIL, f"what listens on {address} is no door: {problem}", _TAKEN)


def _closed(
    check: str, address: str, bind: str, port: int, error: OSError, *, agent_runs: bool
) -> Finding:
    """Nobody answers: the agent's door has ended, or there is none yet."""
    if agent_runs:
        reason = error.strerror or str(error)
        remedy = "the agent's log says why; is `otlp_http` or `otlp_grpc` in its configuration?"
        return Finding(check, Level.FAIL, f"an agent runs, and {address}: {reason}", remedy)
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        socket.create_server((bind, port), family=family).close()
    except OSError as refusal:
        reason = refusal.strerror or str(refusal)
        return Finding(check, Level.FAIL, f"cannot listen on {address}: {reason}", _TAKEN)
    return Finding(check, Level.OK, f"{address} is free for an agent's door")


def _http(host: str, port: int) -> str | None:
    """What is wrong with the answer to an empty export."""
    connection = http.client.HTTPConnection(host, port, timeout=_WAIT_S)
    try:
        connection.request("POST", _PATH, body=b"", headers={"Content-Type": _KIND})
        answer = connection.getresponse()
        answer.read(1 << 16)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    good = answer.status == http.client.OK and answer.getheader("Content-Type") == _KIND
    return None if good else f"POST {_PATH} is answered with {answer.status} {answer.reason}"


def _grpc(host: str, port: int) -> str | None:
    grpc: Any = import_module("grpc")  # it has no types
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(target) as channel:
        try:
            channel.unary_unary(_EXPORT)(b"", timeout=_WAIT_S)
        except grpc.RpcError as error:
            code: Any = error
            return f"{code.code().name}: {code.details()}"
    return None
