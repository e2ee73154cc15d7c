"""The manifests are what Kubernetes and the agent accept, and agree with one another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml

from apportion.agent.cli import main
from apportion.agent.config import AgentConfig
from apportion.agent.ingest.pod_directories import VOLUME
from apportion.client import layout

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy" / "kubernetes"
OVERLAYS = sorted(path.parent for path in FOLDER.glob("*/kustomization.yaml"))
OLDEST = {"pod-vllm-dra": "1.34"}
"""Native sidecars are in 1.29, claims in 1.34."""
DEFAULT_OLDEST = "1.29"
NOT_ITS_OWN = {"kustomize.config.k8s.io", "monitoring.coreos.com", "kubeflow.org"}
"""Groups of which Kubernetes itself has no schema."""
_CLIENT_VARIABLE = re.compile(r"APPORTION_(WORKLOAD|MODEL|RUN|ATTEMPT|RING_DIR)$")


def documents(overlay: Path) -> list[dict[str, Any]]:
    """Every object of an overlay's resources."""
    kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    return [
        found
        for name in kustomization["resources"]
        for found in yaml.safe_load_all((overlay / name).read_text())
    ]


def pods(overlay: Path) -> list[dict[str, Any]]:
    """The pod templates in it."""

    def below(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "containers" in (value.get("spec") or {}):
            yield value
        for each in value.values():
            if isinstance(each, dict):
                yield from below(cast("dict[str, Any]", each))

    return [pod for found in documents(overlay) for pod in below(found)]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a pod template, those that start first first."""
    spec = pod["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container.get("env", [])}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
@pytest.mark.parametrize("newest", [False, True])
def test_kubernetes_accepts_it(overlay: Path, newest: bool) -> None:
    """By the API's own schemas, unknown fields refused; of others' kinds, the pods in them."""
    oldest = OLDEST.get(overlay.name, DEFAULT_OLDEST)
    version = kubernetes_validate.latest_version() if newest else oldest
    for found in documents(overlay):
        group = found["apiVersion"].rpartition("/")[0]
        if group not in NOT_ITS_OWN:
            kubernetes_validate.validate(found, version, strict=True)
    for pod in pods(overlay):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **pod}
        kubernetes_validate.validate(whole, version, strict=True)


def test_every_file_belongs_to_an_overlay() -> None:
    """Nothing lies there that no `kubectl apply -k` would ever read."""
    assert 5 == len(OVERLAYS)
    named: set[Path] = set()
    for overlay in OVERLAYS:
        found = yaml.safe_load((overlay / "kustomization.yaml").read_text())
        made = [name for each in found.get("configMapGenerator", []) for name in each["files"]]
        named |= {overlay / name for name in ("kustomization.yaml", *found["resources"], *made)}
    assert named == {path for path in FOLDER.rglob("*") if path.is_file()}


def test_the_agent_accepts_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """Each key of it is known, and has a value that the agent takes."""
    assert main(["check-config", "--config", str(FOLDER / "node" / "apportion.yaml")]) == 0
    assert "pods_dir" in capsys.readouterr().out


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_variables_are_known(overlay: Path) -> None:
    """Those of the agent are keys of its configuration, those of a workload the client's."""
    keys = {f"APPORTION_{name.upper()}" for name in AgentConfig.model_fields}
    for pod in pods(overlay):
        for container in containers(pod):
            is_agent = container["image"] == "apportion"
            for name in environment(container):
                if name.startswith("APPORTION_"):
                    assert name in keys if is_agent else _CLIENT_VARIABLE.match(name), name


@pytest.mark.parametrize(
    "overlay", [each for each in OVERLAYS if each.name != "node"], ids=lambda path: path.name
)
def test_workload_and_agent_share_rings(overlay: Path) -> None:
    """One memory-backed volume, in a group of both, under the name that a node's agent knows."""
    for pod in pods(overlay):
        assert pod["spec"]["securityContext"]["fsGroup"]
        (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == VOLUME.name)
        assert volume["emptyDir"]["medium"] == "Memory"
        for container in containers(pod):
            mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
            assert mounts[VOLUME.name] == layout.DEFAULT_DIRECTORY
            if container["image"] != "apportion":
                assert environment(container)["APPORTION_RING_DIR"] == layout.DEFAULT_DIRECTORY


def test_the_nodes_agent_sees_what_it_is_told_to_read() -> None:
    """What the configuration names is mounted; volumes of later pods arrive there."""
    (pod,) = pods(FOLDER / "node")
    (agent,) = containers(pod)
    mounts = {each["mountPath"]: each for each in agent["volumeMounts"]}
    config = yaml.safe_load((FOLDER / "node" / "apportion.yaml").read_text())
    pods_mount = mounts[config["pods_dir"]]
    assert pods_mount["mountPropagation"] == "HostToContainer"
    assert not pods_mount.get("readOnly")
    socket = AgentConfig.model_fields["kubelet_socket"].default
    assert str(Path(socket).parent) in mounts
    assert str(AgentConfig.model_fields["state_dir"].default) in mounts


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_ports_and_labels_meet(overlay: Path) -> None:
    """Prometheus finds the agent: a monitor's selector and port are those of the pods."""
    template_labels = [pod["metadata"]["labels"] for pod in pods(overlay)]
    ports = {
        port["name"]: port["containerPort"]
        for pod in pods(overlay)
        for container in containers(pod)
        for port in container.get("ports", [])
    }
    for found in documents(overlay):
        if found["kind"] == "PodMonitor":
            wanted = found["spec"]["selector"]["matchLabels"].items()
            assert any(wanted <= labels.items() for labels in template_labels)
            for endpoint in found["spec"]["podMetricsEndpoints"]:
                assert ports[endpoint["port"]] == 9477


def test_spans_reach_the_agent_of_their_node() -> None:
    """The Service's and the policy's ports are the agent's, and it can listen where they lead."""
    overlay = FOLDER / "node"
    (pod,) = pods(overlay)
    (agent,) = containers(pod)
    ports = {each["name"]: each["containerPort"] for each in agent["ports"]}
    found = {each["kind"]: each.get("spec", {}) for each in documents(overlay)}
    service, policy = found["Service"], found["NetworkPolicy"]
    assert service["internalTrafficPolicy"] == "Local"
    labels = pod["metadata"]["labels"]
    assert service["selector"] == policy["podSelector"]["matchLabels"] == labels
    assert {each["targetPort"]: each["port"] for each in service["ports"]} == {
        name: port for name, port in ports.items() if name != "metrics"
    }
    let_in = {each["port"]: "from" in rule for rule in policy["ingress"] for each in rule["ports"]}
    assert let_in == {name: name != "metrics" for name in ports}
    text = (overlay / "apportion.yaml").read_text()
    offered = dict(re.findall(r"^# (otlp_\w+): 0\.0\.0\.0:(\d+)$", text, re.MULTILINE))
    assert offered == {
        name.replace("-", "_"): str(port) for name, port in ports.items() if name != "metrics"
    }
