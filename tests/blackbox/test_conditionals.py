"""Conditional requests: RFC 9110 section 13 with the S3 rules."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from harness.target import Target, error_of

NOW = datetime.now(timezone.utc)
PAST, FUTURE = NOW - timedelta(days=1), NOW + timedelta(days=1)
NOT_MODIFIED, FAILED, FULL = 304, 412, 200

# condition -> status; "ETAG" stands for the current tag
READS: list[tuple[dict[str, Any], int]] = [
    ({"IfMatch": "ETAG"}, FULL),
    ({"IfMatch": "*"}, FULL),
    ({"IfMatch": '"other"'}, FAILED),
    ({"IfMatch": '"other", ETAG'}, FULL),
    ({"IfNoneMatch": "ETAG"}, NOT_MODIFIED),
    ({"IfNoneMatch": "*"}, NOT_MODIFIED),
    ({"IfNoneMatch": '"other"'}, FULL),
    ({"IfModifiedSince": PAST}, FULL),
    ({"IfModifiedSince": NOW + timedelta(hours=1)}, NOT_MODIFIED),
    ({"IfUnmodifiedSince": FUTURE}, FULL),
    ({"IfUnmodifiedSince": PAST}, FAILED),
    ({"IfMatch": "ETAG", "IfUnmodifiedSince": PAST}, FULL),
    ({"IfNoneMatch": '"other"', "IfModifiedSince": NOW + timedelta(hours=1)}, FULL),
    ({"IfNoneMatch": "ETAG", "IfModifiedSince": PAST}, NOT_MODIFIED),
]


def read_status(call: Any, **arguments: Any) -> int:
    from botocore.exceptions import ClientError

    try:
        return int(call(**arguments)["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


@pytest.mark.not_on_moto("knows some of them only")
@pytest.mark.parametrize(("condition", "status"), READS)
def test_reads(s3: Any, bucket: str, condition: dict[str, Any], status: int) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"abc")["ETag"]
    given = {
        name: value.replace("ETAG", etag) if isinstance(value, str) else value
        for name, value in condition.items()
    }
    assert read_status(s3.get_object, Bucket=bucket, Key="k", **given) == status
    assert read_status(s3.head_object, Bucket=bucket, Key="k", **given) == status


def test_not_modified_has_no_body_and_the_tag(s3: Any, bucket: str, target: Target) -> None:
    from harness.raw import Request, send

    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"abc")["ETag"]
    reply = send(target, Request("GET", f"/{bucket}/k", headers=[("If-None-Match", etag)]))
    assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", etag)


def test_put_if_absent(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")
    error = error_of(s3.put_object, Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    assert error == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"


@pytest.mark.not_on_moto("answers 412 for a missing key")
def test_put_if_match(s3: Any, bucket: str) -> None:
    missing = error_of(s3.put_object, Bucket=bucket, Key="k", Body=b"1", IfMatch='"x"')
    assert missing == (404, "NoSuchKey")
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    refused = error_of(s3.put_object, Bucket=bucket, Key="k", Body=b"2", IfMatch='"x"')
    assert refused == (412, "PreconditionFailed")
    s3.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"3"


def _race(count: int, attempt: Any) -> list[bool]:
    won: list[bool] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        won.append(attempt(number))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


@pytest.mark.not_on_moto("does not decide races")
def test_put_if_absent_has_one_winner(s3: Any, bucket: str) -> None:
    from botocore.exceptions import ClientError

    for round_number in range(10):
        key = f"race/{round_number}"
        winners: list[int] = []

        def attempt(number: int) -> bool:
            try:
                s3.put_object(Bucket=bucket, Key=key, Body=b"%d" % number, IfNoneMatch="*")
            except ClientError as error:
                # 409 ConditionalRequestConflict is S3's other honest answer to a race.
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)
                return False
            winners.append(number)
            return True

        results = _race(8, attempt)
        assert sum(results) == 1, results
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"%d" % winners[0]


@pytest.mark.not_on_moto("does not decide races")
def test_compare_and_swap_counter(s3: Any, bucket: str) -> None:
    """Eight writers increment one number by If-Match; no increment is lost."""
    from botocore.exceptions import ClientError

    s3.put_object(Bucket=bucket, Key="n", Body=b"0")

    def increment() -> None:
        for _ in range(2000):
            got = s3.get_object(Bucket=bucket, Key="n")
            value = int(got["Body"].read())
            try:
                s3.put_object(Bucket=bucket, Key="n", Body=b"%d" % (value + 1), IfMatch=got["ETag"])
                return
            except ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)
        raise AssertionError("never got through")

    def attempt(_: int) -> bool:
        for _ in range(5):
            increment()
        return True

    assert sum(_race(8, attempt)) == 8
    assert s3.get_object(Bucket=bucket, Key="n")["Body"].read() == b"40"


@pytest.mark.not_on_moto("does not know it")
def test_delete_if_match(s3: Any, bucket: str) -> None:
    """Supported or refused, never ignored."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    status, code = error_of(s3.delete_object, Bucket=bucket, Key="k", IfMatch='"other"')
    assert (status, code) in [(412, "PreconditionFailed"), (501, "NotImplemented")]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"
