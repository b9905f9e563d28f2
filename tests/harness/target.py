"""Where the S3 endpoint under test is and how to talk to it."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import Any, Callable

import boto3
from botocore.config import Config

REGION = "us-east-1"
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Target:
    """An endpoint with a key pair."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def host(self) -> str:
        """`address:port`."""
        return self.endpoint.split("//", 1)[1].rstrip("/")

    @property
    def address(self) -> tuple[str, int]:
        """For `socket.connect`."""
        name, port = self.host.rsplit(":", 1)
        return name, int(port)

    def client(self, **options: Any) -> Any:
        """A boto3 client with boto3's own defaults but path style and a deadline."""
        settings: dict[str, Any] = {
            "connect_timeout": 10,
            "read_timeout": TIMEOUT_SECONDS,
            "retries": {"max_attempts": 0},
            "max_pool_connections": 64,
            "s3": {"addressing_style": "path"},
        }
        settings.update(options)
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(**settings),
        )

    def environment(self) -> dict[str, str]:
        """Environment of a client program."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        return {
            **inherited,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


def fresh_name(stem: str = "b") -> str:
    """A bucket name nobody used before."""
    return f"{stem}-{uuid.uuid4().hex[:12]}"


def error_of(call: Callable[..., Any], **arguments: Any) -> tuple[int, str]:
    """Status and S3 code a boto3 call fails with; fails when it succeeds."""
    from botocore.exceptions import ClientError

    try:
        call(**arguments)
    except ClientError as error:
        meta = error.response
        return meta["ResponseMetadata"]["HTTPStatusCode"], meta["Error"]["Code"]
    raise AssertionError(f"{call.__name__}({arguments}) was expected to fail and did not")


def empty_bucket(client: Any, bucket: str) -> None:
    """Deletes all objects and uploads of a bucket, and the bucket."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        keys = [entry["Key"] for entry in page.get("Contents", [])]
        batch = [{"Key": key} for key in keys if _fits_xml(key)]
        if batch:
            reply = client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
            assert "Errors" not in reply, reply["Errors"][:3]
        for key in keys:
            if not _fits_xml(key):
                client.delete_object(Bucket=bucket, Key=key)
    for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    client.delete_bucket(Bucket=bucket)


def _fits_xml(key: str) -> bool:
    """Whether an XML 1.0 document can name the key (DeleteObjects needs that)."""
    return all(" " <= char < "\ufffe" or char > "\uffff" for char in key)
