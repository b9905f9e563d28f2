"""`quickwater doctor` beside a service that does not tell how it is, and beside stores whose
clocks differ; `quickwater admin-token`."""

from __future__ import annotations

import contextlib
import email.utils
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from conftest import EXTERNAL
from harness.apart import one_process
from harness.freeze import freeze
from harness.nobody import become, open_home
from harness.server import Server, binary

from .test_doctor import UNDER, doctor, store_flags

# Without a bound of its own doctor took a minute and a half for either.
BOUND_SECONDS = 80.0
OTHER_TOKEN = "f" * 64

pytestmark = pytest.mark.skipif(bool(EXTERNAL), reason="looks at processes of this machine")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A service that runs."""
    made = Server(tmp_path / "service")
    yield made.start()
    with contextlib.suppress(ProcessLookupError):
        os.kill(made.pid, signal.SIGCONT)
    made.close()


def flags(server: Server) -> dict[str, str]:
    """As its settings are, for doctor."""
    return {"dir": str(server.dir), "ufs": server.flags["ufs"]}


def admin_token(
    directory: Path,
    *words: str,
    program: Path | None = None,
    prepare: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """The verb."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("QUICKWATER_")}
    return subprocess.run(
        [str(program or binary()), "admin-token", "--dir", str(directory), *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        env=clean, preexec_fn=prepare,
    )  # fmt: skip


@one_process("the admin API is the control plane's")
def test_a_stopped_service_is_told_in_time(server: Server, tmp_path: Path) -> None:
    freeze(server.pid)
    begun = time.monotonic()
    code, found = doctor(tmp_path, flags(server))
    took = time.monotonic() - begun
    assert code == 1 and found["service"]["verdict"] == "fail", found
    assert "is stopped" in found["service"]["found"], found["service"]
    assert f"kill -CONT {server.pid}" in found["service"]["advice"]
    assert took < BOUND_SECONDS
    os.kill(server.pid, signal.SIGCONT)
    code, found = doctor(tmp_path, flags(server))
    assert code == 0 and found["service"]["verdict"] == "ok", found


@one_process("the admin API is the control plane's")
def test_a_token_that_cannot_be_used_is_told_as_that(server: Server, tmp_path: Path) -> None:
    path = server.dir / "admin-token"
    token = path.read_text()
    done = admin_token(server.dir)
    assert (done.returncode, done.stdout, done.stderr) == (0, token, "")
    done = admin_token(server.dir, "--output", "json")
    assert json.loads(done.stdout) == {"admin_token": token.strip()}
    assert token.strip() not in server.log(), "it is in no log"

    path.write_text(f"{OTHER_TOKEN}\n")
    code, found = doctor(tmp_path, flags(server))
    assert code == 1 and "takes another one" in found["admin token"]["found"], found
    assert "restart the service" in found["admin token"]["advice"]
    # It is well all the same, and says so to everybody.
    assert found["service"]["verdict"] == "ok" and "ready" in found["service"]["found"]

    path.unlink()
    code, found = doctor(tmp_path, flags(server))
    assert code == 1 and "No such file" in found["admin token"]["found"], found
    assert "makes it" in found["admin token"]["advice"]
    assert found["service"]["verdict"] == "ok"
    done = admin_token(server.dir)
    assert done.returncode == 1 and not done.stdout
    assert "No such file" in done.stderr and "a worker has none" in done.stderr

    # A text that no service takes: neither printed nor started with.
    path.write_text("short\n")
    done = admin_token(server.dir)
    assert done.returncode == 1 and not done.stdout and "32 to 1024" in done.stderr
    assert server.stop() == 0
    process = server.launch()
    assert process.wait(60) not in (0, 101, -6), server.log_tail()
    assert "adminTokenSecret" in server.log() and "32 to 1024" in server.log()


@one_process("started with flags of its own")
def test_a_service_is_judged_by_what_it_was_given(server: Server, tmp_path: Path) -> None:
    # Not by what this command has as its default: that directory would be missing.
    flags = {"dir": str(server.dir), "memory": "100TiB"}
    code, found = doctor(tmp_path, flags)
    assert "ufs.uri" in found["settings of the last start"]["found"], found
    assert found["memory"]["verdict"] == "fail", "what is given here counts more"
    assert "memory" not in found["settings of the last start"]["found"].split(": ")[1].split(", ")


@pytest.mark.root
@one_process("the admin API is the control plane's")
def test_a_token_of_somebody_else_is_told_as_that() -> None:
    with open_home() as (home, program):
        server = Server(home / "service").start()
        try:
            for part in (server.home, server.dir):
                part.chmod(0o755)
            _, found = doctor(home, flags(server), prepare=become, program=program)
            assert found["admin token"]["verdict"] == "fail", found
            assert "ermission denied" in found["admin token"]["found"]
            assert "run this as that user" in found["admin token"]["advice"]
            assert "--token-file" not in found["admin token"]["advice"], "it takes none"
            assert found["service"]["verdict"] == "ok", found["service"]
            done = admin_token(server.dir, program=program, prepare=become)
            assert done.returncode == 1 and not done.stdout
            assert "run this as that user" in done.stderr
            assert "QUICKWATER_ADMIN_TOKEN" not in done.stderr, "it takes none"
        finally:
            server.close()


@contextlib.contextmanager
def store_at(offset_seconds: float) -> Iterator[str]:
    """A store that refuses everything, by a clock of its own; its endpoint."""

    class Refuses(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def date_time_string(self, timestamp: float | None = None) -> str:
            return email.utils.formatdate(time.time() + offset_seconds, usegmt=True)

        def refuse(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_PUT = refuse

        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        httpd.server_close()


@pytest.mark.parametrize(
    ("offset_seconds", "verdict", "word"),
    [(0, "ok", "the same"), (-120, "warn", "ahead of"), (3600, "fail", "behind")],
)
def test_the_clock_is_compared_with_that_of_the_store(
    offset_seconds: float, verdict: str, word: str, tmp_path: Path
) -> None:
    with store_at(offset_seconds) as endpoint:
        code, found = doctor(tmp_path, store_flags(endpoint), env=UNDER)
    assert code == 1, "the store refuses everything"
    seen = found["clock of the UFS"]
    assert seen["verdict"] == verdict and word in seen["found"], seen
    assert verdict == "ok" or "RequestTimeTooSkewed" in seen["advice"]
    assert "in step" in found["clock"]["found"], found["clock"]


def test_a_store_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    # Connections are made by the kernel, and nobody takes them.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        slow = {**store_flags(endpoint), "ufs-timeout-request": "10m"}
        code, found = doctor(tmp_path, slow, env=UNDER)
        took = time.monotonic() - begun
    assert code == 1 and "no answer within 15 s" in found["ufs.uri"]["found"], found
    assert "clock of the UFS" not in found and took < BOUND_SECONDS
    file = tmp_path / "file"
    file.write_text("text")
    code, found = doctor(tmp_path, {"dir": str(file)})
    assert code == 1 and f"{file} is no directory" in found["directory"]["found"], found
