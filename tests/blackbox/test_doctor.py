"""`quickwater doctor` where something is wrong: it says what, and what to do."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest
from botocore.exceptions import ClientError

from conftest import EXTERNAL
from harness import apart
from harness.cluster import PATIENCE_SECONDS, settled
from harness.moto import Moto
from harness.nobody import NOBODY, become, open_home
from harness.payload import MIB
from harness.server import binary
from harness.under import STORE_BUCKET
from ufssim.client import Sim

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
IO_URING_SETUP = 425  # the same on all architectures
WATCHED = ("s3-listen", "admin-listen", "metrics-listen")


def doctor(
    home: Path,
    flags: dict[str, str] | None = None,
    *,
    prepare: Callable[[], None] | None = None,
    prefix: list[str] | None = None,
    program: Path | None = None,
    env: dict[str, str] | None = None,
    more: list[str] | None = None,
) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and the checks by name, of a directory whose service does not run."""
    settings = {
        **{name: "127.0.0.1:0" for name in WATCHED},
        "dir": str(home / "data"),
        "capacity": str(64 * MIB),
        "memory": str(512 * MIB),
        "s3-max-connections": "100",
        "ufs-timeout-connect": "5s",
        "ufs-timeout-request": "60s",
        **(flags or {}),
    }
    words = [f"--{name}={value}" for name, value in settings.items()]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("QUICKWATER_", "AWS_"))}
    done = subprocess.run(
        [*(prefix or []), str(program or binary()), "doctor", *words, *(more or []),
         "--output", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=prepare,
        env={**clean, "AWS_EC2_METADATA_DISABLED": "true", **(env or {})},
    )
    assert done.returncode in (0, 1), done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    for check in found.values():
        assert check["verdict"] == "ok" or check["advice"], check
    failed = any(check["verdict"] == "fail" for check in found.values())
    assert done.returncode == int(failed)
    return done.returncode, found


def refuse_io_uring() -> None:
    """A seccomp filter as container runtimes have it; for a child before exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    lines = [
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 1, IO_URING_SETUP),  # not this one: skip a line
        (0x06, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM),
        (0x06, 0, 0, SECCOMP_RET_ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def test_nothing_is_changed_and_every_check_has_its_place(tmp_path: Path) -> None:
    code, found = doctor(tmp_path)
    assert code == 0, found
    wanted = {
        "kernel", "io_uring", "seccomp", "eBPF", "open files", "locked memory", "memory", "clock",
        "directory", "file system", "disk", "O_DIRECT", "O_DIRECT alignment", "flush", "space",
        "s3.listen", "admin.listen", "metrics.listen", "ufs.uri",
    }  # fmt: skip
    assert set(found) >= wanted
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is written for x86-64")
def test_a_filter_that_refuses_io_uring_is_named(tmp_path: Path) -> None:
    code, found = doctor(tmp_path, prepare=refuse_io_uring)
    assert code == 0, "epoll does"
    assert found["seccomp"]["verdict"] == "warn"
    assert "io_uring_setup" in found["seccomp"]["advice"]
    assert found["io_uring"]["verdict"] == "warn"
    assert "seccomp is filtering" in found["io_uring"]["found"]
    code, found = doctor(tmp_path, {"io-driver": "uring"}, prepare=refuse_io_uring)
    assert code == 1 and found["io_uring"]["verdict"] == "fail"


def test_limits_of_the_process_are_told(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))

    code, found = doctor(tmp_path, prepare=limit)
    assert code == 1
    assert found["open files"]["verdict"] == "fail"
    assert "1000 open files" in found["open files"]["found"]


@contextlib.contextmanager
def as_somebody() -> Iterator[Callable[..., dict[str, dict[str, str]]]]:
    """`doctor` of a user of its own, of whom nothing else runs."""
    user = NOBODY - 1 - os.getpid() % 1000

    def become_limited(locked_bytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (locked_bytes, locked_bytes))
        become(user)

    with open_home() as (home, program):
        os.chown(home, user, user)

        def ask(locked_bytes: int, threads: int, driver: str = "auto") -> dict[str, dict[str, str]]:
            flags = {"threads": str(threads), "io-driver": driver, "capacity": str(1024 * MIB)}
            prepare = lambda: become_limited(locked_bytes)  # noqa: E731
            return doctor(home, flags, prepare=prepare, program=program)[1]

        yield ask


@pytest.mark.root
def test_locked_memory_is_judged_by_the_rings_of_a_service() -> None:
    with as_somebody() as ask:
        found = ask(8 << 20, 2)
        if found["io_uring"]["verdict"] != "ok":
            pytest.skip(f"no io_uring here: {found['io_uring']}")
        assert found["locked memory"]["verdict"] == "ok", found
        assert "enough for 3 rings" in found["locked memory"]["found"]
        # Not even one; one, but not all.
        for locked, threads in [(0, 1), (64 << 10, 2), (300 << 10, 30)]:
            found = ask(locked, threads)
            for name in ("io_uring", "locked memory"):
                assert found[name]["verdict"] == "warn", (locked, found[name])
                assert "LimitMEMLOCK" in found[name]["advice"]
                assert "seccomp" not in found[name]["advice"]
            assert "RLIMIT_MEMLOCK" in found["io_uring"]["found"]
            assert found["seccomp"]["verdict"] == "ok"
        assert ask(0, 1, "uring")["io_uring"]["verdict"] == "fail"


@pytest.mark.skipif(bool(EXTERNAL), reason="needs a cluster of its own")
def test_processes_of_a_cluster_are_looked_at(tmp_path: Path) -> None:
    with settled(tmp_path / "cluster", "10m", ["n1"]) as made:
        worker, control = made.worker("n1"), made.control
        code, found = doctor(tmp_path, {"dir": str(control.dir), "capacity": "1000000TiB"})
        assert code == 0 and "space" not in found, found
        assert found["service"]["verdict"] == "ok"
        # As of its last renewal, which may have been at its start.
        assert found["node"]["verdict"] in ("ok", "warn"), found["node"]

        # What it was started with is in its directory.
        code, found = doctor(tmp_path, {"dir": str(worker.dir)})
        assert code == 0 and "ready" in found["service"]["found"], found
        told = found["settings of the last start"]
        assert told["verdict"] == "ok" and "cluster.node_id" in told["found"], told
        assert "settings of the worker" not in found
        for name in ("ufs.uri", "control plane", "cluster certificates"):
            assert found[name]["verdict"] == "ok", found
        # A version that did not note it.
        flags = {"dir": str(worker.dir), "ufs": made.ufs}
        noted = worker.dir / "last-start.json"
        kept = noted.read_text()
        noted.unlink()
        code, found = doctor(tmp_path, flags)
        assert code == 0 and "ready" in found["service"]["found"], found
        assert found["ufs.uri"]["verdict"] == "ok"
        assert found["control plane"]["verdict"] == "warn", "nobody said where it is"
        assert "the defaults" in found["settings of the worker"]["found"]
        noted.write_text("damaged")
        code, found = doctor(tmp_path, flags)
        assert code == 0 and "is damaged" in found["settings of the last start"]["found"], found
        advice = found["settings of the last start"]["advice"]
        assert advice.startswith("restart the process") and "root" not in advice, found
        assert "settings of the worker" in found
        noted.write_text(kept)

        words = dict(word[2:].split("=", 1) for word in control.worker_flags("n1", apart.LOOPBACK))
        given = {
            **flags,
            "cluster-control": words["control"],
            "node-id": "n1",
            "cluster-certificates": words["cluster-certificates"],
        }
        code, found = doctor(tmp_path, given)
        assert code == 0 and "settings of the worker" not in found, found
        assert found["control plane"]["verdict"] == found["cluster certificates"]["verdict"] == "ok"
        assert found["clock of the control plane"]["verdict"] == "ok", found
        code, found = doctor(tmp_path, {**given, "node-id": "n2"})
        assert code == 1 and "n2" in found["cluster certificates"]["found"], found
        code, found = doctor(tmp_path, {**given, "cluster-certificates": str(tmp_path / "none")})
        assert code == 1 and "cluster init" in found["cluster certificates"]["advice"], found

        # A worker that could never join: TLS is refused, or there is none.
        strange = tmp_path / "strange"
        line = [str(binary()), "cluster", "init", "--out", str(strange), "--worker", "n1"]
        subprocess.run(line, check=True, capture_output=True, timeout=120)
        strange_flags = {**given, "cluster-certificates": str(strange / "workers" / "n1")}
        code, found = doctor(tmp_path, strange_flags)
        assert found["cluster certificates"]["verdict"] == "ok", found
        assert code == 1 and found["control plane"]["verdict"] == "fail", found
        assert "certificate" in found["control plane"]["found"], found
        assert "`cluster init` that made those" in found["control plane"]["advice"], found
        assert "clock of the control plane" not in found, found
        other = str(worker.run["s3"])
        code, found = doctor(tmp_path, {**given, "cluster-control": other})
        assert code == 1 and found["control plane"]["verdict"] == "fail", found
        assert "cluster.listen" in found["control plane"]["advice"], found

        # What the worker wrote to is not what is there now.
        assert "mounts of the worker" not in found
        s3 = worker.target().client()
        s3.create_bucket(Bucket="abc")
        s3.put_object(Bucket="abc", Key="a", Body=b"a")
        place = made.home / "ufs" / "abc"
        place.rename(made.home / "elsewhere")
        place.mkdir()
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            # Noticed by whoever gets there next.
            with contextlib.suppress(ClientError):
                s3.list_objects_v2(Bucket="abc")
            code, found = doctor(tmp_path, given)
            if "mounts of the worker" in found:
                break
            assert code == 0 and time.monotonic() < end, found
        assert code == 1 and found["mounts of the worker"]["verdict"] == "fail"
        place.rmdir()
        (made.home / "elsewhere").rename(place)

        # One that ended well leaves no run.json, and is still a worker.
        assert worker.stop() == 0
        code, found = doctor(tmp_path, {"dir": str(worker.dir)})
        assert code == 0 and "service" not in found, found
        assert "the worker was given" in found["settings of the last start"]["found"], found
        assert found["control plane"]["verdict"] == found["cluster certificates"]["verdict"] == "ok"
        assert "admin.listen" not in found and "s3.listen" in found
        noted.unlink()
        code, found = doctor(tmp_path, {"dir": str(worker.dir)})
        assert "settings of the worker" in found and "admin.listen" not in found, found
        worker.start()

        control.kill()
        code, found = doctor(tmp_path, given)
        assert code == 1 and found["control plane"]["verdict"] == "fail", found
        os.kill(worker.pid, signal.SIGKILL)
        worker.kill()
        noted.unlink()
        code, found = doctor(tmp_path, {"dir": str(worker.dir)})
        assert "the worker is not running" in found["service"]["found"], found
        assert found["ufs.uri"]["verdict"] == "warn", "the control plane makes it"
        assert "admin.listen" not in found and "s3.listen" in found
        code, found = doctor(tmp_path, {"dir": str(control.dir), "cluster-listen": "127.0.0.1:0"})
        assert "the control plane is not running" in found["service"]["found"], found
        assert "s3.listen" not in found and found["cluster.listen"]["verdict"] == "ok"
        # Nor is a control plane that ended well a service of its own.
        (control.dir / "run.json").unlink()
        code, found = doctor(tmp_path, {"dir": str(control.dir), "cluster-listen": "127.0.0.1:0"})
        assert "s3.listen" not in found and found["cluster.listen"]["verdict"] == "ok", found


def test_more_memory_than_there_is_fails(tmp_path: Path) -> None:
    code, found = doctor(tmp_path, {"memory": "100TiB"})
    assert code == 1 and found["memory"]["verdict"] == "fail"


def test_a_directory_in_memory_is_no_place_for_a_cache(tmp_path: Path) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    if not any(words[1:3] == ["/dev/shm", "tmpfs"] for words in mounts):
        pytest.skip("/dev/shm is no tmpfs here")
    code, found = doctor(tmp_path, {"dir": f"/dev/shm/{tmp_path.name}-{os.getpid()}"})
    assert found["file system"]["verdict"] == "warn"
    assert found["file system"]["found"] == "tmpfs"
    assert "lost with the power" in found["file system"]["advice"]


def test_a_directory_that_cannot_be_written_fails(tmp_path: Path) -> None:
    code, found = doctor(tmp_path, {"dir": "/proc/self/quickwater"})
    assert code == 1 and found["directory"]["verdict"] == "fail"


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, found = doctor(tmp_path, {"s3-listen": address})
    assert code == 1 and found["s3.listen"]["verdict"] == "fail"
    assert address in found["s3.listen"]["found"]


def store_flags(endpoint: str) -> dict[str, str]:
    """A default UFS in a bucket of a store."""
    options = f"endpoint={endpoint},region=us-east-1,path_style=true,credentials=env:UNDER"
    return {"ufs": "s3://doctor/prefix", "ufs-options": options}


UNDER = {"UNDER_ACCESS_KEY_ID": "testing", "UNDER_SECRET_ACCESS_KEY": "testing"}


def test_a_store_that_is_not_reached_fails(tmp_path: Path) -> None:
    # Bound and not listening: refused, and nobody else can take the port.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code, found = doctor(tmp_path, store_flags(endpoint), env=UNDER)
    assert code == 1 and found["ufs.uri"]["verdict"] == "fail"
    assert "endpoint" in found["ufs.uri"]["advice"]


def test_a_store_is_asked_and_a_missing_bucket_is_named(tmp_path: Path, moto: Moto) -> None:
    flags = store_flags(moto.target().endpoint)
    code, found = doctor(tmp_path, flags, env=UNDER)
    assert code == 1 and found["ufs.uri"]["verdict"] == "fail"
    moto.target().client().create_bucket(Bucket="doctor")
    code, found = doctor(tmp_path, flags, env=UNDER)
    assert code == 0 and found["ufs.uri"]["verdict"] == "ok", found["ufs.uri"]
    code, found = doctor(tmp_path, flags)
    assert code == 1 and found["ufs.uri"]["verdict"] == "fail", "no credentials"
    assert "UNDER_ACCESS_KEY_ID" in found["ufs.uri"]["found"]
    assert found["ufs.uri"]["advice"].startswith("set both in the environment"), found["ufs.uri"]


def test_missing_credentials_are_named_as_that(tmp_path: Path) -> None:
    flags = {"ufs": "s3://doctor/prefix", "ufs-options": "endpoint=http://127.0.0.1:1"}
    # Nobody's profile either.
    env = {"HOME": str(tmp_path), "AWS_CONFIG_FILE": str(tmp_path / "no")}
    code, found = doctor(tmp_path, flags, env=env)
    assert code == 1 and found["ufs.uri"]["verdict"] == "fail", found
    assert "AWS_ACCESS_KEY_ID" in found["ufs.uri"]["advice"]
    said = found["ufs.uri"]["found"]
    assert "\n" not in said
    assert said.endswith(" ..."), "cut between words, and shown to be"


def test_writes_are_tried_where_that_is_asked_for(tmp_path: Path, store: Sim) -> None:
    options = f"endpoint={store.target().endpoint},region=us-east-1,path_style=true"
    flags = {
        "ufs": f"s3://{STORE_BUCKET}/doctor",
        "ufs-options": f"{options},credentials=env:UNDER",
    }
    code, found = doctor(tmp_path, flags, env=UNDER)
    assert code == 0 and "--probe-writes" in found["ufs.uri"]["found"], found["ufs.uri"]
    assert store.mutating_requests("doctor/") == []
    code, found = doctor(tmp_path, flags, env=UNDER, more=["--probe-writes"])
    assert code == 0 and found["ufs.uri"]["verdict"] == "ok", found["ufs.uri"]
    assert "written, read back and deleted" in found["ufs.uri"]["found"]
    assert [seen.operation for seen in store.mutating_requests("doctor/")] == [
        "PutObject", "DeleteObject",
    ]  # fmt: skip
    for operation in ("PutObject", "GetObject", "DeleteObject"):
        store.rule("status", status=403, operation=operation, key="doctor/*")
        code, found = doctor(tmp_path, flags, env=UNDER, more=["--probe-writes"])
        assert code == 0 and found["ufs.uri"]["verdict"] == "warn", found["ufs.uri"]
        assert "READ_ONLY" in found["ufs.uri"]["advice"]
        store.clear_rules()
    left = [key for key in store.objects(STORE_BUCKET) if key.startswith("doctor/")]
    assert len(left) == 1 and left[0] in found["ufs.uri"]["found"], (left, found["ufs.uri"])


def test_a_mount_that_is_missing_fails(tmp_path: Path) -> None:
    code, found = doctor(tmp_path, {"mount": f"nas=file://{tmp_path / 'nas'}"})
    assert code == 1 and found["mount"]["verdict"] == "fail"
    assert "nas -> file://" in found["mount"]["found"]
    (tmp_path / "nas").mkdir()
    code, found = doctor(tmp_path, {"mount": f"nas=file://{tmp_path / 'nas'}"})
    assert code == 0 and found["mount"]["verdict"] == "ok"
    assert list((tmp_path / "nas").iterdir()) == []


@pytest.mark.root
@pytest.mark.needs("unshare", "mount")
def test_a_file_system_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    place = tmp_path / "nas"
    place.mkdir()
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, "sh", str(place)]
    probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no mounts of our own here: {probe.stderr}")
    code, found = doctor(tmp_path, {"mount": f"nas=file://{place}"}, prefix=prefix)
    assert found["mount"]["verdict"] == "warn", found["mount"]
    assert "not written" in found["mount"]["found"]
    assert "READ_ONLY" in found["mount"]["advice"]


@pytest.mark.root
def test_a_directory_of_others_is_told() -> None:
    with open_home() as (home, program):
        for part in ("data", "nas"):
            (home / part).mkdir()
            (home / part).chmod(0o755)
        os.chown(home / "data", NOBODY, NOBODY)
        flags = {"mount": f"nas=file://{home / 'nas'}"}
        _, found = doctor(home, flags, prepare=become, program=program)
        assert found["mount"]["verdict"] == "warn", found["mount"]
        assert "the right to write" in found["mount"]["advice"]
        (home / "nas").chmod(0o700)
        code, found = doctor(home, flags, prepare=become, program=program)
        assert code == 1 and found["mount"]["verdict"] == "fail", found["mount"]

        # Nor at the directory of the service: the machine is looked at all the same.
        os.chown(home / "data", 0, 0)
        (home / "data").chmod(0o700)
        code, found = doctor(home, prepare=become, program=program)
        assert code == 1 and found["settings"]["verdict"] == "fail", found
        assert "as the service's user" in found["settings"]["advice"]
        assert found["run.json"]["verdict"] == found["directory"]["verdict"] == "fail", found
        advice = found["directory"]["advice"]
        assert "user with the id 0" in advice and "sudo -u" in advice, advice
        assert set(found) >= {"kernel", "io_uring", "memory", "clock", "seccomp", "ufs.uri"}


def test_a_settings_file_that_is_no_good_is_one_check_of_many(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "quickwater.toml").write_text("memory = [\n")
    code, found = doctor(tmp_path)
    assert code == 1 and "not valid TOML" in found["settings"]["found"], found
    assert found["directory"]["verdict"] == found["clock"]["verdict"] == "ok"
