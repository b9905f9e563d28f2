"""What can be answered truthfully at once: names the store can never hold, paths where
nothing is, buckets that hold something, uploads whose policy changed.
"""

from __future__ import annotations

import time
from typing import Any, Iterator

import pytest

from conftest import ServeFactory
from harness.payload import KIB, payload
from harness.target import error_of, fresh_name
from harness.under import SCALED, STORE_BUCKET, TTL_SECONDS, Place, need_write_back, over
from ufssim.client import Sim

KEY_BYTES_MAX = 1024
PART = payload(64 * KIB, "part")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    need_write_back()
    made = Sim(tmp_path_factory.mktemp("ufssim"), "--min-part-bytes", "1024")
    made.create_bucket(STORE_BUCKET)
    yield made
    made.close()


@pytest.fixture
def place(store: Sim, serve: ServeFactory) -> Iterator[Place]:
    store.reset()
    options = over(store)
    options["flags"] |= SCALED
    yield Place(serve("front", **options), store)
    store.clear_rules()
    store.up()
    store.reset()


def persisted(place: Place) -> None:
    place.server.cli("async-persist", "wait", "--path", f"/{place.bucket}", "--timeout", "20s")


# -- names ---------------------------------------------------------------------------


def longest(place: Place) -> int:
    """Bytes of a key that still fit with the prefix of the bucket's location."""
    return KEY_BYTES_MAX - len(f"root/{place.bucket}/")


