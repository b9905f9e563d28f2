"""Jobs as a user of the command line begins and follows them, and what the store saw of it."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

from .server import Server
from .under import STORE_BUCKET, Place

JOB_SECONDS = 180.0
ALL_KEYS = 2_500
CLIENTS = 8


def cli(server: Server, *words: str, code: int = 0) -> dict[str, Any]:
    """The JSON answer of an admin verb that ends with this exit code."""
    done = server.cli(*words, "--output", "json", check=False)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def load(place: Place, path: str, *options: str, code: int = 0) -> dict[str, Any]:
    words = ("--path", f"/{place.bucket}{path}", "--progress")
    return cli(place.server, "job", "load", *words, *options, code=code)


def free(place: Place, path: str, code: int = 0) -> dict[str, Any]:
    words = ("--path", f"/{place.bucket}{path}", "--progress")
    return cli(place.server, "job", "free", *words, code=code)


def remove(place: Place, path: str, *options: str, code: int = 0) -> dict[str, Any]:
    return cli(place.server, "fs", "rm", "-r", f"/{place.bucket}{path}", *options, code=code)


def status(place: Place, job: int) -> dict[str, Any]:
    return cli(place.server, "job", "status", str(job))


def until(place: Place, job: int, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + JOB_SECONDS
    while not wanted(now := status(place, job)):
        assert time.monotonic() < end, now
        time.sleep(0.1)
    return now


def ended(place: Place, job: int) -> dict[str, Any]:
    return until(place, job, lambda now: now["state"] not in ("waiting", "running"))


def seed(place: Place, bodies: dict[str, bytes]) -> None:
    """Somebody else writes objects into the store."""
    for key, body in bodies.items():
        place.sim.seed(STORE_BUCKET, place.prefix + key, body)


def seed_many(place: Place, keys: list[str]) -> None:
    place.sim.seed_many(STORE_BUCKET, [place.prefix + key for key in keys])


def put_many(place: Place, keys: list[str], body: bytes = b"x") -> None:
    s3 = place.s3()
    with ThreadPoolExecutor(CLIENTS) as pool:
        put = lambda key: s3.put_object(Bucket=place.bucket, Key=key, Body=body)
        for _ in pool.map(put, keys):
            pass


def get(place: Place, key: str) -> bytes:
    body: bytes = place.s3().get_object(Bucket=place.bucket, Key=key)["Body"].read()
    return body


def reads(place: Place, key: str = "") -> int:
    """Object bytes asked of the store: requests for them below a key."""
    seen = place.sim.requests(place.prefix + key)
    return sum(one.operation == "GetObject" for one in seen)


def listed(place: Place, prefix: str = "") -> list[str]:
    pages = place.s3().get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix)
    return [e["Key"] for page in pages for e in page.get("Contents", [])]


def wait_nothing_pending(server: Server, below: str = "") -> None:
    end = time.monotonic() + JOB_SECONDS
    where = ("--prefix", below) if below else ()
    while (left := cli(server, "async-persist", "list", "--limit", "1", *where))["changes"]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


def policies(place: Place, **modes: str) -> None:
    """Puts folders of the bucket under policies; `_` is the bucket itself."""
    path = lambda name: f"/{place.bucket}/**" if name == "_" else f"/{place.bucket}/{name}/**"
    rules = [{"path": path(name), "policyMode": mode} for name, mode in modes.items()]
    file = place.server.home / "policies.json"
    file.write_text(json.dumps({"apiVersion": "v1.0", "pathRules": rules}))
    place.server.cli("pathconfig", "apply", str(file))
    time.sleep(1.0)  # in force in every shard within a second


def tally(objects: int, each: int) -> dict[str, int]:
    return {"objects": objects, "bytes": objects * each}
