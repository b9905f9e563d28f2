"""Three workers, a control plane and a store on hosts of their own, and a network between
them that loses, delays and resets: what clients are told stays linearizable key by key,
who is cut off says 503, and when the network is whole again so is the cluster.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from harness.cluster import PATIENCE_SECONDS
from harness.netns import between
from harness.scattered import BUCKET, CLIENT, CONTROL, PREFIX, STORE, WORKERS, Scattered
from harness.switch import Count, Rule
from harness.under import STORE_BUCKET

# All cells, and the bound of healing judged by the clock.
WHOLE = os.environ.get("QUICKWATER_NETWORK") == "all"
LEASE = "3s"
CLIENTS = 6
# Answers of each worker before something happens to the network.
WARM = 20
# How long a fault lasts, at least.
FAULT_SECONDS = 12.0 if WHOLE else 6.0
# What the cluster needs to be whole again. A busy machine may need longer: the gate only
# asks that it comes.
HEALED_SECONDS = 10.0 if WHOLE else PATIENCE_SECONDS

FAULTS: dict[str, Callable[[str, str], list[Rule]]] = {
    "drop": lambda one, other: between(one, other, loss=1.0),
    "drop-there": lambda one, other: [Rule(one, other, loss=1.0)],
    "drop-back": lambda one, other: [Rule(other, one, loss=1.0)],
    "loss-30%": lambda one, other: between(one, other, loss=0.3),
    "delay-200ms": lambda one, other: between(one, other, delay_s=0.2),
    "reset": lambda one, other: between(one, other, reset=True),
}
# Pairs of hosts that lie on a link.
LINKS: dict[str, list[tuple[str, str]]] = {
    "client-worker": [(CLIENT, "n1")],
    "worker-worker": [("n1", "n2")],
    "worker-control": [("n1", CONTROL)],
    "worker-store": [("n1", STORE)],
    # All but the client: what n1 says it says without asking anybody.
    "minority": [("n1", other) for other in (CONTROL, STORE, "n2", "n3")],
    "control": [(worker, CONTROL) for worker in WORKERS],
}
# Where the control plane hears nothing of n1, and gives its keys to others.
SILENT = {(link, fault) for link in ("worker-control", "minority") for fault in ("drop", "drop-there")}
IN_THE_GATE = {("minority", "drop"), ("worker-worker", "reset"), ("worker-control", "drop-back")}
CELLS = [
    pytest.param(link, fault, id=f"{link}-{fault}")
    for link in LINKS for fault in FAULTS if WHOLE or (link, fault) in IN_THE_GATE
]

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.needs("ip"),
    pytest.mark.usefixtures("hosts"),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Scattered]:
    """One with a lease of three seconds."""
    made = Scattered(tmp_path / "c", LEASE)
    try:
        yield made.start()
    finally:
        made.close()


def hit(link: str, fault: str, counts: dict[tuple[str, str], Count]) -> int:
    """Packets a fault did something to."""
    rules = {(rule.source, rule.target) for pair in LINKS[link] for rule in FAULTS[fault](*pair)}
    met = [count for pair, count in counts.items() if pair in rules]
    return sum(count.lost + count.delayed + count.reset for count in met)


@pytest.mark.parametrize(("link", "fault"), CELLS)
def test_what_clients_see_is_one_history(
    cluster: Scattered, link: str, fault: str, record_property: Callable[[str, object], None]
) -> None:
    crowd = cluster.crowd(f"{link}-{fault}")
    crowd.start(WORKERS, CLIENTS)
    try:
        crowd.warm(cluster.wait, WORKERS, WARM)
        cluster.net.rule(*[rule for pair in LINKS[link] for rule in FAULTS[fault](*pair)])
        cut = time.monotonic()
        if (link, fault) in SILENT:
            # Its lease is over, and others have its keys.
            cluster.wait(lambda: cluster.slots()["n1"] == 0)
        moved = time.monotonic()
        left = cut + FAULT_SECONDS - moved
        time.sleep(max(left, 0.0))
        if link != "control":
            # Whoever is not concerned goes on.
            for method in ("GET", "PUT"):
                cluster.wait(lambda: crowd.since(moved, worker="n3", method=method, status=200))
        if link == "minority" and fault == "drop":
            cluster.wait(lambda: crowd.since(moved, worker="n1", status=503))
            said = [str(a) for a in crowd.since(moved, worker="n1") if a.done]
            assert said == []
        counts = cluster.net.rule()
        took = cluster.whole(crowd)
    finally:
        crowd.stop()
    record_property("healed_seconds", round(took, 2))
    print(f"{link} {fault}: whole after {took:.1f} s; {crowd.summary()}")
    assert hit(link, fault, counts) > 0, counts
    assert not (wrong := crowd.wrong()), wrong
    assert not (wrong := cluster.differs(crowd)), wrong
    assert not (wrong := crowd.wrong()), wrong
    assert took < HEALED_SECONDS, cluster.logs()


def test_an_older_answer_is_found_out(cluster: Scattered) -> None:
    """The control of all others here: a store that goes back is a history that cannot be."""
    crowd = cluster.crowd("older")
    key = crowd.keys[0]
    with cluster.at(CLIENT):
        cluster.wait(lambda: crowd.put("n1", key).status == 200)
        # The other write is a Complete.
        cluster.wait(lambda: crowd.multipart(WORKERS, key).status == 200)
        assert crowd.read("n3", key).status == 200
        first, second = (o.value for o in crowd.history.keys[key] if o.write and o.sure)
        assert crowd.history.keys[key][-1].value == second
        assert not (wrong := crowd.wrong()), wrong
    with cluster.at(STORE):
        cluster.sim.seed(STORE_BUCKET, f"{PREFIX}/{BUCKET}/{key}", crowd.body(first))
    with cluster.at(CLIENT):
        cluster.wait(lambda: crowd.read("n3", key) and crowd.history.keys[key][-1].value == first)
    assert f"read {first}" in crowd.wrong()
