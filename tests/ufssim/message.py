"""Requests and responses as values, and how S3 names a request. No sockets."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote

from .errors import S3Error

REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(slots=True)
class Request:
    """One request; the body is there when it has been read to its end."""

    method: str
    target: str
    headers: dict[str, str]
    operation: str = ""
    bucket: str = ""
    key: str = ""
    query: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    number: int = 0


@dataclass(slots=True)
class Response:
    """One answer. `length` is what HEAD announces in place of the body's own."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    length: int | None = None

    def head(self, close: bool = False) -> bytes:
        """Status line and headers."""
        length = len(self.body) if self.length is None else self.length
        lines = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Status')}", "Server: ufssim"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.status != 204 and self.status >= 200:
            lines.append(f"Content-Length: {length}")
        if close:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def parse_head(head: bytes) -> Request:
    """Request line and headers; names in lower case."""
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    try:
        method, target, _ = lines[0].split(" ")
    except ValueError as error:
        raise S3Error(400, "BadRequest", "no request line") from error
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    request = Request(method, target, headers)
    _name(request)
    return request


def _name(request: Request) -> None:
    path, _, query = request.target.partition("?")
    if query:
        for pair in query.split("&"):
            name, _, value = pair.partition("=")
            request.query[unquote(name)] = unquote(value)
    bucket, _, key = path.removeprefix("/").partition("/")
    request.bucket, request.key = unquote(bucket), unquote(key)
    request.operation = _operation(request)


BUCKET_OPERATIONS = {
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "location"): "GetBucketLocation",
    ("POST", "delete"): "DeleteObjects",
    ("PUT", ""): "CreateBucket",
    ("HEAD", ""): "HeadBucket",
    ("DELETE", ""): "DeleteBucket",
}
OBJECT_OPERATIONS = {
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("PUT", "uploadId"): "UploadPart",
    ("GET", "uploadId"): "ListParts",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("PUT", ""): "PutObject",
    ("GET", ""): "GetObject",
    ("HEAD", ""): "HeadObject",
    ("DELETE", ""): "DeleteObject",
}
# Subresources a request may name; any other parameter means another operation,
# which must not be taken for the plain one: `DELETE /b?cors` deletes no bucket.
SUBRESOURCES = ("list-type", "uploads", "uploadId", "location", "delete")
PARAMETERS = frozenset(
    {
        *SUBRESOURCES,
        "partNumber", "x-id", "prefix", "delimiter", "start-after", "continuation-token",
        "max-keys", "encoding-type", "fetch-owner", "key-marker", "upload-id-marker",
        "max-uploads", "part-number-marker", "max-parts",
    }
)


def _operation(request: Request) -> str:
    if not request.bucket:
        return "ListBuckets" if request.method == "GET" else "Unknown"
    if any(n not in PARAMETERS and not n.startswith("X-Amz-") for n in request.query):
        return "Unknown"
    named = next((name for name in SUBRESOURCES if name in request.query), "")
    table = OBJECT_OPERATIONS if request.key else BUCKET_OPERATIONS
    operation = table.get((request.method, named), "Unknown")
    if "x-amz-copy-source" in request.headers:
        return {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}.get(operation, operation)
    return operation
