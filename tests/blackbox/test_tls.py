"""HTTPS on the S3 endpoint: real clients, strangers, stalls, certificates."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import SSLError
from cryptography import x509

from conftest import ServeFactory
from harness.certificates import Pair, make_pair
from harness.payload import MIB, payload
from harness.server import Server, StartFailed
from harness.under import wait_for

PATIENCE_SECONDS = 20.0


def flags(pair: Pair, **more: str) -> dict[str, str]:
    return {
        "s3-tls-certificate": str(pair.certificate),
        "s3-tls-key": str(pair.key),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


def address(server: Server) -> tuple[str, int]:
    host, port = str(server.run["s3_tls"]).rsplit(":", 1)
    return host, int(port)


def client(server: Server, pair: Pair, **config: Any) -> Any:
    keys = server.credentials()
    return boto3.client(
        "s3",
        endpoint_url="https://{}:{}".format(*address(server)),
        region_name="us-east-1",
        aws_access_key_id=keys["access_key_id"],
        aws_secret_access_key=keys["secret_access_key"],
        verify=str(pair.certificate),
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}, **config),
    )


def shake(server: Server, **limits: Any) -> ssl.SSLSocket:
    """A TLS connection; the certificate is not checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    for name, value in limits.items():
        setattr(context, name, value)
    plain = socket.create_connection(address(server), PATIENCE_SECONDS)
    return context.wrap_socket(plain)


def serial_of(server: Server) -> int:
    with shake(server) as connection:
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def metric(server: Server, name: str) -> float:
    return server.metric(name)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path / "tls")


@pytest.fixture
def secure(serve: ServeFactory, pair: Pair) -> Server:
    server = serve(flags=flags(pair, s3_tls_reload="200ms", s3_header_timeout="1s"))
    assert server.run["s3_tls"] == server.run["s3"]
    return server


