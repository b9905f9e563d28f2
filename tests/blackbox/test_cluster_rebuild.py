"""The metadata of a cluster are lost: they are made again from what its workers have.
Nothing older wins, nothing deleted comes back, what is missing is told by name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness import metadata
from harness.cluster import PATIENCE_SECONDS, SLOTS, Cluster, settled
from harness.freeze import freeze
from harness.payload import KIB, MIB, payload
from harness.server import StartFailed
from harness.under import SCALED

NODES = ["n1", "n2", "n3"]
FLAGS = {**SCALED, "metadata-ttl": "300ms", "write-cache-fence": "2s", "s3-min-part-size": "1MiB"}
LOSSES = 4
RULES = [
    ("back/**", "WRITE_BACK", 1, "local-1"),
    ("two/**", "WRITE_BACK", 2, "local-2"),
    ("held/**", "TRANSIENT", 1, "local-1"),
]


@contextmanager
def ruled(home: Path, nodes: list[str], lease: str = "3s") -> Iterator[Cluster]:
    """Workers, one bucket, and a path for each kind of write."""
    with settled(home, lease, nodes, flags=FLAGS) as cluster:
        cluster.ask_once("n1").create_bucket(Bucket="abc")
        rules = []
        for path, mode, copies, _ in RULES:
            rule: dict[str, Any] = {"path": f"/abc/{path}", "policyMode": mode}
            rules.append(rule | ({"properties": {"writeReplicas": copies}} if copies > 1 else {}))
        file = cluster.home / "rules.json"
        file.write_text(json.dumps({"apiVersion": "v1.0", "pathRules": rules}))
        assert cluster.cli("pathconfig", "apply", str(file)).returncode == 0
        for path, _, _, wanted in RULES:
            for node in nodes:
                keys = [f"{path.removesuffix('**')}asked-{node}-{number}" for number in range(6)]
                cluster.wait_for(lambda: all(promise(cluster, node, key) == wanted for key in keys))
        persisted(cluster)
        yield cluster


@pytest.fixture(name="three")
def three_workers(tmp_path: Path) -> Iterator[Cluster]:
    """Three of them."""
    with ruled(tmp_path / "rebuilt", NODES) as cluster:
        yield cluster


def promise(cluster: Cluster, node: str, key: str) -> str | None:
    """What a PUT says of where its bytes are; none: it is not acked, or in the UFS."""
    try:
        answer = cluster.ask_once(node).put_object(Bucket="abc", Key=key, Body=b"?")
    except (ClientError, BotoCoreError):
        return None
    return answer["ResponseMetadata"]["HTTPHeaders"].get("x-quickwater-durability")


def acked(cluster: Cluster, what: Callable[[], Any]) -> None:
    """Asks until it is acked."""

    def done() -> bool:
        try:
            what()
        except (ClientError, BotoCoreError):
            return False
        return True

    cluster.wait_for(done)


def put(cluster: Cluster, node: str, key: str, body: bytes, **more: Any) -> None:
    """Until it is acked."""
    acked(
        cluster, lambda: cluster.ask_once(node).put_object(Bucket="abc", Key=key, Body=body, **more)
    )


def delete(cluster: Cluster, node: str, key: str) -> None:
    """Until it is acked."""
    acked(cluster, lambda: cluster.ask_once(node).delete_object(Bucket="abc", Key=key))


def answer(cluster: Cluster, node: str, key: str) -> bytes | int:
    """The body of a key, or the status that came instead; 0: none came."""
    try:
        return bytes(cluster.ask_once(node).get_object(Bucket="abc", Key=key)["Body"].read())
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    except BotoCoreError:
        return 0


def persisted(cluster: Cluster) -> None:
    """Returns when the UFS has all it is to get."""
    done = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "2m")
    assert done.returncode in (0, 1), (done, cluster.logs())


def wrong(cluster: Cluster, wanted: dict[str, bytes | int]) -> list[tuple[str, str, Any]]:
    """What is answered otherwise, by any worker."""
    running = [node for node in NODES if cluster.workers[node].alive()]
    asked = [(node, key, answer(cluster, node, key)) for node in running for key in wanted]
    found = [one for one in asked if one[2] != wanted[one[1]]]
    return [(node, key, is_ if isinstance(is_, int) else is_[:20]) for node, key, is_ in found]


def agree(cluster: Cluster, wanted: dict[str, bytes | int]) -> None:
    """Waits until all workers answer so."""
    end = time.monotonic() + PATIENCE_SECONDS
    while found := wrong(cluster, wanted):
        assert time.monotonic() < end, f"{found}\n{cluster.logs()}"
        time.sleep(0.1)


def noted(cluster: Cluster) -> None:
    """Returns when the workers have noted, beside their stores, what is so by now: that is
    done within moments, not before an ack."""

    def names() -> bool:
        files = [cluster.workers[node].dir / "store" / "names" for node in NODES]
        return all(f.exists() and b"two/**" in f.read_bytes() and b"abc" in f.read_bytes() for f in files)

    cluster.wait_for(names)
    cluster.wait_for(lambda: cluster.sum("quickwater_rebuild_notes_waiting") == 0)
    # Said on the disk moments later.
    running = [worker for worker in cluster.workers.values() if worker.alive()]
    cluster.wait_for(lambda: not any((worker.dir / "slots-untold").exists() for worker in running))


def unmoved(cluster: Cluster, seconds: float = 12) -> None:
    """Returns when no slot has moved for longer than a drain waits between two attempts."""
    end = time.monotonic() + 120
    slots, since = cluster.slots(), time.monotonic()
    while time.monotonic() - since < seconds:
        assert time.monotonic() < end, cluster.logs()
        time.sleep(0.2)
        if (now := cluster.slots()) != slots:
            slots, since = now, time.monotonic()


def lose_metadata(cluster: Cluster) -> None:
    """What a control plane that does not run had is gone."""
    shutil.rmtree(cluster.control.dir / "metadata", ignore_errors=True)
    prefix = "--fdb-key-prefix="
    flags = cluster.control.flags
    cluster.control.flags = [f"{f}lost/" if f.startswith(prefix) else f for f in flags]


def kill_all(cluster: Cluster) -> None:
    """At once, and the metadata with it."""
    for node in NODES:
        cluster.workers[node].kill()
    cluster.control.kill()
    lose_metadata(cluster)


def run(words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, env=env
    )


def settings(cluster: Cluster, node: str) -> list[str]:
    """Those of a worker, for other verbs."""
    rest = cluster.workers[node].command()[2:]
    return [word for word in rest if not word.startswith(("--control=", "--node-id=", "--advertise="))]


def try_collect(cluster: Cluster, node: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The file, and what was said."""
    file = cluster.home / f"{node}.facts"
    file.unlink(missing_ok=True)
    words = [str(cluster.control.program), "metadata", "collect", str(file)]
    return file, run([*words, *settings(cluster, node)], cluster.env)


