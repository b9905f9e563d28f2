"""The program with the rights of nobody, who gets at no directory of pytest's."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Iterator

from .server import binary

NOBODY = 65534


def become(user: int = NOBODY) -> None:
    """Gives the rights of root up; for a child before exec."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


@contextlib.contextmanager
def open_home() -> Iterator[tuple[Path, Path]]:
    """A directory that everybody may look into, and the program in it."""
    with tempfile.TemporaryDirectory(prefix="quickwater-doctor-", dir="/var/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        program = home / "quickwater"
        shutil.copy(binary(), program)
        program.chmod(0o755)
        yield home, program
