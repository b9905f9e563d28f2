"""Path policies: set by command line and REST, in force at once, kept; READ_ONLY."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest

from conftest import UFS_BUCKET, ServeFactory, s3_ufs
from harness.apart import one_process
from harness.payload import KIB, MIB, payload
from harness.raw import Request, connect, head_bytes, read_reply, send, sign
from harness.server import Server
from harness.signing import UNSIGNED
from harness.target import error_of, fresh_name
from ufssim.client import Sim

DENIED = (403, "AccessDenied")
PART = payload(5 * MIB, "part")


def document(*rules: tuple[str, str], default: str = "WRITE_THROUGH") -> str:
    """A document with these rules of path and mode."""
    return json.dumps(
        {
            "apiVersion": "v1.0",
            "defaultRule": {"policyMode": default},
            "pathRules": [{"path": path, "policyMode": mode} for path, mode in rules],
        }
    )


def apply(server: Server, *rules: tuple[str, str], default: str = "WRITE_THROUGH") -> dict[str, Any]:
    """Sets these rules by command line."""
    file = server.home / "policies.json"
    file.write_text(document(*rules, default=default))
    done = server.cli("pathconfig", "apply", str(file), "--output", "json")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Rest:
    """`/api/v1/conf` of a service."""

    def __init__(self, server: Server) -> None:
        self.address = str(server.run["admin"])
        self.token = (server.admin_dir / "admin-token").read_text().strip()

    def call(self, method: str, body: str = "", **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of a call."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        given = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        given.update({name.replace("_", "-"): value for name, value in headers.items()})
        try:
            connection.request(method, "/api/v1/conf", body.encode(), given)
            reply = connection.getresponse()
            found = {name.lower(): value for name, value in reply.getheaders()}
            return reply.status, found, json.loads(reply.read())
        finally:
            connection.close()


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[Sim]:
    made = Sim(tmp_path / "sim", "--min-part-bytes", "1024")
    made.create_bucket(UFS_BUCKET)
    yield made
    made.close()


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a directory: mode, mtime, content."""
    found = {}
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""
        found[str(path.relative_to(root))] = (facts.st_mode, facts.st_mtime_ns, content)
    return found


