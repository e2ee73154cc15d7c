"""Pods of a node whose agent finds their rings below the kubelet's directory."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
from tests.faults.node import PROGRAMS, Node

from apportion.agent.ingest.pod_directories import VOLUME
from apportion.client import layout

SPANS = 300


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace of its own needs root")
def test_a_pod_in_its_own_namespaces_that_is_deleted(node: Node) -> None:
    """Found while it runs, seen alive across pid namespaces, read to its end when it is gone."""
    pods = node.root / "pods"
    volume = pods / "3f0c-pod" / VOLUME
    volume.mkdir(parents=True)
    volume.chmod(0o2777)
    agent = node.agent(pods_dir=str(pods)).until_ready()
    program = [sys.executable, str(PROGRAMS / "traffic.py")]
    arguments = ["requests", "chat-api", str(SPANS), "200", str(node.root / "log")]
    pod = node.started(
        ["unshare", "--pid", "--fork", "--kill-child", *program, *arguments],
        APPORTION_RING_DIR=str(volume),
    )
    agent.eventually(
        lambda: agent.door.value("apportion_rings_attached") == 1, "the pod's ring is found"
    )
    heartbeat = volume / layout.AGENT_FILE
    agent.eventually(heartbeat.exists, "the pod sees that there is an agent")
    assert json.loads(heartbeat.read_text())["pid"] == agent.process.pid
    agent.eventually(lambda: agent.book.count("span") > 0, "it is read while it runs")
    assert agent.door.value("apportion_rings_attached") == 1
    assert pod.end() == (0, "")
    shutil.rmtree(pods / "3f0c-pod")
    agent.eventually(lambda: agent.book.count("span") == SPANS, "all of it has arrived")
    agent.eventually(agent.book.all_charged, "every span is charged to its end")
    agent.eventually(lambda: agent.door.value("apportion_rings_attached") == 0, "it is forgotten")
    assert agent.stop() == 0, agent.log
    assert node.audit(agent.book) == []
    assert not (pods / "3f0c-pod").exists()
