"""Objects for operators beside Kubernetes: Prometheus' and FoundationDB's, and the dashboards."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness import manifests, prometheus_operator
from harness.manifest_schemas import VERSIONS, validate
from harness.manifests import Document, one, rendered
from harness.server import REPOSITORY


def test_the_prometheus_operator_takes_its_objects(tmp_path: Path) -> None:
    """And a control: what it would refuse, or drop without a word, is seen."""
    values: Document = {
        "serviceMonitor": {"enabled": True, "labels": {"release": "p"}, "interval": "90s"},
        "prometheusRule": {"enabled": True, "labels": {"release": "p"}},
    }
    code, text = manifests.template(tmp_path, values, "embedded")
    assert code == 0, text
    found = manifests.documents(text)
    monitor = one(found, "ServiceMonitor", "quickwater")
    *_, label = monitor["spec"]["endpoints"][0]["relabelings"]
    assert label == {"targetLabel": "cluster", "replacement": "quickwater/quickwater"}
    rule = one(found, "PrometheusRule", "quickwater")
    for document in (monitor, rule):
        validate(document, VERSIONS[0])
    first = ("spec", "groups", 0, "rules", 0)
    for document, path, name, value in [
        (monitor, ("spec", "endpoints", 0), "interval", "1min"),
        (monitor, ("spec", "endpoints", 0), "intervall", "15s"),
        (monitor, ("spec", "endpoints", 0, "relabelings", 0), "target", "cluster"),
        (monitor, ("spec",), "selector", None),
        (monitor, ("metadata", "labels"), "release", 1),
        (rule, first, "for", "5 minutes"),
        (rule, first, "expr", None),
        (rule, first, "severity", "page"),
        (rule, first, "record", "both"),
        (rule, ("spec", "groups", 0), "name", ""),
    ]:
        bad = copy.deepcopy(document)
        at: Any = bad
        for step in path:
            at = at[step]
        if value is None:
            del at[name]
        else:
            at[name] = value
        with pytest.raises(jsonschema.ValidationError):
            validate(bad, VERSIONS[0])
    rule["spec"]["groups"].append(rule["spec"]["groups"][0])
    with pytest.raises(jsonschema.ValidationError, match="same name"):
        validate(rule, VERSIONS[0])


def test_a_worker_keeps_its_name_in_the_dashboards_when_its_pod_is_replaced() -> None:
    found = rendered("foundationdb")
    (endpoint,) = one(found, "ServiceMonitor", "quickwater")["spec"]["endpoints"]
    component = "app.kubernetes.io/component"
    instances = {}
    for name, pod in manifests.pods(found):
        meta = {
            "__address__": "10.0.0.2:29991",
            "__meta_kubernetes_pod_node_name": "node-a",
            f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', component)}":
                pod["metadata"]["labels"][component],
        }  # fmt: skip
        labels = prometheus_operator.relabelled(endpoint["relabelings"], meta)
        assert labels["cluster"] == "quickwater/quickwater"
        instances[name] = labels["instance"]
    # By its node; the control plane may be on the same.
    assert instances == {"quickwater-worker": "node-a", "quickwater-control": "quickwater-control"}
    # Of a target without a pod Prometheus itself says what it is: the address.
    bare = prometheus_operator.relabelled(endpoint["relabelings"], {"__address__": "a:1"})
    assert "instance" not in bare


def test_servers_of_foundationdb_may_be_left_to_its_operator() -> None:
    """The control plane reads the cluster file where the operator writes it."""
    found = rendered("foundationdb-operator")
    cluster = one(found, "FoundationDBCluster", "quickwater-fdb")
    assert cluster["apiVersion"] == "apps.foundationdb.org/v1beta2"
    assert cluster["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    spec = cluster["spec"]
    assert spec["databaseConfiguration"] == {"redundancy_mode": "triple"}
    claim = spec["processes"]["general"]["volumeClaimTemplate"]["spec"]
    assert claim["storageClassName"] == "local-nvme"
    pod = dict(manifests.pods(found))["quickwater-control"]["spec"]
    (volume,) = [v for v in pod["volumes"] if v["name"] == "foundationdb-cluster"]
    file = {"key": "cluster-file", "path": "fdb.cluster"}
    assert volume["configMap"] == {"name": "quickwater-fdb-config", "items": [file]}
    (copy_client,) = pod["initContainers"]
    # The client library fits the servers.
    library = next(a for a in copy_client["args"] if a.startswith("--copy-library="))
    assert spec["version"].startswith(library.removeprefix("--copy-library=") + ".")
    assert "--copy-file=fdb.cluster" in copy_client["args"]
    assert not [d for d in rendered("foundationdb") if d["kind"] == "FoundationDBCluster"]


def test_its_operator_takes_the_cluster() -> None:
    """Against the operator's own definition (its `config/crd/bases`, a file of YAML), where
    one is given: no package has it."""
    path = os.environ.get("QUICKWATER_FDB_CRD")
    if not path:
        pytest.skip("QUICKWATER_FDB_CRD names no definition of FoundationDBCluster")
    (definition,) = manifests.documents(Path(path).read_text())
    cluster = one(rendered("foundationdb-operator"), "FoundationDBCluster", "quickwater-fdb")
    (version,) = [
        v for v in definition["spec"]["versions"]
        if cluster["apiVersion"] == f"{definition['spec']['group']}/{v['name']}"
    ]  # fmt: skip
    validator = jsonschema.Draft4Validator(_closed(version["schema"]["openAPIV3Schema"]))
    validator.validate(cluster)
    for wrong in ({"redundancyMode": "triple"}, {"redundancy_mode": "two"}):
        bad = copy.deepcopy(cluster)
        bad["spec"]["databaseConfiguration"] = wrong
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(bad)


def _closed(schema: Any) -> Any:
    """A definition under which what it does not name is refused, not dropped."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _closed(inner) for name, inner in schema.items()}
    is_open = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    # Kubernetes knows what is in an object's metadata.
    if isinstance(made.get("properties"), dict) and made["properties"] and not is_open:
        made["additionalProperties"] = False
    return made


