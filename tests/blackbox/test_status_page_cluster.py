"""The status page of a control plane, in a real browser: three workers, of which one is lost,
a queue that its storage refuses, a job under way."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from harness.browser import Browser
from harness.cluster import PATIENCE_SECONDS, SLOTS, Cluster, settled
from harness.under import STORE_BUCKET, scaled
from ufssim.client import Sim

NODES = ["n1", "n2", "n3"]
LOST = "n3"
ROOT = "root/abc"
# So that each worker owns some of either.
WRITTEN, LOADED = 60, 40
SIZE = 64 << 10
# Longer than a busy machine stops a worker for, who would not be as it was after that.
LEASE = "15s"
# CSS pixels of a desk and of a telephone.
WIDTHS = (1280, 420)


@pytest.fixture
def cluster(tmp_path: Path, store: Sim) -> Iterator[Cluster]:
    """Three workers before a store that is slow with some GETs, which they have patience
    with."""
    store.reset()
    patient = {"ufs_timeout_idle": "10m", "ufs_timeout_request": "10m", "metadata_ttl": "10m"}
    with settled(tmp_path / "cluster", LEASE, NODES, **scaled(store, **patient)) as made:
        yield made
        # What the store is slow with need not end.
        for server in made.workers.values():
            server.kill()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A browser with an empty page."""
    made = Browser(tmp_path / "browser")
    yield made
    made.close()


def put(s3: Any, key: str) -> str:
    """Writes an object, as often as it is told to come back; where its bytes are."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = s3.put_object(Bucket="abc", Key=key, Body=bytes(SIZE))
            return str(answer["ResponseMetadata"]["HTTPHeaders"]["x-quickwater-durability"])
        except ClientError as error:
            told = error.response["ResponseMetadata"]["HTTPStatusCode"]
            assert told == 503 and time.monotonic() < end, error


def write_back(cluster: Cluster, store: Sim) -> None:
    """Objects that every worker has some of, and that the store refuses."""
    rules = cluster.home / "rules.json"
    rule = {"path": "/abc/back/**", "policyMode": "WRITE_BACK"}
    rules.write_text(json.dumps({"apiVersion": "v1.0", "pathRules": [rule]}))
    done = cluster.cli("pathconfig", "apply", str(rules))
    assert done.returncode == 0, done
    clients = [cluster.worker(node).target().client() for node in NODES]
    end = time.monotonic() + PATIENCE_SECONDS
    for number in range(WRITTEN):
        key = f"back/k{number:02}"
        # In force within a second, at one worker after the other.
        while put(clients[number % len(clients)], key) != "local-1":
            assert time.monotonic() < end, cluster.logs()


def load(cluster: Cluster, store: Sim) -> None:
    """A job that does not come to its end, because some GETs do not."""
    under = store.target().client()
    for number in range(LOADED):
        under.put_object(Bucket=STORE_BUCKET, Key=f"{ROOT}/load/k{number:02}", Body=bytes(SIZE))
    store.rule("slow", method="GET", key=f"{ROOT}/load/k3*", bytes_per_second=1)
    done = cluster.cli("job", "load", "--path", "/abc/load")
    assert done.returncode == 0, done


def line(node: str) -> str:
    """Script: a worker's line."""
    lines = "[...document.querySelectorAll('#nodes tbody tr')]"
    return f"{lines}.find((line) => line.cells[0].innerText === {json.dumps(node)})"


def cell(node: str, column: int) -> str:
    """Script: what a cell of it says."""
    return f"{line(node)}?.cells[{column}].innerText"


def take_pictures(browser: Browser, folder: Path) -> None:
    """Light and dark, wide and narrow; nothing may be wider than the window."""
    for width in WIDTHS:
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=1400,
                     deviceScaleFactor=1, mobile=False)  # fmt: skip
        for scheme in ("light", "dark"):
            feature = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.call("Emulation.setEmulatedMedia", features=feature)
            browser.picture(folder / f"status-cluster-{scheme}-{width}.png")
        sideways = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not browser.run(sideways), f"at {width} pixels the page scrolls sideways"
    browser.call("Emulation.clearDeviceMetricsOverride")


