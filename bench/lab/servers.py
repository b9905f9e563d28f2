"""The servers under load: how each is started, over the same files, on the servers' core."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable

from harness.certificates import Pair
from harness.payload import payload
from harness.server import Server, binary
from harness.target import Target

from .clients import Connection, LoadFailed, Request
from .machine import GIB, KIB, MIB, SERVER_CORE, cpu_seconds, family, on_server_core, peak_rss_bytes, reset_peak_rss

START_SECONDS = 60.0
SETTLE_SECONDS = 150.0
POLICY_SECONDS = 1.5  # new rules are in force within a second
# KEPT: the same promise of the ack as WRITES, but nothing is ever told to the UFS.
BUCKET, WRITES, KEPT, LARGES = "bench", "writes", "kept", "large"
SMALL, LARGE, PART = 10 * KIB, 64 * MIB, 10 * MIB
HOT_FILES, COLD_FILES = 64, 4096
MEMORY = GIB


class Unavailable(Exception):
    """Something cannot run here; says what is missing."""


@dataclass
class Endpoint:
    """A server that runs."""

    name: str
    port: int
    pid: int
    command: str
    keys: Target | None = None
    notes: list[str] = field(default_factory=list)
    # It speaks HTTPS with this certificate, which signs itself.
    certificate: Path | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    def agreed(self) -> str:
        """Version and cipher that a handshake ends with."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        with socket.create_connection(("127.0.0.1", self.port), START_SECONDS) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                name, version, _ = secure.cipher() or ("none", "none", 0)
        return f"{version} {name}"

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        return sum(map(cpu_seconds, family(self.pid)))

    def reset_peak(self) -> None:
        """Lets the peak of its memory begin anew."""
        for pid in family(self.pid):
            reset_peak_rss(pid)

    def peak_rss_bytes(self) -> int:
        """Peak of its memory since then."""
        return sum(map(peak_rss_bytes, family(self.pid)))


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until somebody listens on the port."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    raise Unavailable(f"no answer on port {port} within {START_SECONDS:.0f} s: {tail}")


def make_files(root: Path, large_files: int) -> None:
    """The objects of the bucket `bench`, as plain files."""
    folder = root / BUCKET
    folder.mkdir(parents=True)
    (root / WRITES).mkdir()
    (root / KEPT).mkdir()
    (root / LARGES).mkdir()  # filled by the rows that read it
    for number in range(COLD_FILES):
        (folder / f"s{number}").write_bytes(payload(SMALL, number))
    large = payload(LARGE, "large")
    for number in range(large_files):
        (folder / f"l{number}").write_bytes(large)


def small_gets(files: int) -> list[Request]:
    """GETs of the first of the small files."""
    return [Request("GET", f"/{BUCKET}/s{number}") for number in range(files)]


def large_gets(files: int) -> list[Request]:
    """GETs of the large files."""
    return [Request("GET", f"/{BUCKET}/l{number}") for number in range(files)]


