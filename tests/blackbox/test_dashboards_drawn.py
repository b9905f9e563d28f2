"""The dashboards as people see them: drawn from a live Prometheus, in a browser, by the
libraries that Grafana draws its panels with (`tests/grafana`). It is not Grafana: where the
panels lie, variables and queries are ours there.

`./test grafana` fetches those libraries and runs this."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
import urllib.parse
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from harness.browser import PATIENCE_SECONDS, Browser
from harness.cluster import Cluster, settled
from harness.payload import KIB, MIB, payload
from harness.prometheus import SCRAPE_SECONDS, Prometheus
from harness.server import REPOSITORY
from harness.under import STORE_BUCKET, scaled
from ufssim.client import Sim

RULES = REPOSITORY / "deploy" / "prometheus" / "quickwater.rules.yml"
DASHBOARDS = REPOSITORY / "deploy" / "grafana"
PAGE = os.environ.get("QUICKWATER_GRAFANA_PAGE", "")
# Of load before the pictures: the store is away in the middle third of it.
SECONDS = float(os.environ.get("QUICKWATER_GRAFANA_SECONDS", "180"))
# What has no series here, and why.
EMPTY = {
    "quickwater_tls_certificate_expiry_seconds": "no HTTPS",
    "quickwater_tls_certificate_reloads_total": "no HTTPS",
    "quickwater_ebpf_reuseport_connections_total": "may run without eBPF",
    "quickwater_ebpf_connects_total": "may run without eBPF",
    "quickwater_ebpf_forward_entries": "hands no connections over",
    "quickwater_ebpf_forward_packets_total": "hands no connections over",
    "quickwater_ebpf_handoffs_total": "hands no connections over",
    "quickwater_ebpf_bypass_connections_total": "may run without eBPF",
    "quickwater_ebpf_bypass_bytes_total": "may run without eBPF",
}
SIZES = [4 * KIB, 64 * KIB, MIB]
WIDTH = 1600

pytestmark = [
    pytest.mark.needs("prometheus"),
    pytest.mark.skipif(not PAGE, reason="needs Grafana's libraries: `./test grafana` gets them"),
]


class Files(SimpleHTTPRequestHandler):
    """The page and the dashboards."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def files() -> Iterator[str]:
    """Where the page is."""
    handler = functools.partial(Files, directory=PAGE)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE_SECONDS)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A browser with a wide page."""
    made = Browser(tmp_path / "browser")
    made.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=1200,
              deviceScaleFactor=1, mobile=False)  # fmt: skip
    yield made
    made.close()


def load(cluster: Cluster, store: Sim) -> None:
    """Writes, reads of what is cached and of what is not, listings; the store is away in the
    middle of it. A read of what only the store has may get 503; nothing else may fail."""
    clients = [worker.target().client() for worker in cluster.workers.values()]
    bodies = [payload(size) for size in SIZES]
    begun = time.monotonic()
    away = False
    turn = 0
    while (passed := time.monotonic() - begun) < SECONDS or away:
        if away != (SECONDS / 3 < passed < 2 * SECONDS / 3):
            away = not away
            store.down("refuse") if away else store.up()
        turn += 1
        s3, body = clients[turn % len(clients)], bodies[turn % len(bodies)]
        key = f"back/{turn % 60}"
        s3.put_object(Bucket="abc", Key=key, Body=body)
        for reader in clients:
            assert reader.get_object(Bucket="abc", Key=key)["Body"].read() == body
        s3.head_object(Bucket="abc", Key=key)
        if turn % 10 == 0:
            name = f"cold/{turn}"
            store.seed(STORE_BUCKET, f"root/abc/{name}", body)
            try:
                assert s3.get_object(Bucket="abc", Key=name)["Body"].read() == body
            except ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
        # As fast as people work, so that both cores have time for the pictures.
        time.sleep(0.05)


def look(browser: Browser, url: str, titles: list[str]) -> list[dict[str, Any]]:
    """Opens a dashboard and waits until each of its panels has numbers; what it has."""
    browser.go(url)
    browser.wait("window.failure || document.querySelector('.u-wrap canvas')")
    assert browser.run("window.failure") is None
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        panels = list(browser.run("window.drawn").values())
        wrong = [one for one in panels if one.get("error")]
        assert not wrong, wrong
        full = {one["title"] for one in panels if any(s["numbers"] > 1 for s in one["series"])}
        missing = set(titles) - full - set(EMPTY)
        if len(panels) == len(titles) and not missing:
            return panels
        assert time.monotonic() < end, missing
        time.sleep(1)


# Script: the titles of panels in whose plot nothing has a colour: axes and grid are grey.
UNDRAWN = """[...document.querySelectorAll('section')].filter((panel) => {
  const plot = panel.querySelector('.u-wrap canvas');
  if (!plot) return true;
  const pixels = plot.getContext('2d').getImageData(0, 0, plot.width, plot.height).data;
  for (let at = 0; at < pixels.length; at += 4) {
    const [red, green, blue] = [pixels[at], pixels[at + 1], pixels[at + 2]];
    if (pixels[at + 3] > 99 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60) return false;
  }
  return true;
}).map((panel) => panel.querySelector('h2').innerText)"""


@pytest.mark.slow
def test_every_panel_is_drawn_with_live_data(
    tmp_path: Path, store: Sim, browser: Browser, files: str
) -> None:
    store.reset()
    with contextlib.ExitStack() as ends:
        cluster = ends.enter_context(settled(tmp_path / "c", "60s", ["n1", "n2"], **scaled(store)))
        ends.callback(store.up)
        s3 = cluster.worker("n1").target().client()
        s3.create_bucket(Bucket="abc")
        cluster.policy_of_all("WRITE_BACK")
        runs = [cluster.control.run, *(worker.run for worker in cluster.workers.values())]
        prometheus = Prometheus(tmp_path / "p", {"": [str(run["metrics"]) for run in runs]}, RULES)
        ends.callback(prometheus.close)
        prometheus.start()
        load(cluster, store)
        pictures = Path(os.environ.get("QUICKWATER_PICTURES", str(tmp_path)))
        for name in ("quickwater", "quickwater-details"):
            wanted = json.loads((DASHBOARDS / f"{name}.json").read_text())["panels"]
            titles = sorted(one["title"] for one in wanted if one["type"] != "row")
            for theme in ("dark", "light"):
                query = urllib.parse.urlencode({
                    "dashboard": name,
                    "prometheus": f"http://127.0.0.1:{prometheus.port}",
                    "scrape": SCRAPE_SECONDS,
                    "seconds": int(SECONDS) + 60,
                    "theme": theme,
                })  # fmt: skip
                panels = look(browser, f"{files}/index.html?{query}", titles)
                picture = browser.picture(pictures / f"grafana-{name}-{theme}.png")
                assert picture.stat().st_size > 100_000
                assert sorted(one["title"] for one in panels) == titles
                names = [series["name"] for one in panels for series in one["series"]]
                assert all(text.strip() and "{{" not in text for text in names), names
                blank = {one["title"] for one in panels if not one["series"]}
                assert set(browser.run(UNDRAWN)) == blank