def test_a_cluster_that_lost_a_worker(
    cluster: Cluster, store: Sim, browser: Browser, tmp_path: Path
) -> None:
    cluster.worker("n1").target().client().create_bucket(Bucket="abc")
    store.rule("status", status=507, code="Full", method="PUT", key=f"{ROOT}/back/*")
    write_back(cluster, store)
    load(cluster, store)

    browser.go(f"http://{cluster.control.run['admin']}/status")
    token = (cluster.control.dir / "admin-token").read_text().strip()
    browser.run(
        f"document.getElementById('token').value = {json.dumps(token)};"
        "document.querySelector('#login button').click()"
    )
    for node in NODES:
        browser.wait(f"{cell(node, 1)} === 'ready'")
        # Clean and dirty apart, and a share of the slots and of what is queued.
        browser.wait(f"/[1-9].* [KM]iB clean, [1-9].* [KM]iB dirty of 2.0 GiB/.test({cell(node, 5)})")
        browser.wait(f"Number({cell(node, 4)}) > 0 && Number({cell(node, 7)}) > 0")
        shown = f"[...{line(node)}.querySelectorAll('rect')].map((one) => one.getAttribute('width') >= 1)"
        assert browser.run(f"{shown}.every(Boolean)"), "clean and dirty can be seen"
    slots = browser.run(" + ".join(f"Number({cell(node, 4)})" for node in NODES))
    assert slots == SLOTS
    label = browser.run("document.getElementById('map').getAttribute('aria-label')")
    assert all(node in label for node in NODES), label
    # Throughput of all and of each, drawn of what workers tell, and said in words.
    assert browser.run("document.getElementById('traffic-title').innerText") == "Traffic of all workers"
    for tile in ("S3 bytes received", "S3 requests"):
        words = f"document.querySelector('#traffic [aria-label^=\"{tile} in the last 10 minutes: \"]')"
        browser.wait(f"/ [1-9][^,]* at most/.test({words}?.getAttribute('aria-label'))")
        browser.wait(f"{words}.querySelector('path.sent').getAttribute('d').includes('L')")
    for node in NODES:
        picture = f"{line(node)}?.querySelector('.spark')"
        browser.wait(f"{picture}?.querySelector('path.received').getAttribute('d')")
        browser.wait(f"{picture}.getAttribute('aria-label').startsWith('{node}: sent ')")
        browser.wait(f"{cell(node, 6)}.includes('/s received')")

    browser.wait(f"document.getElementById('persist-totals').innerText.startsWith('{WRITTEN} changes')")
    browser.wait("document.querySelector('#persist td .bad')?.innerText.includes('507')")
    progress = "document.querySelector('#jobs progress')"
    browser.wait(f"{progress}?.max === {LOADED} && {progress}.value > 0")
    assert browser.run(f"{progress}.value") < LOADED

    cluster.worker(LOST).kill()
    # Ready as far as the control plane knows, but not heard; then its lease is over.
    browser.wait(f"/^(ready|silent), last heard [0-9]+ s ago$/.test({cell(LOST, 1)})")
    browser.wait(f"{cell(LOST, 1)}.startsWith('silent, last heard ')")
    browser.wait(f"/^[0-9]+ when last heard$/.test({cell(LOST, 7)})")
    browser.wait(f"document.getElementById('persist-totals').innerText.includes('No answer from {LOST}')")
    bad = "[...document.querySelectorAll('#nodes .bad')].map((one) => one.innerText)"
    browser.wait(f"{bad}.length === 1 && {bad}[0].startsWith('silent')")
    # What it does not tell is a gap in its line, and no zero.
    browser.wait(f"{cell(LOST, 6)} === 'not told'")
    browser.wait(f"document.getElementById('traffic-note').innerText.includes('without {LOST}')")
    browser.wait(f"{line(LOST)}.querySelector('.spark').getAttribute('aria-label').includes('not told now')")
    # Nor is the sum what it was: dotted where it is not told of.
    dotted = "document.querySelector('#traffic path.partly')?.getAttribute('d')"
    browser.wait(f"{dotted} && document.getElementById('traffic-note').innerText.includes('Dotted')")
    take_pictures(browser, Path(os.environ.get("QUICKWATER_PICTURES", str(tmp_path))))