class Frozen:
    """A bucket with objects and an open upload, then frozen below `frozen/`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.s3 = server.target().client()
        self.bucket = fresh_name()
        self.s3.create_bucket(Bucket=self.bucket)
        for key in ("frozen/a", "frozen/b", "free/a", "free/b"):
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=key.encode(), Tagging="k=v")
        begun = self.s3.create_multipart_upload(Bucket=self.bucket, Key="frozen/upload")
        self.upload = begun["UploadId"]
        sent = self.s3.upload_part(**self.at("frozen/upload"), UploadId=self.upload, PartNumber=1, Body=PART)
        self.parts = {"Parts": [{"PartNumber": 1, "ETag": sent["ETag"]}]}
        answer = apply(server, (f"/{self.bucket}/frozen/**", "READ_ONLY"))
        assert answer["warnings"] == []

    def at(self, key: str) -> dict[str, str]:
        """Bucket and key."""
        return {"Bucket": self.bucket, "Key": key}

    def try_everything(self) -> None:
        """Every mutating call below `frozen/` is refused."""
        s3, at, upload = self.s3, self.at, self.upload
        free, frozen = f"{self.bucket}/free/a", f"{self.bucket}/frozen/a"
        tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
        assert error_of(s3.put_object, **at("frozen/a"), Body=b"new") == DENIED
        assert error_of(s3.put_object, **at("frozen/new"), Body=b"new") == DENIED
        assert error_of(s3.put_object, **at("frozen/new"), Body=PART) == DENIED
        assert error_of(s3.put_object, **at("frozen/"), Body=b"") == DENIED
        assert error_of(s3.copy_object, **at("frozen/a"), CopySource=free) == DENIED
        assert error_of(s3.copy_object, **at("frozen/c"), CopySource=frozen) == DENIED
        assert error_of(s3.delete_object, **at("frozen/a")) == DENIED
        assert error_of(s3.delete_object, **at("frozen/not-there")) == DENIED
        assert error_of(s3.put_object_tagging, **at("frozen/a"), Tagging=tags) == DENIED
        assert error_of(s3.delete_object_tagging, **at("frozen/a")) == DENIED
        assert error_of(s3.create_multipart_upload, **at("frozen/a")) == DENIED
        open_ = {**at("frozen/upload"), "UploadId": upload}
        assert error_of(s3.upload_part, **open_, PartNumber=2, Body=PART) == DENIED
        assert error_of(s3.upload_part_copy, **open_, PartNumber=2, CopySource=free) == DENIED
        assert error_of(s3.complete_multipart_upload, **open_, MultipartUpload=self.parts) == DENIED
        assert error_of(s3.abort_multipart_upload, **open_) == DENIED

    def batch_delete(self) -> None:
        """Each key of a batch is judged by itself."""
        keys = ["frozen/a", "free/a", "frozen/not-there"]
        objects = {"Objects": [{"Key": key} for key in keys]}
        done = self.s3.delete_objects(Bucket=self.bucket, Delete=objects)
        assert [entry["Key"] for entry in done["Deleted"]] == ["free/a"]
        refused = {entry["Key"]: entry["Code"] for entry in done["Errors"]}
        assert refused == {"frozen/a": "AccessDenied", "frozen/not-there": "AccessDenied"}

    def reads_go_on(self) -> None:
        """What is frozen can be read, listed and copied from."""
        s3, at = self.s3, self.at
        assert s3.get_object(**at("frozen/a"))["Body"].read() == b"frozen/a"
        assert s3.head_object(**at("frozen/b"))["ContentLength"] == len("frozen/b")
        assert s3.get_object_tagging(**at("frozen/a"))["TagSet"] == [{"Key": "k", "Value": "v"}]
        listed = s3.list_objects_v2(Bucket=self.bucket, Prefix="frozen/")["Contents"]
        assert [entry["Key"] for entry in listed] == ["frozen/a", "frozen/b"]
        parts = s3.list_parts(**at("frozen/upload"), UploadId=self.upload)["Parts"]
        assert [part["PartNumber"] for part in parts] == [1]
        s3.copy_object(**at("free/copy"), CopySource=f"{self.bucket}/frozen/a")
        assert s3.get_object(**at("free/copy"))["Body"].read() == b"frozen/a"

    def thaw(self) -> None:
        """After a rollback writes go on where they stopped."""
        self.server.cli("pathconfig", "rollback", "0")
        self.s3.put_object(**self.at("frozen/a"), Body=b"thawed")
        done = self.s3.complete_multipart_upload(
            **self.at("frozen/upload"), UploadId=self.upload, MultipartUpload=self.parts
        )
        assert done["ETag"].endswith('-1"')


def test_read_only_over_a_store(serve: ServeFactory, sim: Sim) -> None:
    server = serve("frozen", **s3_ufs(sim.target()))
    frozen = Frozen(server)
    root = server.flags["ufs"].split("/", 3)[3]
    below = f"{root}/{frozen.bucket}/frozen/"
    before = len(sim.mutating_requests(below))
    assert before >= 4, "the witness sees what was written"
    kept = sim.objects(UFS_BUCKET, below)
    frozen.try_everything()
    frozen.batch_delete()
    frozen.reads_go_on()
    seen = sim.mutating_requests(below)
    assert len(seen) == before, f"the UFS was asked to change: {seen[before:]}"
    assert sim.objects(UFS_BUCKET, below) == kept
    frozen.thaw()
    assert len(sim.mutating_requests(below)) > before


def test_read_only_over_a_directory(serve: ServeFactory) -> None:
    server = serve("frozen")
    frozen = Frozen(server)
    root = server.ufs / frozen.bucket / "frozen"
    before = tree(root)
    assert {"a", "b"} <= set(before)
    frozen.try_everything()
    frozen.batch_delete()
    frozen.reads_go_on()
    assert tree(root) == before
    frozen.thaw()


def test_read_only_is_said_before_the_body(serve: ServeFactory) -> None:
    server = serve("frozen")
    frozen = Frozen(server)
    request = Request(
        "PUT",
        f"/{frozen.bucket}/frozen/a",
        headers=[("Expect", "100-continue")],
        content_length=str(64 * MIB),
        payload_hash=UNSIGNED,
    )
    with connect(server.target()) as connection:
        connection.sendall(head_bytes(request, sign(server.target(), request)))
        # Without asking for a body first, of which not a byte was sent.
        begin = connection.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL)
        reply = read_reply(connection, "PUT")
    assert (begin, reply.status) == (b"HTTP/1.1 403", 403)
    assert b"<Code>AccessDenied</Code>" in reply.body
    assert f"/{frozen.bucket}/frozen/** is READ_ONLY".encode() in reply.body


def test_read_only_needs_a_signature_first(serve: ServeFactory) -> None:
    server = serve("frozen")
    frozen = Frozen(server)
    request = Request("PUT", f"/{frozen.bucket}/frozen/a", body=b"x", signed=False)
    reply = send(server.target(), request)
    assert reply.status == 403
    assert b"READ_ONLY" not in reply.body, "strangers learn nothing of policies"


def test_read_only_buckets(serve: ServeFactory) -> None:
    server = serve("frozen")
    s3 = server.target().client()
    bucket, fenced = fresh_name(), fresh_name("fenced")
    s3.create_bucket(Bucket=bucket)
    apply(server, (f"/{bucket}/**", "READ_ONLY"), ("/fenced-*/**", "READ_ONLY"))
    tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
    assert error_of(s3.put_bucket_tagging, Bucket=bucket, Tagging=tags) == DENIED
    assert error_of(s3.delete_bucket_tagging, Bucket=bucket) == DENIED
    assert error_of(s3.delete_bucket, Bucket=bucket) == DENIED
    assert error_of(s3.create_bucket, Bucket=fenced) == DENIED
    assert sorted(path.name for path in server.ufs.iterdir()) == [bucket]
    s3.head_bucket(Bucket=bucket)
    apply(server, (f"/{bucket}/deeper/**", "READ_ONLY"))
    s3.delete_bucket(Bucket=bucket)


MARK = b"\xfeno-cache-mark:"
MARK_EVERY = 4 * KIB  # a sector of the store holds at least one


def marked(name: str, size: int) -> bytes:
    """Bytes that can be found again on a disk, wherever they were cut."""
    block = MARK + name.encode().ljust(16, b"-")
    block += payload(MARK_EVERY - len(block), name)
    return (block * (size // MARK_EVERY + 1))[:size]


def on_disk(server: Server, name: str) -> bool:
    """Whether the service's directory holds bytes of an object."""
    wanted = MARK + name.encode().ljust(16, b"-")
    for path in server.dir.rglob("*"):
        if path.is_file() and wanted in path.read_bytes():
            return True
    return False


