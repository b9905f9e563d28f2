"""The container image: what is in it, and that it serves as it will be run."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from harness import container
from harness.container import MEMLOCK_BYTES, Container, Recipe, mount, owned
from harness.server import binary
from harness.target import Target

FIXED = {
    "etc/group",
    "etc/nsswitch.conf",
    "etc/passwd",
    "etc/ssl/certs/ca-certificates.crt",
    "usr/bin/quickwater",
    "usr/share/doc/quickwater/LICENSE",
}
LATER = re.compile(r"/(libdl|libpthread|librt)\.so\.\d$")
IO_URING = ["io_uring_setup", "io_uring_enter", "io_uring_register"]
# What would undo the walls of a container.
NEVER = ["mount", "umount2", "pivot_root", "setns", "unshare", "bpf", "ptrace", "perf_event_open"]
NEVER += ["init_module", "kexec_load", "keyctl", "userfaultfd", "process_vm_writev", "reboot"]


SMALL = {
    "QUICKWATER_S3__LISTEN": "127.0.0.1:0",
    "QUICKWATER_ADMIN__LISTEN": "127.0.0.1:0",
    "QUICKWATER_METRICS__LISTEN": "127.0.0.1:0",
    "QUICKWATER_STORE__CAPACITY": "512MiB",
    "QUICKWATER_MEMORY": "256MiB",
    "QUICKWATER_STORE__THREADS": "2",
}


def profile() -> dict[str, Any]:
    """The seccomp profile that is shipped."""
    return json.loads(container.SECCOMP.read_text())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's root file system."""
    return container.assemble(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture(scope="module")
def runc(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A runc that works."""
    container.need_runc(tmp_path_factory.mktemp("runc"))


Run = Callable[..., Container]


@pytest.fixture
def run(root: Path, runc: None, tmp_path: Path) -> Iterator[Run]:
    """Runs the image as its Dockerfile and the profile say."""
    made: list[Container] = []

    def start(
        *words: str, seccomp: dict[str, Any], memlock: int = MEMLOCK_BYTES, **variables: str
    ) -> Container:
        recipe = Recipe.read()
        user, group = (int(part) for part in recipe.one("USER").split(":"))
        home = tmp_path / f"container{len(made)}"
        state = mount(container.STATE, str(owned(tmp_path / f"state{len(made)}")), "rw")
        made.append(
            Container(
                home,
                root,
                [*json.loads(recipe.one("ENTRYPOINT")), *(words or json.loads(recipe.one("CMD")))],
                env={**recipe.env(), **variables},
                user=(user, group),
                mounts=[state],
                seccomp=seccomp,
                memlock=memlock,
            )
        )
        return made[-1].start()

    yield start
    for one in made:
        one.close()


def files(root: Path) -> set[str]:
    """All that are not directories."""
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_symlink() or not p.is_dir()}


def test_the_dockerfile_adds_nothing_to_what_is_assembled() -> None:
    recipe = Recipe.read()
    stages = list(recipe.stages.items())
    assert [name for name, _ in stages] == ["build", "scratch"]
    (made,) = [line for line in recipe.stages["build"] if line.startswith("RUN")]
    assert made.endswith("deploy/image/assemble target/release/quickwater /image"), made
    state = f"/image{container.STATE} {container.STATE}"
    assert recipe.values("COPY") == [
        "--from=build /image/ /",
        f"--from=build --chown=65532:65532 {state}",
    ]
    assert not recipe.values("ADD") and not recipe.values("RUN")
    assert recipe.one("USER") == "65532:65532"


def test_the_image_holds_the_program_and_what_it_needs_alone(root: Path) -> None:
    linked = subprocess.run(
        ["ldd", str(binary())], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    libraries = {path.lstrip("/") for path in re.findall(r"/\S+", linked)}
    more = {path for path in files(root) if LATER.search("/" + path)}
    assert files(root) == FIXED | libraries | more
    for path in root.rglob("*"):
        mode = path.stat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID), path
        assert path == root / "tmp" or not mode & stat.S_IWOTH, path
    assert (root / "usr/bin/quickwater").read_bytes() == binary().read_bytes()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_what_cannot_be_assembled_is_refused(tmp_path: Path) -> None:
    script = str(container.IMAGE / "assemble")

    def refused(*words: str) -> str:
        done = subprocess.run(
            [script, *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0
        return done.stderr

    assert "usage" in refused(str(binary()))
    assert "no program" in refused(str(tmp_path / "none"), str(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").touch()
    assert "not empty" in refused(str(binary()), str(tmp_path / "b"))


def test_the_profile_allows_io_uring_and_no_way_out() -> None:
    found = profile()
    assert found["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = [
        name
        for rule in found["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")
        for name in rule["names"]
    ]
    assert set(IO_URING) <= set(allowed)
    assert not set(NEVER) & set(allowed)
    assert len(allowed) == len(set(allowed))
    assert not {"clone", "clone3"} & set(allowed), "only without new namespaces"


@pytest.mark.root
@pytest.mark.needs("runc")
def test_the_image_serves_s3_with_io_uring_and_no_rights(run: Run, tmp_path: Path) -> None:
    box = run(
        seccomp=profile(),
        **SMALL,
        # Refuses to start without io_uring.
        QUICKWATER_IO__DRIVER="uring",
    )
    state = tmp_path / "state0"
    addresses = box.wait_file(state / "run.json")
    assert addresses["pid"] == 1, "nothing between the runtime and the program"
    lines = (state / "credentials").read_text().splitlines()
    keys = dict(line.split("=", 1) for line in lines)
    target = Target(
        f"http://{addresses['s3']}", keys["access_key_id"], keys["secret_access_key"]
    )
    s3 = target.client()
    s3.create_bucket(Bucket="abc")
    body = bytes(range(256)) * 16_384
    s3.put_object(Bucket="abc", Key="a/b", Body=body)
    assert s3.get_object(Bucket="abc", Key="a/b")["Body"].read() == body
    assert (state / "ufs/abc/a/b").stat().st_uid == 65532

    # As `kubectl exec` does it: no shell, the directory from the environment.
    done = box.run(["/usr/bin/quickwater", "status", "--dir", container.STATE, "--output", "json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert box.run(["/bin/sh", "-c", "true"]).returncode != 0, "there is a shell"
    assert box.stop() == 0, box.log()
    assert "panicked" not in box.log()


@pytest.mark.root
@pytest.mark.needs("runc")
def test_without_the_profile_io_uring_is_missed(run: Run) -> None:
    """The profile is what allows it: the same less io_uring does not."""
    without = profile()
    for rule in without["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in IO_URING]
    without["syscalls"] = [rule for rule in without["syscalls"] if rule["names"]]
    box = run("serve", "--io-driver", "uring", seccomp=without, **SMALL)
    assert box.wait() != 0
    assert "io_uring" in box.log(), box.log()


@pytest.mark.root
@pytest.mark.needs("runc")
def test_without_lockable_memory_it_serves_over_epoll(run: Run, tmp_path: Path) -> None:
    """Rings of all threads are charged to the user: one of them may fit, not all."""
    box = run(seccomp=profile(), memlock=150 << 10, **SMALL)
    addresses = box.wait_file(tmp_path / "state0" / "run.json")
    assert box.stop() == 0, box.log()
    assert addresses["s3"]
    assert "2 rings need more lockable memory" in box.log(), box.log()
    assert "falling back to epoll" in box.log()
