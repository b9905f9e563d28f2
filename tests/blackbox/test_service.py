"""The service as a program: start, stop, refusals, health, admin, logs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import ServeFactory
from harness.apart import one_process
from harness.exposition import OPENMETRICS, families, fetched
from harness.payload import MIB, payload
from harness.raw import Request, connect, head_bytes, read_reply, send, sign
from harness.server import Server
from harness.signing import UNSIGNED, Signer
from harness.target import error_of

START_REFUSED_SECONDS = 30


def refused(server: Server, *words: str) -> str:
    """Starts it, expects a prompt end with an error, returns the log."""
    process = server.launch()
    try:
        code = process.wait(START_REFUSED_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        raise AssertionError(f"started although it must not\n{server.log_tail()}") from None
    assert code not in (0, 101, -6), server.log_tail()
    text = server.log()
    for word in words:
        assert word in text, f"{word!r} not in\n{text}"
    return text


@one_process("the admin API is the control plane's")
def test_run_json_and_credentials(serve: ServeFactory) -> None:
    server = serve()
    run = json.loads((server.dir / "run.json").read_text())
    assert set(run) >= {"pid", "s3", "admin", "metrics"}
    assert run["pid"] == server.pid
    for name in ("s3", "admin", "metrics"):
        host, port = run[name].rsplit(":", 1)
        with socket.create_connection((host, int(port)), 5):
            pass
    path = server.dir / "credentials"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys = server.credentials()
    assert re.fullmatch(r"[A-Z0-9]{16,128}", keys["access_key_id"])
    assert len(keys["secret_access_key"]) >= 40
    assert server.stop() == 0
    assert not (server.dir / "run.json").exists()
    server.start()
    assert server.credentials() == keys, "the key pair stays"


def test_key_pair_from_the_environment(serve: ServeFactory) -> None:
    pair = {
        "QUICKWATER_ACCESS_KEY_ID": "AKIAFROMENVIRONMENT1",
        "QUICKWATER_SECRET_ACCESS_KEY": "from-the-environment-0123456789abcdefghij",
    }
    server = serve(env=pair)
    assert not (server.dir / "credentials").exists()
    server.target().client().list_buckets()


def test_health(serve: ServeFactory) -> None:
    server = serve()
    assert server.http_status("/healthz") == 200
    assert server.http_status("/readyz") == 200
    assert server.http_status("/nothing") == 404
    text = server.metrics_text()
    assert "quickwater_build_info" in text
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z_:][a-z0-9_:]*(\{.*\})? \S+", line), line
    media, text = fetched(str(server.run["metrics"]), OPENMETRICS)
    assert media.startswith(OPENMETRICS)
    assert "quickwater_build_info" in families(text)


HALF_SENT = 300


def test_half_sent_requests_do_not_keep_health_out(serve: ServeFactory) -> None:
    server = serve()
    with contextlib.ExitStack() as held:
        for _ in range(HALF_SENT):
            half = held.enter_context(metrics_connection(server))
            with contextlib.suppress(OSError):  # pushed out by those behind it
                half.sendall(b"GET /healthz HTT")
        for turn in range(20):
            assert server.http_status("/healthz") == 200, turn
            # What keeps all places taken, whoever had to go for the last one.
            half = held.enter_context(metrics_connection(server))
            half.sendall(b"GET /healthz HTT")
        assert server.http_status("/readyz") == 200
        assert "quickwater_build_info" in server.metrics_text()


def metrics_connection(server: Server) -> socket.socket:
    host, port = str(server.run["metrics"]).rsplit(":", 1)
    return socket.create_connection((host, int(port)), 60)


def test_metrics_count_requests(serve: ServeFactory) -> None:
    server = serve()
    client = server.target().client()
    client.create_bucket(Bucket="b-1")
    before = server.metric("quickwater_s3_requests_total")
    for _ in range(5):
        client.put_object(Bucket="b-1", Key="k", Body=b"x" * 1000)
        client.get_object(Bucket="b-1", Key="k")["Body"].read()
    assert server.metric("quickwater_s3_requests_total") - before == 10
    hits = 'quickwater_mount_requests_total{bucket="b-1",result="hit"} 5'
    assert hits in server.metrics_text().splitlines(), server.metrics_text()


def test_metrics_tell_how_long_commits_take(serve: ServeFactory) -> None:
    server = serve()
    client = server.target().client()
    client.create_bucket(Bucket="b-1")
    before = server.metric("quickwater_metadata_commit_seconds_count")
    client.put_object(Bucket="b-1", Key="k", Body=b"x")
    assert server.metric("quickwater_metadata_commit_seconds_count") > before
    assert server.metric("quickwater_metadata_commit_seconds_sum") > 0


# -- stop ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_stop_finishes_what_runs(serve: ServeFactory, name: str) -> None:
    """C13: requests in flight are finished, the exit code is 0."""
    import signal

    server = serve()
    target = server.target()
    target.client().create_bucket(Bucket="b-1")
    body = payload(4 * MIB)
    request = Request("PUT", "/b-1/k", body=body, payload_hash=UNSIGNED)
    with connect(target) as connection:
        wire = head_bytes(request, sign(target, request)) + body
        connection.sendall(wire[: len(wire) // 2])
        time.sleep(0.3)
        assert server.process is not None
        server.process.send_signal(getattr(signal, f"SIG{name}"))
        time.sleep(0.5)
        assert server.http_status("/readyz") in (503, 0)
        connection.sendall(wire[len(wire) // 2 :])
        assert read_reply(connection, "PUT").status == 200
    assert server.process.wait(30) == 0
    assert (server.ufs / "b-1" / "k").read_bytes() == body


def test_stop_with_idle_connections_is_prompt(serve: ServeFactory) -> None:
    server = serve()
    idle = [connect(server.target()) for _ in range(20)]
    start = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - start < 20
    for connection in idle:
        connection.close()


# -- refusals -----------------------------------------------------------------


def test_directory_in_use(serve: ServeFactory) -> None:
    first = serve()
    second = serve(start=False, directory=first.dir)
    text = refused(second)
    assert str(first.pid) in text, text
    first.target().client().list_buckets()


def test_other_format_version(serve: ServeFactory) -> None:
    server = serve()
    assert server.stop() == 0
    formats = [
        path
        for path in server.dir.rglob("*")
        if path.is_file() and path.name.lower() in ("format", "version")
    ]
    assert formats, "no format version is kept"
    for path in formats:
        saved = path.read_bytes()
        path.write_bytes(re.sub(rb"\d+", b"987654", saved, count=1) if re.search(rb"\d", saved) else b"987654")
        refused(server, "format", "987654")
        path.write_bytes(saved)
    server.start()


def test_garbage_in_the_format_file(serve: ServeFactory) -> None:
    server = serve()
    assert server.stop() == 0
    for path in server.dir.rglob("*"):
        if path.is_file() and path.name.lower() in ("format", "version"):
            saved = path.read_bytes()
            for garbage in (b"", b"\xff\x00" * 500):
                path.write_bytes(garbage)
                refused(server)
            path.write_bytes(saved)
    server.start()


BAD_FLAGS = [
    ({"capacity": "10 parsecs"}, "capacity"),
    ({"memory": "1"}, "memory"),
    ({"threads": "0"}, "threads"),
    ({"s3-listen": "nowhere"}, "listen"),
    ({"ufs": "ftp://x/y"}, "ufs"),
    ({"s3-auth": "maybe"}, "auth"),
    ({"s3-auth": "simple", "s3-listen": "0.0.0.0:0"}, "insecure_ok"),
    ({"s3-anonymous": "true", "s3-listen": "0.0.0.0:0"}, "insecure_ok"),
    ({"capactiy": "1GiB"}, "capacity"),
]


@one_process("what serve says at its start")
@pytest.mark.parametrize(("flags", "word"), BAD_FLAGS, ids=range(len(BAD_FLAGS)))
def test_bad_settings_are_refused(serve: ServeFactory, flags: dict[str, str], word: str) -> None:
    refused(serve(start=False, flags=flags), word)


@one_process("what serve says at its start")
def test_unknown_key_in_the_file(serve: ServeFactory, tmp_path: Path) -> None:
    file = tmp_path / "conf.toml"
    file.write_text('[s3]\nlisten_on = "127.0.0.1:0"\n')
    refused(serve(start=False, flags={"config": str(file)}), "listen_on")


def test_settings_file_and_conf_get(serve: ServeFactory, tmp_path: Path) -> None:
    file = tmp_path / "conf.toml"
    file.write_text('metadata_ttl = "7s"\n[s3]\nmin_part_size = "1MiB"\n')
    server = serve(flags={"config": str(file)})
    done = subprocess.run(
        [str(server.program), "conf", "get", "s3.min_part_size", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() in ("1MiB", "1048576")
    defaults = subprocess.run(
        [str(server.program), "conf", "show", "--defaults"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "min_part_size" in defaults.stdout


def test_port_taken(serve: ServeFactory) -> None:
    first = serve()
    refused(serve(start=False, flags={"s3-listen": str(first.run["s3"])}), str(first.run["s3"]))


def test_a_port_that_is_let_go_of_is_waited_for(serve: ServeFactory) -> None:
    """As by the ring of a process that was killed, which the kernel ends in its own time."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        server = serve(start=False, flags={"s3-listen": f"127.0.0.1:{port}"})
        process = server.launch()
        end = time.monotonic() + 60
        while "the address is in use: waits for it" not in server.log():
            assert process.poll() is None and time.monotonic() < end, server.log()
            time.sleep(0.01)
    assert server.wait_ready(process, 60), server.log()
    assert server.log().count("waits for it") == 1


