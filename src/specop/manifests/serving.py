"""The Deployment of one arm and the Service of an endpoint.

PURE. The race it minds: a new version of the operator must not roll running pods. So each Deployment carries a digest
of what the endpoint's spec says of its pods (`inputs`), which neither images nor the operator's defaults enter; as long
as that digest is the same, the Deployment is left as it is, and arms that are added take its images (`Images`).
`replicas` is no part of the body: it is applied by itself, by another field manager (`scale`).
"""

from dataclasses import dataclass

from specop.api.endpoint import DraftedEndpoint
from specop.api.jobs import CompanionConfig, FetchConfig
from specop.api.shared import Contract, Json, Weights
from specop.common.hashing import digest, short
from specop.common.names import ANNOTATION_INPUTS, LABEL_ARM, LABEL_KIND, LABEL_NAME, LABEL_ROLE, child_name
from specop.manifests import common
from specop.manifests.engine import (
    ENGINE,
    ENGINE_PORT,
    PLUGIN_PATH,
    VOLUMES,
    WORK_MOUNT,
    engine_args,
    engine_container,
    engine_image,
    fetch_container,
    speculative_tokens,
)
from specop.manifests.runtime import Runtime, Runtimes
from specop.manifests.storage import ResolvedStorage, ca_volumes, resolve_storage

ROLE = "engine"
BASE = "base"
COMPANION_PORT = 8001
SERVICE_PORT = 80
CAPTURE_FOLDER = "/capture"
_CAPTURE_MOUNT: Json = {"name": "capture", "mountPath": CAPTURE_FOLDER}
PROBE_SECONDS = 5
LIVENESS_FAILURES = 12
DRAIN_SECONDS = 600
"""Longest time that a pod may take to finish its requests."""


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """What one arm serves: the base alone, or a drafter beside it."""

    drafter: Weights | None = None
    contract: Contract | None = None

    @property
    def name(self) -> str:
        """`base`, or the name of the drafter's arm."""
        return arm_name(self.drafter.digest) if self.drafter else BASE


@dataclass(frozen=True, slots=True)
class Images:
    """Images of an endpoint's pods; all its arms share them."""

    engine: str
    companion: str


def arm_name(drafter_digest: str) -> str:
    """Name of a drafter's arm: `d-` and the first digits of the digest."""
    return f"d-{short(drafter_digest)}"


def default_images(obj: DraftedEndpoint, runtimes: Runtimes) -> Images:
    """Images of pods that are made now: the endpoint's own engine, or the operator's at the tag that it asks for."""
    return Images(engine=engine_image(obj.spec.engine, runtimes.serving), companion=runtimes.companion.image)


def live_images(live: Json) -> Images | None:
    """Images that a Deployment runs; None where it is not as we made it."""
    pod = live.get("spec", {}).get("template", {}).get("spec", {})
    containers = [*(pod.get("initContainers") or []), *(pod.get("containers") or [])]
    by_name = {item.get("name"): item.get("image") for item in containers}
    engine, companion = by_name.get(ENGINE), by_name.get("companion")
    return Images(engine, companion) if engine and companion else None


def shape_digest(obj: DraftedEndpoint) -> str:
    """Digest what the spec says of the pods of every arm: 16 hex digits.

    Defaults stay out: a later version may have more fields, and other defaults, and rolls nothing by that.
    """
    spec = obj.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    return short(digest({key: spec[key] for key in spec if key not in {"replicas", "drafter", "retrain"}}), 16)


def inputs(obj: DraftedEndpoint, arm: ArmSpec) -> str:
    """Digest what the spec says of the pods of this arm: the shape, and for a drafter what it is started with."""
    if arm.drafter is None or arm.contract is None:
        return shape_digest(obj)
    started = {"digest": arm.drafter.digest, "tokens": speculative_tokens(obj.spec, arm.contract)}
    return f"{shape_digest(obj)}.{short(digest(started))}"


def deployment_name(obj: DraftedEndpoint, arm: str) -> str:
    """Name of an arm's Deployment."""
    return child_name(obj.metadata.name, arm)


def selector(obj: DraftedEndpoint) -> dict[str, str]:
    """Labels of all serving pods of the endpoint."""
    return {LABEL_KIND: obj.KIND.lower(), LABEL_NAME: obj.metadata.name, LABEL_ROLE: ROLE}


def service(obj: DraftedEndpoint) -> Json:
    """Service over all arms: an arm gets traffic when its pods are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": common.child_metadata(obj, obj.metadata.name, common.labels(obj, ROLE)),
        "spec": {
            "selector": selector(obj),
            "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": ENGINE_PORT, "protocol": "TCP"}],
        },
    }


def scale(obj: DraftedEndpoint, arm: str, replicas: int) -> Json:
    """One-field body: how many pods the arm has."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": deployment_name(obj, arm), "namespace": obj.metadata.namespace},
        "spec": {"replicas": replicas},
    }


