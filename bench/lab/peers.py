"""Other S3 servers beside ours: how they are installed, set up and started.

None of them flushes a PUT before it answers. Each keeps its data in a folder of
its own on the same disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from harness.payload import payload
from harness.target import Target

from .clients import Connection, Request
from .servers import BUCKET, LARGE, SMALL, WRITES, Endpoint, Process, Unavailable, free_port

HOME = Path(os.environ.get("QW_PEERS", Path.home() / ".cache" / "quickwater-peers"))
INSTALL_SECONDS = 5400
ACCESS, SECRET = "benchbenchbench", "benchbenchbenchbenchbench"


@dataclass
class Known:
    """A peer we know how to run."""

    name: str
    crate: list[str]
    start: Callable[[Path], Process]


def program(name: str) -> str:
    """Its path."""
    found = shutil.which(name, path=f"{HOME / 'bin'}:{os.environ['PATH']}")
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


def _s3s_fs(home: Path) -> Process:
    folder, port = home / "s3s-fs-data", free_port()
    folder.mkdir()
    words = [program("s3s-fs"), "--host", "127.0.0.1", "--port", str(port), str(folder)]
    return Process(home, "s3s-fs", words, port, {"RUST_LOG": "error"})


GARAGE = """metadata_dir = "{folder}/meta"
data_dir = "{folder}/data"
db_engine = "lmdb"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{secret}"
[s3_api]
s3_region = "us-east-1"
api_bind_addr = "127.0.0.1:{port}"
root_domain = ".s3.bench"
"""


def _garage(home: Path) -> Process:
    folder, port = home / "garage-data", free_port()
    folder.mkdir()
    conf = folder / "garage.toml"
    conf.write_text(GARAGE.format(folder=folder, rpc=free_port(), port=port, secret="5" * 64))
    words = [program("garage"), "-c", str(conf)]
    started = Process(home, "garage", [*words, "server"], port, {"RUST_LOG": "error"})

    def admin(*more: str) -> str:
        done = subprocess.run([*words, *more], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0:
            started.close()
            raise Unavailable(f"garage {' '.join(more)}: {done.stderr}")
        return done.stdout

    node = admin("node", "id", "-q").split("@")[0].strip()
    admin("layout", "assign", "-z", "here", "-c", "100G", node)
    admin("layout", "apply", "--version", "1")
    admin("key", "import", "--yes", "GK" + "b" * 24, "c" * 64)
    admin("key", "allow", "--create-bucket", "GK" + "b" * 24)
    started.endpoint.keys = Target(f"http://127.0.0.1:{port}", "GK" + "b" * 24, "c" * 64)
    return started


def _juicefs(home: Path) -> Process:
    folder, port = home / "juicefs-data", free_port()
    folder.mkdir()
    meta = f"sqlite3://{folder}/meta.db"
    make = [program("juicefs"), "format", "--storage", "file", "--bucket", f"{folder}/blocks/", meta, "bench"]
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    words = [program("juicefs"), "gateway", "--no-usage-report", "--multi-buckets", "--cache-dir",
             f"{folder}/cache", meta, f"127.0.0.1:{port}"]  # fmt: skip
    env = {"MINIO_ROOT_USER": ACCESS, "MINIO_ROOT_PASSWORD": SECRET}
    started = Process(home, "juicefs", words, port, env)
    started.endpoint.keys = Target(f"http://127.0.0.1:{port}", ACCESS, SECRET)
    return started


KNOWN = [
    # The newest s3s-fs that builds with the toolchain of this project.
    Known("s3s-fs", ["s3s-fs@0.14.1", "--features", "binary", "--locked"], _s3s_fs),
    Known("garage", ["garage@2.5.0", "--locked", "--no-default-features", "--features", "bundled-libs,lmdb"], _garage),
    Known("juicefs", [], _juicefs),
    Known("rustfs", [], lambda _home: _never("rustfs")),
]


def names() -> list[str]:
    """All that are known."""
    return [known.name for known in KNOWN]


def _never(name: str) -> Process:
    raise Unavailable(f"{name} needs a newer toolchain than this project has")


def install() -> None:
    """Installs those that the crate registry has, into `$QW_PEERS`; says what it skips."""
    HOME.mkdir(parents=True, exist_ok=True)
    for known in KNOWN:
        if shutil.which(known.name, path=f"{HOME / 'bin'}:{os.environ['PATH']}"):
            print(f"{known.name}: there already", file=sys.stderr)
        elif not known.crate:
            print(f"SKIPPED {known.name}: put its program on PATH by hand", file=sys.stderr)
        else:
            print(f"{known.name}: cargo install {' '.join(known.crate)}", file=sys.stderr)
            words = ["cargo", "install", "--root", str(HOME), *known.crate]
            if subprocess.run(words, check=False, timeout=INSTALL_SECONDS).returncode != 0:
                print(f"SKIPPED {known.name}: it does not build here", file=sys.stderr)


def start_all(
    home: Path, stack: ExitStack, small: list[Request], large: list[Request], without: frozenset[str]
) -> tuple[list[Endpoint], dict[str, str]]:
    """All that are installed, with the same objects in them; and why others are missing."""
    started, missing = [], {}
    for known in KNOWN:
        if known.name in without:
            continue
        try:
            process = known.start(home)
        except Unavailable as reason:
            print(f"SKIPPED {known.name}: {reason}", file=sys.stderr)
            missing[known.name] = str(reason)
            continue
        stack.callback(process.close)
        _fill(process.endpoint, small, large)
        started.append(process.endpoint)
    return started, missing


def _fill(endpoint: Endpoint, small: list[Request], large: list[Request]) -> None:
    with Connection(endpoint.port) as connection:
        for bucket in (BUCKET, WRITES):
            connection.exchange(Request("PUT", f"/{bucket}"), endpoint.keys)
        for requests, size in ((small, SMALL), (large, LARGE)):
            body = payload(size, "peer")
            for request in requests:
                connection.exchange(Request("PUT", request.path, body=body), endpoint.keys)