def round_trip(s3: Any) -> None:
    """What a client does in a day."""
    s3.create_bucket(Bucket="b-1")
    for size in (0, 1, 10_240, 16_384, 100_000, 3 * MIB + 17):
        body = payload(size, size)
        etag = s3.put_object(Bucket="b-1", Key=f"k{size}", Body=body)["ETag"]
        assert etag == f'"{hashlib.md5(body).hexdigest()}"'
        for _ in range(2):
            assert s3.get_object(Bucket="b-1", Key=f"k{size}")["Body"].read() == body
    body = payload(3 * MIB + 17, 3 * MIB + 17)
    for first, last in ((0, 0), (5, 16_390), (MIB - 1, 2 * MIB), (3 * MIB, 3 * MIB + 16)):
        part = s3.get_object(Bucket="b-1", Key=f"k{len(body)}", Range=f"bytes={first}-{last}")
        assert part["Body"].read() == body[first : last + 1]
    upload = s3.create_multipart_upload(Bucket="b-1", Key="parts")["UploadId"]
    parts, whole = [], b""
    for number in (1, 2, 3):
        piece = payload(5 * MIB + number, number)
        whole += piece
        answer = s3.upload_part(
            Bucket="b-1", Key="parts", UploadId=upload, PartNumber=number, Body=piece
        )
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    s3.complete_multipart_upload(
        Bucket="b-1", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    assert s3.get_object(Bucket="b-1", Key="parts")["Body"].read() == whole
    assert len(s3.list_objects_v2(Bucket="b-1")["Contents"]) == 7


def test_boto3_over_tls(secure: Server, pair: Pair) -> None:
    round_trip(client(secure, pair))
    assert metric(secure, 'quickwater_tls_handshakes_total{outcome="ok"}') >= 1
    assert metric(secure, 'quickwater_tls_session_failures_total{reason="record"}') == 0
    log = secure.log()
    assert f"AWS_ENDPOINT_URL=https://{secure.run['s3']}" in log
    assert "AWS_CA_BUNDLE" in log


def test_an_unknown_certificate_is_the_clients_to_refuse(
    secure: Server, tmp_path: Path
) -> None:
    other = make_pair(tmp_path / "other")
    with pytest.raises(SSLError):
        client(secure, other).list_buckets()


@pytest.mark.needs("curl")
@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_curl_and_every_version(
    serve: ServeFactory, tmp_path: Path, version: str, kind: str
) -> None:
    pair = make_pair(tmp_path / "tls", kind=kind)
    server = serve(flags=flags(pair, s3_anonymous="true", threads="1"))
    url = "https://localhost:{}".format(address(server)[1])
    curl = ["curl", "-sS", "--fail-with-body", "--cacert", str(pair.certificate)]
    curl += [f"--tlsv{version}", "--tls-max", version, "--max-time", "60"]
    body = payload(20 * MIB, version)
    (tmp_path / "body").write_bytes(body)
    subprocess.run([*curl, "-X", "PUT", f"{url}/b-1"], check=True)
    subprocess.run([*curl, "-T", str(tmp_path / "body"), f"{url}/b-1/key"], check=True)
    for _ in range(2):
        got = subprocess.run([*curl, f"{url}/b-1/key"], check=True, capture_output=True)
        assert got.stdout == body
    part = subprocess.run(
        [*curl, "-r", "1000-70000", f"{url}/b-1/key"], check=True, capture_output=True
    )
    assert part.stdout == body[1000:70001]


@pytest.mark.needs("aws")
def test_the_aws_cli(secure: Server, pair: Pair, tmp_path: Path) -> None:
    environment = {
        **secure.target().environment(),
        "AWS_ENDPOINT_URL": f"https://{secure.run['s3_tls']}",
        "AWS_CA_BUNDLE": str(pair.certificate),
    }
    body = payload(30 * MIB, 1)
    (tmp_path / "up").write_bytes(body)

    def aws(*words: str) -> None:
        subprocess.run(["aws", "s3", *words], check=True, env=environment, timeout=120)

    aws("mb", "s3://b-1")
    aws("cp", "--no-progress", str(tmp_path / "up"), "s3://b-1/key")
    aws("cp", "--no-progress", "s3://b-1/key", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == body


def test_both_addresses(serve: ServeFactory, pair: Pair) -> None:
    server = serve(flags=flags(pair, s3_tls_listen="127.0.0.1:0"))
    assert server.run["s3_tls"] != server.run["s3"]
    plain, secure = server.target().client(), client(server, pair)
    plain.create_bucket(Bucket="b-1")
    plain.put_object(Bucket="b-1", Key="key", Body=b"same")
    assert secure.get_object(Bucket="b-1", Key="key")["Body"].read() == b"same"
    assert f"https://{server.run['s3_tls']}" in server.log()


def test_plain_http_is_told_so(secure: Server) -> None:
    with socket.create_connection(address(secure), PATIENCE_SECONDS) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"HTTPS" in answer and b"Connection: close" in answer
    assert metric(secure, 'quickwater_tls_handshakes_total{outcome="plain_http"}') == 1


def test_other_strangers_are_shown_out(secure: Server) -> None:
    for hello in (b"\x00" * 64, b"SSH-2.0-x\r\n"[::-1], os.urandom(8) + b"\x80" * 500):
        hello = b"\x01" + hello  # neither a handshake record nor a letter
        with socket.create_connection(address(secure), PATIENCE_SECONDS) as connection:
            connection.sendall(hello)
            try:
                assert connection.recv(100) == b""
            except ConnectionResetError:
                pass
    with socket.create_connection(address(secure), PATIENCE_SECONDS) as connection:
        # A ClientHello by its type, and nothing else.
        connection.sendall(b"\x16\x03\x01\x00\x08\x01\x00\x00\x04" + b"\xff" * 4)
        alert = connection.recv(100)
        assert alert[:1] == b"\x15"
    # Counted once the client was told.
    wait_for(lambda: metric(secure, 'quickwater_tls_handshakes_total{outcome="refused"}') == 4)


def test_tls_on_the_plain_address(serve: ServeFactory) -> None:
    server = serve()
    host, port = str(server.run["s3"]).rsplit(":", 1)
    context = ssl.create_default_context()
    with socket.create_connection((host, int(port)), PATIENCE_SECONDS) as connection:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_hostname="localhost")
    server.target().client().list_buckets()


def test_a_stalled_handshake_ends(secure: Server) -> None:
    for sent in (b"", b"\x16\x03\x01\x02\x00\x01"):
        with socket.create_connection(address(secure), PATIENCE_SECONDS) as connection:
            start = time.monotonic()
            connection.sendall(sent)
            assert connection.recv(100) == b""
            assert 0.5 < time.monotonic() - start < 10
    wait_for(lambda: metric(secure, 'quickwater_tls_handshakes_total{outcome="timeout"}') == 2)


def test_only_http_1_is_spoken_and_goodbye_is_said(secure: Server) -> None:
    with shake(secure) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        # Raises ssl.SSLEOFError if the end is not announced.
        while piece := connection.recv(65536):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 403 ")


def test_a_damaged_record_ends_the_connection(secure: Server) -> None:
    connection = shake(secure)
    raw = socket.socket(fileno=os.dup(connection.fileno()))
    raw.settimeout(PATIENCE_SECONDS)
    raw.sendall(b"\x17\x03\x03\x00\x40" + b"\x55" * 64)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        if not connection.recv(100):
            raise ConnectionResetError
    raw.close()
    connection.close()
    assert metric(secure, 'quickwater_tls_session_failures_total{reason="record"}') == 1


def test_requests_in_a_row_in_one_record(secure: Server) -> None:
    with shake(secure) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
        answer = b""
        while answer.count(b"HTTP/1.1 403 ") < 5:
            piece = connection.recv(65536)
            assert piece
            answer += piece


def test_a_new_certificate_is_taken_up(secure: Server, pair: Pair) -> None:
    assert serial_of(secure) == pair.serial
    old = shake(secure)
    pair.certificate.write_text("half of a certificate")
    wait(lambda: metric(secure, 'quickwater_tls_certificate_reloads_total{outcome="failed"}') >= 1)
    assert serial_of(secure) == pair.serial
    assert "the old one stays" in secure.log()
    fresh = make_pair(pair.certificate.parent)
    wait(lambda: serial_of(secure) == fresh.serial)
    assert metric(secure, 'quickwater_tls_certificate_reloads_total{outcome="ok"}') >= 1
    old.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert old.recv(100).startswith(b"HTTP/1.1 403 ")
    old.close()
    client(secure, fresh).list_buckets()


def wait(condition: Any) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_care_for_the_certificate_is_asked_for(serve: ServeFactory, tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "tls", days=-3)
    pair.key.chmod(0o644)
    server = serve(flags=flags(pair))
    log = server.log()
    assert "expired 3 days ago" in log and "chmod 600" in log
    expiry = metric(server, "quickwater_tls_certificate_expiry_seconds")
    assert 2 * 86400 < time.time() - expiry < 4 * 86400
    words = [f"--{name}={value}" for name, value in server.flags.items()]
    doctor = server.cli("doctor", *words, check=False)
    assert "warn  certificate" in doctor.stdout and "expired" in doctor.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pair, other: pair.key.write_bytes(other.key.read_bytes()), "does not belong"),
        (lambda pair, other: pair.key.unlink(), "s3.tls.key"),
        (lambda pair, other: pair.certificate.write_text("x"), "no readable PEM certificate"),
    ],
)
def test_a_bad_pair_does_not_start(
    serve: ServeFactory, tmp_path: Path, change: Any, said: str
) -> None:
    pair, other = make_pair(tmp_path / "tls"), make_pair(tmp_path / "other")
    change(pair, other)
    server = serve(start=False, flags=flags(pair))
    with pytest.raises(StartFailed, match=said):
        server.start()