def test_no_cache(serve: ServeFactory, sim: Sim) -> None:
    options = s3_ufs(sim.target())
    options["flags"] |= {"capacity": str(128 * MIB), "segment-size": str(8 * MIB)}
    server = serve("bypass", **options)
    s3 = server.target().client()
    bucket = fresh_name()
    s3.create_bucket(Bucket=bucket)
    apply(server, (f"/{bucket}/raw/**", "NO_CACHE"))
    at = lambda key: {"Bucket": bucket, "Key": key}  # noqa: E731
    bodies = {name: marked(name, size) for name, size in (("small", 10 * KIB), ("large", 3 * MIB + 7))}
    for name, body in bodies.items():
        s3.put_object(**at(f"raw/{name}"), Body=body)
    parts = marked("parts", 11 * MIB)
    upload = {**at("raw/parts"), "UploadId": s3.create_multipart_upload(**at("raw/parts"))["UploadId"]}
    etags = [
        {"PartNumber": n + 1, "ETag": s3.upload_part(**upload, PartNumber=n + 1, Body=parts[n * 6 * MIB :][: 6 * MIB])["ETag"]}
        for n in range(2)
    ]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": etags})
    s3.copy_object(**at("raw/copy"), CopySource=f"{bucket}/raw/large")
    root = server.flags["ufs"].split("/", 3)[3]
    wanted = {"small": bodies["small"], "large": bodies["large"], "copy": bodies["large"], "parts": parts}
    for name, body in wanted.items():
        for round_ in range(2):
            answer = s3.get_object(**at(f"raw/{name}"))
            assert answer["Body"].read() == body
            assert answer["ResponseMetadata"]["HTTPHeaders"]["x-quickwater-cache"] == "miss"
            part = s3.get_object(**at(f"raw/{name}"), Range="bytes=5000-9000")
            assert part["Body"].read() == body[5000:9001]
        gets = [r for r in sim.requests(f"{root}/{bucket}/raw/{name}") if r.operation == "GetObject"]
        assert len(gets) >= 4, "every read asks the store"
    # The witness: what is cached is found.
    s3.put_object(**at("cached"), Body=marked("cached", 3 * MIB))
    server.stop()
    assert on_disk(server, "cached")
    for name in ("small", "large", "parts"):
        assert not on_disk(server, name), name


