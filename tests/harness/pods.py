"""Pods of the manifests, run by runc: their arguments as they are, on ports as they are.

Each pod has a network namespace, and a bridge of one cable joins the two. Sizes are made
smaller: a test has no terabyte.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from . import manifests
from .container import PATIENCE_SECONDS, SECCOMP, Container, Recipe, mount
from .manifests import Document

ADDRESSES = {"control": "10.231.0.1", "worker": "10.231.0.2"}
SIZES = {"--capacity": "2GiB", "--memory": "512MiB"}
USER = 65532


class Network:
    """A namespace for each pod, joined."""

    def __init__(self) -> None:
        mark = uuid.uuid4().hex[:6]
        self.names = {pod: f"qw-{pod}-{mark}" for pod in ADDRESSES}
        control, worker = self.names["control"], self.names["worker"]
        for name in self.names.values():
            self._ip("netns", "add", name, may_skip=True)
        self._ip("-n", control, "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", worker)
        for pod, name in self.names.items():
            self._ip("-n", name, "addr", "add", f"{ADDRESSES[pod]}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                self._ip("-n", name, "link", "set", link, "up")

    def _ip(self, *words: str, may_skip: bool = False) -> None:
        done = subprocess.run(
            ["ip", *words], capture_output=True, text=True, timeout=60, check=False
        )
        if may_skip and done.returncode != 0:
            pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        assert done.returncode == 0, f"{words}: {done.stderr}"

    def inside(self, pod: str, *words: str) -> list[str]:
        """A command line that runs in the namespace of a pod."""
        return ["ip", "netns", "exec", self.names[pod], *words]

    def close(self) -> None:
        """Both are gone, and the cable with them."""
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], timeout=60, check=False)


def secret(home: Path, volume: Document, data: dict[str, bytes]) -> Path:
    """A Secret as the kubelet lays it: keys or `items`, for the group alone."""
    home.mkdir(parents=True)
    items = volume["secret"].get("items") or [{"key": key, "path": key} for key in data]
    for item in items:
        path = home / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[item["key"]])
        path.chmod(volume["secret"]["defaultMode"])
        os.chown(path, 0, USER)
    return home


def pod(
    home: Path,
    root: Path,
    template: Document,
    name: str,
    network: Network,
    volumes: dict[str, Path],
    seccomp: dict[str, Any],
) -> Container:
    """The container `name` of a pod, not started. `volumes`: what each of them is here."""
    (spec,) = [c for c in template["spec"]["containers"] if c["name"] == name]
    variables = {"NODE_NAME": "node-a", "POD_IP": ADDRESSES[name]}
    words = manifests.arguments(spec, variables)
    words = [_sized(word) for word in words]
    names = home / f"{name}-hosts"
    control = "quickwater-control.quickwater.svc"
    names.write_text(f"127.0.0.1 localhost\n{ADDRESSES['control']} {control}\n")
    mounts = [mount("/etc/hosts", str(names), "ro")]
    for entry in spec["volumeMounts"]:
        inner = entry.get("subPathExpr", entry.get("subPath", ""))
        inner = re.sub(r"\$\((\w+)\)", lambda m: variables[m[1]], inner)
        source = volumes[entry["name"]] / inner
        mode = "ro" if entry.get("readOnly") else "rw"
        mounts.append(mount(entry["mountPath"], str(source), mode))
    profile = template["spec"]["securityContext"]["seccompProfile"]
    # What the kubelet looks for below its own directory.
    local = profile["type"] == "Localhost"
    assert not local or profile["localhostProfile"] == SECCOMP.name
    user = template["spec"]["securityContext"]["runAsUser"]
    return Container(
        home / name,
        root,
        ["/usr/bin/quickwater", *words],
        env={**Recipe.read().env(), **variables},
        user=(user, user),
        mounts=mounts,
        seccomp=seccomp if local else None,
        network=network.names[name],
    )


def _sized(word: str) -> str:
    name = word.split("=", 1)[0]
    return f"{name}={SIZES[name]}" if name in SIZES else word


def probe(network: Network, name: str, template: Document, which: str) -> bool:
    """Whether a probe of the container succeeds, asked as the kubelet asks."""
    (spec,) = [c for c in template["spec"]["containers"] if c["name"] == name]
    asked = spec[which]["httpGet"]
    (port,) = [p["containerPort"] for p in spec["ports"] if p["name"] == asked["port"]]
    url = f"http://{ADDRESSES[name]}:{port}{asked['path']}"
    words = ["curl", "--silent", "--fail", "--noproxy", "*", "--max-time", "10", url]
    done = subprocess.run(
        network.inside(name, *words), capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


def wait_ready(network: Network, name: str, template: Document, container: Container) -> None:
    """Waits until its readiness probe succeeds."""
    assert container.process is not None
    end = time.monotonic() + PATIENCE_SECONDS
    while not probe(network, name, template, "readinessProbe"):
        assert container.process.poll() is None, container.log()
        assert time.monotonic() < end, container.log()
        time.sleep(0.1)
