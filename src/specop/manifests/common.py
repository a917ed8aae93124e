"""What every child object has in common: identity, ownership, the restricted security context, the user's pod patch.

PURE. A pod made here passes Pod Security `restricted`, has no API access and writes only to its own volumes.
"""

from collections.abc import Iterable, Mapping

from specop.api.base import Resource
from specop.api.jobs import CONFIG_ENV, WORK_DIR
from specop.api.shared import Json, PodTemplate
from specop.common.hashing import canonical_json
from specop.common.names import API_VERSION, child_name, owner_labels
from specop.manifests.runtime import Mount, Runtime

USER_ID = 65532
"""Uid, gid and fsGroup of all pods."""

POD_SECURITY: Json = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
SCRATCH_ENV = {
    "HOME": WORK_DIR,
    "TMPDIR": WORK_DIR,
    "XDG_CACHE_HOME": f"{WORK_DIR}/.cache",
    "XDG_CONFIG_HOME": f"{WORK_DIR}/.config",
    "USER": "specop",  # libraries ask for a name, and the uid has no passwd entry
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""The root is read-only: whatever a library wants to keep lies on the scratch volume."""


def owner_reference(owner: Resource) -> Json:
    """Name the owner as controller; deleting it never waits for the child."""
    return {
        "apiVersion": API_VERSION,
        "kind": owner.KIND,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def labels(owner: Resource, role: str, **extra: str) -> dict[str, str]:
    """Labels of the owner's child in this role."""
    return {**owner_labels(owner.KIND, owner.metadata.name, role), **extra}


def child_metadata(owner: Resource, name: str, child_labels: Mapping[str, str]) -> Json:
    """Metadata of a child that goes when its owner goes."""
    return {
        "name": name,
        "namespace": owner.metadata.namespace,
        "labels": dict(child_labels),
        "ownerReferences": [owner_reference(owner)],
    }


def pod_metadata(child_labels: Mapping[str, str], template: PodTemplate | None) -> Json:
    """Metadata of a pod: the user's labels, and ours over them."""
    user = (template.labels if template else None) or {}
    return {"labels": {**user, **child_labels}}


def env_list(*layers: Mapping[str, str]) -> list[Json]:
    """Merge environments, the later over the earlier; sorted, so that equal input gives equal pods."""
    merged = {name: value for layer in layers for name, value in layer.items()}
    return [{"name": name, "value": merged[name]} for name in sorted(merged)]


def user_env(template: PodTemplate | None) -> dict[str, str]:
    """Environment that the user's pod patch adds."""
    return {variable.name: variable.value for variable in (template.env if template else None) or []}


def config_env(config: Json) -> dict[str, str]:
    """Give the process its configuration as environment, in canonical form."""
    return {CONFIG_ENV: canonical_json(config).decode()}


def resources(template: PodTemplate | None, runtime: Runtime) -> Json:
    """Choose requests and limits of the main container: the user's as a whole, else the role's defaults."""
    if template and template.resources:
        return template.resources.to_json()
    return {key: dict(value) for key, value in runtime.resources.items()}


def container(name: str, runtime: Runtime, module: str, *, image: str | None = None) -> Json:
    """Frame of a container that runs `<command> -m <module>`."""
    return {
        "name": name,
        "image": image or runtime.image,
        "imagePullPolicy": runtime.image_pull_policy,
        "command": [*runtime.command, "-m", module],
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }


def _claim_volume(mount: Mount) -> str:
    """Name of the volume of a claim; a volume's name has no dots."""
    return child_name("claim", mount.claim_name.replace(".", "-"))


def claim_volumes(*runtimes: Runtime) -> list[Json]:
    """Volumes of the claims that these roles mount, each once."""
    claims = {mount.claim_name: _claim_volume(mount) for runtime in runtimes for mount in runtime.mounts}
    return [
        {"name": volume, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        for claim, volume in sorted(claims.items())
    ]


def claim_mounts(runtime: Runtime) -> list[Json]:
    """Where the role sees its claims."""
    return [{"name": _claim_volume(mount), "mountPath": mount.mount_path, "readOnly": True} for mount in runtime.mounts]


def pod_spec(
    template: PodTemplate | None, *, containers: list[Json], volumes: Iterable[Json], service_account: str | None
) -> Json:
    """Pod with our security settings and the user's scheduling patch."""
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service named after an engine's variable would change its settings
        "securityContext": POD_SECURITY,
        "containers": containers,
        "volumes": list(volumes),
    }
    if service_account:
        spec["serviceAccountName"] = service_account
    if template:
        patch = template.to_json()
        for key in ("nodeSelector", "tolerations", "runtimeClassName", "priorityClassName"):
            if patch.get(key):
                spec[key] = patch[key]
    return spec


def merge_templates(template: PodTemplate | None, fallback: PodTemplate | None) -> PodTemplate | None:
    """Take what the object says, and where it says nothing, what its preset says; field by field."""
    if template is None or fallback is None:
        return template or fallback
    return PodTemplate.model_validate({**fallback.to_json(), **template.to_json()})
