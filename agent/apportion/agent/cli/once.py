"""`apportion once`: one collector, once, without an agent."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

from apportion.agent.cli.command import Command
from apportion.agent.cli.listing import add_format, render
from apportion.collectors.once import collect_once
from apportion.collectors.registry import built_in

_COLUMNS: Final = (
    "device",
    "utilization_ratio",
    "power_mw",
    "energy_mj",
    "memory_used_bytes",
    "memory_total_bytes",
    "temperature_celsius",
)
_OPTIONS: Final = (
    "proc_root",
    "sys_root",
    "kmsg",
    "kubelet_socket",
    "job_mapping_dir",
    "ring_dir",
    "nccl_dirs",
    "pod_labels",
    "kubernetes_url",
    "service_account_dir",
    "node_name",
    "period",
)
_SAMPLE_COLUMNS: Final = ("name", "labels", "value")


def _configure(parser: argparse.ArgumentParser) -> None:
    names = [registration.name for registration in built_in().registrations()]
    parser.add_argument("--collector", required=True, choices=names, help="which source to read")
    parser.add_argument("--proc-root", metavar="DIR", help="procfs (default: /proc)")
    parser.add_argument("--sys-root", metavar="DIR", help="sysfs (default: /sys)")
    parser.add_argument("--kmsg", metavar="PATH", help="the kernel's log (default: /dev/kmsg)")
    parser.add_argument("--kubelet-socket", metavar="PATH", help="the kubelet's socket")
    parser.add_argument("--job-mapping-dir", metavar="DIR", help="Slurm's jobs, a file a GPU")
    parser.add_argument("--ring-dir", metavar="DIR", help="where the rings are")
    parser.add_argument("--nccl-dirs", metavar="DIR,DIR", help="logs of NCCL's Inspector, dumps")
    parser.add_argument("--pod-labels", metavar="KEY,KEY", help="labels of pods to show")
    parser.add_argument(
        "--kubernetes-url", metavar="URL", help="the API server, or the path of a recorded list"
    )
    parser.add_argument("--service-account-dir", metavar="DIR", help="its token and authority")
    parser.add_argument("--node-name", metavar="NAME", help="this node's name in Kubernetes")
    for flag, what in (("--dcgm-url", "a dcgm-exporter"), ("--engine-url", "an engine's /metrics")):
        help_text = f"{what}, or the path of a recorded text; repeat it for more"
        parser.add_argument(flag, metavar="URL", action="append", help=help_text)
    parser.add_argument("--period", metavar="SECONDS", help="time between two readings")
    add_format(parser)


def _run(options: argparse.Namespace) -> int:
    texts = {name: text for name in _OPTIONS if (text := getattr(options, name)) is not None}
    for name in ("dcgm_url", "engine_url"):
        if (urls := getattr(options, name)) is not None:
            texts[f"{name}s"] = ",".join(urls)
    result: dict[str, Any] = collect_once(options.collector, texts)
    if options.format == "json":
        sys.stdout.write(f"{json.dumps(result, indent=2)}\n")
    else:
        rows: list[dict[str, Any]] = result["readings"]
        columns: tuple[str, ...] = _COLUMNS
        if not rows:
            rows = [
                {**sample, "labels": ",".join(f"{k}={v}" for k, v in sample["labels"].items())}
                for sample in result["samples"]
            ]
            columns = _SAMPLE_COLUMNS
        sys.stdout.write(render(rows, columns, options.format))
    for failure in result["failures"]:
        sys.stderr.write(f"{failure.get('device', failure['index'])}: {failure['reason']}\n")
    if result["error"]:
        sys.stderr.write(f"{options.collector}: {result['error']}\n")
    elif not result["readings"] and not result["samples"]:
        sys.stderr.write(f"{options.collector}: it was read, and has nothing to tell now\n")
    return 0 if result["success"] else 1


COMMAND = Command(
    "Prints what one collector reads, as JSON in full or as a short table. Exit status 1: its "
    "source is not there, cannot be read or never had anything; one that is there and has nothing "
    "to tell now is 0 and says so.",
    _configure,
    _run,
)
