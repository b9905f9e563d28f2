"""S3 operations over the store: a request with its body in, a response out.

No sockets, no faults. Signatures are not checked.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from email.utils import formatdate, parsedate_to_datetime
from typing import Callable
from urllib.parse import unquote

from . import checksums, listings
from .bodies import decode_aws_chunked
from .errors import S3Error, document, precondition_failed
from .message import Request, Response
from .store import Cause, Condition, Content, Object, Store, Upload, read_body, tag_in

KEY_BYTES_MAX = 1024
DELETE_KEYS_MAX = 1000
KEPT_HEADERS = (
    "content-type", "content-encoding", "content-disposition", "content-language",
    "cache-control", "expires",
)
XML = {"Content-Type": "application/xml"}


class Dialect:
    """Answers requests. `answer` never raises for what a client can do wrong."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._table: dict[str, Callable[[Request, Cause], Response]] = {
            "ListBuckets": lambda r, c: listings.buckets(self.store),
            "CreateBucket": self._create_bucket,
            "DeleteBucket": self._delete_bucket,
            "HeadBucket": self._head_bucket,
            "GetBucketLocation": lambda r, c: listings.location(self.store, r),
            "ListObjectsV2": lambda r, c: listings.objects(self.store, r),
            "ListMultipartUploads": lambda r, c: listings.uploads(self.store, r),
            "ListParts": lambda r, c: listings.parts(self.store, r),
            "PutObject": self._put,
            "CopyObject": self._copy,
            "GetObject": self._get,
            "HeadObject": self._get,
            "DeleteObject": self._delete,
            "DeleteObjects": self._delete_many,
            "CreateMultipartUpload": self._begin,
            "UploadPart": self._part,
            "UploadPartCopy": self._part_copy,
            "CompleteMultipartUpload": self._complete,
            "AbortMultipartUpload": self._abort,
        }

    def answer(self, request: Request, late: bool = False) -> Response:
        """Applies a request and says what came of it."""
        try:
            call = self._table.get(request.operation)
            if call is None:
                raise S3Error(501, "NotImplemented", f"{request.method} {request.target}")
            if len(request.key.encode("utf-8", "surrogateescape")) > KEY_BYTES_MAX:
                raise S3Error(400, "KeyTooLongError")
            request.body = decode_aws_chunked(request.headers, request.body)
            response = call(request, Cause(request.number, late))
        except S3Error as error:
            return refusal(request, error.status, error.code, error.message)
        response.headers["x-amz-request-id"] = str(request.number)
        return response

    # -- buckets --------------------------------------------------------------

    def _create_bucket(self, request: Request, cause: Cause) -> Response:
        self.store.create_bucket(request.bucket, cause)
        return Response(200, {"Location": f"/{request.bucket}"})

    def _delete_bucket(self, request: Request, cause: Cause) -> Response:
        self.store.delete_bucket(request.bucket, cause)
        return Response(204)

    def _head_bucket(self, request: Request, cause: Cause) -> Response:
        self.store.bucket(request.bucket)
        return Response(200)

    # -- objects --------------------------------------------------------------

    def _put(self, request: Request, cause: Cause) -> Response:
        self.store.bucket(request.bucket)
        content = read_body(request.headers, request.body)
        new = Object(
            content.body, content.etag, content.sha256, content.checksums,
            kept_headers(request), time.time(),
        )
        self.store.put("PutObject", request.bucket, request.key, new, _condition(request), cause)
        return Response(200, {"ETag": f'"{new.etag}"', **_checksum_headers(new)})

    def _copy(self, request: Request, cause: Cause) -> Response:
        source = self._source(request)
        replace = request.headers.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE"
        content = read_body({}, source.body)
        new = Object(
            content.body, content.etag, content.sha256, content.checksums,
            kept_headers(request) if replace else source.headers, time.time(),
        )
        self.store.put("CopyObject", request.bucket, request.key, new, _condition(request), cause)
        return listings.copied("CopyObjectResult", new.etag, new.modified)

    def _source(self, request: Request) -> Object:
        path = unquote(request.headers["x-amz-copy-source"]).partition("?")[0]
        bucket, _, key = path.removeprefix("/").partition("/")
        source = self.store.object(bucket, key)
        prefix = "x-amz-copy-source-if-"
        match, none = request.headers.get(prefix + "match"), request.headers.get(prefix + "none-match")
        if match is not None and not tag_in(match, source.etag):
            raise precondition_failed()
        if none is not None and tag_in(none, source.etag):
            raise precondition_failed()
        return source

    def _get(self, request: Request, cause: Cause) -> Response:
        found = self.store.object(request.bucket, request.key)
        headers = object_headers(found)
        unchanged = _read_condition(request, found)
        if unchanged:
            return Response(304, headers)
        body: bytes | memoryview = found.body
        status, span = 200, _range(request, len(body))
        if request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED" and span is None:
            headers.update(_checksum_headers(found))
        if span is not None:
            status = 206
            headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{len(body)}"
            body = memoryview(found.body)[span[0] : span[1]]
        if request.method == "HEAD":
            return Response(status, headers, b"", len(body))
        return Response(status, headers, body)

    def _delete(self, request: Request, cause: Cause) -> Response:
        self.store.delete(request.bucket, request.key, _condition(request), cause)
        return Response(204)

    def _delete_many(self, request: Request, cause: Cause) -> Response:
        self.store.bucket(request.bucket)
        read_body(request.headers, request.body)
        root = _xml(request.body)
        keys = [e.findtext("{*}Key") or "" for e in root.iter() if e.tag.rpartition("}")[2] == "Object"]
        if not 1 <= len(keys) <= DELETE_KEYS_MAX:
            raise S3Error(400, "MalformedXML")
        for key in keys:
            self.store.delete(request.bucket, key, Condition(), cause)
        quiet = (root.findtext("{*}Quiet") or "").lower() == "true"
        return listings.deleted([] if quiet else keys)

    # -- uploads --------------------------------------------------------------

    def _begin(self, request: Request, cause: Cause) -> Response:
        named = request.headers.get("x-amz-checksum-algorithm", "").lower()
        if named and named not in checksums.ALGORITHMS:
            raise S3Error(400, "InvalidRequest", f"checksum algorithm {named}")
        usual = "FULL_OBJECT" if named in ("", "crc64nvme") else "COMPOSITE"
        kind = request.headers.get("x-amz-checksum-type", usual).upper()
        upload = self.store.begin(
            request.bucket, request.key, kept_headers(request), named or checksums.DEFAULT, kind, cause
        )
        return listings.begun(upload)

    def _upload(self, request: Request) -> Upload:
        return self.store.upload(request.bucket, request.key, request.query["uploadId"])

    def _part(self, request: Request, cause: Cause) -> Response:
        upload = self._upload(request)
        content = read_body(request.headers, request.body)
        self.store.put_part(upload, _part_number(request), content, "UploadPart", cause)
        return Response(200, {"ETag": f'"{content.etag}"', **_value_headers(content)})

    def _part_copy(self, request: Request, cause: Cause) -> Response:
        upload, source = self._upload(request), self._source(request)
        body = source.body
        if "x-amz-copy-source-range" in request.headers:
            span = _span(request.headers["x-amz-copy-source-range"], len(body))
            if span is None:
                raise S3Error(400, "InvalidArgument", "x-amz-copy-source-range")
            body = body[span[0] : span[1]]
        content = read_body({}, body)
        self.store.put_part(upload, _part_number(request), content, "UploadPartCopy", cause)
        return listings.copied("CopyPartResult", content.etag, time.time())

    def _complete(self, request: Request, cause: Cause) -> Response:
        upload = self._upload(request)
        named = []
        for part in _xml(request.body).iter():
            if part.tag.rpartition("}")[2] == "Part":
                number = part.findtext("{*}PartNumber") or "0"
                named.append((int(number) if number.isdigit() else 0, part.findtext("{*}ETag") or ""))
        new = self.store.complete(upload, named, _condition(request), cause)
        return listings.completed(request, new)

    def _abort(self, request: Request, cause: Cause) -> Response:
        self.store.abort(self._upload(request), cause)
        return Response(204)


