"""The pods of the manifests, run by runc with the image: they get ready and serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness import container, manifests, metadata, pods
from harness.certificates import make_pair
from harness.container import SECCOMP, Container, owned
from harness.manifests import EXAMPLES, rendered
from harness.server import binary

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
