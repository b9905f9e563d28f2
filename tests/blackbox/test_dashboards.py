"""Dashboards and alert rules beside a real Prometheus that scrapes a live cluster."""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import Any, Callable, Iterator

import pytest

from harness.cluster import Cluster, settled
from harness.exposition import OPENMETRICS, families, fetched
from harness.payload import KIB, payload
from harness.prometheus import Prometheus
from harness.server import REPOSITORY

RULES = REPOSITORY / "deploy" / "prometheus" / "quickwater.rules.yml"
CONFIG = REPOSITORY / "deploy" / "prometheus" / "prometheus.yml"
GRAFANA = REPOSITORY / "deploy" / "grafana"
PATIENCE_SECONDS = 240.0
# What the label `cluster` says of the cluster here, and of what the same Prometheus scrapes beside.
WATCHED = "watched"
OTHER = "other"
KEYS = 40
# Metrics that nothing exports in this cluster: it speaks no HTTPS, and may run without eBPF.
UNUSED_HERE = {
    "quickwater_tls_certificate_expiry_seconds",
    "quickwater_tls_certificate_reloads_total",
    "quickwater_ebpf_reuseport_connections_total",
    "quickwater_ebpf_connects_total",
    "quickwater_ebpf_forward_entries",
    "quickwater_ebpf_forward_packets_total",
    "quickwater_ebpf_handoffs_total",
    "quickwater_ebpf_bypass_connections_total",
    "quickwater_ebpf_bypass_bytes_total",
}

pytestmark = pytest.mark.needs("prometheus", "promtool")