class Process:
    """A server program with its log; ended by `close`."""

    def __init__(self, home: Path, name: str, words: list[str], port: int, env: dict[str, str] | None = None) -> None:
        self.log = home / f"{name}.log"
        self.words = on_server_core(words)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )
        try:
            wait_for(port, self.process, self.log)
        except Unavailable:
            self.close()
            raise
        self.endpoint = Endpoint(name, port, self.process.pid, " ".join(self.words))

    def close(self) -> None:
        """Ends it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


NGINX = """daemon off; worker_processes 1; pid {home}/{name}.pid; error_log {home}/{name}.err;
{user} events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; {extra}
  keepalive_timeout 300s; keepalive_requests 100000000;
  open_file_cache max=10000 inactive=300s; open_file_cache_valid 300s;
  server {{ listen 127.0.0.1:{port}{tls}; root {files}; }}
}}
"""
DIRECTIO = "directio 1m; output_buffers 2 1m;"
# The cipher ours and every client here prefer. nginx has no sendfile with TLS (the
# kernel has none either): it reads files by its output buffers, which are larger
# than by default, so that a record is full.
NGINX_TLS = """ssl_certificate {pair.certificate}; ssl_certificate_key {pair.key};
  ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384; ssl_session_tickets off;
  ssl_buffer_size 16k; output_buffers 2 128k;"""


def nginx(home: Path, files: Path, name: str = "nginx", extra: str = "", pair: Pair | None = None) -> Process:
    """One worker: sendfile, keep-alive, open files cached, no log; O_DIRECT by `extra`, HTTPS by a pair."""
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        raise Unavailable("nginx is not installed (Debian: nginx-light)")
    port = free_port()
    conf = home / f"{name}.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    tls = " ssl" if pair else ""
    if pair:
        extra += NGINX_TLS.format(pair=pair)
    text = NGINX.format(home=home, name=name, user=user, extra=extra, port=port, files=files, tls=tls)
    conf.write_text(text)
    started = Process(home, name, [program, "-c", str(conf), "-p", str(home)], port)
    started.endpoint.notes.append(text)
    started.endpoint.certificate = pair.certificate if pair else None
    return started


class Quickwater:
    """`serve` with one thread over the files, everything warm, anonymous and signed."""

    def __init__(self, home: Path, files: Path, capacity: str, name: str = "quickwater", **flags: str) -> None:
        if not binary().exists():
            raise Unavailable(f"{binary()} is not built: cargo build --release -p quickwater")
        settings = {
            "ufs": f"file://{files}",
            "s3-anonymous": "true",
            "threads": "1",
            "memory": str(MEMORY),
            "capacity": capacity,
            "metadata-ttl": "never",
            **flags,
        }
        prefix = ["taskset", "-c", str(SERVER_CORE)]
        self.server = Server(home / name, flags=settings, prefix=prefix).start(START_SECONDS)
        self.endpoint = self._running(name)
        self.policy = self._write_back(home)

    def _running(self, name: str) -> Endpoint:
        port = int(str(self.server.run["s3"]).rsplit(":", 1)[1])
        return Endpoint(name, port, self.server.pid, " ".join(self.server.command()), keys=self.server.target())

    def secure(self, certificate: Path) -> Endpoint:
        """Its HTTPS side: the same process."""
        plain, port = self.endpoint, int(str(self.server.run["s3_tls"]).rsplit(":", 1)[1])
        return Endpoint(plain.name, port, plain.pid, plain.command, plain.keys, plain.notes, certificate)

    def restart(self, stopped: Callable[[], None]) -> None:
        """Ends it, does something meanwhile and starts it again."""
        if (code := self.server.stop()) != 0:
            raise LoadFailed(f"exit code {code} after SIGTERM")
        stopped()
        self.server.start(START_SECONDS)
        self.endpoint = self._running(self.endpoint.name)

    def _write_back(self, home: Path) -> str:
        """Write-back for the bucket of the PUT rows where this build has path policies."""
        words = [str(self.server.program), "pathconfig", "apply", "--help"]
        if subprocess.run(words, capture_output=True, check=False).returncode != 0:
            return "WRITE_THROUGH"
        modes = {WRITES: "WRITE_BACK", KEPT: "TRANSIENT"}
        rules = [{"path": f"/{bucket}", "policyMode": mode} for bucket, mode in modes.items()]
        document = {
            "apiVersion": "v1.0",
            "defaultRule": {"policyMode": "WRITE_THROUGH"},
            "pathRules": rules,
        }
        file = home / "pathconfig.json"
        file.write_text(json.dumps(document))
        self.server.cli("pathconfig", "apply", str(file))
        self.endpoint.notes.append(f"pathconfig apply: {json.dumps(document)}")
        time.sleep(POLICY_SECONDS)
        return self._promised()

    def _promised(self) -> str:
        """The policy as the answer to a PUT says it: a rule alone proves nothing."""
        with Connection(self.endpoint.port) as connection:
            head, _ = connection.exchange(Request("PUT", f"/{WRITES}/promise", body=b"x"))
        return "WRITE_BACK" if b"x-quickwater-durability: local-1" in head.lower() else "WRITE_THROUGH"

    @property
    def acks(self) -> Endpoint:
        """The same process, for PUTs that nothing follows (TRANSIENT)."""
        return replace(self.endpoint, name=f"{self.endpoint.name}-ack")

    @property
    def write_back(self) -> Endpoint:
        """The same process, for PUTs with the persister beside them."""
        return replace(self.endpoint, name=f"{self.endpoint.name}-write-back")

    def settle(self) -> None:
        """Returns when the UFS has all that was written."""
        if self.policy != "WRITE_BACK":
            return
        end = time.monotonic() + SETTLE_SECONDS
        words = ("async-persist", "wait", "--path", f"/{WRITES}", "--timeout", "50s")
        while (done := self.server.cli(*words, check=False)).returncode != 0:
            if time.monotonic() > end:
                raise LoadFailed(f"not all is in the UFS after {SETTLE_SECONDS:.0f} s: {done.stdout}{done.stderr}")

    def warm(self, requests: list[Request]) -> None:
        """Reads until every one is a hit; fails when one never becomes it."""
        left = list(requests)
        for _ in range(5):
            with Connection(self.endpoint.port) as connection:
                left = [r for r in left if not _is_hit(connection.exchange(r)[0])]
            if not left:
                return
        raise LoadFailed(f"{len(left)} objects are no hits after 5 reads, e.g. {left[0].path}")

    def close(self) -> None:
        """Ends it."""
        self.server.close()

    def __enter__(self) -> "Quickwater":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_hit(head: bytes) -> bool:
    return b"x-quickwater-cache: hit" in head.lower()