@pytest.mark.parametrize("mode", ["WRITE_THROUGH", "WRITE_BACK", "NO_CACHE"])
def test_a_key_too_long_for_the_store(place: Place, mode: str) -> None:
    place.policy(mode)
    s3, bucket = place.s3(), place.bucket
    s3.put_object(Bucket=bucket, Key="source", Body=b"source")
    fits, long = "k" * longest(place), "k" * (longest(place) + 1)
    for key in (long, "ü" * (KEY_BYTES_MAX // 2)):
        where = {"Bucket": bucket, "Key": key}
        assert error_of(s3.put_object, **where, Body=b"x") == (400, "KeyTooLongError")
        assert error_of(s3.copy_object, **where, CopySource=f"{bucket}/source") == (400, "KeyTooLongError")
        assert error_of(s3.create_multipart_upload, **where) == (400, "KeyTooLongError")
        assert error_of(s3.get_object, **where)[0] in (400, 404)
        s3.delete_object(**where)
    s3.put_object(Bucket=bucket, Key=fits, Body=b"fits")
    persisted(place)
    assert set(place.stored()) >= {fits}
    assert long not in place.stored()


def test_a_transient_key_may_have_any_length(place: Place) -> None:
    place.policy("TRANSIENT")
    key = "k" * KEY_BYTES_MAX
    s3 = place.s3()
    s3.put_object(Bucket=place.bucket, Key=key, Body=b"here")
    assert s3.get_object(Bucket=place.bucket, Key=key)["Body"].read() == b"here"
    s3.delete_object(Bucket=place.bucket, Key=key)
    persisted(place)


def test_any_key_fits_a_directory(serve: ServeFactory) -> None:
    server = serve()
    s3 = server.target().client()
    s3.create_bucket(Bucket="names")
    for key in ("k" * KEY_BYTES_MAX, "ü" * (KEY_BYTES_MAX // 2), "a/" * 512, "x" * 300 + "/y"):
        s3.put_object(Bucket="names", Key=key, Body=key.encode())
        assert s3.get_object(Bucket="names", Key=key)["Body"].read() == key.encode()


# -- what waits ----------------------------------------------------------------------


def test_the_list_says_why(place: Place) -> None:
    place.policy("WRITE_BACK")
    place.sim.down("refuse")
    place.s3().put_object(Bucket=place.bucket, Key="k", Body=b"k")

    def line() -> str:
        table = place.server.cli("async-persist", "list").stdout
        assert "ATTEMPTS" in table and "LAST ERROR" in table
        return next(row for row in table.splitlines() if f"/{place.bucket}/k" in row)

    end = time.monotonic() + 20
    while "UFS Unavailable" not in line():
        assert time.monotonic() < end, line()
        time.sleep(0.2)


def test_waiting_for_what_is_not_there(place: Place) -> None:
    place.policy("WRITE_BACK")
    s3, bucket, cli = place.s3(), place.bucket, place.server.cli
    for path in (f"/{bucket}/none", f"/{bucket}/none/", f"/{bucket}-none", "/none-at-all/x"):
        done = cli("async-persist", "wait", "--path", path, "--timeout", "5s", check=False)
        assert done.returncode == 1 and ("nothing at" in done.stderr or "no bucket" in done.stderr), path
    cli("async-persist", "wait", "--path", f"/{bucket}", "--timeout", "5s")
    s3.put_object(Bucket=bucket, Key="dir/k", Body=b"k")
    persisted(place)
    for path in ("/", f"/{bucket}", f"/{bucket}/", f"/{bucket}/dir", f"/{bucket}/dir/", f"/{bucket}/dir/k"):
        assert cli("async-persist", "wait", "--path", path, "--timeout", "0s").returncode == 0
    for path in (f"/{bucket}/di", f"/{bucket}/dir/k/x", f"/{bucket}/dir/kk"):
        assert cli("async-persist", "wait", "--path", path, check=False).returncode == 1, path
    for timeout in ("0", "soon", "-1s"):
        done = cli("async-persist", "wait", "--path", "/", f"--timeout={timeout}", check=False)
        assert done.returncode == 2 and "--timeout" in done.stderr
    # Known here, so the store is not needed to say so; a delete is waited for.
    place.sim.down("refuse")
    assert cli("async-persist", "wait", "--path", f"/{bucket}/dir/k", "--timeout", "5s").returncode == 0
    s3.delete_object(Bucket=bucket, Key="dir/k")
    path = f"/{bucket}/dir/k"
    done = cli("async-persist", "wait", "--path", path, "--timeout", "0s", check=False)
    assert done.returncode == 1 and "and 1 delete are not in the UFS" in done.stdout
    place.sim.up()
    done = cli("async-persist", "wait", "--path", path, "--timeout", "20s", check=False)
    # The store may have been told before that was asked.
    assert done.returncode == 0 or "nothing at" in done.stderr, done


# -- buckets -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["refuse", "black_hole"])
def test_a_bucket_known_to_hold_something(place: Place, mode: str) -> None:
    place.policy("WRITE_BACK")
    s3, bucket = place.s3(), place.bucket
    s3.put_object(Bucket=bucket, Key="persisted", Body=b"p")
    persisted(place)
    place.sim.down(mode)
    s3.put_object(Bucket=bucket, Key="dirty", Body=b"d")
    for _ in range(2):
        begun = time.monotonic()
        assert error_of(s3.delete_bucket, Bucket=bucket) == (409, "BucketNotEmpty")
        assert time.monotonic() - begun < 5
    s3.delete_object(Bucket=bucket, Key="dirty")
    begun = time.monotonic()
    assert error_of(s3.delete_bucket, Bucket=bucket) == (409, "BucketNotEmpty"), "persisted"
    assert time.monotonic() - begun < 10
    place.sim.up()
    s3.delete_object(Bucket=bucket, Key="persisted")
    persisted(place)
    s3.delete_bucket(Bucket=bucket)


def test_a_bucket_emptied_behind_our_back(serve: ServeFactory) -> None:
    server = serve(flags={"metadata-ttl": "300ms"})
    s3 = server.target().client()
    name = fresh_name("behind")
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="k", Body=b"k")
    (server.ufs / name / "k").unlink()
    time.sleep(TTL_SECONDS)
    s3.delete_bucket(Bucket=name)


# -- uploads whose policy changes ----------------------------------------------------


def begin(place: Place, key: str) -> dict[str, str]:
    s3 = place.s3()
    where = {"Bucket": place.bucket, "Key": key}
    where["UploadId"] = s3.create_multipart_upload(**where)["UploadId"]
    s3.upload_part(**where, PartNumber=1, Body=PART)
    return where


def complete(place: Place, where: dict[str, str]) -> dict[str, Any]:
    s3 = place.s3()
    last = s3.upload_part(**where, PartNumber=2, Body=b"end")
    first = s3.list_parts(**where)["Parts"][0]
    parts = [{"PartNumber": 1, "ETag": first["ETag"]}, {"PartNumber": 2, "ETag": last["ETag"]}]
    done = s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    body = s3.get_object(Bucket=where["Bucket"], Key=where["Key"])["Body"].read()
    assert body == PART + b"end"
    headers: dict[str, Any] = done["ResponseMetadata"]["HTTPHeaders"]
    return headers


@pytest.mark.parametrize(
    ("before", "after", "durability"),
    [
        ("WRITE_THROUGH", "WRITE_BACK", "ufs"),
        ("WRITE_BACK", "WRITE_THROUGH", "local-1"),
        ("WRITE_BACK", "TRANSIENT", "local-1"),
        ("TRANSIENT", "WRITE_BACK", "local-1"),
    ],
)
def test_an_upload_keeps_the_policy_it_began_with(place: Place, before: str, after: str, durability: str) -> None:
    place.policy(before)
    where = begin(place, "multi")
    place.policy(after)
    assert complete(place, where)["x-quickwater-durability"] == durability
    if before == "TRANSIENT":
        assert place.persist_state("multi") == "TRANSIENT"
        assert "multi" not in place.stored()
    else:
        persisted(place)
        assert place.stored_body("multi") == PART + b"end"


@pytest.mark.parametrize("before", ["WRITE_THROUGH", "WRITE_BACK", "TRANSIENT"])
def test_read_only_holds_for_open_uploads(place: Place, before: str) -> None:
    place.policy(before)
    where = begin(place, "multi")
    place.policy("READ_ONLY")
    s3 = place.s3()
    etag = s3.list_parts(**where)["Parts"][0]["ETag"]
    told = len(place.sim.mutating_requests())
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    denied = (403, "AccessDenied")
    assert error_of(s3.upload_part, **where, PartNumber=2, Body=b"x") == denied
    copied = {"CopySource": f"{place.bucket}/multi", "PartNumber": 3}
    assert error_of(s3.upload_part_copy, **where, **copied) == denied
    assert error_of(s3.complete_multipart_upload, **where, MultipartUpload=parts) == denied
    assert error_of(s3.abort_multipart_upload, **where) == denied
    assert len(place.sim.mutating_requests()) == told, "the store heard nothing"
    assert error_of(s3.head_object, Bucket=place.bucket, Key="multi")[0] == 404
    place.policy(before)
    complete(place, where)


# -- parts smaller than the store completes -------------------------------------------


@pytest.mark.parametrize("option", ["", ",min_part_size=128KiB"])
@pytest.mark.parametrize("mode", ["WRITE_THROUGH", "WRITE_BACK", "TRANSIENT"])
def test_parts_too_small_for_the_store(store: Sim, serve: ServeFactory, mode: str, option: str) -> None:
    """We take parts of 1 KiB, the store none below 128 KiB (5 MiB unless told otherwise):
    no ack of what it would refuse for ever. What it never gets is not its business."""
    store.reset()
    options = over(store)
    flags = options["flags"]
    flags["ufs-options"] = flags["ufs-options"].replace(",min_part_size=1KiB", option)
    place = Place(serve("small", **options), store)
    place.policy(mode)
    where = begin(place, "multi")
    s3 = place.s3()
    etags = {p["PartNumber"]: p["ETag"] for p in s3.list_parts(**where)["Parts"]}
    last = s3.upload_part(**where, PartNumber=2, Body=b"end")["ETag"]
    parts = [{"PartNumber": 1, "ETag": etags[1]}, {"PartNumber": 2, "ETag": last}]
    done = place.send("POST", "multi", manifest_of(parts), query=[("uploadId", where["UploadId"])])
    if mode == "TRANSIENT":
        assert done.acked, done
        return
    least = 128 * KIB if option else 5 * 1024 * KIB
    assert (done.status, done.code) == (400, "EntityTooSmall"), done
    assert f"<MinSizeAllowed>{least}<" in done.body.decode(), done
    assert error_of(s3.head_object, Bucket=place.bucket, Key="multi")[0] == 404
    asked = [r.operation for r in place.sim.mutating_requests()]
    assert "CompleteMultipartUpload" not in asked, asked
    # Nothing changed: a larger part in its place, and the upload is completed.
    body = payload(least, "larger")
    parts[0]["ETag"] = s3.upload_part(**where, PartNumber=1, Body=body)["ETag"]
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    persisted(place)
    assert place.stored_body("multi") == body + b"end"


def manifest_of(parts: list[dict[str, Any]]) -> bytes:
    """What completes an upload of these parts."""
    each = "".join(f"<Part><PartNumber>{p['PartNumber']}</PartNumber><ETag>{p['ETag']}</ETag></Part>" for p in parts)
    return f"<CompleteMultipartUpload>{each}</CompleteMultipartUpload>".encode()


def test_a_store_that_refuses_small_parts_names_the_option(store: Sim, serve: ServeFactory) -> None:
    """The mount was not told that the store takes larger parts only: the queue says so."""
    store.reset()
    place = Place(serve("untold", **over(store)), store)
    place.policy("WRITE_BACK", writeReplicas=1)
    place.sim.rule("status", operation="CompleteMultipartUpload", status=400, code="EntityTooSmall")
    where = begin(place, "multi")
    etags = {p["PartNumber"]: p["ETag"] for p in place.s3().list_parts(**where)["Parts"]}
    last = place.s3().upload_part(**where, PartNumber=2, Body=b"end")["ETag"]
    parts = [{"PartNumber": 1, "ETag": etags[1]}, {"PartNumber": 2, "ETag": last}]
    place.s3().complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    until = time.monotonic() + 30
    while "EntityTooSmall" not in (listed := place.server.cli("async-persist", "list", "--output", "json").stdout):
        assert time.monotonic() < until, listed
        time.sleep(0.2)
    assert "min_part_size" in listed, listed
    place.sim.clear_rules()
    place.server.cli("async-persist", "retry", "--path", f"/{place.bucket}/multi")
    persisted(place)
    assert place.stored_body("multi") == PART + b"end"
    store.reset()
