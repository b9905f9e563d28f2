"""What Kubernetes and the operators that the chart writes objects for take."""

from __future__ import annotations

from . import prometheus_operator
from .manifests import Document

# The oldest that the chart takes, and some after it.
VERSIONS = ["1.30", "1.33", "1.37"]
# The operator's of FoundationDB: see test_its_operator_takes_the_cluster.
OF_OTHERS = {"FoundationDBCluster"}


def validate(document: Document, version: str) -> None:
    """Raises if this version of Kubernetes, or the operator it is for, would refuse it."""
    import kubernetes_validate  # pinned in requirements.txt

    if document["kind"] in OF_OTHERS:
        return
    if document["kind"] in prometheus_operator.KINDS:
        prometheus_operator.validate(document)
        return
    kubernetes_validate.validate(document, version, strict=True)
