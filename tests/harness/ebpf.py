"""What a service tells of its programs in the kernel."""

from __future__ import annotations

import json
import os
import re

import pytest

from .payload import payload
from .server import Server

STRICT = os.environ.get("QUICKWATER_EBPF_STRICT") == "1"


def states(server: Server, program: str) -> str:
    """The state that the metrics tell of a program."""
    line = r'quickwater_ebpf_state\{program="%s",state="(\w+)"\} 1\b' % program
    found = re.findall(line, server.metrics_text())
    assert len(found) == 1, found
    return str(found[0])


def condition(server: Server, name: str) -> dict[str, str]:
    """The same as `status` tells it; a control plane apart knows nothing of it."""
    told = json.loads(server.cli("status", "--output", "json").stdout)["conditions"]
    (own,) = [c for c in told if c["name"] == name]
    return dict(own)


def need(server: Server, program: str) -> None:
    """Skips where a program is not on; with QUICKWATER_EBPF_STRICT=1 fails."""
    state = states(server, program)
    if state == "on":
        return
    reason = f"eBPF program {program} is {state}: {server.log_tail()}"
    if STRICT:
        pytest.fail(reason)
    pytest.skip(reason)


def uses_s3(server: Server) -> None:
    """A PUT and a GET as any client makes them."""
    s3 = server.target().client()
    body = payload(100_000, seed=1)
    s3.create_bucket(Bucket="spread")
    s3.put_object(Bucket="spread", Key="k", Body=body)
    assert s3.get_object(Bucket="spread", Key="k")["Body"].read() == body
