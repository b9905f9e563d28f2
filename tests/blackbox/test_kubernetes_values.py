"""What values the chart takes: those that cannot work are refused, with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator

import pytest

from harness import manifests
from harness.manifests import KUBERNETES, Document


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"ufs": {"uri": ""}}, "ufs.uri"),
        ({"worker": {"certificates": {"nodes": []}}}, "worker.certificates"),
        ({"control": {"metadata": "etcd"}}, "'embedded', 'foundationdb'"),
        ({"worker": {"hostNetwork": True}}, "networkPolicy.nodeCidrs"),
        ({"worker": {"minAvailable": "50%"}}, "worker/minAvailable"),
        ({"control": {"foundationdb": {"operator": {"enabled": True}}}}, "control.metadata"),
        ({"control": {"lease": "1s"}}, "control.lease: 1s: use 2s to 10m"),
        ({"control": {"lease": "1h"}}, "control.lease: 1h: use 2s to 10m"),
        ({"control": {"memory": "1B"}}, "control.memory: 1B is too little"),
        ({"worker": {"memory": "255MiB"}}, "worker.memory: 255MiB is too little"),
        ({"worker": {"memory": "6GiB"}}, "worker.memory: 6GiB needs more than"),
        ({"worker": {"resources": {"cpu": 1, "memory": "1500M"}}}, "worker.memory: 4GiB needs"),
        ({"control": {"memory": "2GB", "resources": {"cpu": 1, "memory": "2.1G"}}}, "2.1G"),
        ({"ufs": {"persistentVolumeClaim": ""}}, "ufs.uri: no volume is mounted at /srv/ufs"),
        ({"ufs": {"uri": "file:///srv/ufsother"}}, "no volume is mounted at /srv/ufsother"),
        ({"ufs": {"uri": "file:///srv/ufs/../x"}}, "no volume is mounted at /srv/x"),
        ({"mounts": ["nas=file:///mnt/nas,a=b"]}, "no volume is mounted at /mnt/nas"),
        (
            {"worker": {"hostNetwork": True, "hostPort": 29998},
             "networkPolicy": {"nodeCidrs": ["10.0.0.0/16"]}},
            "worker.hostPort: with worker.hostNetwork",
        ),
    ],
)
def test_values_that_cannot_work_are_refused(
    values: Document, hint: str, tmp_path: Path
) -> None:
    code, text = manifests.template(tmp_path, values, "embedded")
    assert code != 0 and hint in text


def test_values_at_the_edge_of_what_can_work_are_taken(tmp_path: Path) -> None:
    values: Document = {
        "control": {"lease": "10min", "memory": "256MiB", "resources": {"cpu": 1, "memory": "282Mi"}},
        "worker": {
            "memory": "1000MB", "resources": {"cpu": "500m", "memory": "1.1G"},
            "graceSeconds": 1, "hostPort": 80,
        },
        "ufs": {"uri": "file:///srv/ufs/a/../b"},
        "mounts": ["nas=file:///mnt/nas/photos,a=b", "far=s3://b"],
        "extraVolumes": [{"name": "nas", "nfs": {"server": "nas", "path": "/"}}],
        "extraVolumeMounts": [{"name": "nas", "mountPath": "/mnt/nas/"}],
        "serviceMonitor": {"enabled": True, "interval": "1m"},
    }  # fmt: skip
    code, text = manifests.template(tmp_path, values, "embedded")
    assert code == 0, text
    pod = dict(manifests.pods(manifests.documents(text)))["quickwater-worker"]
    (s3,) = [p for p in pod["spec"]["containers"][0]["ports"] if p["name"] == "s3"]
    assert s3["hostPort"] == 80
    values["control"]["lease"] = "2000ms"
    code, text = manifests.template(tmp_path, values, "embedded")
    assert code == 0, text


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"workers": {}}, "workers"),
        ({"worker": {"preStopSecond": 5}}, "preStopSecond"),
        ({"worker": {"preStopSeconds": "5s"}}, "preStopSeconds"),
        ({"worker": {"preStopSeconds": -1}}, "preStopSeconds"),
        ({"worker": {"capacity": 5}}, "capacity"),
        ({"worker": {"capacity": "5 apples"}}, "capacity"),
        ({"worker": {"minAvailable": "50%"}}, "minAvailable"),
        ({"worker": {"hostPort": 70000}}, "hostPort"),
        ({"worker": {"hostNetwork": "false"}}, "hostNetwork"),
        ({"worker": {"resources": {"cpu": "four"}}}, "cpu"),
        ({"worker": {"certificates": {"nodes": ["Node_A"]}}}, "nodes"),
        ({"worker": {"seccomp": {"type": "None"}}}, "seccomp"),
        ({"control": {"metadata": "etcd"}}, "metadata"),
        ({"control": {"lease": 75}}, "lease"),
        ({"worker": {"graceSeconds": 0}}, "graceSeconds"),
        ({"worker": {"capacity": "1PiB"}}, "capacity"),
        ({"worker": {"capacity": "0"}}, "capacity"),
        ({"serviceMonitor": {"interval": "1min"}}, "interval"),
        ({"serviceMonitor": {"interval": "0s"}}, "interval"),
        ({"ufs": {"uri": "/srv/ufs"}}, "uri"),
        ({"mounts": ["photos"]}, "mounts"),
        ({"networkPolicy": {"nodeCidrs": ["10.0.0.1"]}}, "nodeCidrs"),
        ({"prometheusRule": {"runbooks": "docs"}}, "runbooks"),
        ({"control": {"foundationdb": {"operator": {"version": "7.3"}}}}, "version"),
        ({"control": {"foundationdb": {"operator": {"redundancyMode": "two"}}}}, "redundancyMode"),
        ({"ebpf": {"enable": True}}, "enable"),
        ({"ebpf": {"threads": 1}}, "threads"),
        ({"ebpf": {"service": "s3.example.com"}}, "service"),
        ({"ebpf": {"cgroup": "kubepods.slice"}}, "cgroup"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(
    values: Document, named: str, tmp_path: Path
) -> None:
    code, text = manifests.template(tmp_path, values, "embedded")
    assert code != 0 and "schema" in text and named in text, text


def _every(schema: Document, path: str = "") -> Iterator[str]:
    """Values that a schema knows."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}{name}"
        yield from _every(inner, f"{path}{name}.")


def _given(values: Document, schema: Document, path: str = "") -> Iterator[str]:
    """Values that values.yaml explains, as deep as the schema names them."""
    for name, value in values.items():
        yield f"{path}{name}"
        inner = schema.get("properties", {}).get(name, {})
        if isinstance(value, dict) and "properties" in inner:
            yield from _given(value, inner, f"{path}{name}.")


def test_the_schema_knows_the_values_that_are_explained_and_no_others() -> None:
    chart = KUBERNETES / "chart"
    schema = json.loads((chart / "values.schema.json").read_text())
    (values,) = manifests.documents((chart / "values.yaml").read_text())
    # Helm's own.
    assert set(_every(schema)) - {"global"} == set(_given(values, schema))
