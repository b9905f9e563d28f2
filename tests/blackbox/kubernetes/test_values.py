"""What values the chart takes: those that cannot work are refused, with what to do, and the
program takes what it is told by the others."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Callable

import pytest

from harness import manifests
from harness.manifests import EXAMPLES, KUBERNETES, Document, rendered
from harness.server import binary

S3 = "s3://training/quickwater"
FILE = "credentials=file:/etc/quickwater/ufs/credentials"
VARIABLES = {"NODE_NAME": "node-a", "POD_IP": "10.0.0.2"}


def refused(home: Path, values: Document, hint: str, example: str = "embedded") -> None:
    code, text = manifests.template(home, values, example)
    assert code != 0 and hint in text, text


def refusals(*cases: tuple[Document, str]) -> Callable[[Document, str, Path], None]:
    """A test that values are refused, each with what is to be read then."""

    @pytest.mark.parametrize(("values", "hint"), cases)
    def test(values: Document, hint: str, tmp_path: Path) -> None:
        refused(tmp_path, values, hint)

    return test


def ufs(uri: str, options: str = "", secret: str = "") -> Document:
    """Values of another UFS than the example's."""
    return {"ufs": {"uri": uri, "options": options, "credentialsSecret": secret,
                    "persistentVolumeClaim": ""}}  # fmt: skip


def volume(name: str, path: str, *, named: str = "") -> Document:
    """A volume and where it is mounted; `named`: which one is mounted there, if another."""
    return {
        "extraVolumes": [{"name": name, "secret": {"secretName": "more"}}],
        "extraVolumeMounts": [{"name": named or name, "mountPath": path}],
    }


test_a_control_plane_that_cannot_start_is_refused = refusals(
    ({"control": {"metadata": "etcd"}}, "'embedded', 'foundationdb'"),
    ({"control": {"foundationdb": {"operator": {"enabled": True}}}}, "control.metadata"),
    ({"control": {"metadata": "foundationdb", "foundationdb": {"clusterFileSecret": ""}}},
     "control.foundationdb.clusterFileSecret: name the Secret"),
    ({"control": {"metadata": "foundationdb", "foundationdb":
        {"operator": {"enabled": True, "version": "7.4.1"}, "libraryVersion": "7.3"}}},
     "control.foundationdb.libraryVersion: 7.3 is not the client of servers of 7.4.1"),
    ({"control": {"lease": "1s"}}, "control.lease: 1s: use 2s to 10m"),
    ({"control": {"lease": "1h"}}, "control.lease: 1h: use 2s to 10m"),
    ({"control": {"memory": "1B"}}, "control.memory: 1B is too little"),
    ({"control": {"memory": "2GB", "resources": {"cpu": 1, "memory": "2.1G"}}}, "2.1G"),
    ({"control": {"extraArgs": ["--dir=/x"]}}, "control.extraArgs: --dir=/x: the chart gives"),
    ({"control": {"extraArgs": ["--fdb-key-prefix", "a", "--fdb-key-prefix=b"]}},
     "or it stands there twice"),
)  # fmt: skip