def promtool(*words: str, stdin: str = "") -> str:
    """Its output; fails when it refuses."""
    done = subprocess.run(
        ["promtool", *words], input=stdin, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_rules_and_configuration_are_accepted() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    assert "rule files found" in promtool("check", "config", str(CONFIG))


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    examples = RULES.with_name("quickwater.rules.test.yml")
    text = examples.read_text()
    names = re.findall(r"- alert: (\S+)", RULES.read_text())
    assert len(names) > 15
    for name in names:
        assert f"{name} fires" in text and f"{name} quiet" in text
    assert "SUCCESS" in promtool("test", "rules", str(examples))


def chosen(text: str, cluster: str) -> str:
    """A query with the values of its dashboard's variables, for all nodes of a cluster."""
    for name, value in {"cluster": cluster, "job": ".*", "instance": ".*", "__rate_interval": "1m"}.items():
        text = text.replace(f"${name}", value)
    assert "$" not in text, text
    return text


def expressions(name: str, cluster: str = WATCHED) -> dict[str, str]:
    """Queries of a dashboard by panel and legend, for all nodes of a cluster."""
    found = {}
    for panel in json.loads((GRAFANA / name).read_text())["panels"]:
        for target in panel.get("targets", []):
            found[f"{panel['title']} / {target['legendFormat']}"] = chosen(target["expr"], cluster)
    assert len(found) > 20
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that write back."""
    with settled(tmp_path_factory.mktemp("watched"), "60s", ["n1", "n2"]) as made:
        s3 = made.worker("n1").target().client()
        s3.create_bucket(Bucket="abc")
        made.policy("WRITE_BACK", s3)
        yield made


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes both workers and the control plane, every two seconds. And one worker once
    more, as that of another cluster."""
    runs = [cluster.control.run, *(worker.run for worker in cluster.workers.values())]
    targets = [str(run["metrics"]) for run in runs]
    clusters = {WATCHED: targets, OTHER: [str(cluster.worker("n1").run["metrics"])]}
    made = Prometheus(tmp_path_factory.mktemp("prometheus"), clusters, RULES)
    yield made.start()
    made.close()


class Load:
    """Writes and reads every key at a worker that may or may not own it."""

    def __init__(self, cluster: Cluster) -> None:
        self.clients: list[Any] = [w.target().client() for w in cluster.workers.values()]
        self.body = payload(4 * KIB)
        self.round = 0

    def __call__(self) -> None:
        self.round += 1
        for at in range(KEYS):
            s3 = self.clients[(at + self.round) % len(self.clients)]
            key = f"{self.round % 2}/{at}"
            s3.put_object(Bucket="abc", Key=key, Body=self.body)
            assert s3.get_object(Bucket="abc", Key=key)["Body"].read() == self.body


def wait_until(
    prometheus: Prometheus, load: Callable[[], None], missing: Callable[[], list[str]]
) -> None:
    """Loads until nothing is missing any more."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        load()
        left = missing()
        if not left:
            return
        assert time.monotonic() < end, f"still missing: {left}\n{prometheus.log_tail()}"
        time.sleep(0.5)


def test_every_panel_shows_data(cluster: Cluster, prometheus: Prometheus) -> None:
    left = expressions("quickwater.json")

    def missing() -> list[str]:
        for panel in [p for p, text in left.items() if prometheus.has_data(text)]:
            del left[panel]
        return list(left)

    wait_until(prometheus, Load(cluster), missing)


def test_the_details_show_all_that_is_exported(cluster: Cluster, prometheus: Prometheus) -> None:
    load = Load(cluster)
    load()
    texts = [worker.metrics_text() for worker in cluster.workers.values()]
    texts.append(cluster.control.metrics_text())
    exported = set(re.findall(r"^([a-z_0-9]+)[ {]", "\n".join(texts), re.MULTILINE))
    left, absent = {}, set()
    for panel, text in expressions("quickwater-details.json").items():
        prometheus.values(text)  # fails when it is not PromQL
        name = panel.split(" / ")[0]
        if name in exported or f"{name}_sum" in exported:
            left[panel] = text
        else:
            absent.add(name)
    assert absent <= UNUSED_HERE, absent - UNUSED_HERE

    def missing() -> list[str]:
        for panel in [p for p, text in left.items() if prometheus.values(text)]:
            del left[panel]
        return list(left)

    wait_until(prometheus, load, missing)


def test_every_page_is_valid_in_both_formats(cluster: Cluster) -> None:
    Load(cluster)()
    pages = {name: str(worker.run["metrics"]) for name, worker in cluster.workers.items()}
    pages["control"] = str(cluster.control.run["metrics"])
    for name, address in pages.items():
        media, text = fetched(address, OPENMETRICS)
        assert media.startswith(f"{OPENMETRICS}; version=1.0.0"), name
        found = families(text)
        counters = {f"{one}_total" for one, family in found.items() if family.kind == "counter"}
        assert len(found) > 10 and "process_cpu_seconds_total" in counters, name
        media, text = fetched(address, "*/*")
        assert media.startswith("text/plain; version=0.0.4"), name
        typed = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
        assert counters <= {one for one, kind in typed.items() if kind == "counter"}, name
        promtool("check", "metrics", stdin=text)
        if name != "control":
            assert found["quickwater_s3_request_seconds"].kind == "histogram"
            for side in ("s3", "peer"):
                assert found[f"quickwater_{side}_open_connections"].kind == "gauge"
                assert found[f"quickwater_{side}_connections"].kind == "counter"


def offered(prometheus: Prometheus, dashboard: str, clusters: list[str]) -> dict[str, list[str]]:
    """What the variables of a dashboard give to choose from: clusters, and of each its jobs and
    its nodes."""
    found = {}
    listed = json.loads((GRAFANA / dashboard).read_text())["templating"]["list"]
    assert [one["name"] for one in listed] == ["datasource", "cluster", "job", "instance"]
    assert not listed[1]["multi"] and not listed[1]["includeAll"]
    for cluster in clusters:
        for one in listed[1:]:
            query = re.fullmatch(r"label_values\((.+), (\w+)\)", one["query"]["query"])
            assert query is not None and query[2] == one["name"]
            values = prometheus.labels(query[2], chosen(query[1], cluster))
            found[f"{one['name']} {cluster}"] = values
    return found


def test_a_dashboard_shows_one_cluster_of_several(
    cluster: Cluster, prometheus: Prometheus
) -> None:
    """Its variables lead from the cluster to its nodes, and no panel shows another one's."""
    workers = {name: str(worker.run["metrics"]) for name, worker in cluster.workers.items()}
    nodes = {
        WATCHED: sorted([str(cluster.control.run["metrics"]), *workers.values()]),
        OTHER: [workers["n1"]],
        "neither": [],
    }
    wanted = {}
    for name, instances in nodes.items():
        wanted |= {f"cluster {name}": sorted([OTHER, WATCHED])}
        wanted |= {f"job {name}": ["quickwater"] if instances else []}
        wanted |= {f"instance {name}": instances}
    dashboards = ["quickwater.json", "quickwater-details.json"]

    def missing() -> list[str]:
        found = [offered(prometheus, name, list(nodes)) for name in dashboards]
        return [f"{one}, wanted {wanted}" for one in found if one != wanted]

    wait_until(prometheus, lambda: None, missing)
    for name in dashboards:
        for panel, text in expressions(name, "neither").items():
            assert prometheus.values(text) == [], panel
    slots = 'quickwater_slots_owned{cluster="$cluster"}'

    def uneven() -> list[str]:
        found = {of: len(prometheus.values(chosen(slots, of))) for of in (WATCHED, OTHER)}
        return [] if found == {WATCHED: 2, OTHER: 1} else [str(found)]

    wait_until(prometheus, lambda: None, uneven)


def test_rules_are_evaluated_and_a_dead_worker_is_seen(
    cluster: Cluster, prometheus: Prometheus
) -> None:
    def unwell() -> list[str]:
        rules = prometheus.rules()
        assert rules, prometheus.log_tail()
        bad = [rule for rule in rules if rule["health"] != "ok"]
        return [f"{r['name']}: {r['health']} {r.get('lastError', '')}" for r in bad]

    wait_until(prometheus, lambda: None, unwell)
    gone = str(cluster.worker("n2").run["metrics"])
    wanted = ("QuickwaterDown", gone)
    cluster.worker("n2").kill()
    wait_until(prometheus, lambda: None, lambda: [] if wanted in prometheus.alerts() else [gone])
