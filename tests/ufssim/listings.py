"""The XML documents of S3."""

from __future__ import annotations

import base64
import time
from urllib.parse import quote
from xml.sax.saxutils import escape

from .errors import S3Error
from .message import Request, Response
from .store import Object, Store, Upload, page

PAGE_MAX = 1000
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def _reply(name: str, *elements: str) -> Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} {NAMESPACE}>{"".join(elements)}</{name}>'
    return Response(200, {"Content-Type": "application/xml"}, text.encode())


def _tag(name: str, value: object) -> str:
    return f"<{name}>{escape(str(value))}</{name}>"


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + ".000Z"


def buckets(store: Store) -> Response:
    """ListBuckets."""
    lines = (
        f"<Bucket>{_tag('Name', name)}{_tag('CreationDate', _time(bucket.created))}</Bucket>"
        for name, bucket in sorted(store.buckets.items())
    )
    owner = "<Owner><ID>ufssim</ID></Owner>"
    return _reply("ListAllMyBucketsResult", owner, "<Buckets>", *lines, "</Buckets>")


def location(store: Store, request: Request) -> Response:
    """GetBucketLocation: us-east-1, which S3 says by saying nothing."""
    store.bucket(request.bucket)
    return _reply("LocationConstraint")


def objects(store: Store, request: Request) -> Response:
    """ListObjectsV2."""
    query, place = request.query, store.bucket(request.bucket)
    encoded = query.get("encoding-type") == "url"
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    start, token = query.get("start-after", ""), query.get("continuation-token", "")
    shown = _decode(token)
    keys, prefixes, last = page(place, prefix, shown or start, delimiter, _most(query, "max-keys"), shown)
    name = (lambda text: quote(text, safe="/~")) if encoded else (lambda text: text)
    lines = [
        _tag("Name", request.bucket), _tag("Prefix", name(prefix)), _tag("Delimiter", name(delimiter)),
        _tag("MaxKeys", _most(query, "max-keys")), _tag("KeyCount", len(keys) + len(prefixes)),
        _tag("IsTruncated", "true" if last else "false"),
    ]
    if encoded:
        lines.append(_tag("EncodingType", "url"))
    if start:
        lines.append(_tag("StartAfter", name(start)))
    if token:
        lines.append(_tag("ContinuationToken", token))
    if last:
        lines.append(_tag("NextContinuationToken", _encode(last)))
    for key in keys:
        found = place.objects[key]
        lines.append(
            f"<Contents>{_tag('Key', name(key))}{_tag('LastModified', _time(found.modified))}"
            f"<ETag>&quot;{found.etag}&quot;</ETag>{_tag('Size', len(found.body))}"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
    lines += [f"<CommonPrefixes>{_tag('Prefix', name(text))}</CommonPrefixes>" for text in prefixes]
    return _reply("ListBucketResult", *lines)


def uploads(store: Store, request: Request) -> Response:
    """ListMultipartUploads, all on one page of up to 1,000."""
    store.bucket(request.bucket)
    prefix = request.query.get("prefix", "")
    after = (request.query.get("key-marker", ""), request.query.get("upload-id-marker", ""))
    found = sorted(
        (upload.key, upload.id, upload.begun)
        for upload in store.uploads.values()
        if upload.bucket == request.bucket and upload.key.startswith(prefix)
    )
    found = [entry for entry in found if entry[:2] > after]
    most = _most(request.query, "max-uploads")
    lines = [_tag("Bucket", request.bucket), _tag("IsTruncated", "true" if len(found) > most else "false")]
    if len(found) > most > 0:
        lines += [_tag("NextKeyMarker", found[most - 1][0]), _tag("NextUploadIdMarker", found[most - 1][1])]
    lines += [
        f"<Upload>{_tag('Key', key)}{_tag('UploadId', upload_id)}{_tag('Initiated', _time(begun))}</Upload>"
        for key, upload_id, begun in found[:most]
    ]
    return _reply("ListMultipartUploadsResult", *lines)


def parts(store: Store, request: Request) -> Response:
    """ListParts."""
    upload = store.upload(request.bucket, request.key, request.query["uploadId"])
    marker, most = request.query.get("part-number-marker", ""), _most(request.query, "max-parts")
    numbers = sorted(n for n in upload.parts if n > int(marker if marker.isdigit() else 0))
    lines = [
        _tag("Bucket", upload.bucket), _tag("Key", upload.key), _tag("UploadId", upload.id),
        _tag("MaxParts", most), _tag("IsTruncated", "true" if len(numbers) > most else "false"),
    ]
    if len(numbers) > most > 0:
        lines.append(_tag("NextPartNumberMarker", numbers[most - 1]))
    for number in numbers[:most]:
        content, at = upload.parts[number]
        lines.append(
            f"<Part>{_tag('PartNumber', number)}{_tag('LastModified', _time(at))}"
            f"<ETag>&quot;{content.etag}&quot;</ETag>{_tag('Size', len(content.body))}</Part>"
        )
    return _reply("ListPartsResult", *lines)


def begun(upload: Upload) -> Response:
    """Answer to CreateMultipartUpload."""
    lines = [_tag("Bucket", upload.bucket), _tag("Key", upload.key), _tag("UploadId", upload.id)]
    response = _reply("InitiateMultipartUploadResult", *lines)
    response.headers["x-amz-checksum-algorithm"] = upload.algorithm.upper()
    response.headers["x-amz-checksum-type"] = upload.checksum_type
    return response


def completed(request: Request, new: Object) -> Response:
    """Answer to CompleteMultipartUpload."""
    names = {"crc32": "CRC32", "crc32c": "CRC32C", "crc64nvme": "CRC64NVME", "sha1": "SHA1", "sha256": "SHA256"}
    sums = [_tag(f"Checksum{names[name]}", value) for name, value in new.checksums.items()]
    return _reply(
        "CompleteMultipartUploadResult", _tag("Bucket", request.bucket), _tag("Key", request.key),
        f"<ETag>&quot;{new.etag}&quot;</ETag>", *sums, _tag("ChecksumType", new.checksum_type),
    )


def copied(name: str, etag: str, at: float) -> Response:
    """Answer to CopyObject and UploadPartCopy."""
    return _reply(name, _tag("LastModified", _time(at)), f"<ETag>&quot;{etag}&quot;</ETag>")


def deleted(keys: list[str]) -> Response:
    """Answer to DeleteObjects."""
    return _reply("DeleteResult", *[f"<Deleted>{_tag('Key', key)}</Deleted>" for key in keys])


def _most(query: dict[str, str], name: str) -> int:
    text = query.get(name, str(PAGE_MAX))
    if not text.isdigit():
        raise S3Error(400, "InvalidArgument", f"{name}={text}")
    return min(int(text), PAGE_MAX)


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogateescape")).decode()


def _decode(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode("utf-8", "surrogateescape")
    except ValueError as error:
        raise S3Error(400, "InvalidArgument", "continuation-token") from error
