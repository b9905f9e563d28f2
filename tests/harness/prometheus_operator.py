"""What the Prometheus Operator takes: its definitions of ServiceMonitor and PrometheusRule
(`monitoring.coreos.com/v1`) as far as a chart like ours needs them, in JSON Schema. No package
has them. What is not named here is refused, so a misspelt field does not pass, nor one that we
have not looked up."""

from __future__ import annotations

import re
from typing import Any

import jsonschema

Document = dict[str, Any]

# Units in this order, each once at most.
DURATION = (
    r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"
)
TEXT: Document = {"type": "string"}
TEXTS: Document = {"type": "object", "additionalProperties": TEXT}
TIME: Document = {"type": "string", "pattern": DURATION, "minLength": 1}
FLAG: Document = {"type": "boolean"}
COUNT: Document = {"type": "integer"}


def _closed(required: list[str], **fields: Document) -> Document:
    return {
        "type": "object",
        "required": required,
        "properties": fields,
        "additionalProperties": False,
    }


def _list(items: Document) -> Document:
    return {"type": "array", "items": items}


SELECTOR = _closed(
    [],
    matchLabels=TEXTS,
    matchExpressions=_list(
        _closed(["key", "operator"], key=TEXT, operator=TEXT, values=_list(TEXT))
    ),
)
ENDPOINT = _closed(
    [],
    port=TEXT,
    targetPort={"type": ["integer", "string"]},
    path=TEXT,
    scheme={"enum": ["http", "https"]},
    interval=TIME,
    scrapeTimeout=TIME,
    honorLabels=FLAG,
    honorTimestamps=FLAG,
    relabelings=_list(
        _closed([], sourceLabels=_list(TEXT), regex=TEXT, targetLabel=TEXT, replacement=TEXT)
    ),
)
SERVICE_MONITOR = _closed(
    ["endpoints", "selector"],
    endpoints=_list(ENDPOINT),
    selector=SELECTOR,
    namespaceSelector=_closed([], any=FLAG, matchNames=_list(TEXT)),
    jobLabel=TEXT,
    targetLabels=_list(TEXT),
    podTargetLabels=_list(TEXT),
    sampleLimit=COUNT,
)
RULE = _closed(
    ["expr"],
    alert=TEXT,
    record=TEXT,
    expr={"type": ["integer", "string"]},
    labels=TEXTS,
    annotations=TEXTS,
    **{"for": TIME, "keep_firing_for": TIME},
)
# Prometheus itself: one of both.
RULE["oneOf"] = [{"required": ["alert"]}, {"required": ["record"]}]
GROUP = _closed(
    ["name"],
    name={"type": "string", "minLength": 1},
    interval=TIME,
    rules=_list(RULE),
    limit=COUNT,
    labels=TEXTS,
)
KINDS = {
    "ServiceMonitor": SERVICE_MONITOR,
    "PrometheusRule": _closed([], groups=_list(GROUP)),
}


def validate(document: Document) -> None:
    """Raises `jsonschema.ValidationError` if the operator would refuse or drop something."""
    metadata = _closed(["name"], name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    whole = _closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"enum": sorted(KINDS)},
        metadata=metadata,
        spec=KINDS[document["kind"]],
    )
    jsonschema.Draft7Validator(whole).validate(document)
    names = [group["name"] for group in document["spec"].get("groups", [])]
    if len(names) != len(set(names)):  # the list is a map by name
        raise jsonschema.ValidationError(f"groups of the same name: {names}")


def relabelled(rules: list[Document], labels: dict[str, str]) -> dict[str, str]:
    """What Prometheus makes of a target's labels by rules of the action `replace`."""
    labels = dict(labels)
    for rule in rules:
        assert rule.get("action", "replace") == "replace"
        source = ";".join(labels.get(name, "") for name in rule.get("sourceLabels", []))
        match = re.fullmatch(rule.get("regex", "(.*)"), source, re.DOTALL)
        if match:
            value = rule.get("replacement", "$1")
            labels[rule["targetLabel"]] = value.replace("$1", match[1]) if "$1" in value else value
    return labels