def test_policies_outlive_the_service(serve: ServeFactory) -> None:
    server = serve("frozen")
    frozen = Frozen(server)
    server.kill()
    server.start()
    s3 = server.target().client()
    assert error_of(s3.put_object, **frozen.at("frozen/a"), Body=b"x") == DENIED
    stored = json.loads(server.cli("pathconfig", "get", "--output", "json").stdout)
    assert stored["version"] == 1


@one_process("workers go by new policies within a second")
def test_a_change_is_in_force_at_once(serve: ServeFactory) -> None:
    """Connections of both shards, kept alive across the changes."""
    server = serve("hot")
    bucket = fresh_name()
    clients = [server.target().client() for _ in range(8)]
    clients[0].create_bucket(Bucket=bucket)
    rest = Rest(server)
    for round_ in range(6):
        frozen = round_ % 2 == 0
        rules = [(f"/{bucket}", "READ_ONLY")] if frozen else []
        status, _, answer = rest.call("PUT", document(*rules))
        assert status == 200, answer
        for s3 in clients:
            if frozen:
                assert error_of(s3.put_object, Bucket=bucket, Key="k", Body=b"x") == DENIED
            else:
                s3.put_object(Bucket=bucket, Key="k", Body=b"x")


def test_rest(serve: ServeFactory) -> None:
    server = serve("rest")
    rest = Rest(server)
    status, headers, found = rest.call("GET")
    assert (status, headers["etag"], found["pathRules"]) == (200, '"0"', [])
    body = document(("/data/**", "NO_CACHE"))
    status, headers, found = rest.call("PUT", body, If_Match='"0"')
    assert (status, headers["etag"], found["version"]) == (200, '"1"', 1)
    assert found["warnings"] == [
        {"field": "$.pathRules[0].path", "message": 'there is no bucket "data" yet'}
    ]
    status, _, found = rest.call("PUT", body, If_Match='"0"')
    assert (status, found["error"]["code"], found["error"]["currentVersion"]) == (409, "StaleVersion", 1)
    status, _, found = rest.call("PUT", document(("data", "NO_CACHE"), ("/data", "NOTHING")))
    assert status == 400
    fields = [problem["field"] for problem in found["error"]["problems"]]
    assert fields == ["$.pathRules[0].path", "$.pathRules[1].policyMode"]
    status, _, found = rest.call("PUT", body, Authorization="Bearer " + "0" * 64)
    assert (status, found["error"]["code"]) == (401, "Unauthenticated")
    status, headers, found = rest.call("GET")
    assert (status, headers["etag"], found["pathRules"][0]["path"]) == (200, '"1"', "/data/**")


def test_command_line(serve: ServeFactory, tmp_path: Path) -> None:
    server = serve("cli")
    file = tmp_path / "p.json"
    file.write_text(document(("/checkpoints/**", "WRITE_BACK"), ("/logs/**", "READ_ONLY")))
    shown = server.cli("pathconfig", "apply", str(file), "--dry-run").stdout
    assert '+      "path": "/checkpoints/**"' in shown
    assert 'warning: $.pathRules[0].path: there is no bucket "checkpoints" yet' in shown
    assert "nobody has set" in server.cli("pathconfig", "history").stdout
    assert "version 1 is in force" in server.cli("pathconfig", "apply", str(file)).stdout

    tested = server.cli("pathconfig", "test", "--path", "/checkpoints/e-1/m.pt", "--output", "json").stdout
    assert '"policyMode": "WRITE_BACK"' in tested
    assert json.loads(tested)["rule"] == "/checkpoints/**"
    text = server.cli("pathconfig", "test", "--path", "s3://logs/x").stdout
    assert "READ_ONLY" in text and "(pathRules[1])" in text
    other = tmp_path / "other.json"
    other.write_text(document(default="NO_CACHE"))
    text = server.cli("pathconfig", "test", "--path", "/x/y", "--file", str(other)).stdout
    assert "NO_CACHE" in text and "not in force" in text

    kept = server.cli("pathconfig", "get").stdout
    assert json.loads(kept)["pathRules"][1]["policyMode"] == "READ_ONLY"
    file.write_text(kept)
    assert "no difference" in server.cli("pathconfig", "apply", str(file), "--dry-run").stdout

    stale = server.cli("pathconfig", "apply", str(other), "--expect", "0", check=False)
    assert stale.returncode == 1 and "version 1 is in force" in stale.stderr
    other.write_text('{"apiVersion": "v1.0", "pathRules": [{"path": "/a"}]}')
    bad = server.cli("pathconfig", "apply", str(other), check=False)
    assert bad.returncode == 2
    assert "$.pathRules[0].policyMode: is missing" in bad.stderr

    assert "version 2 is in force" in server.cli("pathconfig", "rollback", "0").stdout
    versions = json.loads(server.cli("pathconfig", "history", "--output", "json").stdout)["versions"]
    assert [(v["version"], v["rules"]) for v in versions] == [(2, 0), (1, 2)]
    assert "pathconfig rollback 0" in versions[0]["by"]
    for version, said in (("0", "built-in policies already"), ("2", "version 2 in force")):
        same = server.cli("pathconfig", "rollback", version)
        assert said in same.stdout and "nothing changed" in same.stdout, same.stdout
    versions = json.loads(server.cli("pathconfig", "history", "--output", "json").stdout)["versions"]
    assert [v["version"] for v in versions] == [2, 1], "no version without a change"
    missing = server.cli("pathconfig", "rollback", "77", check=False)
    assert missing.returncode == 1 and "no version 77" in missing.stderr