def deployment(obj: DraftedEndpoint, runtimes: Runtimes, arm: ArmSpec, images: Images) -> Json:
    """Deployment of an arm, without `replicas`."""
    arm_labels = common.labels(obj, ROLE, **{LABEL_ARM: arm.name})
    metadata = common.child_metadata(obj, deployment_name(obj, arm.name), arm_labels)
    metadata["annotations"] = {ANNOTATION_INPUTS: inputs(obj, arm)}
    surge = obj.spec.rollout.surge == "IfPossible"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": {**selector(obj), LABEL_ARM: arm.name}},
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": obj.spec.rollout.ready_deadline_seconds,
            "strategy": {
                "type": "RollingUpdate",
                # without room for a further pod, one makes place for the next: a gap at one replica, none at more
                "rollingUpdate": {"maxSurge": int(surge), "maxUnavailable": int(not surge)},
            },
            "template": {
                "metadata": common.pod_metadata(arm_labels, obj.spec.pod_template),
                "spec": _pod(obj, runtimes, arm, images),
            },
        },
    }


def _pod(obj: DraftedEndpoint, runtimes: Runtimes, arm: ArmSpec, images: Images) -> Json:
    storage = resolve_storage(runtimes.storage, obj.spec.storage)
    capture = resolve_storage(
        runtimes.storage, obj.spec.capture.storage if obj.spec.capture else None, obj.spec.storage
    )
    ca, ca_mounts = ca_volumes(storage, capture)
    captured: Json = {"name": "capture", "emptyDir": {}}
    spec = common.pod_spec(
        obj.spec.pod_template,
        containers=[_engine(obj, runtimes.serving, arm, images)],
        volumes=[*VOLUMES, captured, *ca, *common.claim_volumes(runtimes.companion, runtimes.serving)],
        service_account=storage.credentials.service_account_name or capture.credentials.service_account_name,
    )
    fetch = FetchConfig(
        target=obj.spec.target.uri,
        store=storage.store_config(),
        drafter=arm.drafter,
        contract=arm.contract,
        speculative_tokens=speculative_tokens(obj.spec, arm.contract) if arm.contract else None,
    )
    beside = [
        fetch_container(fetch, runtimes.companion, images.companion, storage, ca_mounts),
        _companion(obj, runtimes.companion, arm, images, storage=capture, ca_mounts=ca_mounts),
    ]
    return {**spec, "initContainers": beside, "terminationGracePeriodSeconds": DRAIN_SECONDS}


def _companion(
    obj: DraftedEndpoint,
    runtime: Runtime,
    arm: ArmSpec,
    images: Images,
    *,
    storage: ResolvedStorage,
    ca_mounts: list[Json],
) -> Json:
    """Native sidecar: says when the pod is ready, drains it, ships captures; ends after the engine."""
    capture = obj.spec.capture
    config = CompanionConfig(
        namespace=obj.metadata.namespace,
        endpoint=obj.metadata.name,
        served_name=obj.spec.served_name,
        arm=arm.name,
        capture=capture.uri if capture else None,
        retention_days=capture.retention_days if capture else None,
        store=storage.store_config(),
    )
    return {
        **common.container("companion", runtime, "specop.serving.companion", image=images.companion),
        "restartPolicy": "Always",
        "env": common.env_list(runtime.env, common.SCRATCH_ENV, common.config_env(config.to_json())),
        "envFrom": storage.env_from() if capture else [],
        "ports": [{"name": "companion", "containerPort": COMPANION_PORT, "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": COMPANION_PORT},
            "periodSeconds": PROBE_SECONDS,
            "timeoutSeconds": 60,  # the first answer waits for a real completion
            "failureThreshold": 3,
        },
        "resources": common.resources(None, runtime),
        "volumeMounts": [_CAPTURE_MOUNT, WORK_MOUNT, *ca_mounts, *common.claim_mounts(runtime)],
    }


def _engine(obj: DraftedEndpoint, runtime: Runtime, arm: ArmSpec, images: Images) -> Json:
    """Build the engine, the pod's main container, for which the user's resources and environment are meant."""
    spec = obj.spec
    ours = {"PYTHONPATH": ":".join(part for part in (PLUGIN_PATH, runtime.env.get("PYTHONPATH")) if part)}
    if spec.capture:
        ours |= {
            "SPECOP_ARM": arm.name,
            "SPECOP_CAPTURE_DIR": CAPTURE_FOLDER,
            "SPECOP_CAPTURE_PERCENT": str(spec.capture.sample_percent),
        }
    health: Json = {"httpGet": {"path": "/health", "port": ENGINE_PORT}, "periodSeconds": PROBE_SECONDS}
    deadline = max(spec.rollout.ready_deadline_seconds, 1800)
    made = engine_container(
        *(spec.engine, runtime, images.engine, engine_args(spec, arm.contract)),
        template=spec.pod_template,
        env=ours,
        mounts=(_CAPTURE_MOUNT,),
    )
    return {
        **made,
        "startupProbe": {**health, "timeoutSeconds": 5, "failureThreshold": deadline // PROBE_SECONDS},
        "livenessProbe": {**health, "timeoutSeconds": 10, "failureThreshold": LIVENESS_FAILURES},
        "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": COMPANION_PORT}}},
    }
