"""The program built without kernel programs: the build without flushes is one too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import ServeFactory
from harness import apart
from harness.ebpf import STRICT, condition, states, uses_s3

NO_FLUSH = os.environ.get("QUICKWATER_NO_FLUSH_BIN", "")


@pytest.mark.skipif(not NO_FLUSH, reason="QUICKWATER_NO_FLUSH_BIN names no build without flushes")
def test_without_programs_the_service_works_and_says_so(serve: ServeFactory) -> None:
    server = serve(flags={"threads": "4"}, program=Path(NO_FLUSH))
    found = server.cli("doctor", check=False).stdout
    if "eBPF: not built" not in found and not STRICT:
        pytest.skip(f"{NO_FLUSH} was built with programs, or before there were any")
    assert "eBPF: not built" in found
    assert states(server, "reuseport") == "not_built"
    assert "eBPF: not built" in server.log()
    if not apart.wanted():
        assert "eBPF: not built" in condition(server, "ebpf.reuseport")["detail"]
        assert "ebpf.reuseport: not_built" in server.cli("status").stdout
    uses_s3(server)
