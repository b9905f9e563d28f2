"""Workers that have seen more than the control plane knows, workers that are there twice,
and workers that nobody could reach: none is taken in silently."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness import metadata
from harness.cluster import PATIENCE_SECONDS, Cluster, settled
from harness.server import Server, StartFailed, binary
from harness.under import SCALED

NODES = ["n1", "n2"]
FLAGS = {**SCALED, "metadata-ttl": "300ms", "write-cache-fence": "2s"}
REFUSED = "quickwater_cluster_refused_workers"


def answer(cluster: Cluster, node: str, key: str) -> bytes | int:
    """The body of a key, or the status that came instead; 0: none came."""
    try:
        return bytes(cluster.ask_once(node).get_object(Bucket="abc", Key=key)["Body"].read())
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    except BotoCoreError:
        return 0


def put(cluster: Cluster, node: str, key: str, body: bytes) -> None:
    """Until it is acked."""

    def acked() -> bool:
        try:
            cluster.ask_once(node).put_object(Bucket="abc", Key=key, Body=body)
        except (ClientError, BotoCoreError):
            return False
        return True

    cluster.wait_for(acked)


def refused(cluster: Cluster, reason: str = "older_metadata") -> float:
    """How many workers the control plane shows as not taken in."""
    line = f'{REFUSED}{{reason="{reason}"}} '
    lines = cluster.control.metrics_text().splitlines()
    return sum(float(found.removeprefix(line)) for found in lines if found.startswith(line))


def terms(cluster: Cluster) -> dict[str, str]:
    """Which control process each worker has noted on its disk."""
    notes = {node: cluster.workers[node].dir / "cluster.json" for node in NODES}
    return {node: str(json.loads(note.read_text())["term"]) for node, note in notes.items()}


def put_back(cluster: Cluster, kept: Path) -> None:
    """Kills the control plane and starts it with other metadata."""
    cluster.control.kill()
    shutil.rmtree(cluster.control.dir)
    shutil.copytree(kept, cluster.control.dir)
    cluster.control.start()


def wrong(cluster: Cluster, wanted: dict[str, bytes]) -> list[tuple[str, str, bytes | int]]:
    """What is answered otherwise, by any worker."""
    asked = [(node, key, answer(cluster, node, key)) for node in NODES for key in wanted]
    return [one for one in asked if one[2] != wanted[one[1]]]


def run_copy(server: Server, copy: Path) -> str:
    """What a worker says that runs on a copy of the directory of another one. If that did
    not answer in time for once, the copy is taken in: it is ended then."""
    (copy / "run.json").unlink(missing_ok=True)
    words = [word.replace(str(server.dir), str(copy)) for word in server.command()]
    env = {key: value for key, value in os.environ.items() if not key.startswith("QUICKWATER_")}
    log = copy.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(words, env={**env, **server.env}, stdout=out, stderr=out)
    end = time.monotonic() + PATIENCE_SECONDS
    try:
        while process.poll() is None and not (copy / "run.json").exists():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    return log.read_text()


@pytest.mark.skipif(not metadata.is_embedded(), reason="copies the directory of the metadata")
def test_older_metadata_undo_nothing_unless_an_operator_says_so(tmp_path: Path) -> None:
    with settled(tmp_path / "older", "3s", NODES, flags=FLAGS) as cluster:
        ufs, away = cluster.home / "ufs" / "abc", cluster.home / "away"
        cluster.ask_once("n1").create_bucket(Bucket="abc")
        cluster.policy_of_all("WRITE_BACK", 2)
        assert cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "2m").returncode == 0
        # Nothing gets to the UFS from here on.
        ufs.rename(away)
        before = {f"before{number}": b"old" for number in range(4)}
        for key, body in before.items():
            put(cluster, "n1", key, body)
        # A backup, properly made.
        earlier = terms(cluster)
        cluster.control.stop()
        backup, newest = cluster.home / "backup", cluster.home / "newest"
        shutil.copytree(cluster.control.dir, backup)
        cluster.control.start()
        cluster.settle(NODES)
        acked = {**before, "before0": b"overwritten", "before1": b"overwritten too"}
        acked |= {f"after{number}": b"new%d" % number for number in range(4)}
        for key, body in acked.items():
            if before.get(key) != body:
                put(cluster, "n2", key, body)
        assert not wrong(cluster, acked)
        cluster.wait_for(lambda: all(terms(cluster)[node] != earlier[node] for node in NODES))
        cluster.control.kill()
        shutil.copytree(cluster.control.dir, newest)

        put_back(cluster, backup)
        cluster.wait_for(lambda: refused(cluster) == len(NODES))
        shown = cluster.cli("status", "--output", "json")
        whys = {one["name"]: one["why"] for one in json.loads(shown.stdout)["refused"]}
        assert sorted(whys) == NODES and "accept-older" in whys["n1"], whys
        assert "is refused" in cluster.cli("doctor").stdout
        # A worker that starts is told the reason, and lets go of nothing.
        cluster.workers["n1"].kill()
        with pytest.raises(StartFailed, match="older than what worker n1 has seen"):
            cluster.worker("n1")
        # Nobody answers by them: no older version, and no 404.
        some = {key: acked[key] for key in ("before0", "after0", "after1")}
        told = [one for one in wrong(cluster, some) if one[2] not in (0, 503)]
        assert not told, told
        # The newer ones put back: as if nothing had been.
        put_back(cluster, newest)
        cluster.worker("n1")
        cluster.settle(NODES)
        cluster.wait_for(lambda: not wrong(cluster, acked))
        assert refused(cluster) == 0

        # The older ones for good: what was acked since is given up, by name, and kept as files.
        put_back(cluster, backup)
        cluster.wait_for(lambda: refused(cluster) == len(NODES))
        tried = json.loads(cluster.cli("cluster", "accept-older", "--dry-run", "--output=json").stdout)
        assert tried == {"accepted": False, "workers": NODES}
        done = json.loads(cluster.cli("cluster", "accept-older", "--output=json").stdout)
        assert done == {"accepted": True, "workers": NODES}
        # What runs remembers what was given up.
        cluster.wait_for(lambda: refused(cluster) == len(NODES))
        for node in NODES:
            cluster.workers[node].kill()
        for node in NODES:
            cluster.worker(node)
        cluster.settle(NODES)
        assert refused(cluster) == 0
        for node in NODES:
            aside = cluster.workers[node].dir / "set-aside"
            lines = [json.loads(line) for line in (aside / "index.jsonl").read_text().splitlines()]
            found = {
                (line["bucket"], line["key"]): (aside / line["file"]).read_bytes() for line in lines
            }
            assert all(line["whole"] for line in lines), lines
            for key, body in acked.items():
                if before.get(key) != body:
                    assert found.get(("abc", key)) == body, (node, key, sorted(found))
            assert "was set aside" in cluster.workers[node].log()
        # The state of the backup, for all.
        kept = {key: body for key, body in before.items() if acked[key] == body}
        cluster.wait_for(lambda: not wrong(cluster, kept))
        # And once, not with every start.
        shutil.rmtree(cluster.workers["n1"].dir / "set-aside")
        cluster.workers["n1"].kill()
        cluster.worker("n1")
        cluster.settle(NODES)
        assert not (cluster.workers["n1"].dir / "set-aside").exists()


def test_a_copy_of_a_worker_is_refused_while_the_worker_answers(tmp_path: Path) -> None:
    with settled(tmp_path / "twins", "60s", NODES, flags=FLAGS) as cluster:
        one = cluster.workers["n1"]
        cluster.ask_once("n1").create_bucket(Bucket="abc")
        bodies = {f"k{number}": b"v%d" % number for number in range(8)}
        for key, body in bodies.items():
            put(cluster, "n1", key, body)
        one.kill()
        copy = cluster.home / "copy"
        shutil.copytree(one.dir, copy)
        cluster.worker("n1")
        cluster.settle(NODES)
        said = ""

        def told() -> bool:
            nonlocal said
            said = run_copy(one, copy)
            return "on a copy of that directory" in said

        cluster.wait_for(told)
        assert str(one.run["peers"]) in said, said
        assert refused(cluster, "name") == 1
        cluster.wait_for(lambda: not wrong(cluster, bodies))


def test_a_wildcard_is_no_address_of_a_worker(tmp_path: Path) -> None:
    words = ["worker", "--dir", str(tmp_path / "dir"), "--control", "127.0.0.1:1", "--node-id", "n1"]
    done = subprocess.run(
        [str(binary()), *words, "--advertise", "0.0.0.0:7000"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 2 and "no wildcard" in done.stderr, done
