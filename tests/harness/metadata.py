"""Where the metadata of services under test lies: what `QUICKWATER_METADATA` says.

| value | |
|---|---|
| empty, `embedded` | the embedded store |
| `foundationdb` | one test server of FoundationDB for the run, a key prefix for each directory |
| `foundationdb:faults`, `foundationdb:faults:SEED` | the same, and its client library injects faults |

The test library and its server are built with the unit tests, or by `cargo build
-p quickwater-foundationdb-testlib -p quickwater-foundationdb-testlib-shared`.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
VARIABLE = "QUICKWATER_METADATA"
ENGINE = "foundationdb"
SERVER = "quickwater-foundationdb-testserver"
START_SECONDS = 20.0
# A beat that stands still for so long is of an owner that is gone.
CLAIM_SECONDS = 4.0
DEFAULT_SEED = 11
# Every fault that ends, and nothing the service does may be a misuse.
FAULTS = (
    "conflict=20 unknown_applied=30 unknown_lost=30 timeout_applied=10 timeout_lost=10 "
    "timeout_late=30 cancelled_late=10 changed_applied=10 changed_lost=10 too_old=5 behind=20 "
    "throttled=20 future=10 changed=10 delay=100 delay_ms=3 stall=5 stall_ms=3 late_ms=40 "
    "page_rows=60 strict=1"
)
_seeds = itertools.count()


def plan(seed: int) -> str:
    """All faults, in the order of a seed."""
    return f"seed={seed} {FAULTS}"


def built(*names: str) -> Path | None:
    """What Cargo built, in the first place that has it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", str(REPOSITORY / "target")))
    places = (target / profile / name for name in names for profile in ("debug", "release"))
    return next((place for place in places if place.exists()), None)


def library() -> Path | None:
    """The test library."""
    return built("deps/libfdb_c.so", "libfdb_c.so")


class Cluster:
    """A test server, which outlives the services that use it."""

    def __init__(self, home: Path) -> None:
        program, client = built(SERVER), library()
        assert program and client, f"not built: {SERVER} and libfdb_c.so"
        self.client = client
        self.file = home / "fdb.cluster"
        self.process = subprocess.Popen([str(program), str(self.file)], stdin=subprocess.DEVNULL)
        end = time.monotonic() + START_SECONDS
        while not self.file.exists() or "@" not in self.file.read_text():
            assert self.process.poll() is None and time.monotonic() < end, "no test server"
            time.sleep(0.02)

    def flags(self, prefix: str = "") -> dict[str, str]:
        """Of a service with its metadata there."""
        flags = {
            "metadata-engine": ENGINE,
            "fdb-client-library": str(self.client),
            "fdb-cluster-file": str(self.file),
        }
        return flags | ({"fdb-key-prefix": prefix} if prefix else {})

    def close(self) -> None:
        """Ends it; all it holds is gone."""
        self.process.kill()
        self.process.wait()


def wanted() -> tuple[str, int | None]:
    """Engine and seed of the faults; embedded and none unless the variable says more."""
    engine, _, faults = os.environ.get(VARIABLE, "").partition(":")
    assert engine in ("", "embedded", ENGINE), f"{VARIABLE}: no engine {engine!r}"
    word, _, seed = faults.partition(":")
    assert word in ("", "faults") and (word == "" or engine == ENGINE), f"{VARIABLE}: {faults!r}"
    return engine or "embedded", int(seed or DEFAULT_SEED) if word else None


def is_embedded() -> bool:
    """Whether services have their metadata below their directory."""
    return wanted()[0] == "embedded"


def claim_seconds() -> float:
    """How long a start after a kill waits before it does anything else."""
    return 0.0 if is_embedded() else CLAIM_SECONDS


@functools.cache
def shared() -> Cluster:
    """The run's own."""
    home = Path(tempfile.mkdtemp(prefix="quickwater-fdb-"))
    atexit.register(shutil.rmtree, home, True)
    cluster = Cluster(home)
    atexit.register(cluster.close)
    return cluster


def defaults(directory: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Flags and environment of a service that does not say where its metadata lies.
    A directory keeps its metadata over restarts, whoever starts a service on it."""
    engine, seed = wanted()
    if engine == "embedded":
        return {}, {}
    name = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
    # Not all services of a run meet the same fault at the same call.
    faults = {} if seed is None else {"FDB_TEST_FAULTS": plan(seed + next(_seeds))}
    return shared().flags(f"{name}/"), faults
