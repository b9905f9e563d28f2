"""The chart and the manifests made from it: valid, least-privileged, and all that is referred
to is there."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness import manifests
from harness.container import SECCOMP
from harness.manifest_schemas import VERSIONS, validate
from harness.manifests import EXAMPLES, KUBERNETES, Document, one, rendered


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_manifests_are_what_the_chart_makes(example: str, tmp_path: Path) -> None:
    code, text = manifests.template(tmp_path, example=example)
    assert code == 0, text
    assert manifests.documents(text) == rendered(example), "run deploy/kubernetes/render"


def test_every_example_is_rendered() -> None:
    made = sorted(path.stem for path in (KUBERNETES / "manifests").glob("*.yaml"))
    assert made == EXAMPLES and len(EXAMPLES) >= 2


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_kubernetes_takes_the_manifests(example: str, version: str) -> None:
    kinds = set()
    for document in rendered(example):
        kinds.add(document["kind"])
        validate(document, version)
    assert {"DaemonSet", "Service", "NetworkPolicy", "PodDisruptionBudget"} <= kinds


def test_the_validator_sees_mistakes() -> None:
    """A control: what is misspelt, missing or of another type is refused."""
    good = one(rendered("embedded"), "DaemonSet", "quickwater-worker")
    validate(good, VERSIONS[0])
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
            validate(bad, VERSIONS[0])


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
        validate(document, VERSIONS[0])
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
        validate(one(found, "PodDisruptionBudget", "quickwater-worker"), VERSIONS[0])


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
        validate(document, VERSIONS[0])
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