def edit(server: Server, script: Path, text: str) -> subprocess.CompletedProcess[str]:
    """`pathconfig edit` with an editor that is a shell script."""
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    env = {**os.environ, "EDITOR": str(script), "TMPDIR": str(script.parent)}
    env.pop("VISUAL", None)
    words = [str(server.program), "pathconfig", "edit", "--dir", str(server.admin_dir)]
    return subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=env, check=False
    )


def test_edit(serve: ServeFactory, tmp_path: Path) -> None:
    server = serve("edit")
    script = tmp_path / "editor.sh"
    kept = lambda: list(tmp_path.glob("quickwater-pathconfig-*"))  # noqa: E731
    same = edit(server, script, "true")
    assert same.returncode == 0 and "nothing changed" in same.stdout and kept() == []
    done = edit(server, script, 'sed -i s/WRITE_THROUGH\\"/READ_ONLY\\"/ "$1"')
    assert done.returncode == 0, done.stderr
    assert '-    "policyMode": "WRITE_THROUGH"' in done.stdout and "version 1 is in force" in done.stdout
    assert kept() == []
    bad = edit(server, script, 'sed -i s/READ_ONLY/READ_WRITE/ "$1"')
    assert bad.returncode == 1 and "$.defaultRule.policyMode" in bad.stderr
    assert len(kept()) == 1, "what was typed is not lost"
    failing = edit(server, script, "exit 3")
    assert failing.returncode == 1 and "nothing changed" in failing.stderr
    # Somebody else is faster.
    file = tmp_path / "p.json"
    file.write_text(document(default="NO_CACHE"))
    faster = f"{server.program} pathconfig apply {file} --dir {server.admin_dir} >/dev/null"
    late = edit(server, script, f'{faster}\nsed -i s/READ_ONLY/WRITE_THROUGH/ "$1"')
    assert late.returncode == 1 and "version 2 is in force" in late.stderr
    found = json.loads(server.cli("pathconfig", "get").stdout)
    assert found["defaultRule"]["policyMode"] == "NO_CACHE"


def test_settings_of_movers(serve: ServeFactory, tmp_path: Path) -> None:
    """The imported file starts a service."""
    properties = tmp_path / "alluxio-site.properties"
    properties.write_text(
        "alluxio.write.cache.enabled=true\n"
        "alluxio.worker.page.store.sizes=1GB,1GB\n"
        "alluxio.worker.page.store.pinned.file.capacity.limit.ratio=0.4\n"
        "alluxio.worker.write.cache.async.persist.retry.max.interval=5min\n"
        "alluxio.worker.s3.only.https.access=true\n"
        "aws.secretKey=topsecret\n"
    )
    probe = serve("probe", start=False)
    done = subprocess.run(
        [str(probe.program), "conf", "import", str(properties)],
        capture_output=True, text=True, timeout=60, check=True,
    )
    assert "topsecret" not in done.stdout + done.stderr
    assert "alluxio.worker.s3.only.https.access = true" in done.stdout
    settings = tmp_path / "imported.toml"
    settings.write_text(done.stdout)
    server = serve("moved", flags={"config": str(settings)}, start=False)
    del server.flags["capacity"]
    server.start()
    assert server.cli("conf", "get", "store.capacity").stdout.strip() == "2GiB"
    assert server.cli("conf", "get", "write_cache.dirty_ratio").stdout.strip() == "0.4"
    assert server.cli("conf", "get", "write_cache.persist_retry_max").stdout.strip() == "5m"