def refusal(request: Request, status: int, code: str, message: str = "") -> Response:
    """An error as S3 sends it; HEAD has no body."""
    if request.method == "HEAD" or status == 304:
        return Response(status, dict(XML))
    body = document(code, message or code, request.target.partition("?")[0])
    return Response(status, dict(XML), body)


def kept_headers(request: Request) -> dict[str, str]:
    """What is stored with an object."""
    return {
        name: value
        for name, value in request.headers.items()
        if (name in KEPT_HEADERS and not (name == "content-encoding" and value == "aws-chunked"))
        or name.startswith("x-amz-meta-")
    }


def object_headers(found: Object) -> dict[str, str]:
    """Headers of GET and HEAD."""
    return {
        "ETag": f'"{found.etag}"',
        "Last-Modified": formatdate(found.modified, usegmt=True),
        "Accept-Ranges": "bytes",
        "content-type": "binary/octet-stream",
        **found.headers,
    }


def _checksum_headers(found: Object) -> dict[str, str]:
    values = {checksums.PREFIX + name: value for name, value in found.checksums.items()}
    return {**values, "x-amz-checksum-type": found.checksum_type}


def _value_headers(content: Content) -> dict[str, str]:
    return {checksums.PREFIX + name: value for name, value in content.checksums.items()}


def _condition(request: Request) -> Condition:
    return Condition(request.headers.get("if-match"), request.headers.get("if-none-match"))


def _read_condition(request: Request, found: Object) -> bool:
    """RFC 9110 13.2.2; true: answer 304."""
    headers = request.headers
    if "if-match" in headers:
        if not tag_in(headers["if-match"], found.etag):
            raise precondition_failed()
    elif "if-unmodified-since" in headers and int(found.modified) > _time(headers["if-unmodified-since"]):
        raise precondition_failed()
    if "if-none-match" in headers:
        return tag_in(headers["if-none-match"], found.etag)
    since = headers.get("if-modified-since")
    return since is not None and int(found.modified) <= _time(since)


def _time(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError) as error:
        raise S3Error(400, "InvalidArgument", text) from error


def _range(request: Request, size: int) -> tuple[int, int] | None:
    """Begin and end of a Range header; none when it is not understood (RFC 9110 14.2)."""
    text = request.headers.get("range")
    if text is None:
        return None
    span = _span(text, size)
    if span is not None and span[0] >= span[1]:
        raise S3Error(416, "InvalidRange", "The requested range is not satisfiable")
    return span


def _span(text: str, size: int) -> tuple[int, int] | None:
    unit, _, pair = text.partition("=")
    first, dash, last = pair.strip().partition("-")
    if unit != "bytes" or not dash or not (first + last).isdigit():
        return None
    if not first:
        return max(0, size - int(last)), size
    end = min(int(last) + 1, size) if last else size
    return int(first), end


def _part_number(request: Request) -> int:
    text = request.query.get("partNumber", "")
    return int(text) if text.isdigit() else 0


def _xml(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise S3Error(400, "MalformedXML") from error
