"""Refusals, as S3 words them."""

from __future__ import annotations

from xml.sax.saxutils import escape


class S3Error(Exception):
    """Becomes an error document."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.code = code
        self.message = message or code


def document(code: str, message: str, resource: str) -> bytes:
    """The `<Error>` document."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
        f"<Resource>{escape(resource)}</Resource><RequestId>0</RequestId></Error>"
    ).encode()


def no_such_key() -> S3Error:
    """404 of an object."""
    return S3Error(404, "NoSuchKey", "The specified key does not exist.")


def no_such_bucket() -> S3Error:
    """404 of a bucket."""
    return S3Error(404, "NoSuchBucket", "The specified bucket does not exist")


def no_such_upload() -> S3Error:
    """404 of an upload."""
    return S3Error(404, "NoSuchUpload", "The specified multipart upload does not exist.")


def precondition_failed() -> S3Error:
    """412."""
    return S3Error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