def test_rules_and_dashboards_can_be_installed_as_objects(tmp_path: Path) -> None:
    values: Document = {
        "prometheusRule": {"enabled": True, "labels": {"release": "p"}},
        "dashboards": {"enabled": True},
    }
    code, text = manifests.template(tmp_path, values, "embedded")
    assert code == 0, text
    found = manifests.documents(text)
    rule = one(found, "PrometheusRule", "quickwater")
    rules = REPOSITORY / "deploy/prometheus/quickwater.rules.yml"
    assert rule["spec"] == manifests.documents(rules.read_text())[0]
    assert rule["metadata"]["labels"]["release"] == "p"
    for base in ("https://git.example.com/docs/operations", "https://git.example.com/docs/operations/"):
        values["prometheusRule"]["runbooks"] = base
        code, text = manifests.template(tmp_path, values, "embedded")
        assert code == 0, text
        linked = one(manifests.documents(text), "PrometheusRule", "quickwater")["spec"]
        alerts = [rule for group in linked["groups"] for rule in group["rules"]]
        for alert in alerts:
            anchor = alert["alert"].lower()
            wanted = f"https://git.example.com/docs/operations/alerts.md#{anchor}"
            assert alert["annotations"]["runbook_url"] == wanted
    for name in ("quickwater", "quickwater-details"):
        shown = one(found, "ConfigMap", f"quickwater-dashboard-{name}")
        validate(shown, VERSIONS[0])
        assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"
        text = shown["data"][f"{name}.json"]
        original = REPOSITORY / f"deploy/grafana/{name}.json"
        assert json.loads(text) == json.loads(original.read_text())
        assert len(text) < 1_000_000, "a ConfigMap has 1 MiB"
