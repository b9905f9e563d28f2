"""Load by `quickwater bench`: the client that comes with the service.

Its objects are files in the bucket of the GET rows, written once through
`--prepare-dir`, so that every server serves the same ones. CPU and memory of the
server are read by the client around the counted part of a round alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness.server import binary
from harness.target import REGION

from .clients import LoadFailed
from .machine import CLIENT_CORE
from .rounds import Contestant
from .servers import BUCKET, SMALL, Endpoint

GRACE_SECONDS = 120
WARMUP = "300ms"


@dataclass
class Measured:
    """A round as the client reports it."""

    taken: dict

    def round(self) -> dict:
        """Without its number and endpoint: those are of the row."""
        return {name: value for name, value in self.taken.items() if name not in ("number", "endpoint")}


def available() -> bool:
    """Whether this build has the verb."""
    words = [str(binary()), "bench", "get-hit", "--help"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def prepare(files: Path, endpoint: Endpoint, objects: int, bucket: str = BUCKET, size: int = SMALL) -> None:
    """Writes the objects as files of the bucket, and reads each of them twice."""
    words = _words(endpoint, "epoch", objects, 8, signed=False, bucket=bucket, size=size)
    _run([*words, "--prepare-dir", str(files / bucket), "--rounds", "2"], endpoint)


def loaded(endpoint: Endpoint, scenario: str, objects: int, connections: int, seconds: float, *,
           signed: bool = False, bucket: str = BUCKET, size: int = SMALL,
           more: tuple[str, ...] = ()) -> Contestant:  # fmt: skip
    """A server under a scenario of the client."""
    words = _words(endpoint, scenario, objects, connections, signed=signed, bucket=bucket, size=size)
    words += ["--rounds", "1", "--duration", f"{seconds:g}s", "--warmup", WARMUP,
              "--server-pid", f"tree:{endpoint.pid}", *more]  # fmt: skip

    def run() -> Measured:
        endpoint.reset_peak()
        taken = _run(words, endpoint)
        if scenario == "get-hit" and set(taken["cache"]) - {"hit"}:
            raise LoadFailed(f"{endpoint.name}: not all were hits: {taken['cache']}")
        if taken["server"] is not None:  # sampled there; the kernel knows it exactly
            taken["server"]["rss_peak_bytes"] = endpoint.peak_rss_bytes()
        return Measured(taken)

    return Contestant(endpoint.name, run, f"{endpoint.command}\n{' '.join(words)}")


def put_new(endpoint: Endpoint, bucket: str, size: int, objects: int) -> None:
    """Writes objects of names no run had before."""
    words = _words(endpoint, "put", objects, 8, signed=False, bucket=bucket, size=size)
    _run([*words, "--rounds", "1", "--requests", str(objects), "--warmup", "0", "--prefix", f"n{time.time_ns()}/"], endpoint)


def _words(
    endpoint: Endpoint, scenario: str, objects: int, connections: int, *,
    signed: bool, bucket: str = BUCKET, size: int = SMALL,
) -> list[str]:  # fmt: skip
    words = [str(binary()), "bench", scenario, "--endpoint", endpoint.url,
             "--bucket", bucket, "--size", str(size), "--objects", str(objects),
             "--concurrency", str(connections), "--client-cpu", str(CLIENT_CORE), "--quiet"]  # fmt: skip
    if endpoint.certificate is not None:
        words += ["--ca", str(endpoint.certificate)]
    return words if signed else [*words, "--anonymous"]


def _run(words: list[str], endpoint: Endpoint) -> dict:
    """The one round of a run; fails when a request failed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    if endpoint.keys is not None:
        env |= {
            "AWS_ACCESS_KEY_ID": endpoint.keys.access_key,
            "AWS_SECRET_ACCESS_KEY": endpoint.keys.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }
    with tempfile.TemporaryDirectory(prefix="own-") as folder:
        out = Path(folder) / "report.json"
        done = subprocess.run([*words, "--report", str(out)], capture_output=True, text=True, check=False,
                              env=env, timeout=GRACE_SECONDS)  # fmt: skip
        if done.returncode != 0:
            raise LoadFailed(f"{' '.join(words)}: exit {done.returncode}: {done.stderr or done.stdout}")
        report = json.loads(out.read_text())
    taken = report["scenarios"][0]["rounds"][-1]
    if not taken["requests"]:
        raise LoadFailed(f"{' '.join(words)}: no request succeeded")
    return taken
