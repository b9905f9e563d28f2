"""Somebody detaches programs by hand while the service runs: all is as without them, and the
service says so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable

import pytest

from conftest import ServeFactory
from harness import apart
from harness.bpf import detach_from_sockets, detach_links
from harness.bpf_maps import BpfMap
from harness.ebpf import condition, need, states
from harness.payload import KIB, MIB, payload
from harness.server import Server
from harness.steering import Service, cgroup, service, until_answered_by

__all__ = ["cgroup", "service"]

pytestmark = [pytest.mark.root]
DEADLINE_SECONDS = 120


def until(holds: Callable[[], bool], server: Server) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.02)


def says(server: Server, name: str, words: str) -> bool:
    """Whether `status` says this of a program; a control plane apart does not tell."""
    return apart.wanted() or words in condition(server, name)["detail"]


def test_without_the_programs_of_connect_a_client_reaches_the_service(
    serve: ServeFactory, cgroup: Path, service: Service
) -> None:
    server = serve(flags={"ebpf-service": service.flag(), "ebpf-cgroup": str(cgroup)})
    need(server, "connect")
    until_answered_by("worker", service, cgroup)
    assert detach_links(server.pid) == 2
    until_answered_by("service", service, cgroup)
    until(lambda: states(server, "connect") == "refused", server)
    assert says(server, "ebpf.connect", "detached")
    until_answered_by("service", service, cgroup)
    assert server.stop() == 0
    server.start()
    need(server, "connect")
    until_answered_by("worker", service, cgroup)


@pytest.mark.parametrize("program", ["meet", "send"])
def test_without_a_program_of_bypass_answers_go_by_tcp(
    serve: ServeFactory, program: str
) -> None:
    server = serve(flags={"ebpf-bypass": "auto"})
    need(server, "bypass")
    s3 = server.target().client()
    body = payload(40 * MIB, seed=3)
    s3.create_bucket(Bucket="near")
    s3.put_object(Bucket="near", Key="k", Body=body)

    def get() -> None:
        """By a connection of its own."""
        answer: Any = server.target().client().get_object(Bucket="near", Key="k")
        assert answer["Body"].read() == body

    def bypassed() -> int:
        return int(server.metric("quickwater_ebpf_bypass_bytes_total"))

    before = bypassed()
    get()
    assert bypassed() - before >= len(body)
    # One that has begun to read goes on as it began.
    begun = s3.get_object(Bucket="near", Key="k")["Body"]
    first = begun.read(64 * KIB)
    match program:
        case "meet":
            assert detach_links(server.pid) == 1
        case _:
            with BpfMap.of_process(server.pid, "WORKERS") as sockets:
                detach_from_sockets(server.pid, sockets.fd)
    get()
    assert first + begun.read() == body
    until(lambda: states(server, "bypass") == "refused", server)
    assert says(server, "ebpf.bypass", "detached")
    before = bypassed()
    get()
    assert bypassed() == before
    assert server.stop() == 0
    server.start()
    need(server, "bypass")
    get()
