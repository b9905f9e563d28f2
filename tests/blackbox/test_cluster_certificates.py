"""Certificates of a cluster that are about to end: who says so, and how they are renewed."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from conftest import EXTERNAL
from harness.cluster_certificates import day_of, ends_in, seconds_of
from harness.cluster import SLOTS, Cluster, settled
from harness.server import binary

from .test_doctor import doctor

METRIC = "quickwater_cluster_certificate_not_after_timestamp_seconds"

pytestmark = pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One whose leases do not end by themselves, however busy the machine is."""
    made = Cluster(tmp_path / "cluster", "60s")
    yield made
    made.close()


def told(exposition: str) -> dict[str, float]:
    """What a process says of its certificates, by which."""
    lines = [line for line in exposition.splitlines() if line.startswith(METRIC + "{")]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


def renew(cluster: Cluster, *words: str) -> dict[str, dict[str, Any]]:
    """`cluster renew`, by the last part of each directory."""
    out = str(cluster.control.certificates)
    line = [str(binary()), "cluster", "renew", "--out", out, *words, "--output", "json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    all_of_them = json.loads(done.stdout)["certificates"]
    return {Path(one["directory"]).name: one for one in all_of_them}


def state(conditions: list[dict[str, str]]) -> tuple[str, str]:
    """State and detail of the certificate among the conditions of a process."""
    (found,) = [c for c in conditions if c["name"] == "cluster.certificate"] or [{}]
    return found.get("state", ""), found.get("detail", "")


def test_a_certificate_that_ends_soon_is_told_of_and_renewed(
    cluster: Cluster, tmp_path: Path
) -> None:
    control, made = cluster.control, cluster.control.certificates
    of_control, of_worker = made / "control", made / "workers" / "n1"
    ends_in(made / "ca", of_worker, 20)
    ends_in(made / "ca", of_control, 5)
    control.stop()
    control.start()
    worker = cluster.worker("n1")
    words = dict(word[2:].split("=", 1) for word in control.worker_flags("n1"))
    flags = {
        "dir": str(worker.dir),
        "ufs": cluster.ufs,
        "cluster-control": words["control"],
        "node-id": "n1",
        "cluster-certificates": str(of_worker),
    }
    held = {
        "own": seconds_of(of_worker / "cert.pem"),
        "authority": seconds_of(made / "ca" / "ca.pem"),
    }
    assert told(worker.metrics_text()) == held
    assert told(control.metrics_text())["own"] == seconds_of(of_control / "cert.pem")

    # With its next heartbeat, which comes every few seconds.
    of_n1 = lambda: state(cluster.nodes()["n1"]["conditions"])  # noqa: E731
    cluster.wait_for(lambda: of_n1()[0] == "expiring")
    assert f"until {day_of(of_worker / 'cert.pem')}" in of_n1()[1]
    status = json.loads(cluster.cli("status", "--output", "json").stdout)
    assert state(status["conditions"])[0] == "expiring", status
    for log in (worker.log(), control.log_path.read_text()):
        assert "quickwater cluster renew" in log
    _, found = doctor(tmp_path, flags)
    assert found["cluster certificates"]["verdict"] == "warn", found
    assert "quickwater cluster renew" in found["cluster certificates"]["advice"]
    assert "cluster certificate in use" not in found

    before = (of_control / "cert.pem").read_bytes()
    done = renew(cluster, "--worker", "n1", "--worker", "n2", "--within", "30")
    assert {name: one["renewed"] for name, one in done.items()} == {"n1": True, "n2": False}
    assert done["n1"]["until"] == day_of(of_worker / "cert.pem")
    assert (of_control / "cert.pem").read_bytes() == before
    # The file is new; the process still has the old one.
    _, found = doctor(tmp_path, flags)
    assert found["cluster certificates"]["verdict"] == "ok", found
    assert found["cluster certificate in use"]["verdict"] == "warn", found
    assert "restart" in found["cluster certificate in use"]["advice"]
    assert of_n1()[0] == "expiring"
    assert worker.stop() == 0
    worker.start()
    cluster.wait_for(lambda: of_n1()[0] == "valid")
    _, found = doctor(tmp_path, flags)
    assert "cluster certificate in use" not in found, found
    assert told(worker.metrics_text())["own"] > held["own"]

    # That of the control plane: workers with old and new ones go on with it.
    done = renew(cluster, "--within", "30")
    assert [name for name, one in done.items() if one["renewed"]] == ["control"]
    _, found = doctor(tmp_path, {"dir": str(control.dir), "cluster-certificates": str(of_control)})
    assert found["cluster certificate in use"]["verdict"] == "warn", found
    control.stop()
    control.start()
    cluster.settle(["n1"])
    s3 = worker.target().client()
    s3.create_bucket(Bucket="abc")
    s3.put_object(Bucket="abc", Key="key", Body=b"body")
    assert s3.get_object(Bucket="abc", Key="key")["Body"].read() == b"body"


def test_a_worker_whose_certificate_ends_loses_its_slots(tmp_path: Path) -> None:
    seconds = 40
    with settled(tmp_path / "ends", "3s", ["n1", "n2"]) as cluster:
        made = cluster.control.certificates
        of_worker = made / "workers" / "n1"
        first, second = cluster.workers["n1"], cluster.workers["n2"]
        s3 = second.target().client()
        s3.create_bucket(Bucket="abc")
        for number in range(20):
            s3.put_object(Bucket="abc", Key=f"k{number}", Body=b"body")
        ends_in(made / "ca", of_worker, seconds / 86_400)
        assert first.stop() == 0
        first.start()
        cluster.settle(["n1", "n2"], seconds)
        cluster.wait_slots(lambda slots: slots["n2"] == SLOTS)
        assert seconds_of(of_worker / "cert.pem") <= time.time()
        assert "quickwater cluster renew" in cluster.control.log_path.read_text()
        for number in range(20):
            assert s3.get_object(Bucket="abc", Key=f"k{number}")["Body"].read() == b"body"
        assert renew(cluster, "--within", "1")["n1"]["renewed"]
        first.stop()
        first.start()
        cluster.settle(["n1", "n2"])


def test_a_certificate_that_has_ended_is_refused_with_what_to_do(
    cluster: Cluster, tmp_path: Path
) -> None:
    made = cluster.control.certificates
    of_worker = made / "workers" / "n1"
    ends_in(made / "ca", of_worker, -2)
    worker = cluster.worker("n1", start=False)
    process = worker.launch()
    assert process.wait(120) == 1, worker.log_tail()
    assert "quickwater cluster renew" in worker.log() and "expired" in worker.log()
    flags = {"dir": str(worker.dir), "node-id": "n1", "cluster-certificates": str(of_worker)}
    code, found = doctor(tmp_path, flags)
    assert code == 1 and found["cluster certificates"]["verdict"] == "fail", found
    assert "2 days ago" in found["cluster certificates"]["found"], found
    assert renew(cluster, "--within", "1")["n1"]["renewed"]
    cluster.worker("n1")
    cluster.settle(["n1"])