def collect(cluster: Cluster, node: str) -> Path:
    """What the store of a worker tells."""
    file, done = try_collect(cluster, node)
    assert done.returncode == 0 and f"worker {node}" in done.stdout, done
    return file


def command(cluster: Cluster, files: list[Path], *more: str) -> list[str]:
    """`metadata rebuild` with the settings of the control plane."""
    control = cluster.control
    words = [str(control.program), "metadata", "rebuild", "--dir", str(control.dir), *control.flags]
    return [*words, *more, *(f"--from={file}" for file in files)]


def rebuild(cluster: Cluster, files: list[Path], *more: str) -> subprocess.CompletedProcess[str]:
    return run(command(cluster, files, *more), {**cluster.env, **cluster.control.env})


def begin_again(cluster: Cluster, nodes: list[str]) -> None:
    """Starts all with the rebuilt metadata."""
    cluster.control.start()
    for node in nodes:
        cluster.worker(node)
    cluster.settle(nodes)


def multipart(cluster: Cluster, node: str, key: str, parts: list[bytes]) -> None:
    """An upload that is completed."""
    s3 = cluster.ask_once(node)
    upload = s3.create_multipart_upload(Bucket="abc", Key=key)["UploadId"]
    where = {"Bucket": "abc", "Key": key, "UploadId": upload}
    tags = [s3.upload_part(**where, PartNumber=n, Body=body)["ETag"] for n, body in enumerate(parts, 1)]
    listed = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": listed})


