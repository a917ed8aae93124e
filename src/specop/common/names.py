"""Names and labels of child objects: deterministic, so that a repeated create is a 409 and not a second child."""

from specop.common.hashing import sha256_hex

GROUP = "specop.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "specop"
LABEL_KIND = f"{GROUP}/kind"
"""Lower-case kind of the owner: speculatordataset, speculatortrainingjob, drafter, draftedendpoint."""
LABEL_NAME = f"{GROUP}/name"
"""Name of the owner."""
LABEL_ROLE = f"{GROUP}/role"
"""What the child does: dataset, training, inspect, engine."""
LABEL_ARM = f"{GROUP}/arm"
"""`base`, or `d-` and the first 8 hex digits of the drafter's digest."""
LABEL_JOB = "batch.kubernetes.io/job-name"
LABEL_INDEX = "batch.kubernetes.io/job-completion-index"
"""On pods, from the Job controller: their Job, and their number where it has several."""
ANNOTATION_HASH = f"{GROUP}/desired"
"""On a child: digest of the body that we last applied."""

ANNOTATION_INPUTS = f"{GROUP}/inputs"
"""On a Deployment: digest of what the endpoint's spec says of its pods; an operator upgrade does not change it.
On a training Job: digest of the parallelism that it was made for, where there is one."""
ANNOTATION_GENERATION = f"{GROUP}/generation"
"""On a Job: generation of the owner that it was made for."""

MAX_NAME = 63


def child_name(*parts: str) -> str:
    """Join parts with `-`; a name that would pass 63 characters is cut and ends in a hash of the whole."""
    name = "-".join(parts)
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 9].rstrip('-')}-{sha256_hex(name.encode())[:8]}"


def owner_labels(kind: str, name: str, role: str) -> dict[str, str]:
    """Labels of every child; labels of the owner itself are never copied."""
    return {LABEL_MANAGED_BY: MANAGED_BY, LABEL_KIND: kind.lower(), LABEL_NAME: name, LABEL_ROLE: role}


def tenant_hash(tenant: str) -> str:
    """Name a tenant in lineage without writing the name down; nothing for no tenant."""
    return sha256_hex(f"specop.tenant\n{tenant}".encode())[:32] if tenant else ""


def upload_prefix(output: str, namespace: str, dataset: str) -> str:
    """Folder where the files of a dataset's `upload` source lie."""
    return f"{output.rstrip('/')}/uploads/{namespace}/{dataset}"
