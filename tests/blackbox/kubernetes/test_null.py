"""What null does to each of the chart's values. Helm takes a value that is null away, and its
default with it, before the schema sees it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from harness import manifests
from harness.manifests import KUBERNETES, Document

CHART = KUBERNETES / "chart"
# Between them they use every value that may be empty.
COMMON: Document = {
    "ufs": {"uri": "s3://b/p", "options": "region=a"},
    "mounts": ["far=s3://c"],
    "extraVolumes": [{"name": "nas", "nfs": {"server": "nas", "path": "/"}}],
    "extraVolumeMounts": [{"name": "nas", "mountPath": "/mnt/nas"}],
    "worker": {
        "certificates": {"nodes": ["node-a"]}, "s3TlsSecret": "tls", "hostPort": 80,
        "minAvailable": 1, "extraArgs": ["--zone=a"], "nodeSelector": {"a": "b"},
    },
    "control": {"adminTokenSecret": "token", "extraArgs": ["--jobs-keep=1d"]},
    "serviceMonitor": {"enabled": True, "cluster": "a", "labels": {"a": "b"}},
}  # fmt: skip
EMBEDDED: Document = {
    **COMMON,
    "ufs": {"uri": "file:///srv/ufs", "persistentVolumeClaim": "claim"},
    "control": {**COMMON["control"], "storage": {"className": "local"}},
}
# Large, so apart.
WATCHED: Document = {
    **EMBEDDED,
    "prometheusRule": {"enabled": True, "runbooks": "https://a.example"},
    "dashboards": {"enabled": True},
}
FOUNDATIONDB: Document = {
    **COMMON,
    "control": {"metadata": "foundationdb", "foundationdb": {"clusterFileSecret": "fdb"}},
    "worker": {
        "certificates": {"hostPath": "/etc/quickwater"},
        "storage": {"hostPath": "", "ephemeralClassName": "local"},
    },
    "ebpf": {"enabled": True, "threads": 4, "service": "10.0.0.1:80", "cgroup": "/a"},
}
OPERATED: Document = {
    **COMMON,
    "control": {
        "metadata": "foundationdb",
        "foundationdb": {"operator": {"enabled": True, "storage": {"className": "local"}}},
    },
}
SETS = [EMBEDDED, FOUNDATIONDB, OPERATED, WATCHED]
# Sections whose values only some use; all others are tried with the first two.
USED_BY: dict[str, list[Document]] = {
    "control.foundationdb.operator": [OPERATED],
    "control.foundationdb": [FOUNDATIONDB, OPERATED],
    "ebpf": [FOUNDATIONDB],
    "prometheusRule": [WATCHED],
    "dashboards": [WATCHED],
}


def _at(values: Document, key: str) -> Any:
    """What is at the end of a path of dots."""
    return functools.reduce(lambda found, name: found[name], key.split("."), values)


def _is_set(values: Document, key: str) -> bool:
    """Whether there is something at the end of a path of dots."""
    try:
        return _at(values, key) is not None
    except KeyError:
        return False


def _with(values: Document, key: str, value: object) -> Document:
    """Values with another one at the end of a path of dots."""
    name, _, rest = key.partition(".")
    return {**values, name: _with(values.get(name) or {}, rest, value) if rest else value}


def _empty(default: Any) -> object:
    """What there is instead of a default when there is nothing. Helm keeps the keys of a map
    that are not taken back one by one."""
    return dict.fromkeys(default) if isinstance(default, dict) else type(default)()


def _values() -> tuple[Document, list[str]]:
    """values.yaml, and each of them as a path of dots."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    (defaults,) = manifests.documents((CHART / "values.yaml").read_text())
    return defaults, list(manifests.explained(defaults, schema))


def _is_missing(code: int, text: str, key: str) -> bool:
    """Whether that is what the schema says of a value."""
    *path, name = key.split(".")
    said = f"at '{''.join(f'/{step}' for step in path)}': missing propert"
    return code != 0 and said in text and f"'{name}'" in text


def test_null_is_what_is_empty_or_is_refused_by_name(tmp_path: Path) -> None:
    plain = [manifests.template(tmp_path, values) for values in SETS]
    assert [code for code, _ in plain] == [0] * len(SETS), plain
    defaults, keys = _values()
    missing, empty = set(), set()
    for key in keys:
        default = _at(defaults, key)
        section = next((name for name in USED_BY if key.startswith(f"{name}.")), "")
        sets = USED_BY.get(section, SETS[:2])
        for values in sets:
            code, text = manifests.template(tmp_path, _with(values, key, None))
            if _is_missing(code, text, key):
                missing.add(key)
                break  # Whatever the other values are.
            empty.add(key)
            assert not isinstance(default, bool), f"{key}: neither true nor false"
            assert "<nil>" not in text and "<no value>" not in text, key
            told = "execution error" in text and key.split(".")[-1] in text
            assert code == 0 or told, f"{key}: {text}"
            nothing = _empty(default)
            other = _with(values, key, nothing)
            if default == nothing and not _is_set(values, key):
                wanted = plain[SETS.index(values)]
            else:
                wanted = manifests.template(tmp_path, other)
            assert (code, text) == wanted, key
    assert not missing & empty and missing | empty == set(keys)
    assert {"worker", "worker.capacity", "image.repository", "networkPolicy.enabled"} <= missing
    assert {"mounts", "image.tag", "worker.hostPort", "networkPolicy.clients"} <= empty


@pytest.mark.parametrize(
    "key",
    [
        "control.foundationdb.keyPrefix",
        "worker.graceSeconds",
        "worker.seccomp.type",
        "networkPolicy.enabled",
        "ebpf.enabled",
    ],
)
def test_null_for_what_cannot_be_empty_is_refused(key: str, tmp_path: Path) -> None:
    """Of these, what was rendered started no process, or left out a policy without a word."""
    code, text = manifests.template(tmp_path, _with(FOUNDATIONDB, key, None))
    assert _is_missing(code, text, key), text
