"""Both listings, page by page, beside a model in Python."""

from __future__ import annotations

from typing import Any, Iterator
from urllib.parse import unquote_plus

import pytest

from harness.raw import Request, send
from harness.target import Target, empty_bucket, fresh_name

ODD = [
    "a", "a/b", "a/b/c", "a//b", "a/", "//", "/", "/lead", "a/./b", "a/../b", ".", "..", "./x",
    "../x", "a b", "a+b", "a%b", "a%2Fb", "a%20b", "a&b=c", "a<b>", 'a"b', "a'b", "a\\b", "a?b",
    "a#b", "a*b", "a:b", "a|b", "a~b", "ä", "日本語/キー", "🦀", "e\u0301", "\u00e9", "\uffff",
    "\U0010ffff", "A", "Z/", "z", "~", "!", "-", "-/-", ".hidden", ".quickwater/x", "con", "nul",
    "trailing ", " leading", "x" * 255, "y" * 300, "long/" + "s" * 255 + "/" + "t" * 255,
    "k" * 1024, "dir/file", "dir/file/", "dir/file/deeper", "dir.file", "dir-file", "dir0",
    "tab\there", "new\nline", "cr\rhere", "\x01", "a\x7fb", "%", "%25", "%%", "=", "+", "  ",
]  # fmt: skip
PREFIXES = ["", "a", "a/", "a//", "/", "dir", "dir/", "dir/file", "tree/", "tree/1", "none", "日", "%"]
DELIMITERS = ["", "/", "e", "//"]


def tricky_keys() -> list[str]:
    """About 300 keys, in the order S3 lists them."""
    tree = [f"tree/{i // 60}/{i % 60 // 12}/{i:03}" for i in range(230)]
    return sorted({*ODD, *tree}, key=str.encode)


def model(keys: list[str], prefix: str, delimiter: str, after: str) -> list[tuple[str, str]]:
    """What a listing must show, in order: ("key", k) and ("prefix", p)."""
    shown: list[tuple[str, str]] = []
    for key in keys:
        if not key.startswith(prefix):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        entry = ("key", key) if cut < 0 else ("prefix", key[: cut + len(delimiter)])
        if entry[1].encode() <= after.encode() and entry[0] == "key":
            continue
        # A rolled-up prefix is shown as long as a key beneath it comes after `after`.
        if entry[0] == "prefix" and key.encode() <= after.encode():
            continue
        if not shown or shown[-1] != entry:
            shown.append(entry)
    return shown


def entries(page: dict[str, Any]) -> list[tuple[str, str]]:
    """A page as the model writes it."""
    keys = [("key", e["Key"]) for e in page.get("Contents", [])]
    prefixes = [("prefix", e["Prefix"]) for e in page.get("CommonPrefixes", [])]
    return sorted(keys + prefixes, key=lambda e: e[1].encode())


UFS_PREFIX_BYTES = 100  # an S3 UFS puts its prefix in front


def keeps(backend: str, key: str) -> bool:
    """Whether what lies below can hold the key as it is."""
    if backend == "external":
        return "\n" not in key  # moto
    return backend != "s3" or len(key.encode()) <= 1024 - UFS_PREFIX_BYTES


@pytest.fixture(scope="module")
def keys(backend: str) -> list[str]:
    return [key for key in tricky_keys() if keeps(backend, key)]


@pytest.fixture(scope="module")
def full(s3: Any, keys: list[str]) -> Iterator[str]:
    """A bucket that holds all tricky keys."""
    name = fresh_name("list")
    s3.create_bucket(Bucket=name)
    for key in keys:
        s3.put_object(Bucket=name, Key=key, Body=key.encode())
    yield name
    empty_bucket(s3, name)


def pages_v2(s3: Any, bucket: str, **arguments: Any) -> list[dict[str, Any]]:
    """All pages, with every promise about one page checked."""
    limit = arguments.get("MaxKeys", 1000)
    pages, token = [], {}
    while True:
        page = s3.list_objects_v2(Bucket=bucket, **arguments, **token)
        pages.append(page)
        assert page["KeyCount"] == len(entries(page)) <= limit
        assert page["MaxKeys"] == limit
        if not page["IsTruncated"]:
            assert "NextContinuationToken" not in page
            return pages
        assert page["KeyCount"] == limit, "a truncated page is full"
        token = {"ContinuationToken": page["NextContinuationToken"]}
        assert len(pages) < 1000


def test_every_key_is_listed_and_readable(s3: Any, full: str, keys: list[str]) -> None:
    listed = [e for page in pages_v2(s3, full) for e in page["Contents"]]
    assert [e["Key"] for e in listed] == keys
    for entry in listed:
        assert entry["Size"] == len(entry["Key"].encode())
        assert entry["StorageClass"] == "STANDARD"
        assert len(entry["ETag"]) >= 34
        assert "Owner" not in entry
    for key in set(ODD) & set(keys):
        assert s3.get_object(Bucket=full, Key=key)["Body"].read() == key.encode(), repr(key)


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_v2_against_model(s3: Any, full: str, keys: list[str], prefix: str, delimiter: str) -> None:
    expected = model(keys, prefix, delimiter, "")
    for limit in (1000, 7, 1):
        if limit == 1 and len(expected) > 60:
            continue
        arguments = {"Prefix": prefix, "Delimiter": delimiter, "MaxKeys": limit}
        pages = pages_v2(s3, full, **arguments)
        assert [e for page in pages for e in entries(page)] == expected, limit