test_a_worker_that_cannot_start_is_refused = refusals(
    ({"worker": {"certificates": {"nodes": []}}}, "worker.certificates: name the nodes"),
    ({"worker": {"certificates": {"hostPath": "/etc/quickwater"}}},
     "worker.certificates: hostPath and nodes exclude each other"),
    ({"worker": {"certificates": {"secret": ""}}}, "worker.certificates.secret: name the Secret"),
    ({"worker": {"memory": "255MiB"}}, "worker.memory: 255MiB is too little"),
    ({"worker": {"memory": "6GiB"}}, "worker.memory: 6GiB needs more than"),
    ({"worker": {"resources": {"cpu": 1, "memory": "1500M"}}}, "worker.memory: 4GiB needs"),
    ({"worker": {"memory": "400MiB", "resources": {"cpu": 32, "memory": "1Gi"}}},
     "worker.memory: 400MiB is too little for 32 shards"),
    ({"worker": {"capacity": "1B"}}, "worker.capacity: 1B is too little for 4 shards"),
    ({"worker": {"capacity": "15MiB", "resources": {"cpu": "500m", "memory": "6Gi"}}},
     "15MiB is too little for 1 shards (worker.resources.cpu, or ebpf.threads): 16MiB or more"),
    ({"worker": {"capacity": "127MiB", "extraArgs": ["--threads", "8"]}}, "for 8 shards"),
    ({"worker": {"capacity": "127MiB"}, "ebpf": {"enabled": True, "threads": 8}}, "for 8 shards"),
    ({"worker": {"capacity": "2000000TiB"}}, "worker.capacity: 2000000TiB: no disk has that"),
    ({"worker": {"resources": {"cpu": 256, "memory": "64Gi"}}}, "255 shards at most, not 256"),
    ({"worker": {"storage": {"hostPath": ""}}}, "worker.storage: name a directory"),
    ({"worker": {"storage": {"hostPath": "/nvme", "ephemeralClassName": "local"}}},
     "worker.storage: hostPath and ephemeralClassName exclude each other"),
    ({"worker": {"storage": {"ephemeralClassName": "local", "ephemeralSize": "900Gi"}}},
     "worker.storage.ephemeralSize: a volume of 900Gi is too small for worker.capacity of 900GiB"),
    ({"worker": {"hostNetwork": True}}, "networkPolicy.nodeCidrs: with worker.hostNetwork"),
    ({"worker": {"hostNetwork": True, "hostPort": 29998},
      "networkPolicy": {"nodeCidrs": ["10.0.0.0/16"]}}, "worker.hostPort: with worker.hostNetwork"),
    ({"worker": {"extraArgs": ["--memory=8GiB"]}}, "worker.extraArgs: --memory=8GiB: the chart"),
    ({"worker": {"extraArgs": ["--cluster-control=x:1"]}}, "the chart gives --cluster-control"),
    ({"worker": {"extraArgs": ["--zone=a", "--zone=b"]}}, "or it stands there twice"),
)  # fmt: skip


test_ebpf_that_would_do_nothing_is_refused = refusals(
    ({"ebpf": {"enabled": True}}, "ebpf.threads: say how many"),
    ({"ebpf": {"enabled": True, "threads": 4}, "worker": {"seccomp": {"type": "RuntimeDefault"}}},
     "worker.seccomp.type: RuntimeDefault forbids bpf(2)"),
    ({"ebpf": {"service": "10.0.0.1:80"}}, "ebpf.service: without ebpf.enabled"),
    ({"ebpf": {"enabled": True, "threads": 4, "cgroup": "/kubepods.slice"}},
     "ebpf.cgroup: whose connections to ebpf.service"),
    ({"ebpf": {"enabled": True, "threads": 4, "service": "10.0.0.1:80", "cgroup": "/a/../b"}},
     "ebpf.cgroup: /a/../b: a path below"),
)  # fmt: skip


