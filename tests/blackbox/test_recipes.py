"""The pages of docs/recipes: their code blocks are run as they stand, in order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ServeFactory
from harness.apart import one_process
from harness.server import REPOSITORY, Server

PAGES = REPOSITORY / "docs" / "recipes"
# What the pages call the node.
ADDRESS = "http://127.0.0.1:29998"
# These need nothing beside the clients of tests/requirements.txt; the others have
# packages of gigabytes or mount file systems: `./test recipes` runs all.
LIGHT = {"boto3.md", "aws-cli.md", "fsspec.md", "rclone.md", "triton.md"}
AT_LENGTH = os.environ.get("QW_RECIPES") == "all"
PROGRAMS = {"rclone.md": ["rclone"], "aws-cli.md": ["curl"], "s3fs-fuse.md": ["s3fs", "umount"]}
SECONDS = 900 if AT_LENGTH else 300

RECIPES = sorted(page.name for page in PAGES.glob("*.md") if page.name != "README.md")


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the code blocks of a page."""
    text = (PAGES / page).read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for language, _ in found:
        assert language in ("sh", "python"), f"{page}: a block of {language or 'no language'}"
    return found


def script(page: str, server: Server, home: Path) -> str:
    """The environment and the blocks of a page as one script of bash."""
    [(_, environment)] = blocks("README.md")
    assert ADDRESS in environment
    lines = ["set -euo pipefail", environment.replace(ADDRESS, server.target().endpoint)]
    for at, (language, text) in enumerate(blocks(page)):
        lines.append(f"echo '== block {at + 1}'")
        if language == "sh":
            lines.append(text)
            continue
        # A file of its own: data loaders start processes that read it again.
        (home / f"block{at + 1}.py").write_text(text)
        lines.append(f"python block{at + 1}.py")
    return "\n".join(lines)


def test_every_recipe_is_listed_and_is_run_by_what_the_list_says() -> None:
    index = (PAGES / "README.md").read_text()
    listed = dict(re.findall(r"^\| \[.*?\]\((.*?)\) .*\| (.*?) \|$", index, re.MULTILINE))
    assert sorted(listed) == RECIPES
    assert {page for page, by in listed.items() if by == "gate"} == LIGHT
    assert all(len(blocks(page)) >= 2 for page in RECIPES)
    front = (REPOSITORY / "README.md").read_text()
    assert all(f"(docs/recipes/{page})" in front for page in [*RECIPES, "README.md"])


@one_process("the pages are about `serve`")
@pytest.mark.parametrize("page", RECIPES)
def test_recipe(page: str, serve: ServeFactory, tmp_path: Path) -> None:
    if page not in LIGHT and not AT_LENGTH:
        pytest.skip("large packages or mounts; `./test recipes` runs it")
    absent = [name for name in PROGRAMS.get(page, []) if shutil.which(name) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    if page == "s3fs-fuse.md" and not (os.geteuid() == 0 and Path("/dev/fuse").exists()):
        pytest.skip("needs root and /dev/fuse")
    home = tmp_path / "home"
    programs = home / "bin"
    programs.mkdir(parents=True)
    # The default UFS where the pages have it.
    server = serve(directory=home / "data", flags={"ufs": f"file://{home / 'data' / 'ufs'}"})
    (programs / "quickwater").symlink_to(server.program)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("QUICKWATER_", "AWS_"))}
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    try:
        done = subprocess.run(
            ["bash", "-c", script(page, server, home)],
            cwd=home,
            env={**clean, "HOME": str(home), "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    finally:
        for place in ("datasets", "checkpoints"):
            if os.path.ismount(home / place):
                subprocess.run(["umount", "-l", str(home / place)], check=False)
    assert done.returncode == 0, done.stdout[-8000:]
    print(done.stdout[-2000:])
