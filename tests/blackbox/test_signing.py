"""Our own signer against botocore's: a wrong signer would prove nothing."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from harness.signing import Signer
from harness.target import REGION, Target

HOST = Target("http://127.0.0.1:29998", "AKIAIOSFODNN7EXAMPLE", "secretsecret")
HASH = "0" * 64


def _signature(text: str) -> str:
    return text.split("Signature=")[1].split("&")[0]


@pytest.mark.parametrize("path", ["/b/k", "/b/a%20b%2Bc", "/"])
@pytest.mark.parametrize("query", [[], [("list-type", "2"), ("prefix", "a b/ü")]])
def test_header_signature(path: str, query: list[tuple[str, str]]) -> None:
    request = AWSRequest("GET", HOST.endpoint + path, params=dict(query))
    request.headers["X-Amz-Content-SHA256"] = HASH
    S3SigV4Auth(Credentials(HOST.access_key, HOST.secret_key), "s3", REGION).add_auth(request)
    stamp = request.context["timestamp"]
    now = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    botocore = _signature(request.headers["Authorization"])
    digest = request.headers["X-Amz-Content-SHA256"]
    ours, _ = Signer(HOST, now=now).headers("GET", path, query, [], digest)
    assert _signature(dict(ours)["Authorization"]) == botocore


def test_presigned_signature() -> None:
    request = AWSRequest("GET", HOST.endpoint + "/b/k")
    S3SigV4QueryAuth(Credentials(HOST.access_key, HOST.secret_key), "s3", REGION, 60).add_auth(request)
    now = datetime.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ")
    ours = Signer(HOST, now=now.replace(tzinfo=timezone.utc)).presign("GET", "/b/k", [], 60)
    assert dict(ours)["X-Amz-Signature"] == _signature(request.url)
