"""A real Prometheus that scrapes what a test runs."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

START_SECONDS = 120.0
SCRAPE_SECONDS = 2
# Somebody else may take the port that was found free.
TRIES = 5


class Prometheus:
    """A process, its data and its configuration in one directory. `clusters`: what it scrapes,
    by the label `cluster`; the empty one is no label."""

    def __init__(self, home: Path, clusters: dict[str, list[str]], rules: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.log_path = home / "prometheus.log"
        groups = [
            {"targets": targets, "labels": {"cluster": cluster}}
            for cluster, targets in clusters.items()
        ]
        (home / "prometheus.yml").write_text(
            json.dumps(  # JSON is YAML
                {
                    "global": {
                        "scrape_interval": f"{SCRAPE_SECONDS}s",
                        "evaluation_interval": f"{SCRAPE_SECONDS}s",
                    },
                    "rule_files": [str(rules)],
                    "scrape_configs": [{"job_name": "quickwater", "static_configs": groups}],
                }
            )
        )
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Prometheus":
        """Starts it and waits until it answers."""
        for _ in range(TRIES):
            if self._try_start():
                return self
        raise AssertionError(f"Prometheus does not start\n{self.log_tail()}")

    def _try_start(self) -> bool:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = ["prometheus", f"--config.file={self.home / 'prometheus.yml'}"]
        words += [f"--storage.tsdb.path={self.home / 'data'}"]
        words += [f"--web.listen-address=127.0.0.1:{self.port}"]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            try:
                with urllib.request.urlopen(self._url("/-/ready"), timeout=10):
                    # Ours, not that of whoever took the port.
                    return self.process.poll() is None
            except OSError:
                time.sleep(0.1)
        self.close()
        return False

    def close(self) -> None:
        """Ends it whatever happened."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _url(self, path: str, **query: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(query)}"

    def _get(self, path: str, **query: str) -> Any:
        try:
            with urllib.request.urlopen(self._url(path, **query), timeout=60) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {query}: {error.read().decode()}") from None

    def values(self, expression: str) -> list[float]:
        """What an expression comes to now, one number a series; fails when it is not PromQL."""
        answer = self._get("/api/v1/query", query=expression)
        assert answer["resultType"] == "vector", answer
        return [float(series["value"][1]) for series in answer["result"]]

    def labels(self, name: str, of: str) -> list[str]:
        """The values of a label among the series that a selector finds, in their order."""
        return sorted(self._get(f"/api/v1/label/{name}/values", **{"match[]": of}))

    def has_data(self, expression: str) -> bool:
        """Whether there is a number."""
        return any(not math.isnan(value) for value in self.values(expression))

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their health."""
        groups = self._get("/api/v1/rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def alerts(self) -> set[tuple[str, str]]:
        """Name and instance of alerts whose condition holds, be it long enough or not."""
        found = self._get("/api/v1/alerts")["alerts"]
        return {(a["labels"]["alertname"], a["labels"].get("instance", "")) for a in found}

    def log_tail(self, lines: int = 20) -> str:
        """The last lines it wrote."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