def test_what_was_acked_comes_back(three: Cluster) -> None:
    cluster = three
    ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    through = payload(20 * KIB, "through")
    put(cluster, "n1", "through", through)
    for key in ("back/over", "back/gone", "back/gone-told", "two/over", "back/again"):
        put(cluster, "n2", key, payload(10 * KIB, key))
    persisted(cluster)
    delete(cluster, "n1", "back/gone-told")
    persisted(cluster)
    there = {path.name for path in ufs.iterdir()}
    # Nothing gets to the UFS from here on.
    ufs.rename(away)
    wanted: dict[str, bytes | int] = {}
    rich = {"ContentType": "text/x-rich", "Metadata": {"who": "me"}, "Tagging": "a=1"}
    for number in range(12):
        for path in ("back", "two", "held"):
            key, node = f"{path}/k{number}", NODES[number % 3]
            wanted[key] = payload(9 * KIB + number, key)
            put(cluster, node, key, wanted[key], **rich)
    for path in ("back", "two", "held"):
        key = f"{path}/large"
        wanted[key] = payload(3 * MIB + 5, key)
        put(cluster, "n3", key, wanted[key])
    for key in ("back/over", "two/over"):
        for turn in range(3):
            wanted[key] = payload(10 * KIB, (key, turn))
            put(cluster, NODES[turn], key, wanted[key])
    wanted["back/empty"] = b""
    put(cluster, "n2", "back/empty", b"")
    for path in ("back", "held"):
        parts = [payload(MIB, (path, 1)), payload(MIB, (path, 2)), payload(77, (path, 3))]
        wanted[f"{path}/multi"] = b"".join(parts)
        acked(cluster, lambda: multipart(cluster, "n1", f"{path}/multi", parts))
    cluster.ask_once("n2").create_multipart_upload(Bucket="abc", Key="back/open")
    put(cluster, "n1", "back/dead", b"never told")
    put(cluster, "n1", "held/dead", b"never told")
    for key in ("back/gone", "back/dead", "held/dead"):
        delete(cluster, "n3", key)
    gone: dict[str, bytes | int] = dict.fromkeys(["back/gone", "back/dead", "held/dead"], 404)
    assert not wrong(cluster, {**wanted, **gone})
    policies = cluster.cli("pathconfig", "get").stdout
    noted(cluster)
    kill_all(cluster)

    # A control plane without its metadata is another cluster: nobody goes by it.
    cluster.control.start()
    with pytest.raises(StartFailed, match="belongs to cluster"):
        cluster.worker("n1")
    cluster.control.kill()
    files = [collect(cluster, node) for node in NODES]
    if metadata.is_embedded():
        refused = rebuild(cluster, files)
        assert refused.returncode == 1 and "not empty" in refused.stderr, refused
    lose_metadata(cluster)
    for bad, why in [
        (files[:2], "n3 owned slots"),
        ([*files, files[0]], "second file of worker n1"),
        ([cluster.home / "rules.json"], "damaged"),
    ]:
        refused = rebuild(cluster, bad)
        assert refused.returncode == 1 and why in refused.stderr, refused
    refused = rebuild(cluster, files, "--without=n3")
    assert refused.returncode == 1 and "said to be lost" in refused.stderr, refused
    tried = rebuild(cluster, files, "--dry-run")
    assert tried.returncode == 0 and "nothing was changed" in tried.stdout, tried
    # Killed at any point it goes on, in whatever order the files are named.
    for pause in (0.02, 0.1, 0.3):
        files.reverse()
        with subprocess.Popen(command(cluster, files), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as cut:
            time.sleep(pause)
            cut.kill()
        if cut.returncode == 0:
            break
    else:
        # What was entered is not mixed with what goes by other files or choices.
        other = rebuild(cluster, files, "--without=n9")
        refused = "was begun of 3 files" in other.stderr or "not empty" in other.stderr
        assert other.returncode == 0 or refused, other
        done = rebuild(cluster, files)
        # Killed after its last commit it is complete.
        assert done.returncode == 0 or "not empty" in done.stderr, done
        if done.returncode == 0:
            assert "deletes to be persisted: " in done.stdout, done
    assert rebuild(cluster, files).returncode == 1, "what is there is not rebuilt over"

    begin_again(cluster, NODES)
    assert cluster.cli("pathconfig", "get").stdout == policies
    agree(cluster, {**wanted, **gone})
    some = cluster.ask_once("n2").get_object(Bucket="abc", Key="two/k1")
    assert (some["ContentType"], some["Metadata"], some["TagCount"]) == ("text/x-rich", {"who": "me"}, 1)
    assert cluster.ask_once("n1").list_multipart_uploads(Bucket="abc").get("Uploads", []) == []
    # It is a cluster like any other, and the UFS gets all in the end.
    put(cluster, "n1", "back/again", b"new")
    wanted["back/again"] = b"new"
    away.rename(ufs)
    persisted(cluster)
    wanted["through"] = through
    agree(cluster, {**wanted, **gone, "back/gone-told": 404})
    found = {str(path.relative_to(ufs)): path for path in ufs.rglob("*") if path.is_file()}
    for key, body in wanted.items():
        assert key.startswith("held/") or found[key].read_bytes() == body, key
    assert not [key for key in [*gone, "back/gone-told"] if key in found]
    assert "through" in there


def test_nothing_older_comes_back_with_a_worker_that_was_away(three: Cluster) -> None:
    cluster = three
    ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    ufs.rename(away)
    old: dict[str, bytes | int] = {}
    for number in range(24):
        old[f"back/k{number}"] = b"old%d" % number
        put(cluster, NODES[number % 2], f"back/k{number}", b"old%d" % number)
    cluster.workers["n3"].kill()
    left = ["n1", "n2"]
    cluster.wait_for(lambda: cluster.slots().get("n3", 0) == 0)
    cluster.settle(left)
    # What only that worker has is out of reach, nothing else.
    only = [key for key in old if answer(cluster, "n1", key) != old[key]]
    cluster.wait_for(lambda: all(answer(cluster, "n1", key) == 503 for key in only))
    assert len(only) >= 4, only
    replaced, deleted, kept = only[0], only[1], only[2:]
    put(cluster, "n1", replaced, b"newer")
    delete(cluster, "n2", deleted)
    now = {**old, replaced: b"newer", deleted: 404}
    noted(cluster)
    kill_all(cluster)

    files = [collect(cluster, node) for node in NODES]
    # Nobody has to wait for it, but what only it has is named then.
    tried = rebuild(cluster, files[:2], "--dry-run")
    assert tried.returncode == LOSSES, tried
    assert all(f"abc/{key} of " in tried.stdout for key in kept), tried.stdout
    assert not any(f"abc/{key} of " in tried.stdout for key in (replaced, deleted)), tried.stdout
    done = rebuild(cluster, files)
    assert done.returncode == 0, done
    begin_again(cluster, NODES)
    agree(cluster, now)
    away.rename(ufs)
    persisted(cluster)
    agree(cluster, now)
    for key, body in now.items():
        path = ufs / key
        assert path.exists() != (body == 404), key
        assert body == 404 or path.read_bytes() == body, key


@pytest.mark.parametrize("killed", [["n1"], NODES], ids=["one", "all"])
def test_a_write_that_was_cut_takes_nothing_acked_with_it(three: Cluster, killed: list[str]) -> None:
    cluster = three
    ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    ufs.rename(away)
    keys = [f"two/cut{number}" for number in range(24)]
    old = {key: payload(9 * KIB, (key, "old")) for key in keys}
    new = {key: payload(11 * KIB, (key, "new")) for key in keys}
    for number, key in enumerate(keys):
        put(cluster, NODES[number % 3], key, old[key])
    noted(cluster)

    def is_acked(key: str) -> bool:
        try:
            cluster.ask_once(NODES[len(key) % 3]).put_object(Bucket="abc", Key=key, Body=new[key])
        except (ClientError, BotoCoreError):
            return False
        return True

    # Flushed with their commits, here and there, none of which is made: the control plane
    # does not answer.
    pinned = "quickwater_store_pinned_records"
    before = cluster.sum(pinned)
    control = cluster.control.process
    assert control is not None
    freeze(control.pid)
    with ThreadPoolExecutor(len(keys)) as pool:
        cut = {key: pool.submit(is_acked, key) for key in keys}
        # Bytes and entry, twice.
        wanted = before + 4 * len(keys)
        cluster.wait_for(lambda: cluster.sum(pinned) >= wanted or all(c.done() for c in cut.values()))
        for node in killed:
            cluster.workers[node].kill()
        cluster.control.kill()
        cluster.control.start()
        for node in killed:
            cluster.worker(node)
        acked_anew = {key for key, answered in cut.items() if answered.result()}
    cluster.settle(NODES)
    seen: dict[str, bytes | int] = {}
    for key in keys:
        cluster.wait_for(lambda: isinstance(answer(cluster, "n2", key), bytes), key)
        seen[key] = answer(cluster, "n2", key)
        assert seen[key] == new[key] or key not in acked_anew and seen[key] == old[key], key
    noted(cluster)
    kill_all(cluster)
    files = [collect(cluster, node) for node in NODES]
    done = rebuild(cluster, files)
    assert done.returncode == 0, done
    begin_again(cluster, NODES)
    # What nobody was told the end of may have been made after all, as long as it is newest.
    for key in keys:
        if len(killed) < len(NODES) and answer(cluster, "n3", key) == new[key]:
            seen[key] = new[key]
    agree(cluster, seen)
    away.rename(ufs)
    persisted(cluster)
    agree(cluster, seen)
    for key in keys:
        assert (ufs / key).read_bytes() == seen[key], key


def test_a_worker_that_was_not_there_is_not_taken_in_silently(three: Cluster) -> None:
    cluster = three
    ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    ufs.rename(away)
    ones = {f"back/k{number}": b"one%d" % number for number in range(12)}
    twos: dict[str, bytes | int] = {f"two/k{number}": b"two%d" % number for number in range(12)}
    for key, body in [*ones.items(), *twos.items()]:
        put(cluster, "n1", key, bytes(body) if isinstance(body, bytes) else b"")
    noted(cluster)
    kill_all(cluster)
    left = ["n1", "n2"]
    files = [collect(cluster, node) for node in left]
    refused = rebuild(cluster, files)
    assert refused.returncode == 1 and "n3 owned slots" in refused.stderr, refused
    done = rebuild(cluster, files, "--without=n3")
    # Nobody knows what was pending of its slots.
    assert done.returncode == LOSSES, done
    assert "worker n3, said to be lost, owned" in done.stdout, done
    assert re.search(r"^slots that lost workers owned: [1-9]", done.stdout, re.MULTILINE), done
    begin_again(cluster, left)
    # What had a copy is there, wherever it was.
    agree(cluster, twos)
    there = [key for key in ones if answer(cluster, "n1", key) == ones[key]]
    only = sorted(set(ones) - set(there))
    assert there and only, (there, only)

    # It comes after all: it is told why, and keeps what it has.
    with pytest.raises(StartFailed, match="older than what worker n3 has seen"):
        cluster.worker("n3")
    done = cluster.cli("cluster", "accept-older", "--output=json")
    assert json.loads(done.stdout)["workers"] == ["n3"], done
    cluster.worker("n3")
    cluster.settle(NODES)
    aside = cluster.workers["n3"].dir / "set-aside"
    lines = [json.loads(line) for line in (aside / "index.jsonl").read_text().splitlines()]
    found = {line["key"]: (aside / line["file"]).read_bytes() for line in lines}
    assert {key: found.get(key) for key in only} == {key: ones[key] for key in only}
    # Nothing of it came back by itself: what there is now only the UFS could tell.
    agree(cluster, {**twos, **dict.fromkeys(only, 503)})
    for key in only:
        put(cluster, "n1", key, found[key])
    away.rename(ufs)
    persisted(cluster)
    everything: dict[str, bytes | int] = {**ones, **twos}
    agree(cluster, everything)


@pytest.fixture(name="calm")
def calm_workers(tmp_path: Path) -> Iterator[Cluster]:
    """Three of them, with a lease that does not end."""
    with ruled(tmp_path / "calm", NODES, "75s") as cluster:
        yield cluster


def test_workers_that_are_stopped_one_after_the_other_note_what_they_took(calm: Cluster) -> None:
    """The last one takes all slots just before its own end."""
    cluster = calm
    ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    wanted: dict[str, bytes | int] = {}
    for path in ("back", "two"):
        for number in range(30):
            put(cluster, NODES[number % 3], f"{path}/k{number}", b"older")
    put(cluster, "n1", "back/gone", b"older")
    persisted(cluster)
    ufs.rename(away)
    for path in ("back", "two", "held"):
        for number in range(30):
            key = f"{path}/k{number}"
            wanted[key] = payload(9 * KIB, (key, "newest"))
            put(cluster, NODES[number % 3], key, wanted[key])
    delete(cluster, "n2", "back/gone")
    wanted["back/gone"] = 404
    noted(cluster)
    for node in NODES:
        assert cluster.workers[node].stop() == 0, cluster.logs()
    cluster.control.stop()
    lose_metadata(cluster)
    files = [collect(cluster, node) for node in NODES]
    done = rebuild(cluster, files)
    assert done.returncode == 0, done
    begin_again(cluster, NODES)
    agree(cluster, wanted)
    away.rename(ufs)
    persisted(cluster)
    agree(cluster, wanted)
    assert not (ufs / "back" / "gone").exists()


@pytest.mark.parametrize("known", [True, False], ids=["noted", "not-noted"])
def test_slots_that_were_not_noted_are_told(calm: Cluster, known: bool) -> None:
    """A worker is killed a moment after it took slots: who had them before tells what it had not
    noted. It is said that some may be missing."""
    cluster = calm
    ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    put(cluster, "n1", "back/any", b"older")
    persisted(cluster)
    ufs.rename(away)
    wanted: dict[str, bytes | int] = {}
    for number in range(60):
        key = f"two/k{number}"
        wanted[key] = payload(KIB, (key,))
        put(cluster, NODES[number % 3], key, wanted[key])
    noted(cluster)
    for node in NODES[:2]:
        assert cluster.workers[node].stop() == 0, cluster.logs()
    last = cluster.workers["n3"]
    untold = last.dir / "slots-untold"
    if known:
        cluster.wait_slots(lambda slots: slots["n3"] == sum(slots.values()))
        noted(cluster)
    last.kill()
    if not known:
        # It may have had the time.
        untold.touch()
    assert untold.exists() != known
    cluster.control.stop()
    lose_metadata(cluster)
    files = [collect(cluster, node) for node in NODES[:2]]
    file, told = try_collect(cluster, "n3")
    done = rebuild(cluster, [*files, file])
    assert told.returncode == done.returncode == (0 if known else 4), (told, done)
    for said in (told, done):
        assert ("had not yet noted" in said.stdout) != known, said
        assert "worker n3" in said.stdout or known, said
    begin_again(cluster, NODES)
    # With the metadata all is looked up.
    cluster.wait_for(lambda: not untold.exists())
    agree(cluster, wanted)
    away.rename(ufs)
    persisted(cluster)


def fill(cluster: Cluster) -> dict[str, bytes | int]:
    """Pending changes of all kinds, with copies, some of them of objects that the UFS has."""
    ufs, wanted = cluster.home / "ufs" / "abc", dict[str, bytes | int]()
    for number in range(30):
        put(cluster, NODES[number % 3], f"two/k{number}", b"older")
    persisted(cluster)
    ufs.rename(cluster.home / "away")
    for number in range(60):
        node, key = NODES[number % 3], f"two/k{number}"
        if number % 5 == 0 and number < 30:
            delete(cluster, node, key)
            wanted[key] = 404
            continue
        wanted[key] = payload(9 * KIB, (key,))
        if number % 2:
            put(cluster, node, key, wanted[key])
        else:
            acked(cluster, lambda: multipart(cluster, node, key, [wanted[key]]))
    noted(cluster)
    return wanted


def bring_back(cluster: Cluster, wanted: dict[str, bytes | int]) -> None:
    """All is rebuilt, whether or not it is said that some may be missing."""
    lose_metadata(cluster)
    told = [try_collect(cluster, node) for node in NODES]
    done = rebuild(cluster, [file for file, _ in told])
    for said in [done, *(said for _, said in told)]:
        assert said.returncode == (LOSSES if "had not yet noted" in said.stdout else 0), said
    begin_again(cluster, NODES)
    agree(cluster, wanted)
    (cluster.home / "away").rename(cluster.home / "ufs" / "abc")
    persisted(cluster)
    agree(cluster, wanted)


def test_what_a_dead_worker_had_comes_back_by_its_store(three: Cluster) -> None:
    """Others have its slots, and were killed before they could note what is pending of them."""
    cluster = three
    wanted = fill(cluster)
    cluster.workers["n1"].kill()
    cluster.wait_slots(lambda slots: slots["n1"] == 0)
    for node in NODES[1:]:
        cluster.workers[node].kill()
    cluster.control.kill()
    bring_back(cluster, wanted)


# `GIVEN_KEPT` of the engine's notes.
GIVEN_KEPT_SECONDS = 60


def drain_halfway(cluster: Cluster) -> bool:
    """Kills the control plane between the two tables by which the last slots of a drained worker
    move, milliseconds apart. Answers whether it was there in time: these slots are nobody's."""
    first, control = cluster.workers["n1"], cluster.control
    words = [str(control.program), "node", "drain", "n1", "--dir", str(control.dir)]
    with (
        first.log_path.open() as log,
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as drain,
    ):
        log.seek(0, os.SEEK_END)
        end, said = time.monotonic() + PATIENCE_SECONDS, ""
        # Those with something pending go last, a few at a time.
        while len(set(re.findall(r" slots=(\d{1,2}) ", said))) < 2:
            assert time.monotonic() < end, cluster.logs()
            said += log.read()
            # Its reader is not to keep the worker from saying it.
            time.sleep(0.0005)
        control.kill()
        drain.kill()
    # Its heirs may have a table that they have not gone by yet.
    seen = [-1, -2]
    while seen[-1] != seen[-2]:
        time.sleep(0.2)
        seen.append(int(cluster.sum("quickwater_slots_owned")))
    return seen[-1] < SLOTS


def test_slots_that_were_given_to_nobody_yet_are_told_by_who_gave_them(calm: Cluster) -> None:
    """The control plane is gone for good between the two tables of a move."""
    cluster = calm
    wanted = fill(cluster)
    for _ in range(8):
        if drain_halfway(cluster):
            break
        cluster.control.start()
        again = cluster.cli("node", "drain", "n1", "--cancel")
        assert again.returncode == 0, again
        cluster.settle(NODES)
    # For so long these stay once others have the slots.
    time.sleep(GIVEN_KEPT_SECONDS + 5)
    first = cluster.workers["n1"]
    cluster.wait_for(lambda: first.metric("quickwater_rebuild_notes_waiting") == 0)
    for node in NODES:
        assert cluster.workers[node].stop() == 0, cluster.logs()
    bring_back(cluster, wanted)


@pytest.fixture(name="four")
def four_workers(tmp_path: Path) -> Iterator[Cluster]:
    """One more."""
    with ruled(tmp_path / "four", [*NODES, "n4"]) as cluster:
        yield cluster


def test_a_holder_that_was_dropped_takes_nothing_with_it(four: Cluster) -> None:
    """Its copy went while the change was pending with others, of whom the owner is lost."""
    cluster = four
    ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    ufs.rename(away)
    wanted: dict[str, bytes | int] = {}
    for number in range(60):
        key = f"two/drop{number}"
        wanted[key] = payload(9 * KIB, key)
        put(cluster, NODES[number % 3], key, wanted[key])

    def kept() -> int:
        return int(cluster.metric("n4", "quickwater_copies_kept_objects"))

    assert kept() > 0
    begun = cluster.cli("node", "drain", "n4")
    assert begun.returncode == 0, begun
    cluster.wait_for(lambda: kept() == 0, kept)
    unmoved(cluster)
    noted(cluster)
    cluster.workers["n4"].kill()
    kill_all(cluster)
    files = [collect(cluster, node) for node in ["n1", "n3", "n4"]]
    done = rebuild(cluster, files, "--without=n2")
    # All that anybody knows of; it owned slots.
    assert done.returncode == LOSSES and "\nlost: " not in done.stdout, done
    begin_again(cluster, ["n1", "n3", "n4"])
    agree(cluster, wanted)


@pytest.mark.parametrize("what", ["leave", "restore"])
def test_what_may_have_been_overtaken_is_asked_for(three: Cluster, what: str) -> None:
    """A worker went away with something pending, which others have replaced and deleted since: the
    UFS has that. Then the metadata are lost, and one of these others."""
    cluster = three
    ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
    ufs.rename(away)
    keys = [f"back/over{number}" for number in range(60)]
    for number, key in enumerate(keys):
        put(cluster, NODES[number % 3], key, b"older")
    noted(cluster)
    cluster.workers["n1"].kill()
    cluster.wait_slots(lambda slots: slots["n1"] == 0)
    away.rename(ufs)
    newer: dict[str, bytes | int] = {}
    for number, key in enumerate(keys):
        node = NODES[1 + number % 2]
        if number % 3:
            put(cluster, node, key, b"newer")
        else:
            delete(cluster, node, key)
        newer[key] = b"newer" if number % 3 else 404

    def in_ufs() -> dict[str, bytes | int]:
        files = {key: ufs / key for key in keys}
        return {key: file.read_bytes() if file.exists() else 404 for key, file in files.items()}

    cluster.wait_for(lambda: in_ufs() == newer, in_ufs)
    persisted(cluster)
    noted(cluster)
    for node in NODES[1:]:
        cluster.workers[node].kill()
    cluster.control.kill()
    lose_metadata(cluster)
    left = NODES[:2]
    files = [collect(cluster, node) for node in left]
    refused = rebuild(cluster, files, "--without=n3")
    assert refused.returncode == 1 and "--overtaken=leave" in refused.stderr, refused
    assert "away by then (n1)" in refused.stderr, refused
    tried = rebuild(cluster, files, "--without=n3", "--dry-run")
    assert tried.returncode == LOSSES, tried
    named = set(re.findall(r"'?abc/(back/over\d+)'?: .* worker n1 tells", tried.stdout))
    done = rebuild(cluster, files, "--without=n3", f"--overtaken={what}")
    assert done.returncode == LOSSES and named and named < set(keys), (done, tried)
    begin_again(cluster, left)
    persisted(cluster)
    expected = newer if what == "leave" else {**newer, **dict.fromkeys(named, b"older")}
    cluster.wait_for(lambda: in_ufs() == expected, in_ufs)
    agree(cluster, expected)


def test_files_of_two_clusters_do_not_mix(tmp_path: Path) -> None:
    files = []
    for name in ("one", "other"):
        with settled(tmp_path / name, "3s", ["n1"] if name == "one" else ["n2"], flags=FLAGS) as cluster:
            node = next(iter(cluster.workers))
            store = cluster.workers[node].dir / "store" / "names"
            cluster.wait_for(store.exists)
            running = collect_fails(cluster, node)
            assert "another process" in running or "in use" in running or "runs" in running, running
            cluster.workers[node].stop()
            files.append(collect(cluster, node))
            cluster.control.stop()
            lose_metadata(cluster)
            if name == "other":
                done = rebuild(cluster, files)
                assert done.returncode == 1 and "of cluster" in done.stderr, done
                # `serve` has its own way.
                words = [str(cluster.control.program), "metadata", "rebuild"]
                done = run([*words, *settings(cluster, node)], cluster.env)
                assert done.returncode == 1 and "directory of a worker" in done.stderr, done


def collect_fails(cluster: Cluster, node: str) -> str:
    """What it says of a worker that runs."""
    file = cluster.home / "none.facts"
    words = [str(cluster.control.program), "metadata", "collect", str(file)]
    done = run([*words, *settings(cluster, node)], cluster.env)
    assert done.returncode == 1 and not file.exists(), done
    return done.stderr
