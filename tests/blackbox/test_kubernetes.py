"""The chart and the manifests made from it: valid, least-privileged, and what they say
runs."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import jsonschema
import pytest

from harness import container, manifests, metadata, pods, prometheus_operator
from harness.certificates import make_pair
from harness.container import SECCOMP, Container, owned
from harness.manifests import EXAMPLES, KUBERNETES, Document, one, rendered
from harness.server import REPOSITORY, binary

# The oldest that the chart takes, and some after it.
VERSIONS = ["1.30", "1.33", "1.37"]
# The operator's of FoundationDB: see test_its_operator_takes_the_cluster.
OF_OTHERS = {"FoundationDBCluster"}
OBJECT_SCRIPT = """
import sys, boto3
from botocore.config import Config
s3 = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1",
    aws_access_key_id=sys.argv[2], aws_secret_access_key=sys.argv[3],
    config=Config(connect_timeout=30, read_timeout=120,
        retries={"max_attempts": 10, "mode": "standard"}))
s3.create_bucket(Bucket="abc")
s3.put_object(Bucket="abc", Key="a/b", Body=b"by way of the pod" * 1000)
print(len(s3.get_object(Bucket="abc", Key="a/b")["Body"].read()))
"""
S3_KEYS = {
    "access_key_id": "AKIAPODTEST000000001",
    "secret_access_key": "a-secret-for-tests-of-pods",
}


# -- what is written ----------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_manifests_are_what_the_chart_makes(example: str, tmp_path: Path) -> None:
    code, text = manifests.template(tmp_path, example=example)
    assert code == 0, text
    assert manifests.documents(text) == rendered(example), "run deploy/kubernetes/render"


def test_every_example_is_rendered() -> None:
    made = sorted(path.stem for path in (KUBERNETES / "manifests").glob("*.yaml"))
    assert made == EXAMPLES and len(EXAMPLES) >= 2


def _validate(document: Document, version: str) -> None:
    import kubernetes_validate  # pinned in requirements.txt

    if document["kind"] in OF_OTHERS:
        return
    if document["kind"] in prometheus_operator.KINDS:
        prometheus_operator.validate(document)
        return
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_kubernetes_takes_the_manifests(example: str, version: str) -> None:
    kinds = set()
    for document in rendered(example):
        kinds.add(document["kind"])
        _validate(document, version)
    assert {"DaemonSet", "Service", "NetworkPolicy", "PodDisruptionBudget"} <= kinds


def test_the_validator_sees_mistakes() -> None:
    """A control: what is misspelt, missing or of another type is refused."""
    good = one(rendered("embedded"), "DaemonSet", "quickwater-worker")
    _validate(good, VERSIONS[0])
    spec = ("spec", "template", "spec")
    for path, name, value in [
        (("spec",), "selector", None),
        (spec, "hostNetworks", True),
        (spec, "terminationGracePeriodSeconds", "soon"),
        ((*spec, "containers", 0, "lifecycle", "preStop", "sleep"), "seconds", "5"),
    ]:
        bad = copy.deepcopy(good)
        at: Any = bad
        for step in path:
            at = at[step]
        if value is None:
            del at[name]
        else:
            at[name] = value
        with pytest.raises(Exception, match="(?i)required|additional|not of type"):
            _validate(bad, VERSIONS[0])


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
        _validate(document, VERSIONS[0])
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
            _validate(bad, VERSIONS[0])
    rule["spec"]["groups"].append(rule["spec"]["groups"][0])
    with pytest.raises(jsonschema.ValidationError, match="same name"):
        _validate(rule, VERSIONS[0])


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


# -- what they may ------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES)
def test_no_container_has_a_right_it_does_not_need(example: str) -> None:
    found = list(manifests.pods(rendered(example)))
    assert len(found) == 2
    for name, pod in found:
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not spec.get("hostPID") and not spec.get("hostIPC")
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] == 65532
        wanted = "Localhost" if name.endswith("worker") else "RuntimeDefault"
        assert security["seccompProfile"]["type"] == wanted
        for each in manifests.containers(pod):
            rights = each["securityContext"]
            assert rights["privileged"] is False
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert each["resources"]["requests"] == each["resources"]["limits"]
            assert set(each["resources"]["limits"]) == {"cpu", "memory"}
            # Secrets come as files: variables are shown by `kubectl describe`.
            for entry in each.get("env", []):
                assert "fieldRef" in entry["valueFrom"], entry
    kinds = {document["kind"] for document in rendered(example)}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "Secret"}


def test_an_ebpf_loader_must_be_asked_for_and_has_three_capabilities(tmp_path: Path) -> None:
    for example in EXAMPLES:
        pod = dict(manifests.pods(rendered(example)))["quickwater-worker"]
        assert [c["name"] for c in manifests.containers(pod)] == ["worker"]
    code, text = manifests.template(tmp_path, {"ebpf": {"enabled": True}}, "embedded")
    assert code != 0 and "ebpf.threads" in text
    values = {"ebpf": {"enabled": True, "threads": 4, "service": "10.0.0.1:80"}}
    code, text = manifests.template(tmp_path, values, "embedded")
    assert code == 0, text
    found = manifests.documents(text)
    for document in found:
        _validate(document, VERSIONS[0])
    spec = dict(manifests.pods(found))["quickwater-worker"]["spec"]
    ((worker,), (loader,)) = spec["containers"], spec["initContainers"]
    assert worker["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    rights = loader["securityContext"]
    assert rights["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "PERFMON", "NET_ADMIN"]}
    assert rights["privileged"] is False and rights["allowPrivilegeEscalation"] is False
    # What it pins is for its group, which is the worker's, at the same place.
    assert rights["runAsGroup"] == spec["securityContext"]["runAsGroup"]
    place = {"name": "bpffs", "mountPath": "/sys/fs/bpf/quickwater"}
    assert place in worker["volumeMounts"] and place in loader["volumeMounts"]
    # Both are told the same of what is loaded.
    told = {"--threads=4", "--ebpf-service=10.0.0.1:80", "--ebpf-local=$(POD_IP):29998"}
    assert told <= set(worker["args"]) and told <= set(loader["args"])
    assert loader["args"][:2] == ["ebpf", "load"]
    profile = spec["securityContext"]["seccompProfile"]["localhostProfile"]
    plain, own = (
        {name for rule in json.loads((SECCOMP.parent / file).read_text())["syscalls"] for name in rule["names"]}
        for file in (SECCOMP.name, profile)
    )
    assert own - plain == {"bpf"} and plain < own


# -- what belongs together ----------------------------------------------------


def _matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("example", EXAMPLES)
def test_all_that_is_referred_to_is_there(example: str) -> None:
    found = rendered(example)
    templates = [pod for _, pod in manifests.pods(found)]

    def chosen(selector: dict[str, str], count: int) -> list[Document]:
        match = [p for p in templates if _matches(selector, p["metadata"]["labels"])]
        assert len(match) == count, selector
        return match

    def ports(pod: Document) -> set[str]:
        return {port["name"] for c in pod["spec"]["containers"] for port in c["ports"]}

    for document in found:
        spec = document.get("spec", {})
        kind, name = document["kind"], document["metadata"]["name"]
        if kind == "Service":
            for pod in chosen(spec["selector"], 2 if name.endswith("metrics") else 1):
                assert {port["targetPort"] for port in spec["ports"]} <= ports(pod)
        if kind == "PodDisruptionBudget":
            chosen(spec["selector"]["matchLabels"], 1)
        if kind == "NetworkPolicy":
            (pod,) = chosen(spec["podSelector"]["matchLabels"], 1)
            named = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
            assert named == ports(pod), "every port has its rule"
        if kind == "ServiceMonitor":
            labels = spec["selector"]["matchLabels"]
            services = [d for d in found if d["kind"] == "Service"]
            (service,) = [s for s in services if _matches(labels, s["metadata"]["labels"])]
            # The job that the alert rules name.
            assert service["metadata"]["labels"][spec["jobLabel"]] == "quickwater"
            named = {port["name"] for port in service["spec"]["ports"]}
            assert {end["port"] for end in spec["endpoints"]} == named
        if kind in manifests.WORKLOADS:
            assert _matches(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"])
            _volumes_fit(document)


def _volumes_fit(workload: Document) -> None:
    pod = workload["spec"]["template"]["spec"]
    claims = workload["spec"].get("volumeClaimTemplates", [])
    there = {v["name"] for v in pod["volumes"]} | {c["metadata"]["name"] for c in claims}
    used = {
        m["name"]
        for each in manifests.containers({"spec": pod})
        for m in each["volumeMounts"]
    }
    assert used == there


def test_budgets_fit_what_they_are_for(tmp_path: Path) -> None:
    """Only what has a scale may say what is unavailable: for a DaemonSet every eviction
    would be refused. And the only process of its kind may be evicted: else no node with it
    could ever be drained."""
    for values in ({}, {"worker": {"minAvailable": 2}}):
        code, text = manifests.template(tmp_path, values, "embedded")
        assert code == 0, text
        found = manifests.documents(text)
        budgets = {
            d["metadata"]["name"]: d["spec"] for d in found if d["kind"] == "PodDisruptionBudget"
        }
        control = budgets.pop("quickwater-control")
        replicas = one(found, "StatefulSet", "quickwater-control")["spec"]["replicas"]
        assert "minAvailable" not in control and control["maxUnavailable"] >= replicas == 1
        assert control["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        workers = budgets.pop("quickwater-worker", None)
        assert not budgets
        if not values:
            assert workers is None
            continue
        assert workers is not None and workers["minAvailable"] == 2
        assert "maxUnavailable" not in workers
        assert workers["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        _validate(one(found, "PodDisruptionBudget", "quickwater-worker"), VERSIONS[0])


@pytest.mark.parametrize("nobody", [None, []])
def test_nobody_is_nobody(nobody: Any, tmp_path: Path) -> None:
    """An empty list of peers would let in everybody: the rule is left out."""
    values = {"networkPolicy": {"clients": nobody, "monitoring": nobody}}
    code, text = manifests.template(tmp_path, values, "embedded")
    assert code == 0, text
    found = manifests.documents(text)
    for component, port in [("worker", "peers"), ("control", "cluster")]:
        (rule,) = one(found, "NetworkPolicy", f"quickwater-{component}")["spec"]["ingress"]
        assert rule["from"] and rule["ports"] == [{"port": port}]


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


def test_what_is_added_reaches_all_pods(tmp_path: Path) -> None:
    odd = "odd=s3://b,endpoint=http://x,region=a: #b"
    credentials = "credentials=file:/etc/quickwater/ufs/credentials"
    values: Document = {
        "mounts": [odd],
        "extraVolumes": [{"name": "more", "secret": {"secretName": "more"}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/etc/more", "readOnly": True}],
        "worker": {"preStopSeconds": 0, "podAnnotations": {"checksum": "1"}},
        "control": {"podAnnotations": {"checksum": "2"}},
        "ufs": {"options": f"region=a: #b,{credentials}"},
    }
    code, text = manifests.template(tmp_path, values, "foundationdb")
    assert code == 0, text
    found = manifests.documents(text)
    for document in found:
        _validate(document, VERSIONS[0])
    for name, pod in manifests.pods(found):
        container = pod["spec"]["containers"][0]
        assert {"name": "more", "secret": {"secretName": "more"}} in pod["spec"]["volumes"]
        assert values["extraVolumeMounts"][0] in container["volumeMounts"]
        assert f"--ufs-options=region=a: #b,{credentials}" in container["args"]
        is_worker = name.endswith("worker")
        assert pod["metadata"]["annotations"] == {"checksum": "1" if is_worker else "2"}
        assert (f"--mount={odd}" in container["args"]) is not is_worker
        assert "lifecycle" not in container
        _volumes_fit(one(found, "DaemonSet" if is_worker else "Deployment", name))


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
        _validate(shown, VERSIONS[0])
        assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"
        text = shown["data"][f"{name}.json"]
        original = REPOSITORY / f"deploy/grafana/{name}.json"
        assert json.loads(text) == json.loads(original.read_text())
        assert len(text) < 1_000_000, "a ConfigMap has 1 MiB"


@pytest.mark.parametrize("release", ["qw.prod", "1st", "a" * 41, "a-name-of-more-than-forty-characters-in-all"])
def test_names_of_releases_that_make_no_names_of_objects_are_refused(
    release: str, tmp_path: Path
) -> None:
    code, text = manifests.template(tmp_path, example="embedded", release=release)
    assert code != 0 and "the name of the release" in text, text


@pytest.mark.parametrize("release", ["q", "qw-2", "a" * 40])
def test_objects_are_named_after_the_release(release: str, tmp_path: Path) -> None:
    code, text = manifests.template(tmp_path, example="embedded", release=release)
    assert code == 0, text
    found = manifests.documents(text)
    for document in found:
        name = document["metadata"]["name"]
        assert name == release or name.startswith(f"{release}-")
        # A label of pods: the name of the workload and a hash of ten.
        assert document["kind"] not in manifests.WORKLOADS or len(f"{name}-0123456789") <= 63
        if document["kind"] == "Service":
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name), name
    worker = dict(manifests.pods(found))[f"{release}-worker"]["spec"]["containers"][0]
    assert f"--control={release}-control.quickwater.svc:29989" in worker["args"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_pods_reach_the_worker_of_their_own_node(example: str) -> None:
    found = rendered(example)
    assert one(found, "Service", "quickwater")["spec"]["internalTrafficPolicy"] == "Local"
    assert "internalTrafficPolicy" not in one(found, "Service", "quickwater-any")["spec"]
    assert one(found, "DaemonSet", "quickwater-worker")


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_end_of_a_pod_has_time_for_all_of_it(example: str) -> None:
    pod = dict(manifests.pods(rendered(example)))["quickwater-worker"]
    (worker,) = pod["spec"]["containers"]
    pause = worker["lifecycle"]["preStop"]["sleep"]["seconds"]
    (grace,) = [w for w in worker["args"] if w.startswith("--shutdown-grace=")]
    grace_seconds = int(re.fullmatch(r".*=(\d+)s", grace)[1])  # type: ignore[index]
    assert pause >= 2 * worker["readinessProbe"]["periodSeconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= pause + grace_seconds + 10


# -- what runs ----------------------------------------------------------------


class Installed:
    """The pods of an example, as far as one machine can be two nodes."""

    def __init__(self, home: Path, root: Path, example: str) -> None:
        self.home = home
        self.root = root
        self.templates = dict(manifests.pods(rendered(example)))
        self.network = pods.Network()
        self.containers: dict[str, Container] = {}
        self.database: subprocess.Popen[bytes] | None = None
        self.ufs = owned(home / "ufs")
        certificates = home / "certificates"
        words = [str(binary()), "cluster", "init", "--out", str(certificates)]
        for node in ("node-a", "node-b"):
            words += ["--worker", node]
        subprocess.run(words, capture_output=True, timeout=60, check=True)
        self.pair = make_pair(home / "tls")
        ca = {"ca.pem": (certificates / "ca/ca.pem").read_bytes()}
        nodes = {
            f"{node}.{part}.pem": (certificates / f"workers/{node}/{part}.pem").read_bytes()
            for node in ("node-a", "node-b")
            for part in ("cert", "key")
        }
        control = {
            f"{part}.pem": (certificates / f"control/{part}.pem").read_bytes()
            for part in ("ca", "cert", "key")
        }
        self.on_node = certificates / "workers" / "node-a"
        for path in [self.on_node, *self.on_node.iterdir()]:
            os.chown(path, pods.USER, pods.USER)
        text = "".join(f"{name}={value}\n" for name, value in S3_KEYS.items())
        self.secrets: dict[str, dict[str, bytes]] = {
            "quickwater-control-certificates": control,
            "quickwater-worker-certificates": ca | nodes,
            "quickwater-s3-keys": {"credentials": text.encode()},
            "quickwater-admin-token": {"admin-token": b"f" * 64 + b"\n"},
            "quickwater-ufs": {
                "credentials": b"[default]\naws_access_key_id = a\naws_secret_access_key = b\n"
            },
            "quickwater-s3-tls": {
                "tls.crt": self.pair.certificate.read_bytes(),
                "tls.key": self.pair.key.read_bytes(),
            },
            "quickwater-fdb-cluster": {"fdb.cluster": b""},
        }

    def volumes(self, name: str) -> dict[str, Path]:
        """What each volume of a pod is on this machine."""
        made = {}
        for volume in self.templates[f"quickwater-{name}"]["spec"]["volumes"]:
            path = self.home / f"{name}-{volume['name']}"
            if "secret" in volume:
                pods.secret(path, volume, self.secrets[volume["secret"]["secretName"]])
            elif "persistentVolumeClaim" in volume:
                path = self.ufs
            elif volume["name"] == "certificates":
                path = self.on_node
            elif volume["name"] == "foundationdb":
                self._database(owned(path))
            else:
                owned(path)
            made[volume["name"]] = path
        return {"state": self.home / f"{name}-state", **made}

    def _database(self, path: Path) -> None:
        """What the sidecar would have laid there, of the test library."""
        program, library = metadata.built(metadata.SERVER), metadata.library()
        assert program and library
        # As the sidecar's copy_libraries() does: the first version goes to lib/libfdb_c.so
        # below the directory of its output, and to no other place.
        (path / "lib").mkdir()
        (path / "lib" / "libfdb_c.so").write_bytes(library.read_bytes())
        words = self.network.inside("control", str(program), str(path / "fdb.cluster"))
        self.database = subprocess.Popen(words, stdin=subprocess.DEVNULL)

    def start(self, name: str) -> Container:
        """Starts a pod and waits until its readiness probe succeeds."""
        template = self.templates[f"quickwater-{name}"]
        volumes = self.volumes(name)
        if not volumes["state"].exists():
            owned(volumes["state"])
        # The kubelet makes the file that a Secret is mounted over.
        for mounted in template["spec"]["containers"][0]["volumeMounts"]:
            if mounted["mountPath"].startswith("/var/lib/quickwater/"):
                (volumes["state"] / Path(mounted["mountPath"]).name).touch()
        profile = json.loads(SECCOMP.read_text())
        made = pods.pod(self.home, self.root, template, name, self.network, volumes, profile)
        self.containers[name] = made.start()
        pods.wait_ready(self.network, name, template, made)
        assert pods.probe(self.network, name, template, "livenessProbe")
        return made

    def close(self) -> None:
        """Ends all."""
        for each in self.containers.values():
            each.close()
        if self.database is not None:
            self.database.kill()
            self.database.wait()
        self.network.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's root file system."""
    container.need_runc(tmp_path_factory.mktemp("runc"))
    return container.assemble(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture
def install(root: Path, tmp_path: Path) -> Iterator[Any]:
    """Installs an example."""
    made: list[Installed] = []

    def make(example: str) -> Installed:
        made.append(Installed(tmp_path, root, example))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.root
@pytest.mark.needs("runc", "ip", "curl")
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_pods_of_the_manifests_get_ready_and_serve(example: str, install: Any) -> None:
    if example.startswith("foundationdb") and not (metadata.built(metadata.SERVER) and metadata.library()):
        pytest.skip("the test library of FoundationDB is not built")
    cluster = install(example)
    control = cluster.start("control")
    worker = cluster.start("worker")

    done = control.run(["quickwater", "node", "list", "--output", "json"])
    assert done.returncode == 0, done.stderr
    (node,) = json.loads(done.stdout)["nodes"]
    assert node["name"] == "node-a" and int(node["slots"]) == 16_384

    if example == "embedded":  # the store of the other one is nowhere
        url = f"http://{pods.ADDRESSES['worker']}:29998"
        words = [sys.executable, "-c", OBJECT_SCRIPT, url, *S3_KEYS.values()]
        done = subprocess.run(
            cluster.network.inside("worker", *words),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{done.stderr}\n{worker.log()}"
        assert done.stdout.strip() == "17000"
        assert (cluster.ufs / "abc/a/b").stat().st_size == 17_000
    else:
        # Of a Secret, or made by the control plane.
        given = cluster.home / "control-admin-token" / "admin-token"
        made = cluster.home / "control-state" / "admin-token"
        token = (given if given.exists() else made).read_text().strip()
        words = ["quickwater", "status", "--control", "127.0.0.1:29990", "--output", "json"]
        control.env.append(f"QUICKWATER_ADMIN_TOKEN={token}")
        done = control.run(words)
        assert done.returncode == 0, done.stderr
    assert worker.stop() == 0, worker.log()
    assert control.stop() == 0, control.log()
    for each in (worker, control):
        assert "panicked" not in each.log()
    assert "UringDeferred" in worker.log() or '"Uring"' in worker.log(), worker.log()