test_a_ufs_that_cannot_be_had_is_refused = refusals(
    (ufs(""), "ufs.uri: say what the cache is in front of"),
    (ufs("file:///srv/ufs"), "ufs.uri: no volume is mounted at /srv/ufs"),
    ({"ufs": {"uri": "file:///srv/ufsother"}}, "no volume is mounted at /srv/ufsother"),
    ({"ufs": {"uri": "file:///srv/ufs/../x"}}, "file:///srv/ufs/../x: write it without"),
    ({"ufs": {"options": "region=x"}}, "ufs.options: a file:// location has no options"),
    (ufs("s3:///prefix"), "ufs.uri: s3:///prefix names no bucket"),
    (ufs("s3://b//p"), "or its prefix begins with '/': write s3://BUCKET/PREFIX"),
    (ufs("s3://user@b"), "names no bucket"),
    (ufs(S3, "endpiont=http://x"), 'ufs.options: an s3:// location has no option "endpiont"'),
    (ufs(S3, "region=a,region=b"), "ufs.options: the option region stands there twice"),
    (ufs(S3, "endpoint=s3.example.com"), "ufs.options: the option endpoint: write http(s)://"),
    (ufs(S3, "endpoint=http://me:secret@x"), "without credentials"),
    (ufs(S3, "path_style=yes"), "ufs.options: the option path_style: true or false"),
    (ufs(S3, "min_part_size=5MB"), "ufs.options: the option min_part_size: write"),
    (ufs(S3, FILE), "ufs.options: credentials: no volume is mounted at /etc/quickwater/ufs/cred"),
    (ufs(S3, "credentials=env:UFS"), "credentials: containers are given no variables"),
    (ufs(S3, "credentials=a-secret"), "ufs.options: credentials: write a reference"),
    (ufs(S3, "region=x", "quickwater-ufs"), "ufs.credentialsSecret: nobody reads it"),
    ({"mounts": ["nas=file:///mnt/nas"]}, "no volume is mounted at /mnt/nas"),
    ({"mounts": ["nas=file:///srv/ufs/n,region=x"]}, "a file:// location has no options"),
    ({"mounts": ["Photos=s3://b"]}, 'mounts: Photos=s3://b: "Photos" is no name of a bucket'),
    ({"mounts": ["ab=s3://b"]}, '"ab" is no name of a bucket: 3 to 63'),
    ({"mounts": ["a..b=s3://b"]}, '"a..b" is no name of a bucket'),
    ({"mounts": ["10.0.0.1=s3://b"]}, '"10.0.0.1" is no name of a bucket'),
    ({"mounts": ["far=s3:///b"]}, "mounts: far=s3:///b: s3:///b names no bucket"),
    ({"mounts": ["far=s3://b,ttl=5s"]}, 'an s3:// location has no option "ttl"'),
    ({"mounts": ["far=s3://b,metadata_ttl=5"]}, 'no option "metadata_ttl"'),
    ({"mounts": [f"far=s3://b,{FILE}"]}, "credentials: no volume is mounted at"),
    ({"mounts": ["far=s3://b", "far=s3://c"]}, "the bucket far is mounted twice"),
    ({"mounts": ["one=s3://b/c", "two=s3://b"]}, "lies in the location of another mount"),
)  # fmt: skip


test_volumes_that_do_not_fit_are_refused = refusals(
    (volume("state", "/mnt/a"), "extraVolumes: state is a volume of the chart's own"),
    (volume("ufs-credentials", "/mnt/a"), "ufs-credentials is a volume of the chart's own"),
    (volume("more", "/mnt/a", named="moer"), "extraVolumeMounts: moer: no volume of that name"),
    ({"extraVolumeMounts": [{"name": "state", "mountPath": "/x"}]}, "state: no volume of that"),
    ({"extraVolumes": [{"name": "more"}, {"name": "more"}]}, "extraVolumes: more stands there twice"),
    (volume("more", "/var/lib/quickwater/"), "mounted at /var/lib/quickwater already"),
    ({"extraVolumes": [{"name": "more"}], "extraVolumeMounts":
        [{"name": "more", "mountPath": "/a"}, {"name": "more", "mountPath": "/a/"}]},
     "extraVolumeMounts: more: something is mounted at /a already"),
    (volume("more", "/"), "extraVolumeMounts: more: a volume at / hides the program"),
    (volume("more", "//"), "extraVolumeMounts: more: a volume at / hides the program"),
    (volume("more", "/mnt/../proc/1"), "more: /proc/1: /proc, /sys and /dev belong to the kernel"),
    ({"worker": {"storage": {"hostPath": "/proc"}}}, "worker.storage.hostPath: /proc: /proc, /sys"),
    ({"worker": {"storage": {"hostPath": "/dev/shm"}}}, "worker.storage.hostPath: /dev/shm: /proc"),
    ({"worker": {"certificates": {"hostPath": "/sys/fs", "nodes": []}}},
     "worker.certificates.hostPath: /sys/fs: /proc, /sys and /dev belong to the kernel"),
)  # fmt: skip


def test_the_charts_own_volumes_are_known_to_its_checks(tmp_path: Path) -> None:
    """All that pods have of whatever values, by name and by place."""
    more: Document = {
        "ebpf": {"enabled": True, "threads": 4, "service": "10.0.0.1:80"},
        "control": {"adminTokenSecret": "token"},
        "worker": {"s3TlsSecret": "tls"},
        "ufs": {"persistentVolumeClaim": "claim"},
    }
    names, places = set(), set()
    for example in EXAMPLES:
        code, text = manifests.template(tmp_path, more, example)
        assert code == 0, text
        for document in manifests.documents(text):
            if document["kind"] in manifests.WORKLOADS:
                spec = document["spec"]
                names |= {v["name"] for v in spec["template"]["spec"]["volumes"]}
                names |= {c["metadata"]["name"] for c in spec.get("volumeClaimTemplates", [])}
                # Those that extraVolumeMounts go to.
                for container in spec["template"]["spec"]["containers"]:
                    places |= {mount["mountPath"] for mount in container["volumeMounts"]}
    text = (KUBERNETES / "chart" / "templates" / "_checks-volumes.tpl").read_text()
    for name, found in (("own", names), ("places", places)):
        (line,) = [line for line in text.splitlines() if f"${name} := list \"" in line]
        assert set(re.findall(r'"([^"]+)"', line)) == found and len(found) > 8