@pytest.mark.root
def test_read_only_home(serve: ServeFactory, tmp_path: Path) -> None:
    root = tmp_path / "ro"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(root)], check=True)
    try:
        refused(serve(start=False, directory=root / "data"), str(root))
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


# -- modes --------------------------------------------------------------------


def test_epoll_driver(serve: ServeFactory) -> None:
    server = serve(flags={"io-driver": "epoll"})
    client = server.target().client()
    client.create_bucket(Bucket="b-1")
    body = payload(5 * MIB)
    client.put_object(Bucket="b-1", Key="k", Body=body)
    for _ in range(2):
        assert client.get_object(Bucket="b-1", Key="k")["Body"].read() == body
    server.restart()
    reply = send(server.target(), Request("GET", "/b-1/k"))
    assert (reply.body == body, reply.headers["x-quickwater-cache"]) == (True, "hit")


def test_simple_auth(serve: ServeFactory) -> None:
    from dataclasses import replace

    server = serve(flags={"s3-auth": "simple"})
    anyone = replace(server.target(), access_key="alice", secret_key="whatever")
    client = anyone.client()
    client.create_bucket(Bucket="b-1")
    client.put_object(Bucket="b-1", Key="k", Body=payload(200_000))
    assert client.get_object(Bucket="b-1", Key="k")["Body"].read() == payload(200_000)
    assert send(server.target(), Request("GET", "/b-1", signed=False)).status == 403


