"""The metadata are lost, disk and store are whole: `metadata rebuild` brings back what
was acked. Nothing older wins, nothing deleted comes back, damage is told by name.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from conftest import ServeFactory
from harness.payload import KIB, MIB, payload
from harness.server import Server, StartFailed
from harness.under import PERSIST_SECONDS, Place, scaled
from ufssim.client import Sim

pytestmark = [
    pytest.mark.usefixtures("write_back"),
    pytest.mark.embedded("its directory is removed"),
]

REBUILD_SECONDS = 120
LOSSES = 4


def command(server: Server, *words: str) -> list[str]:
    """`metadata rebuild` with the settings of a service."""
    flags = [f"--{name}={value}" for name, value in server.flags.items()]
    return [str(server.program), "metadata", "rebuild", *words, "--dir", str(server.dir), *flags]


def rebuild(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(server, *words), capture_output=True, text=True, timeout=REBUILD_SECONDS, check=False
    )


def lose_metadata(server: Server) -> None:
    shutil.rmtree(server.dir / "metadata")


def rules(place: Place, *more: tuple[str, str]) -> None:
    """`back/` is written back, `held/` never uploaded, all else written through."""
    modes = [("back/**", "WRITE_BACK"), ("held/**", "TRANSIENT"), *more]
    document = {
        "apiVersion": "v1.0",
        "pathRules": [{"path": f"/{place.bucket}/{path}", "policyMode": mode} for path, mode in modes],
    }
    path = place.server.home / "policies.json"
    path.write_text(json.dumps(document))
    place.server.cli("pathconfig", "apply", str(path))


def until(condition: Callable[[], Any], what: str, seconds: float = PERSIST_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.1)


def shown(place: Place, key: str) -> dict[str, Any]:
    """All a client sees of an object."""
    found = place.s3().get_object(Bucket=place.bucket, Key=key, ChecksumMode="ENABLED")
    fields = ("ETag", "ContentType", "Metadata", "LastModified", "ContentLength", "ChecksumCRC32", "TagCount")
    known = {name: found.get(name) for name in fields}
    state = found["ResponseMetadata"]["HTTPHeaders"].get("x-quickwater-persist-state", "")
    # Whether an attempt runs just now is chance.
    state = state.replace("PERSISTING", "NOT_PERSISTED")
    tags = place.s3().get_object_tagging(Bucket=place.bucket, Key=key)["TagSet"]
    return {**known, "body": found["Body"].read(), "tags": tags, "state": state}


def write_all(place: Place) -> tuple[list[str], list[str]]:
    """Everything a rebuild has to know, with the store down at the end. What is there,
    and what is gone."""
    s3, bucket = place.s3(), place.bucket
    # Too long for the object's own row.
    known = {"who": "me", "long": "x" * 600}
    rich = {"ContentType": "text/x-rich", "Metadata": known, "Tagging": "a=1"}

    def put(key: str, body: bytes, **more: Any) -> None:
        s3.put_object(Bucket=bucket, Key=key, Body=body, **more)

    put("through", payload(20 * KIB, "through"), **rich)
    for key in ("old", "over", "gone", "gone-told", "gone-many", "again"):
        put(f"back/{key}", payload(10 * KIB, key))
    place_is_persisted(place)
    s3.delete_object(Bucket=bucket, Key="back/gone-told")
    place_is_persisted(place)
    # Written back once, through later: the old entry must not win.
    rules(place, ("back/again", "WRITE_THROUGH"))
    put("back/again", b"through")
    rules(place)
    place.sim.down("refuse")
    put("back/small", payload(10 * KIB, "small"), ChecksumAlgorithm="CRC32", **rich)
    put("back/large", payload(3 * MIB + 5, "large"), **rich)
    put("back/empty", b"", **rich)
    for turn in range(3):
        put("back/over", payload(10 * KIB, turn))
    put("back/tagged", b"tagged", **rich)
    s3.put_object_tagging(Bucket=bucket, Key="back/tagged", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    s3.copy_object(Bucket=bucket, Key="back/copy", CopySource=f"{bucket}/back/small")
    parts = [payload(MIB, 1), payload(2 * MIB, 2), payload(77, 3)]
    for mode in ("back", "held"):
        assert place.multipart(f"{mode}/multi", parts, headers=[("content-type", "text/parts")]).acked
    put("back/born", b"first")
    s3.delete_object(Bucket=bucket, Key="back/born")
    put("back/born", b"again")
    put("back/dead", b"never told")
    s3.delete_object(Bucket=bucket, Key="back/dead")
    s3.delete_object(Bucket=bucket, Key="back/gone")
    assert all(place.delete_many(["back/gone-many", "back/never-was"]).values())
    put("held/one", payload(10 * KIB, "held"), **rich)
    put("held/empty", b"")
    for turn in range(2):
        put("held/over", payload(2 * MIB, turn))
    put("held/dead", b"x")
    s3.delete_object(Bucket=bucket, Key="held/dead")
    place.begin_upload("back/open", [payload(MIB, "open")])
    back = ("small", "large", "empty", "over", "tagged", "copy", "multi", "born")
    there = [f"back/{key}" for key in back] + [f"held/{key}" for key in ("one", "empty", "over", "multi")]
    gone = [f"back/{key}" for key in ("gone", "gone-told", "gone-many", "never-was", "dead")]
    return there, [*gone, "held/dead"]


def place_is_persisted(place: Place, folder: str = "") -> None:
    path = f"/{place.bucket}/{folder}".rstrip("/")
    place.server.cli("async-persist", "wait", "--path", path, "--timeout", "60s")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_was_acked_comes_back(store: Sim, serve: ServeFactory, end: str) -> None:
    store.reset()
    server = serve("own", **scaled(store))
    place = Place(server, store)
    server.cli("mount", "add", "second", f"file://{server.home / 'second'}", check=False)
    rules(place)
    there, gone = write_all(place)
    before = {key: shown(place, key) for key in there}
    policies = server.cli("pathconfig", "get").stdout
    buckets = server.cli("mount", "list").stdout
    getattr(server, end)()
    lose_metadata(server)

    # A start makes no new metadata to believe, and says what to do.
    with pytest.raises(StartFailed, match="metadata rebuild"):
        server.start()
    refused = rebuild(server)
    assert refused.returncode == 1 and "not empty" in refused.stderr, refused
    lose_metadata(server)
    tried = rebuild(server, "--dry-run")
    assert tried.returncode == 0 and "nothing was changed" in tried.stdout, tried
    assert not (server.dir / "metadata").exists() and not (server.dir / "rebuild-dry-run").exists()
    # Killed at any point it goes on.
    for pause in (0.02, 0.1, 0.3):
        with subprocess.Popen(command(server), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cut:
            time.sleep(pause)
            cut.kill()
        if cut.returncode == 0:
            break
    else:
        done = rebuild(server)
        # Killed after its last commit it is complete.
        assert done.returncode == 0 or "not empty" in done.stderr, done
        if done.returncode == 0:
            assert done.stdout.splitlines()[1:3] == tried.stdout.splitlines()[1:3], (tried, done)
            assert "deletes to be persisted: 5\n" in done.stdout, done.stdout
    assert rebuild(server).returncode == 1, "what is there is not rebuilt over"

    server.start()
    assert server.cli("pathconfig", "get").stdout == policies
    assert server.cli("mount", "list").stdout == buckets
    assert {key: shown(place, key) for key in there} == before
    # Of what had been told the store knows, when it is back.
    for key in set(gone) - {"back/gone-told"}:
        assert place.send("GET", key).status == 404, key
    assert place.s3().list_multipart_uploads(Bucket=place.bucket).get("Uploads", []) == []
    store.up()
    place_is_persisted(place)
    for key in gone:
        assert place.send("GET", key).status == 404, key
    stored = {key: place.stored_body(key) for key in place.stored()}
    expected = {key: value["body"] for key, value in before.items() if key.startswith("back/")}
    old = {f"back/{key}": payload(10 * KIB, key) for key in ("old",)}
    through = {"through": payload(20 * KIB, "through"), "back/again": b"through"}
    assert stored == {**expected, **old, **through}
    listed = place.s3().list_objects_v2(Bucket=place.bucket)["Contents"]
    assert {entry["Key"] for entry in listed} == set(stored) | {k for k in there if k.startswith("held/")}
    assert shown(place, "through")["Metadata"]["who"] == "me"
    for key in there:
        kept = {k: v for k, v in before[key].items() if k != "state"}
        found = {k: v for k, v in shown(place, key).items() if k != "state"}
        assert found == kept, key
    # What is done is not done again.
    told = len(store.journal(place.prefix))
    server.restart()
    assert all(place.send("GET", key).status == 404 for key in gone)
    assert [c for c in store.journal(place.prefix)[told:] if c.method in ("PUT", "DELETE", "POST")] == []


def test_what_is_restored_waits_for_what_may_be_under_way(store: Sim, serve: ServeFactory) -> None:
    store.reset()
    server = serve("own", **scaled(store, write_cache_fence="10m"))
    place = Place(server, store)
    folder, away = server.home / "folder", server.home / "away"
    folder.mkdir()
    server.cli("mount", "add", "folder", f"file://{folder}")
    server.cli("pathconfig", "apply", str(all_back(server)))
    s3, keys = place.s3(), ["back/one", "back/two"]
    store.down("refuse")
    folder.rename(away)
    for bucket in (place.bucket, "folder"):
        for key in keys:
            s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    server.kill()
    lose_metadata(server)
    away.rename(folder)
    done = rebuild(server)
    assert done.returncode == 0 and "only `write_cache.fence` after that start" in done.stdout, done
    # It says what it means that this was done.
    again = rebuild(server)
    assert again.returncode == 1, again
    assert "a rebuild that is complete" in again.stderr and "start the service" in again.stderr, again
    store.up()
    server.start()
    s3 = place.s3()

    def waiting() -> dict[str, dict[str, Any]]:
        """What has not been sent, of the store."""
        told = json.loads(server.cli("async-persist", "list", "--output", "json").stdout)
        return {line["key"]: line for line in told["changes"] if line["bucket"] == place.bucket}

    # A request to a folder ended with its process.
    until(lambda: all((folder / key).exists() for key in keys), "the folder has both")
    server.cli("async-persist", "retry", "--path", "/")
    shown = waiting()
    assert sorted(shown) == keys, shown
    for line in shown.values():
        assert (line["state"], line["attempts"], line["last_error"]) == ("NOT_PERSISTED", 0, None), line
        assert 60_000 < line["next_attempt_in_ms"] <= 600_000, line
    listed = server.cli("async-persist", "list").stdout
    assert len(re.findall(r" in \d\d+s ", listed)) == len(keys), listed
    assert server.metric("quickwater_persist_failing") == 0
    for key in keys:
        assert s3.get_object(Bucket=place.bucket, Key=key)["Body"].read() == key.encode()
    s3.put_object(Bucket=place.bucket, Key="back/two", Body=b"newer")
    assert 60_000 < waiting()["back/two"]["next_attempt_in_ms"], waiting()
    assert not place.stored()
    # Each start knows as little of what is under way.
    server.restart()
    assert 60_000 < waiting()["back/one"]["next_attempt_in_ms"]
    server.flags["write-cache-fence"] = "2s"
    server.restart()
    place_is_persisted(place)
    assert [place.stored_body(key) for key in keys] == [b"back/one", b"newer"]


def all_back(server: Server) -> Path:
    """Rules by which everything is written back."""
    path = server.home / "back.json"
    rule = {"policyMode": "WRITE_BACK"}
    path.write_text(json.dumps({"apiVersion": "v1.0", "defaultRule": rule}))
    return path


def find(server: Server, needle: bytes) -> list[tuple[Path, int]]:
    """Where some bytes lie in the segments."""
    found = []
    for path in sorted(server.dir.glob("store/shard-*/seg-*")):
        with path.open("rb") as file:
            at, rest = 0, b""
            while block := file.read(8 * MIB):
                hit = (rest + block).find(needle)
                if hit >= 0:
                    found.append((path, at - len(rest) + hit))
                rest, at = block[-len(needle) :], at + len(block)
    return found


def damage(server: Server, needle: bytes) -> None:
    places = find(server, needle)
    assert places, "it is nowhere"
    for path, at in places:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes(byte ^ 0xFF for byte in needle[:4]))


def test_damage_is_told_by_name(store: Sim, serve: ServeFactory) -> None:
    store.reset()
    server = serve("own", **scaled(store))
    place = Place(server, store)
    rules(place)
    bodies = {key: payload(20 * KIB, key) for key in ("held/well", "held/data", "held/entry-of-it")}
    for key, body in bodies.items():
        assert place.put(key, body).acked
    assert server.stop() == 0
    lose_metadata(server)
    damage(server, bodies["held/data"][1000:1100])
    damage(server, b"held/entry-of-it")
    done = rebuild(server)
    assert done.returncode == LOSSES, done
    assert f"{place.bucket}/held/data of {20 * KIB} bytes: 1 of its chunks are lost" in done.stdout, done
    assert "lost: 1\n" in done.stdout and "unreadable: 1\n" in done.stdout, done
    server.start()
    assert place.send("GET", "held/well").body == bodies["held/well"]
    ended = place.send("GET", "held/data")
    assert (ended.status, ended.code) == (410, "ObjectLost"), ended
    assert place.send("GET", "held/entry-of-it").status == 404
    assert server.stop() == 0

    (path, _), *_ = find(server, bodies["held/well"][1000:1100])
    lose_metadata(server)
    path.unlink()
    done = rebuild(server)
    assert done.returncode == LOSSES and "is missing" in done.stdout, done
    store.reset()


def test_a_store_that_cannot_tell_is_refused(store: Sim, serve: ServeFactory) -> None:
    store.reset()
    server = serve("own", **scaled(store))
    place = Place(server, store)
    rules(place)
    assert place.put("held/x", b"x").acked
    assert server.stop() == 0
    lose_metadata(server)
    names = server.dir / "store/names"
    names.rename(server.home / "names")
    done = rebuild(server)
    assert done.returncode == 1 and "names the buckets" in done.stderr, done
    (server.home / "names").rename(names)
    marks = server.dir / "store/marks"
    marks.rename(server.home / "marks")
    done = rebuild(server)
    assert done.returncode == 1 and "which of its writes the UFS has" in done.stderr, done
    marks.unlink()
    (server.home / "marks").rename(marks)
    done = rebuild(server)
    assert done.returncode == 0, done
    server.start()
    assert place.send("GET", "held/x").body == b"x"
    store.reset()


def lose_marks(server: Server, before: Path) -> None:
    """What was noted of ended entries and notes since then was never flushed."""
    for name in ("marks", "voids"):
        shutil.copy(before / name, server.dir / "store" / name)


def test_a_note_whose_mark_was_lost_does_not_come_back(store: Sim, serve: ServeFactory) -> None:
    """A delete replaces the note of an empty object, the mark of that note is lost in a crash,
    and the delete is told to the UFS after the start: the older note says nothing any more."""
    store.reset()
    server = serve("own", **scaled(store, capacity=str(256 * MIB), segment_size=str(4 * MIB)))
    place = Place(server, store)
    rules(place)
    store.down("refuse")
    keys = [f"{mode}/{number}" for mode in ("back", "held") for number in range(8)]
    for key in keys:
        assert place.put(key, b"").acked
    # The next notes come into other segments. Never uploaded: only the deletes are told.
    for number in range(16):
        assert place.put(f"held/fill-{number}", payload(MIB, number)).acked
    before = server.home / "flushed"
    before.mkdir()
    for name in ("marks", "voids"):
        shutil.copy(server.dir / "store" / name, before / name)
    assert all(place.delete_many(keys).values())
    server.kill()
    lose_marks(server, before)

    server.start()
    assert all(place.send("GET", key).status == 404 for key in keys)
    store.up()
    place_is_persisted(place, "back")
    assert server.stop() == 0
    lose_metadata(server)
    done = rebuild(server)
    assert done.returncode == 0 and "persisted" not in done.stdout, done
    assert "TRANSIENT objects: 16," in done.stdout, done
    server.start()
    assert all(place.send("GET", key).status == 404 for key in keys)
    assert not set(place.stored()) & set(keys)
    store.reset()


def test_notes_that_a_power_cut_took_are_written_again(store: Sim, serve: ServeFactory) -> None:
    """Notes have no flush of their own: a power cut takes them while the metadata have their
    commits. The next start writes them again, for a loss at any time after it."""
    store.reset()
    server = serve("own", **scaled(store))
    place = Place(server, store)
    rules(place)
    s3, bucket = place.s3(), place.bucket
    for key in ("back/gone", "back/cut"):
        assert place.put(key, payload(10 * KIB, key)).acked
    place_is_persisted(place, "back")
    store.down("refuse")
    for key in ("back/cut", "back/tagged", "back/kept", "held/over", "held/gone"):
        assert place.put(key, payload(20 * KIB, key)).acked
    uploads = {}
    for key in ("back/multi", "held/multi"):
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        part = {"Bucket": bucket, "Key": key, "UploadId": upload, "PartNumber": 1}
        uploads[key] = (upload, s3.upload_part(**part, Body=payload(MIB, key))["ETag"])
    server.kill()
    shutil.copytree(server.dir / "store", server.home / "flushed")
    server.start()
    s3 = place.s3()
    for key, (upload, etag) in uploads.items():
        parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload=parts)
    for key in ("back/gone", "held/gone"):
        s3.delete_object(Bucket=bucket, Key=key)
    for key in ("back/cut", "held/over"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    s3.put_object_tagging(Bucket=bucket, Key="back/tagged", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    server.kill()
    shutil.rmtree(server.dir / "store")
    shutil.copytree(server.home / "flushed", server.dir / "store")

    there = ("back/cut", "back/tagged", "back/kept", "back/multi", "held/over", "held/multi")
    server.start()
    before = {key: shown(place, key) for key in there}
    assert before["back/cut"]["body"] == b"" and before["back/tagged"]["tags"]
    until(lambda: server.metric("quickwater_rebuild_notes_waiting") == 0, "all are noted")
    server.restart()
    until(lambda: server.metric("quickwater_rebuild_notes_waiting") == 0, "all was noted")
    assert server.stop() == 0
    lose_metadata(server)
    done = rebuild(server)
    assert done.returncode == 0, done
    server.start()
    assert {key: shown(place, key) for key in there} == before
    gone = ("back/gone", "held/gone")
    assert all(place.send("GET", key).status == 404 for key in gone)
    store.up()
    until(lambda: "back/gone" not in place.stored(), "the delete is told")
    assert place.send("GET", "back/gone").status == 404
    store.reset()