def block(cidr: str, *beside: str) -> Document:
    """Clients of a network, but for parts of it."""
    return {"networkPolicy": {"clients": [{"ipBlock": {"cidr": cidr, "except": list(beside)}}]}}


def nodes(*cidrs: str) -> Document:
    """Networks of the nodes."""
    return {"networkPolicy": {"nodeCidrs": list(cidrs)}}


test_networks_that_are_none_are_refused = refusals(
    (nodes("10.0.0.1"), "networkPolicy.nodeCidrs: 10.0.0.1 is no network of IPv4 addresses"),
    (nodes("10.0.0.0/33"), "10.0.0.0/33 is no network"),
    (nodes("10.0.0.256/8"), "10.0.0.256/8 is no network"),
    (nodes("10.0.0.0/16", "fd00::/8"), "fd00::/8 is no network of IPv4 addresses, which is all"),
    (block("10.0.0/8"), "networkPolicy.clients: 10.0.0/8 is no network"),
    (block("10.0.0.0/8", "10.1.0.0"), "networkPolicy.clients: 10.1.0.0 is no network"),
    (block("10.0.0.0/8", "11.0.0.0/16"), "except: 11.0.0.0/16 is no part of 10.0.0.0/8"),
    (block("10.0.0.0/8", "10.0.0.0/8"), "except: 10.0.0.0/8 is no part of 10.0.0.0/8"),
    ({"networkPolicy": {"monitoring": [{"ipBlock": {"cidr": "all"}}]}},
     "networkPolicy.monitoring: all is no network"),
)  # fmt: skip