def test_anonymous(serve: ServeFactory) -> None:
    server = serve(flags={"s3-anonymous": "true"})
    target = server.target()
    assert send(target, Request("PUT", "/b-1", signed=False)).status == 200
    assert send(target, Request("PUT", "/b-1/k", body=b"x", signed=False)).status == 200
    assert send(target, Request("GET", "/b-1/k", signed=False)).body == b"x"
    wrong = Signer(type(target)(target.endpoint, target.access_key, "wrong"))
    assert send(target, Request("GET", "/b-1/k"), wrong).status == 403


def test_a_switch_needs_no_value(serve: ServeFactory) -> None:
    """`--s3-anonymous` alone means true."""
    server = serve(start=False)
    done = subprocess.run(
        [str(server.program), "conf", "get", "s3.anonymous", "--s3-anonymous"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "true"), done.stderr


def test_virtual_host_style(serve: ServeFactory) -> None:
    server = serve(flags={"s3-domain": "s3.example.test"})
    target = server.target()
    target.client().create_bucket(Bucket="b-1")
    host = [("Host", "b-1.s3.example.test")]
    assert send(target, Request("PUT", "/d/k", headers=host, body=b"v")).status == 200
    assert send(target, Request("GET", "/b-1/d/k")).body == b"v"
    assert "d/k" in send(target, Request("GET", "/", headers=host)).body.decode()


def test_folder_objects(serve: ServeFactory) -> None:
    server = serve(flags={"s3-folder-objects": "true"})
    client = server.target().client()
    client.create_bucket(Bucket="b-1")
    client.put_object(Bucket="b-1", Key="d/e/k", Body=b"x")
    keys = [e["Key"] for e in client.list_objects_v2(Bucket="b-1")["Contents"]]
    assert keys == ["d/", "d/e/", "d/e/k"]


# -- admin and logs -----------------------------------------------------------


def test_admin_needs_the_token(serve: ServeFactory) -> None:
    server = serve()
    address = str(server.run["admin"])
    command = [str(server.program), "status", "--control", address]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("QUICKWATER_")}

    def status(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env={**clean, **env}, capture_output=True, text=True, timeout=30, check=False
        )

    assert status({}).returncode != 0
    assert status({"QUICKWATER_ADMIN_TOKEN": "wrong"}).returncode != 0
    token = (server.admin_dir / "admin-token").read_text().strip()
    assert stat.S_IMODE((server.admin_dir / "admin-token").stat().st_mode) == 0o600
    right = status({"QUICKWATER_ADMIN_TOKEN": token})
    assert right.returncode == 0, right.stderr
    assert json.loads(server.cli("status", "--output", "json").stdout)


