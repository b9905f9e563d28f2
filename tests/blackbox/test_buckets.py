"""Buckets: make, look at, list, remove, tag."""

from __future__ import annotations

from typing import Any

import pytest

from harness.target import error_of, fresh_name


def test_life(s3: Any) -> None:
    name = fresh_name("life")
    reply = s3.create_bucket(Bucket=name)
    assert reply["ResponseMetadata"]["HTTPHeaders"]["location"].strip("/").endswith(name)
    assert s3.head_bucket(Bucket=name)["ResponseMetadata"]["HTTPStatusCode"] == 200
    listed = {b["Name"]: b["CreationDate"] for b in s3.list_buckets()["Buckets"]}
    assert name in listed
    assert s3.list_objects_v2(Bucket=name)["KeyCount"] == 0
    assert s3.delete_bucket(Bucket=name)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert error_of(s3.head_bucket, Bucket=name) == (404, "404")
    assert name not in [b["Name"] for b in s3.list_buckets()["Buckets"]]


@pytest.mark.not_on_moto("keeps the order of creation")
def test_names_are_listed_in_order(s3: Any) -> None:
    stem = fresh_name("order")
    names = [f"{stem}-{suffix}" for suffix in ("b", "a", "c")]
    for name in names:
        s3.create_bucket(Bucket=name)
    listed = [b["Name"] for b in s3.list_buckets()["Buckets"] if b["Name"].startswith(stem)]
    for name in names:
        s3.delete_bucket(Bucket=name)
    assert listed == sorted(names)


def test_location(s3: Any, bucket: str) -> None:
    reply = s3.get_bucket_location(Bucket=bucket)
    assert "LocationConstraint" in reply


@pytest.mark.not_on_moto("answers 200 in us-east-1")
def test_create_twice(s3: Any, bucket: str) -> None:
    """The owner's second CreateBucket: 409, or 200 as us-east-1 does; never a new bucket."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    try:
        s3.create_bucket(Bucket=bucket)
    except s3.exceptions.BucketAlreadyOwnedByYou as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 409
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_delete_needs_empty(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert error_of(s3.delete_bucket, Bucket=bucket) == (409, "BucketNotEmpty")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_a_bucket_made_again_is_empty(s3: Any) -> None:
    name = fresh_name("again")
    for _ in range(2):
        s3.create_bucket(Bucket=name)
        assert s3.list_objects_v2(Bucket=name)["KeyCount"] == 0
        assert error_of(s3.get_object, Bucket=name, Key="k") == (404, "NoSuchKey")
        s3.put_object(Bucket=name, Key="k", Body=b"x")
        s3.delete_object(Bucket=name, Key="k")
        s3.delete_bucket(Bucket=name)


MISSING = [
    ("get_object", {"Key": "k"}),
    ("put_object", {"Key": "k", "Body": b"x"}),
    ("delete_object", {"Key": "k"}),
    ("list_objects", {}),
    ("list_objects_v2", {}),
    ("list_multipart_uploads", {}),
    ("create_multipart_upload", {"Key": "k"}),
    ("delete_bucket", {}),
    ("get_bucket_location", {}),
]


@pytest.mark.not_on_moto("answers some of them with other codes")
@pytest.mark.parametrize(("operation", "arguments"), MISSING, ids=[m[0] for m in MISSING])
def test_missing_bucket(s3: Any, operation: str, arguments: dict[str, Any]) -> None:
    call = getattr(s3, operation)
    assert error_of(call, Bucket=fresh_name("none"), **arguments) == (404, "NoSuchBucket")


@pytest.mark.not_on_moto("keeps other rules")
@pytest.mark.parametrize("name", ["ab", "Abcd", "a..b", "10.1.2.3", "-abc", "a" * 64])
def test_invalid_names(s3: Any, name: str) -> None:
    assert error_of(s3.create_bucket, Bucket=name) == (400, "InvalidBucketName")


def test_tags(s3: Any, bucket: str) -> None:
    assert error_of(s3.get_bucket_tagging, Bucket=bucket) == (404, "NoSuchTagSet")
    tags = [{"Key": "team", "Value": "infra/ops"}, {"Key": "ü", "Value": "é"}]
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    got = s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
    assert sorted(got, key=str) == sorted(tags, key=str)
    s3.delete_bucket_tagging(Bucket=bucket)
    assert error_of(s3.get_bucket_tagging, Bucket=bucket) == (404, "NoSuchTagSet")


def test_harmless_answers(s3: Any, bucket: str) -> None:
    """What clients ask before they work: never an error, never a lie."""
    versioning = s3.get_bucket_versioning(Bucket=bucket)
    assert "Status" not in versioning
    acl = s3.get_bucket_acl(Bucket=bucket)
    assert [grant["Permission"] for grant in acl["Grants"]] == ["FULL_CONTROL"]
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


UNSET = [
    ("get_bucket_policy", "NoSuchBucketPolicy"),
    ("get_bucket_cors", "NoSuchCORSConfiguration"),
    ("get_bucket_lifecycle_configuration", "NoSuchLifecycleConfiguration"),
]


@pytest.mark.parametrize(("operation", "code"), UNSET)
def test_configuration_that_was_never_set(s3: Any, bucket: str, operation: str, code: str) -> None:
    assert error_of(getattr(s3, operation), Bucket=bucket) == (404, code)


@pytest.mark.parametrize("operation", ["policy", "cors", "lifecycle", "website"])
def test_delete_of_configuration_that_was_never_set(s3: Any, bucket: str, operation: str) -> None:
    """204 as S3 says, and above all not a DeleteBucket."""
    reply = getattr(s3, f"delete_bucket_{operation}")(Bucket=bucket)
    assert reply["ResponseMetadata"]["HTTPStatusCode"] == 204
    s3.head_bucket(Bucket=bucket)