@pytest.mark.parametrize("after", ["a", "a/", "dir/file", "tree/1/3", "zzz", "\U0010ffff", "ä"])
@pytest.mark.parametrize("delimiter", ["", "/"])
def test_v2_start_after(s3: Any, full: str, keys: list[str], after: str, delimiter: str) -> None:
    pages = pages_v2(s3, full, StartAfter=after, Delimiter=delimiter, MaxKeys=50)
    shown = [e for page in pages for e in entries(page)]
    expected = model(keys, "", delimiter, after)
    # S3 does not say whether a prefix that begins before StartAfter is shown; both are right.
    border = [e for e in expected if e[0] == "prefix" and e[1].encode() <= after.encode()]
    assert shown in (expected, [e for e in expected if e not in border])


@pytest.mark.not_on_moto("marks its V1 pages otherwise")
@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("prefix", ["", "a/", "dir", "tree/"])
@pytest.mark.parametrize("limit", [1000, 9])
def test_v1_against_model(
    s3: Any, full: str, keys: list[str], prefix: str, delimiter: str, limit: int
) -> None:
    shown: list[tuple[str, str]] = []
    marker = ""
    while True:
        page = s3.list_objects(
            Bucket=full, Prefix=prefix, Delimiter=delimiter, MaxKeys=limit, Marker=marker
        )
        shown += entries(page)
        if not page["IsTruncated"]:
            break
        if delimiter:
            marker = page["NextMarker"]
        else:
            marker = page["Contents"][-1]["Key"]
    assert shown == model(keys, prefix, delimiter, "")


def test_v1_marker_is_exclusive(s3: Any, full: str, keys: list[str]) -> None:
    page = s3.list_objects(Bucket=full, Marker="dir/file")
    assert [e["Key"] for e in page["Contents"]] == [k for k in keys if k.encode() > b"dir/file"]
    assert "Owner" in page["Contents"][0]


def test_fetch_owner(s3: Any, full: str) -> None:
    page = s3.list_objects_v2(Bucket=full, MaxKeys=3, FetchOwner=True)
    assert all(entry["Owner"]["ID"] for entry in page["Contents"])


def test_max_keys_zero(s3: Any, full: str) -> None:
    page = s3.list_objects_v2(Bucket=full, MaxKeys=0)
    assert (page["KeyCount"], page["IsTruncated"]) == (0, False)


@pytest.mark.not_on_moto("does not clamp")
def test_max_keys_above_the_limit(s3: Any, full: str, keys: list[str]) -> None:
    page = s3.list_objects_v2(Bucket=full, MaxKeys=5000)
    assert page["MaxKeys"] == 1000
    assert page["KeyCount"] == min(1000, len(keys))


@pytest.mark.not_on_moto("encodes nothing")
def test_encoding_type_url(target: Target, full: str, keys: list[str]) -> None:
    query = [("list-type", "2"), ("encoding-type", "url")]
    reply = send(target, Request("GET", f"/{full}", query))
    assert reply.status == 200, reply.brief()
    assert reply.text("EncodingType") == "url"
    import xml.etree.ElementTree as ElementTree

    shown = [e.text or "" for e in ElementTree.fromstring(reply.body).iter() if e.tag.endswith("}Key")]
    assert [unquote_plus(text) for text in shown] == keys
    assert all(text.isascii() for text in shown)


@pytest.mark.not_on_moto("takes any token and number")
@pytest.mark.parametrize(
    "query",
    [
        [("list-type", "2"), ("max-keys", "-1")],
        [("list-type", "2"), ("max-keys", "x")],
        [("list-type", "2"), ("continuation-token", "not one of ours")],
        [("list-type", "2"), ("continuation-token", "")],
        [("list-type", "2"), ("encoding-type", "base64")],
        [("max-keys", "99999999999999999999")],
        [("list-type", "3")],
    ],
)
def test_bad_arguments(target: Target, full: str, query: list[tuple[str, str]]) -> None:
    reply = send(target, Request("GET", f"/{full}", query))
    assert (reply.status, reply.code) == (400, "InvalidArgument"), reply.brief()


def test_listing_follows_every_write(s3: Any, bucket: str) -> None:
    """C3: list-after-write and list-after-delete."""
    for i in range(30):
        s3.put_object(Bucket=bucket, Key=f"p/{i:02}", Body=b"x")
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == i + 1
    for i in range(30):
        s3.delete_object(Bucket=bucket, Key=f"p/{i:02}")
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 29 - i