def test_doctor_runs(serve: ServeFactory) -> None:
    server = serve()
    done = server.cli("doctor", check=False)
    assert done.returncode in (0, 1)
    assert len(done.stdout.splitlines()) >= 5


def test_help_on_every_verb(serve: ServeFactory) -> None:
    program = str(serve(start=False).program)
    verbs = [
        "serve", "status", "doctor", "version", "mount add", "mount list", "mount remove",
        "fs ls", "fs stat", "conf get", "conf show",
    ]  # fmt: skip
    for verb in verbs:
        done = subprocess.run(
            [program, *verb.split(), "--help"], capture_output=True, text=True, timeout=30, check=True
        )
        assert "Usage" in done.stdout and len(done.stdout) > 100, verb


def test_access_log(serve: ServeFactory, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    server = serve(flags={"s3-access-log": str(log)})
    client = server.target().client()
    client.create_bucket(Bucket="b-1")
    client.put_object(Bucket="b-1", Key="odd key\n\"x", Body=b"abc")
    error_of(client.get_object, Bucket="b-1", Key="missing")
    assert server.stop() == 0
    lines = log.read_text().splitlines()
    assert len(lines) == 3, "one line a request, whatever the key holds"
    for line in lines:
        json.loads(line)
    assert "404" in lines[2] and "missing" in lines[2]


def test_secrets_are_never_logged(serve: ServeFactory, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    server = serve(flags={"log-level": "trace", "s3-access-log": str(log)})
    target = server.target()
    client = target.client()
    client.create_bucket(Bucket="b-1")
    client.put_object(Bucket="b-1", Key="k", Body=b"x")
    url = target.client(signature_version="s3v4").generate_presigned_url("get_object", Params={"Bucket": "b-1", "Key": "k"})
    import requests

    assert requests.get(url, timeout=10).status_code == 200
    send(target, Request("GET", "/b-1", signed=False, headers=[("Authorization", "AWS4-HMAC-SHA256 x")]))
    server.cli("status")
    token = (server.admin_dir / "admin-token").read_text().strip()
    assert server.stop() == 0
    signature = re.search(r"Signature=([0-9a-zA-Z%]+)", url)
    assert signature is not None
    for text in (server.log(), log.read_text()):
        assert target.secret_key not in text
        assert token not in text
        assert signature[1] not in text, "a presigned signature is a secret while it is valid"


def test_concurrent_writers_of_one_key(serve: ServeFactory) -> None:
    """C2: the last committed writer wins; every reader sees one whole value."""
    server = serve()
    client = server.target().client()
    client.create_bucket(Bucket="b-1")
    bodies = {payload(300_000 + i, i) for i in range(16)}
    stop = threading.Event()
    seen: list[bytes] = []

    def write(body: bytes) -> None:
        for _ in range(5):
            client.put_object(Bucket="b-1", Key="k", Body=body)

    def look() -> None:
        while not stop.is_set():
            seen.append(_read_or_empty(client))

    threads = [threading.Thread(target=write, args=(body,)) for body in bodies]
    reader = threading.Thread(target=look)
    for thread in [*threads, reader]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    reader.join()
    final = _read_or_empty(client)
    assert final in bodies
    assert (server.ufs / "b-1" / "k").read_bytes() == final, "the UFS holds the winner"
    assert all(body in bodies or body == b"" for body in seen)
    server.restart()
    assert _read_or_empty(server.target().client()) == final


def _read_or_empty(client: Any) -> bytes:
    try:
        return bytes(client.get_object(Bucket="b-1", Key="k")["Body"].read())
    except client.exceptions.NoSuchKey:
        return b""