test_objects_that_nobody_could_use_are_refused = refusals(
    ({"serviceMonitor": {"enabled": True}, "networkPolicy": {"monitoring": []}},
     "networkPolicy.monitoring: empty, nobody may read metrics"),
    ({"serviceMonitor": {"labels": {"app.kubernetes.io/name": "a"}}},
     "serviceMonitor.labels: app.kubernetes.io/name: the chart gives this label"),
    ({"prometheusRule": {"labels": {"app.kubernetes.io/instance": "a"}}}, "prometheusRule.labels"),
    ({"dashboards": {"labels": {"app.kubernetes.io/managed-by": "a"}}}, "dashboards.labels"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"workers": {}}, "workers"),
        ({"worker": {"preStopSecond": 5}}, "preStopSecond"),
        ({"worker": {"preStopSeconds": "5s"}}, "preStopSeconds"),
        ({"worker": {"preStopSeconds": -1}}, "preStopSeconds"),
        ({"worker": {"capacity": 5}}, "capacity"),
        ({"worker": {"capacity": "5 apples"}}, "capacity"),
        ({"worker": {"capacity": "1PiB"}}, "capacity"),
        ({"worker": {"capacity": "0"}}, "capacity"),
        ({"worker": {"minAvailable": "50%"}}, "minAvailable"),
        ({"worker": {"maxUnavailable": "150%"}}, "maxUnavailable"),
        ({"worker": {"hostPort": 70000}}, "hostPort"),
        ({"worker": {"hostNetwork": "false"}}, "hostNetwork"),
        ({"worker": {"resources": {"cpu": "four"}}}, "cpu"),
        ({"worker": {"resources": {"cpu": "0"}}}, "cpu"),
        ({"worker": {"resources": {"cpu": 0}}}, "cpu"),
        ({"worker": {"resources": {"cpu": "0m"}}}, "cpu"),
        ({"worker": {"resources": {"cpu": "0.0004"}}}, "cpu"),
        ({"control": {"resources": {"cpu": "0.0"}}}, "cpu"),
        ({"control": {"resources": {"memory": "0Gi"}}}, "memory"),
        ({"control": {"storage": {"size": "0"}}}, "size"),
        ({"worker": {"certificates": {"nodes": ["Node_A"]}}}, "nodes"),
        ({"worker": {"certificates": {"nodes": ["node-a", "node-b", "node-a"]}}}, "nodes"),
        ({"worker": {"certificates": {"nodes": ["node..a"]}}}, "nodes"),
        ({"worker": {"certificates": {"nodes": [f"{'a' * 60}." * 4]}}}, "nodes"),
        ({"worker": {"certificates": {"hostPath": "/etc/../x"}}}, "hostPath"),
        ({"worker": {"storage": {"hostPath": "/"}}}, "hostPath"),
        ({"worker": {"storage": {"hostPath": "nvme"}}}, "hostPath"),
        ({"worker": {"seccomp": {"type": "None"}}}, "seccomp"),
        ({"worker": {"seccomp": {"localhostProfile": "/q.json"}}}, "localhostProfile"),
        ({"worker": {"seccomp": {"localhostProfile": "../q.json"}}}, "localhostProfile"),
        ({"worker": {"graceSeconds": 0}}, "graceSeconds"),
        ({"worker": {"graceSeconds": 3601}}, "graceSeconds"),
        ({"control": {"metadata": "etcd"}}, "metadata"),
        ({"control": {"lease": 75}}, "lease"),
        ({"control": {"foundationdb": {"operator": {"version": "7.3"}}}}, "version"),
        ({"control": {"foundationdb": {"operator": {"redundancyMode": "two"}}}}, "redundancyMode"),
        ({"control": {"foundationdb": {"keyPrefix": "a b"}}}, "keyPrefix"),
        ({"control": {"foundationdb": {"keyPrefix": "a" * 65}}}, "keyPrefix"),
        ({"serviceMonitor": {"interval": "1min"}}, "interval"),
        ({"serviceMonitor": {"interval": "0s"}}, "interval"),
        ({"serviceMonitor": {"cluster": "$1"}}, "cluster"),
        ({"ufs": {"uri": "/srv/ufs"}}, "uri"),
        ({"fsGroup": 0}, "fsGroup"),
        ({"fsGroup": "65532"}, "fsGroup"),
        ({"mounts": ["photos"]}, "mounts"),
        ({"extraVolumes": [{"secret": {"secretName": "a"}}]}, "extraVolumes"),
        ({"extraVolumes": [{"name": "a.b"}]}, "extraVolumes"),
        ({"extraVolumeMounts": [{"name": "a"}]}, "extraVolumeMounts"),
        ({"extraVolumeMounts": [{"name": "a", "mountPath": "mnt"}]}, "extraVolumeMounts"),
        ({"networkPolicy": {"clients": [{}]}}, "clients"),
        ({"networkPolicy": {"clients": [{"cidr": "10.0.0.0/8"}]}}, "clients"),
        ({"networkPolicy": {"clients": [{"ipBlock": {}}]}}, "clients"),
        ({"networkPolicy": {"clients": [{"podSelector": {"app": "a"}}]}}, "clients"),
        ({"networkPolicy": {"monitoring": [
            {"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}}, "monitoring"),
        ({"prometheusRule": {"runbooks": "docs"}}, "runbooks"),
        ({"image": {"repository": "quickwater:1"}}, "repository"),
        ({"image": {"tag": "sha256:0"}}, "tag"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"ebpf": {"enable": True}}, "enable"),
        ({"ebpf": {"threads": 1}}, "threads"),
        ({"ebpf": {"threads": 256}}, "threads"),
        ({"ebpf": {"service": "s3.example.com"}}, "service"),
        ({"ebpf": {"service": "10.0.0.1"}}, "service"),
        ({"ebpf": {"service": "999.1.1.1:80"}}, "service"),
        ({"ebpf": {"service": "10.0.0.1:0"}}, "service"),
        ({"ebpf": {"service": "10.0.0.1:65536"}}, "service"),
        ({"ebpf": {"service": "0.0.0.0:80"}}, "service"),
        ({"ebpf": {"service": "10.0.0.01:80"}}, "service"),
        ({"ebpf": {"cgroup": "kubepods.slice"}}, "cgroup"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_meant_are_refused(
    values: Document, named: str, tmp_path: Path
) -> None:
    code, text = manifests.template(tmp_path, values, "embedded")
    assert code != 0 and "schema" in text and named in text, text


# -- what is taken ------------------------------------------------------------

SHARE: Document = {
    "control": {"lease": "10min", "memory": "256MiB", "resources": {"cpu": 1, "memory": "282Mi"}},
    "worker": {
        "memory": "1000MB", "resources": {"cpu": "500m", "memory": "1.1G"},
        "graceSeconds": 1, "hostPort": 80, "capacity": "16 MiB", "maxUnavailable": "100%",
        "extraArgs": ["--zone", "rack-1", "--io-pin-threads", "--log-level=debug"],
    },
    "ufs": {"uri": "file:///srv/ufs/a/b/"},
    "fsGroup": 2147483647,
    "mounts": [
        "nas=file:///mnt/nas/photos,metadata_ttl=never",
        "far=s3://b,endpoint=https://s3.example.com/,path_style=true,min_part_size=5MiB",
        "near=s3://b,endpoint=http://10.0.0.5:9000,credentials=file:/mnt/nas/keys,region=a, b",
        "a.long-name1=s3://c/d/e/",
    ],
    "extraVolumes": [{"name": "nas", "nfs": {"server": "nas", "path": "/"}}],
    "extraVolumeMounts": [{"name": "nas", "mountPath": "/mnt/nas/"}, {"name": "nas", "mountPath": "/processed"}],
    "serviceMonitor": {
        "enabled": True, "interval": "1m", "cluster": "training: a",
        "labels": {"app.kubernetes.io/part-of": "training"},
    },
    "networkPolicy": {
        "nodeCidrs": ["0.0.0.0/0", "10.255.0.1/32"],
        "clients": [
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.255.0.0/16", "10.3.2.1/32"]}},
            {"podSelector": {"matchLabels": {"a": "b"}}, "namespaceSelector": {}},
        ],
    },
}  # fmt: skip
# A worker of one shard less would not have said so.
LARGE: Document = {
    "control": {"lease": "2000ms", "extraArgs": ["--jobs-keep=1d"], "foundationdb": {"keyPrefix": "a:"}},
    "worker": {
        "memory": "3124MiB", "capacity": "4080MiB", "graceSeconds": 3600,
        "resources": {"cpu": "255.5", "memory": "4Gi"},
        "storage": {"ephemeralClassName": "local", "ephemeralSize": "4488Mi"},
        "seccomp": {"type": "RuntimeDefault"},
    },
    "ufs": {"options": "credentials=default,region=a: #b", "credentialsSecret": ""},
}  # fmt: skip
STEERED: Document = {
    "worker": {
        "capacity": "4080MiB", "memory": "3124MiB", "seccomp": {"type": "Unconfined"},
        "resources": {"cpu": 0.5, "memory": "4Gi"},
        "storage": {"hostPath": "", "ephemeralClassName": "local"},
    },
    "ebpf": {"enabled": True, "threads": 255, "service": "223.255.0.1:65535", "cgroup": "/a/b.c"},
    "image": {"digest": f"sha256:{'0f' * 32}", "repository": "registry.example.com:5000/a/quickwater"},
}  # fmt: skip
TAKEN = [("embedded", SHARE), ("foundationdb-operator", LARGE), ("foundationdb", STEERED)]


def _settings(words: list[str], cpus: int) -> Document:
    """What the program makes of the arguments of a container with so many CPUs, or why it
    refuses them."""
    if words[0] == "ebpf":
        words = words[1:]
    # The one flag that is no setting's own.
    given = [word.replace("--control=", "--cluster-control=", 1) for word in words[1:]]
    if not any(word.startswith("--threads") for word in given):
        given.append(f"--threads={cpus}")
    env = {name: value for name, value in os.environ.items() if not name.startswith("QUICKWATER_")}
    command = [str(binary()), "conf", "show", "--offline", "--output", "json", *given]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=env, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def _cpus(container: Document) -> int:
    """Those that it may use in full, one at least."""
    limit = str(container["resources"]["limits"]["cpu"])
    number = float(limit.removesuffix("m"))
    return max(1, int(number / 1000 if limit.endswith("m") else number))


def _all_settings(found: list[Document]) -> dict[str, Document]:
    """Of each of our containers, by its name."""
    return {
        container["name"]: _settings(manifests.arguments(container, VARIABLES), _cpus(container))
        for _, pod in manifests.pods(found)
        for container in manifests.containers(pod)
        if container["name"] != "foundationdb-client"
    }


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_program_takes_what_the_manifests_tell_it(example: str) -> None:
    settings = _all_settings(rendered(example))
    assert set(settings) == {"control", "worker"}
    assert settings["worker"]["store.capacity"] == "900GiB"
    assert settings["worker"]["cluster.control"] == "quickwater-control.quickwater.svc:29989"
    engine = "fjall" if example == "embedded" else "foundationdb"
    assert settings["control"]["metadata.engine"] == engine


@pytest.mark.parametrize(("example", "values"), TAKEN)
def test_values_at_the_edge_are_taken_and_the_program_takes_them_too(
    example: str, values: Document, tmp_path: Path
) -> None:
    code, text = manifests.template(tmp_path, values, example)
    assert code == 0, text
    found = manifests.documents(text)
    settings = _all_settings(found)
    groups = {pod["spec"]["securityContext"]["fsGroup"] for _, pod in manifests.pods(found)}
    assert groups == {values.get("fsGroup", 65532)}
    if values is SHARE:
        assert settings["worker"]["cluster.zone"] == "rack-1"
        pod = dict(manifests.pods(found))["quickwater-worker"]
        (s3,) = [p for p in pod["spec"]["containers"][0]["ports"] if p["name"] == "s3"]
        assert s3["hostPort"] == 80
        (monitor,) = [d for d in found if d["kind"] == "ServiceMonitor"]
        *_, label = monitor["spec"]["endpoints"][0]["relabelings"]
        assert label == {"targetLabel": "cluster", "replacement": "training: a"}
    if values is LARGE:
        assert settings["control"]["metadata.foundationdb.key_prefix"] == "a:"
        assert settings["worker"]["ufs.options"] == "credentials=default,region=a: #b"
    if values is STEERED:
        for name in ("ebpf-loader", "worker"):
            assert settings[name]["store.threads"] == "255"
            assert settings[name]["ebpf.service"] == "223.255.0.1:65535"
            assert settings[name]["ebpf.local"] == "10.0.0.2:29998"
        images = {c["image"] for _, p in manifests.pods(found) for c in p["spec"]["containers"]}
        assert images == {f"{values['image']['repository']}@{values['image']['digest']}"}


def test_values_may_be_taken_back(tmp_path: Path) -> None:
    """By null, as Helm has it: what values.yaml or the example said is gone then."""
    values: Document = {
        "ufs": {"options": None, "credentialsSecret": None},
        "mounts": None,
        "extraVolumes": None,
        "extraVolumeMounts": None,
        "image": {"tag": None, "digest": None},
        "serviceMonitor": {"cluster": None, "labels": None},
        "worker": {"extraArgs": None, "certificates": {"nodes": None}, "storage": {"ephemeralClassName": None}},
        "control": {"extraArgs": None, "adminTokenSecret": None},
        "ebpf": {"threads": None, "service": None, "cgroup": None},
    }
    code, text = manifests.template(tmp_path, values, "foundationdb")
    assert code == 0, text
    settings = _all_settings(manifests.documents(text))
    assert settings["worker"]["ufs.options"] == ""


def test_the_program_refuses_what_is_wrong() -> None:
    """A control: the settings of containers are looked at."""
    for wrong in ("--capacity=1B", "--mount=Photos=s3://b", "--ufs=s3:///b", "--dir=/x"):
        with pytest.raises(AssertionError, match="wrong settings|multiple times"):
            _settings(["worker", "--dir=/var/lib/quickwater", wrong], 4)


def test_the_schema_knows_the_values_that_are_explained_and_no_others() -> None:
    chart = KUBERNETES / "chart"
    schema = json.loads((chart / "values.schema.json").read_text())
    (values,) = manifests.documents((chart / "values.yaml").read_text())
    # Helm's own.
    assert set(manifests.named(schema)) - {"global"} == set(manifests.explained(values, schema))
    # That a hostPath beside ephemeralClassName is the default is known by its text.
    default = values["worker"]["storage"]["hostPath"]
    checks = (chart / "templates" / "_checks-worker.tpl").read_text()
    assert f'(ne $storage.hostPath "{default}")' in checks
