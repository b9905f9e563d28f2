"""Bad input gets the right S3 error, and never the plain operation instead."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.raw import Request, connect, exchange, head_bytes, read_reply, send, sign
from harness.signing import UNSIGNED, Headers, Query
from harness.target import Target

pytestmark = pytest.mark.not_on_moto("is lax")

BILLION_LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol">'
    + b"".join(
        b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)
    )
    + b"]><Delete><Object><Key>&j;</Key></Object></Delete>"
)
EXTERNAL_ENTITY = (
    b'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    b"<Delete><Object><Key>&x;</Key></Object></Delete>"
)


@dataclass
class Case:
    """A request to /BUCKET or /BUCKET/k (k exists) and the answer it must get."""

    name: str
    expected: tuple[int, str] | list[tuple[int, str]]
    method: str = "GET"
    path: str = "/BUCKET"
    query: Query = field(default_factory=list)
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    content_length: str | None = "auto"


def unsupported(method: str, path: str, name: str) -> Case:
    """A sub-resource that must be refused by name."""
    return Case(f"{method} {path}?{name}", (501, "NotImplemented"), method, path, [(name, "")])


UNSUPPORTED = [
    *(unsupported("PUT", "/BUCKET", n) for n in (
        "policy", "cors", "lifecycle", "encryption", "replication", "website", "logging",
        "notification", "accelerate", "requestPayment", "object-lock", "publicAccessBlock",
        "ownershipControls", "inventory", "analytics", "metrics", "intelligent-tiering",
        "versioning", "unheard-of",
    )),
    unsupported("DELETE", "/BUCKET", "unheard-of"),
    *(unsupported("GET", "/BUCKET", n) for n in ("versions", "inventory", "unheard-of")),
    *(unsupported("PUT", "/BUCKET/k", n) for n in ("legal-hold", "retention", "unheard-of")),
    *(unsupported("GET", "/BUCKET/k", n) for n in ("torrent", "unheard-of")),
    *(unsupported("DELETE", "/BUCKET/k", n) for n in ("unheard-of",)),
    *(unsupported("POST", "/BUCKET/k", n) for n in ("select", "restore", "unheard-of")),
]  # fmt: skip

HEADERS_501 = [
    ("x-amz-server-side-encryption", "AES256"),
    ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
    ("x-amz-acl", "public-read"),
    ("x-amz-grant-read", "id=1"),
    ("x-amz-storage-class", "GLACIER"),
    ("x-amz-object-lock-mode", "GOVERNANCE"),
    ("x-amz-website-redirect-location", "/x"),
    ("x-amz-write-offset-bytes", "3"),
    ("x-amz-unheard-of", "1"),
]


def delete(name: str, body: bytes, expected: Any = (400, "MalformedXML")) -> Case:
    """A DeleteObjects with a bad document."""
    return Case(name, expected, "POST", "/BUCKET", [("delete", "")], [], body)


CASES = [
    *UNSUPPORTED,
    *(Case(f"header {n}", (501, "NotImplemented"), "PUT", "/BUCKET/new", headers=[(n, v)], body=b"x")
      for n, v in HEADERS_501),
    Case("versionId", (501, "NotImplemented"), "GET", "/BUCKET/k", [("versionId", "3x")]),
    Case("delete versionId", (501, "NotImplemented"), "DELETE", "/BUCKET/k", [("versionId", "3x")]),
    Case("method", (405, "MethodNotAllowed"), "PATCH", "/BUCKET/k"),
    Case("post to object", [(405, "MethodNotAllowed"), (501, "NotImplemented")], "POST", "/BUCKET/k"),
    Case("key too long", (400, "KeyTooLongError"), "PUT", "/BUCKET/" + "k" * 1025, body=b"x"),
    Case("no length", (411, "MissingContentLength"), "PUT", "/BUCKET/new", content_length=None),
    Case("too large", (400, "EntityTooLarge"), "PUT", "/BUCKET/new", content_length=str(5 * 2**30 + 1)),
    Case("md5 text", (400, "InvalidDigest"), "PUT", "/BUCKET/new", headers=[("Content-MD5", "x")], body=b"x"),
    Case("if-match on bad range", (412, "PreconditionFailed"), "GET", "/BUCKET/k",
         headers=[("If-Match", '"x"'), ("Range", "bytes=999-")]),
    Case("range", (416, "InvalidRange"), "GET", "/BUCKET/k", headers=[("Range", "bytes=999-")]),
    Case("range and partNumber", (400, "InvalidRequest"), "GET", "/BUCKET/k", [("partNumber", "1")],
         [("Range", "bytes=0-1")]),
    Case("partNumber text", (400, "InvalidArgument"), "GET", "/BUCKET/k", [("partNumber", "x")]),
    Case("partNumber without upload", [(400, "InvalidArgument"), (400, "InvalidRequest"), (501, "NotImplemented")],
         "PUT", "/BUCKET/k", [("partNumber", "1")], body=b"x"),
    Case("copy source", [(400, "InvalidArgument"), (400, "InvalidRequest")], "PUT", "/BUCKET/new",
         headers=[("x-amz-copy-source", "%zz")]),
    Case("copy source without key", [(400, "InvalidArgument"), (400, "InvalidRequest")], "PUT", "/BUCKET/new",
         headers=[("x-amz-copy-source", "/BUCKET")]),
    Case("tags twice", (400, "InvalidTag"), "PUT", "/BUCKET/new", headers=[("x-amz-tagging", "a=1&a=2")], body=b"x"),
    Case("metadata too large", (400, "MetadataTooLarge"), "PUT", "/BUCKET/new",
         headers=[("x-amz-meta-a", "v" * 3000)], body=b"x"),
    delete("no document", b""),
    delete("no xml", b"hello"),
    delete("cut xml", b"<Delete><Object><Key>k</Key>"),
    delete("other root", b"<Remove></Remove>"),
    delete("no objects", b"<Delete></Delete>"),
    delete("deep", b"<a>" * 10_000 + b"</a>" * 10_000),
    delete("laughs", BILLION_LAUGHS),
    delete("external entity", EXTERNAL_ENTITY),
    delete("not utf-8", b"<Delete><Object><Key>\xff\xfe</Key></Object></Delete>"),
    delete("huge", b"<Delete>" + b" " * (9 << 20) + b"</Delete>",
           [(400, "MalformedXML"), (400, "MaxMessageLengthExceeded"), (400, "EntityTooLarge")]),
    Case("tagging xml", (400, "MalformedXML"), "PUT", "/BUCKET/k", [("tagging", "")], body=b"<Tagging><x"),
    Case("complete xml", (400, "MalformedXML"), "POST", "/BUCKET/k", [("uploadId", "0" * 32)], body=b"<x/>"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(s3: Any) -> Any:
    from harness.target import empty_bucket, fresh_name

    name = fresh_name("bad")
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="k", Body=b"0123456789")
    yield name
    empty_bucket(s3, name)


@pytest.mark.parametrize("case", CASES, ids=[case.name[:50] for case in CASES])
def test_refused(target: Target, s3: Any, place: str, case: Case) -> None:
    headers = [(name, value.replace("BUCKET", place)) for name, value in case.headers]
    hash_of = UNSIGNED if case.content_length != "auto" else None
    request = Request(
        case.method,
        case.path.replace("BUCKET", place),
        case.query,
        headers,
        case.body,
        payload_hash=hash_of,
        content_length=case.content_length,
    )
    reply = send(target, request)
    expected = case.expected if isinstance(case.expected, list) else [case.expected]
    assert (reply.status, reply.code) in expected, reply.brief()
    assert reply.headers["x-amz-request-id"] == reply.text("RequestId")
    # Nothing happened.
    listed = [e["Key"] for e in s3.list_objects_v2(Bucket=place)["Contents"]]
    assert listed == ["k"]
    assert s3.get_object(Bucket=place, Key="k")["Body"].read() == b"0123456789"


# -- below S3: what is not even HTTP ------------------------------------------

WIRES = [
    (b"\r\n\r\n\r\n", "empty lines"),
    (b"GET\r\n\r\n", "no target"),
    (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", "version"),
    (b"GET / HTTP/1.1\r\n\r\n", "no host"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "two hosts"),
    (b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", "escape"),
    (b"GET /%2 HTTP/1.1\r\nHost: x\r\n\r\n", "cut escape"),
    (b"GET /b/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", "not utf-8"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n", "header name"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", "folded header"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", "NUL"),
    (b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "two lengths"),
    (b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "negative length"),
    (b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "smuggling"),
    (b"PUT /b/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "coding"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", "long header"),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "long target"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"h%d: v\r\n" % i for i in range(2000)) + b"\r\n", "many headers"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, "TLS"),
    (bytes(range(256)) * 20, "noise"),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "name"), WIRES, ids=[name for _, name in WIRES])
def test_not_even_http(target: Target, s3: Any, wire: bytes, name: str) -> None:
    """An answer of 4xx, or the connection closed; the service goes on."""
    with connect(target) as connection:
        connection.settimeout(15)
        try:
            connection.sendall(wire)
            connection.shutdown(socket.SHUT_WR)
            first = connection.recv(65_536)
        except (ConnectionResetError, BrokenPipeError):
            first = b""
    assert not first or first.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501", b"HTTP/1.1 505")), first[:200]
    s3.list_buckets()


def test_body_cut_short(target: Target, s3: Any, bucket: str) -> None:
    """A client that dies in the middle of a PUT leaves nothing."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    for key in ("k", "new"):
        request = Request("PUT", f"/{bucket}/{key}", content_length="1000000", payload_hash=UNSIGNED)
        with connect(target) as connection:
            connection.sendall(head_bytes(request, sign(target, request)) + b"x" * 300_000)
    time.sleep(0.3)
    assert [e["Key"] for e in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["k"]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"


def test_error_leaves_the_connection_usable(target: Target, bucket: str) -> None:
    """Keep-alive after a 4xx with an unread body."""
    with connect(target) as connection:
        for _ in range(3):
            request = Request("PUT", f"/{bucket}/k", body=b"x" * 1000, signed=False)
            connection.sendall(head_bytes(request, sign(target, request)) + request.body)
            reply = read_reply(connection, "PUT")
            assert reply.status == 403
            assert not reply.closed
        request = Request("GET", f"/{bucket}")
        connection.sendall(head_bytes(request, sign(target, request)))
        assert read_reply(connection).status == 200


def test_pipelined_requests(target: Target, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    request = Request("GET", f"/{bucket}/k")
    wire = head_bytes(request, sign(target, request))
    with connect(target) as connection:
        connection.sendall(wire * 5)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    assert answer.count(b"HTTP/1.1 200") == 5
    assert answer.count(b"0123456789") == 5


def test_chunked_transfer_coding(target: Target, s3: Any, bucket: str) -> None:
    """A body without Content-Length: S3 wants a length; never a wrong object."""
    request = Request(
        "PUT",
        f"/{bucket}/k",
        headers=[("Transfer-Encoding", "chunked")],
        payload_hash=UNSIGNED,
        content_length=None,
    )
    wire = head_bytes(request, sign(target, request)) + b"5\r\nhello\r\n0\r\n\r\n"
    reply = exchange(target, wire, "PUT")
    if reply.status == 200:
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"hello"
    else:
        assert (reply.status, reply.code) == (411, "MissingContentLength"), reply.brief()
