"""`quickwater ebpf load` pins programs; a service without any capability uses them. In a
BPF file system of the test's own, which is gone with the process that holds it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from conftest import ServeFactory
from harness import apart
from harness.ebpf import STRICT, condition, states, uses_s3
from harness.server import Server, binary
from harness.steering import Service, cgroup, service, until_answered_by

__all__ = ["cgroup", "service"]

DEADLINE_SECONDS = 120
SHARDS = 4
# What the loader has, and what the service: not one is left, also for root; files of root it may open as their owner.
LOADER = ["setpriv", "--bounding-set=-all,+bpf,+perfmon,+net_admin"]
WITHOUT_CAPABILITIES = ["setpriv", "--bounding-set=-all"]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """With no settings from outside."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("QUICKWATER_")}
    return subprocess.run(
        words, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False, env=env
    )


class Place:
    """A mount namespace with a BPF file system in it."""

    def __init__(self, holder: subprocess.Popen[str], mounted: Path) -> None:
        self.inside = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt"]
        self.pins = mounted / "quickwater"

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`quickwater ebpf` in there."""
        own = [*self.inside, *LOADER, str(binary()), "ebpf", *words, f"--ebpf-pins={self.pins}"]
        done = run(own)
        assert not check or done.returncode == 0, done.stderr
        return done

    def load(self, *words: str) -> None:
        """Skips where that is not possible; with QUICKWATER_EBPF_STRICT=1 fails."""
        done = self.run("load", *words, check=False)
        if done.returncode == 0:
            return
        if STRICT:
            pytest.fail(done.stderr)
        pytest.skip(f"eBPF programs cannot be loaded: {done.stderr}")

    def pinned(self) -> list[dict[str, Any]]:
        told = json.loads(self.run("show", "--output", "json").stdout)
        return list(told["pinned"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    missing = [t for t in ("unshare", "nsenter", "setpriv", "mount") if shutil.which(t) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root, unshare, nsenter, setpriv and mount; missing: {missing}")
    mounted = tmp_path / "bpf"
    mounted.mkdir()
    script = 'mount -t bpf bpf "$1" && echo there && exec sleep 3600'
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(mounted)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert holder.stdout is not None
        said = holder.stdout.readline()
        if said != "there\n":
            pytest.skip(f"no BPF file system can be mounted: {said}")
        yield Place(holder, mounted)
    finally:
        holder.kill()
        holder.wait()


def bare(place: Place, **flags: str) -> dict[str, Any]:
    """How to start a service that has no capability and sees what is pinned."""
    own = {"threads": str(SHARDS), "ebpf-pins": str(place.pins), **flags}
    return {"flags": own, "prefix": [*place.inside, *WITHOUT_CAPABILITIES]}


def test_a_service_without_capabilities_uses_what_was_loaded_before(
    serve: ServeFactory, place: Place
) -> None:
    place.load("--threads", str(SHARDS))
    (balance,) = place.pinned()
    assert balance["name"] == f"balance-{SHARDS}x1"
    assert balance["usable"] and not balance["used"]
    server = serve(**bare(place))
    assert states(server, "reuseport") == "on", server.log_tail()
    uses_s3(server)
    line = 'quickwater_ebpf_reuseport_connections_total{chosen_by="program"}'
    told = [text for text in server.metrics_text().splitlines() if text.startswith(line)]
    assert float(told[0].split()[-1]) >= 1
    assert place.pinned()[0]["used"]
    # It is one process's, and stays while that lives.
    for verb in (["load", "--threads", str(SHARDS)], ["unload"]):
        refused = place.run(*verb, check=False)
        assert refused.returncode == 1 and "another process uses" in refused.stderr
    # Killed, the next one has it.
    server.kill()
    server.start()
    assert states(server, "reuseport") == "on", server.log_tail()
    uses_s3_again(server)
    assert server.stop() == 0
    place.run("unload")
    assert place.pinned() == []


def uses_s3_again(server: Server) -> None:
    s3 = server.target().client()
    assert len(s3.get_object(Bucket="spread", Key="k")["Body"].read()) == 100_000


def test_what_does_not_fit_is_not_used_and_told(serve: ServeFactory, place: Place) -> None:
    place.load("--threads", str(SHARDS * 2))
    other = place.pinned()[0]["version"]
    server = serve(**bare(place))
    assert states(server, "reuseport") == "refused"
    assert f"has balance-{SHARDS * 2}x1, not balance-{SHARDS}x1" in server.log()
    assert server.stop() == 0
    # Of another version.
    (place_of_own := place.pins / other)
    rename = ["mv", str(place_of_own), str(place.pins / "0123456789abcdef")]
    subprocess.run([*place.inside, *rename], check=True, timeout=DEADLINE_SECONDS)
    assert not place.pinned()[0]["usable"]
    assert "another version" in place.run("show").stdout
    server.start()
    assert states(server, "reuseport") == "refused"
    assert "is of another version of Quickwater" in server.log()
    if not apart.wanted():
        assert "another version" in condition(server, "ebpf.reuseport")["detail"]
    uses_s3(server)
    # Loading removes it.
    assert server.stop() == 0
    place.load("--threads", str(SHARDS))
    assert [(p["name"], p["usable"]) for p in place.pinned()] == [(f"balance-{SHARDS}x1", True)]


def test_nothing_pinned_is_the_plain_way(serve: ServeFactory, place: Place) -> None:
    server = serve(**bare(place))
    assert states(server, "reuseport") in ("refused", "not_built")
    uses_s3(server)
    assert "nothing is pinned" in place.run("show").stdout
    place.run("unload")


def test_what_cannot_be_loaded_leaves_nothing(place: Place) -> None:
    bare_load = [*place.inside, *WITHOUT_CAPABILITIES, str(binary()), "ebpf", "load"]
    words = [*bare_load, "--threads", "2", f"--ebpf-pins={place.pins}"]
    done = run(words)
    assert done.returncode == 1 and done.stderr
    assert place.pinned() == []
    nothing = place.run("load", "--threads", "1", check=False)
    assert nothing.returncode == 1 and "want no program" in nothing.stderr
    # A directory that is in no BPF file system.
    outside = place.pins.parent.parent / "plain"
    words = [str(binary()), "ebpf", "load", "--threads", "2", f"--ebpf-pins={outside}"]
    done = run(words)
    assert done.returncode == 1 and ("mount -t bpf" in done.stderr or not STRICT), done.stderr


def test_connections_are_turned_by_programs_that_were_pinned(
    serve: ServeFactory, place: Place, cgroup: Path, service: Service
) -> None:
    # Which port the worker gets is not known before, so it is told one, of an address that
    # nobody else uses: one of 127.0.0.1 might be taken between two starts.
    local = free_address()
    flags = {
        "ebpf-service": service.flag(),
        "ebpf-local": local,
        "ebpf-cgroup": str(cgroup),
        "ebpf-reuseport": "off",
    }
    place.load(*[f"--{name}={value}" for name, value in flags.items()])
    (connect,) = place.pinned()
    assert connect["notes"] == {"service": service.flag(), "local": local}
    until_answered_by("service", service, cgroup)
    server = serve(**bare(place, **flags, **{"s3-listen": local}))
    assert states(server, "connect") == "on", server.log_tail()
    until_answered_by("worker", service, cgroup)
    # What is pinned stays, and does nothing without the beats of a worker.
    server.kill()
    until_answered_by("service", service, cgroup)
    server.start()
    until_answered_by("worker", service, cgroup)
    assert server.stop() == 0
    until_answered_by("service", service, cgroup)
    place.run("unload")
    assert place.pinned() == []


def test_pinned_programs_that_somebody_removed_are_told(
    serve: ServeFactory, place: Place, cgroup: Path, service: Service
) -> None:
    local = free_address()
    flags = {
        "ebpf-service": service.flag(),
        "ebpf-local": local,
        "ebpf-cgroup": str(cgroup),
        "ebpf-reuseport": "off",
    }
    loaded = [f"--{name}={value}" for name, value in flags.items()]
    place.load(*loaded)
    server = serve(**bare(place, **flags, **{"s3-listen": local}))
    assert states(server, "connect") == "on", server.log_tail()
    until_answered_by("worker", service, cgroup)
    remove = ["find", str(place.pins), "-name", "connect[46]", "-delete"]
    subprocess.run([*place.inside, *remove], check=True, timeout=DEADLINE_SECONDS)
    until_answered_by("service", service, cgroup)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while states(server, "connect") != "refused":
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.02)
    assert server.stop() == 0
    place.load(*loaded)
    server.start()
    assert states(server, "connect") == "on", server.log_tail()
    until_answered_by("worker", service, cgroup)


def free_address() -> str:
    host = f"127.83.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"
