"""Somebody takes the program of `ebpf.handoff` off its device while the service runs: it comes
back, or nothing is handed over. Clients see right bytes or a broken connection, in time."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from pathlib import Path
from typing import Iterator

import pytest

from conftest import EXTERNAL
from harness.bpf import Link, detach
from harness.freeze import freeze
from harness.moved import MovedClient, owned_by_the_second, pins, two_workers, until
from harness.segment import PORT, SERVICE, Segment

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("ip"),
    pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own"),
]
AGAIN = "it was attached again"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Segment]:
    yield from two_workers(tmp_path)


def told(cluster: Segment, node: str) -> tuple[str, str]:
    """State and detail of hand-overs as the control plane was told last."""
    conditions = cluster.nodes()[node]["conditions"]
    (found,) = [one for one in conditions if one["name"] == "ebpf.handoff"] or [{}]
    return found.get("state", ""), found.get("detail", "")


def state(cluster: Segment, node: str, name: str) -> int:
    """Whether the metrics say that hand-overs are in a state."""
    return cluster.count(node, f'quickwater_ebpf_state{{program="handoff",state="{name}"}}')


def gets_right_or_breaks(client: MovedClient, key: str) -> bool:
    """Whether the right bytes came; that none come is a failure."""
    try:
        client.get(key)
        return True
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException):
        return False


def gets(cluster: Segment, key: str) -> None:
    """A client gets an object, by another connection if the first one breaks."""
    for _ in range(2):
        client = MovedClient(cluster)
        try:
            if gets_right_or_breaks(client, key):
                return
        finally:
            client.close()
    raise AssertionError(f"two connections broke: {cluster.logs()}")


def doctor(cluster: Segment, node: str) -> list[str]:
    """What it says of hand-overs at a worker's host."""
    with cluster.at(node):
        done = cluster.workers[node].cli(
            "doctor", "--ebpf-handoff=auto", f"--s3-listen={SERVICE}:{PORT}",
            f"--ebpf-pins={pins(cluster, node).parent}", "--output", "json", check=False,
        )
    checks = json.loads(done.stdout)["checks"]
    return [check["found"] for check in checks if check["name"] == "ebpf.handoff"]


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_program_that_is_taken_off_its_device_is_attached_again(
    cluster: Segment, node: str
) -> None:
    """At the entry, at the owner."""
    key = owned_by_the_second(cluster)
    idle = MovedClient.to_owner_of(cluster, key)
    busy = MovedClient.to_owner_of(cluster, key)
    detach(pins(cluster, node) / "link-1")
    gets_right_or_breaks(busy, key)
    busy.close()
    gets(cluster, key)
    until(lambda: AGAIN in told(cluster, node)[1], cluster)
    assert (told(cluster, node)[0], state(cluster, node, "on")) == ("on", 1)
    assert "it is attached again" in cluster.workers[node].log()
    # It said nothing meanwhile, so nobody has told it that it has ended.
    idle.get(key)
    idle.close()
    MovedClient.to_owner_of(cluster, key).close()
    assert doctor(cluster, node) == []
    # And it is pinned as before: what goes elsewhere outlives the worker.
    if node == "n1":
        moved = MovedClient.to_owner_of(cluster, key)
        cluster.workers["n1"].kill()
        moved.get(key)
        moved.close()


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_program_that_cannot_be_attached_again_is_told(cluster: Segment, node: str) -> None:
    """Its link cannot be pinned."""
    key = owned_by_the_second(cluster)
    MovedClient.to_owner_of(cluster, key).close()
    place = pins(cluster, node)
    with Link(place / "link-1") as link:
        for pin in place.iterdir():
            pin.unlink()
        place.rmdir()
        place.parent.rmdir()
        place.parent.symlink_to("/proc/nowhere")
        try:
            link.detach()
            until(lambda: gets(cluster, key) is None and told(cluster, node)[0] == "refused", cluster)
            assert "is on no device" in told(cluster, node)[1]
            assert (state(cluster, node, "on"), state(cluster, node, "refused")) == (0, 1)
            # Nothing is handed over, and nothing breaks.
            before = cluster.outcomes("n1", "given")
            for _ in range(3):
                client = MovedClient(cluster)
                client.get(key)
                client.close()
            assert cluster.outcomes("n1", "given") == before
        finally:
            place.parent.unlink()
    until(lambda: told(cluster, node)[0] == "on", cluster)
    assert AGAIN in told(cluster, node)[1]
    MovedClient.to_owner_of(cluster, key).close()


def test_doctor_says_that_a_program_is_on_no_device(cluster: Segment) -> None:
    """While its worker stands still, so that it does not attach it again."""
    pid = cluster.workers["n1"].pid
    freeze(pid)
    try:
        detach(pins(cluster, "n1") / "link-1")
        (found,) = doctor(cluster, "n1")
        assert "on no device" in found
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: AGAIN in told(cluster, "n1")[1], cluster)
    assert doctor(cluster, "n1") == []