def test_half_of_the_settings_do_not_start(serve: ServeFactory, pair: Pair) -> None:
    for given, said in (
        ({"s3-tls-certificate": str(pair.certificate)}, "s3.tls.key"),
        ({"s3-tls-key": str(pair.key)}, "s3.tls.certificate"),
        ({"s3-tls-listen": "127.0.0.1:0"}, "s3.tls.listen"),
    ):
        with pytest.raises(StartFailed, match=said):
            serve(start=False, flags=given).start()


def test_many_connections_share_the_memory_for_tls(serve: ServeFactory, pair: Pair) -> None:
    """256 MiB of memory leave TLS 12 MiB; answers go on in small records."""
    server = serve(flags=flags(pair, memory="256MiB", threads="1", s3_anonymous="true"))
    s3 = client(server, pair)
    s3.create_bucket(Bucket="b-1")
    body = payload(8 * MIB, 1)
    s3.put_object(Bucket="b-1", Key="key", Body=body)
    crowd = [shake(server) for _ in range(300)]
    for connection in crowd[:150]:
        connection.sendall(b"GET /b-1/key HTTP/1.1\r\nHost: x\r\n\r\n")  # and never reads
    for connection in crowd[150:160]:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    for connection in crowd:
        connection.close()
    assert s3.get_object(Bucket="b-1", Key="key")["Body"].read() == body
