"""A worker that does not answer, and has what no UFS has: nobody is told that nothing waits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from conftest import EXTERNAL
from harness.cluster import PATIENCE_SECONDS, Cluster, settled
from harness.freeze import freeze
from harness.under import STORE_BUCKET, scaled
from ufssim.client import Sim

NODES = ["n1", "n2"]
FROZEN = "n2"
ROOT = "root/abc"
KEYS = [f"k{number:02}" for number in range(12)]

pytestmark = pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own")


@pytest.fixture
def cluster(tmp_path: Path, store: Sim) -> Iterator[Cluster]:
    """Two workers whose leases do not end by themselves."""
    store.reset()
    with settled(tmp_path / "cluster", "10m", NODES, **scaled(store)) as made:
        yield made


def told(cluster: Cluster, verb: str, *words: str) -> tuple[int, dict[str, Any]]:
    """How a verb of `async-persist` ends, and what it says."""
    done = cluster.cli("async-persist", verb, *words, "--output", "json")
    assert done.stdout, f"{done}\n{cluster.logs()}"
    return done.returncode, json.loads(done.stdout)


def page(cluster: Cluster) -> dict[str, Any]:
    """What the status page is made of."""
    token = (cluster.control.dir / "admin-token").read_text().strip()
    url = f"http://{cluster.control.run['admin']}/api/v1/status"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as reply:
        return json.loads(reply.read())


def rates(cluster: Cluster, what: str) -> dict[str, list[float | None]]:
    """What workers told of the last minutes, by name, and together; what nobody told is none."""
    shown = page(cluster)
    assert shown["traffic"]["step_ms"] > 0
    told = {node["name"]: (node["traffic"] or {}).get(what, []) for node in shown["nodes"]}
    return {**told, "all": shown["traffic"][what]}


def latest(cluster: Cluster, what: str) -> dict[str, float | None]:
    """The same of the last step that is over."""
    return {name: (steps or [None])[-1] for name, steps in rates(cluster, what).items()}


def test_what_a_frozen_worker_has_is_counted_and_waited_for(cluster: Cluster, store: Sim) -> None:
    s3 = cluster.worker("n1").target().client()
    s3.create_bucket(Bucket="abc")
    cluster.policy_of_all("WRITE_BACK")
    done = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "2m")
    assert done.returncode == 0, done
    store.rule("status", status=507, code="Full", method="PUT", key=f"{ROOT}/back/*")
    for key in KEYS:
        s3.put_object(Bucket="abc", Key=f"back/{key}", Body=key.encode())
    cluster.wait_for(lambda: sum(int(node["changes"]) for node in cluster.nodes().values()) == len(KEYS))
    queued = {name: int(node["changes"]) for name, node in cluster.nodes().items()}
    assert min(queued.values()) > 0, "keys of either worker"
    for name in NODES:
        code, said = told(cluster, "list", "--worker", name)
        lines = [(line["worker"], line["holders"]) for line in said["changes"]]
        assert code == 0 and lines == [(name, [name])] * queued[name], said

    def asked() -> bool:
        """Again and again: what was moved before a worker first told of it is in no step."""
        s3.get_object(Bucket="abc", Key=f"back/{KEYS[0]}")["Body"].read()
        return any(rates(cluster, "sent_bytes")["n1"])

    cluster.wait_for(asked)
    cluster.wait_for(lambda: None not in latest(cluster, "sent_bytes").values())
    per_second = cluster.nodes()["n1"]["per_second"]
    assert per_second and set(per_second) >= {"sent_bytes", "requests"}, per_second

    freeze(cluster.worker(FROZEN).pid)
    store.clear_rules()
    under = store.target().client()

    def there() -> set[str]:
        listed = under.list_objects_v2(Bucket=STORE_BUCKET, Prefix=f"{ROOT}/back/")
        return {line["Key"].removeprefix(f"{ROOT}/back/") for line in listed.get("Contents", [])}

    def counted() -> bool:
        code, said = told(cluster, "wait", "--path", "/abc/back", "--timeout", "0s")
        assert code == 1 and not said["persisted"] and said["pending"]["unheard"] == [FROZEN], said
        assert said["pending"]["objects"] >= queued[FROZEN], said
        return bool(said["pending"]["objects"] == queued[FROZEN])

    # All that the other one has is persisted, and no more: a request that the frozen one
    # had sent may be applied, but not told to the metadata.
    cluster.wait_for(counted)
    assert len(there()) >= queued["n1"]
    done = cluster.cli("async-persist", "wait", "--path", "/", "--timeout", "0s")
    assert done.returncode == 1 and f"no answer from {FROZEN}" in done.stdout, done
    code, said = told(cluster, "list")
    assert code == 0 and said["totals"]["objects"] == queued[FROZEN], said
    assert said["totals"]["unheard"] == [FROZEN]
    done = cluster.cli("async-persist", "list")
    assert f"no answer from {FROZEN}" in done.stdout and "nothing waits" not in done.stdout, done
    for key in sorted(set(KEYS) - there())[:2]:
        code, said = told(cluster, "stat", "--path", f"/abc/back/{key}")
        assert code == 0 and (said["state"], said["worker"]) == ("NOT_PERSISTED", FROZEN), said
        assert "no worker shows it" in said["last_error"] and said["holders"] == [FROZEN]
    shown = page(cluster)["persist"]["totals"]
    assert (shown["puts"], shown["unheard"]) == (queued[FROZEN], [FROZEN])

    code, said = told(cluster, "retry", "--path", "/abc")
    assert (code, said["unheard"]) == (1, [FROZEN]), said
    # Nobody takes it for idle: what it does not tell is none, and not 0.
    cluster.wait_for(lambda: latest(cluster, "sent_bytes")[FROZEN] is None)
    assert rates(cluster, "sent_bytes")["n1"], "the other one tells"
    assert cluster.nodes()[FROZEN]["per_second"] is None

    os.kill(cluster.worker(FROZEN).pid, signal.SIGCONT)
    done = cluster.cli("async-persist", "wait", "--path", "/abc/back", "--timeout", "2m")
    assert done.returncode == 0, f"{done}\n{cluster.logs()}"
    assert there() == set(KEYS)
    cluster.wait_for(lambda: page(cluster)["persist"]["totals"]["unheard"] == [])
    cluster.wait_for(lambda: latest(cluster, "sent_bytes")[FROZEN] is not None)
    code, said = told(cluster, "retry", "--path", "/abc")
    assert (code, said["unheard"]) == (0, []), said


def test_who_keeps_a_bucket_from_being_removed_is_named(cluster: Cluster) -> None:
    s3 = cluster.ask_once("n1")
    s3.create_bucket(Bucket="abc")
    freeze(cluster.workers[FROZEN].pid)
    with pytest.raises(ClientError) as told:
        s3.delete_bucket(Bucket="abc")
    os.kill(cluster.workers[FROZEN].pid, signal.SIGCONT)
    assert told.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert f"orker {FROZEN}" in told.value.response["Error"]["Message"], told.value
    failed = [line for line in cluster.workers["n1"].log().splitlines() if "failed" in line]
    assert any(f"node={FROZEN}" in line or f'node="{FROZEN}"' in line for line in failed), failed

    def removed() -> bool:
        with contextlib.suppress(ClientError):
            s3.delete_bucket(Bucket="abc")
        return not s3.list_buckets()["Buckets"]

    cluster.wait_for(removed)
