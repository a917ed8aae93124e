"""Create-only Jobs: dataset, training, inspect. What they do is decided by a configuration that was frozen before.

PURE. A Job is never changed after creation, but for `spec.suspend`. It is told apart from an earlier attempt by the
owner's generation on it: an ended Job of an older generation is spent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from specop.api.base import Resource
from specop.api.dataset import ObjectsSource, Source, SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.engine import Engine
from specop.api.jobs import (
    PROGRESS_PORT,
    DatasetConfig,
    FetchConfig,
    InspectConfig,
    RegenerateConfig,
    RunConfig,
    SourceConfig,
    TrainingConfig,
)
from specop.api.privacy import KEY_ENV
from specop.api.regenerate import ENGINE_MODEL
from specop.api.regenerate import KEY_ENV as TARGET_KEY_ENV
from specop.api.shared import Json, PodTemplate, SecretRef, Weights
from specop.api.training_job import Parallelism, SpeculatorTrainingJob
from specop.common.errors import EXIT_PREEMPTED, EXIT_USER_ERROR
from specop.common.hashing import digest, short
from specop.common.names import ANNOTATION_GENERATION, ANNOTATION_INPUTS, LABEL_JOB, child_name, upload_prefix
from specop.common.quantity import amount
from specop.manifests import common
from specop.manifests.engine import (
    FETCH,
    VOLUMES,
    WORK_MOUNT,
    engine_container,
    engine_image,
    fetch_container,
    target_args,
)
from specop.manifests.runtime import Runtime, Runtimes
from specop.manifests.storage import ResolvedStorage, ca_volumes, resolve_storage

MAIN = "main"
"""Name of the container whose exit code and message count."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
BACKOFF_LIMIT = 3
"""Of Jobs whose kind has no such field."""
RENDEZVOUS_PORT = 29400
GRACE_SECONDS = 120
"""Time to write a checkpoint after SIGTERM."""


@dataclass(frozen=True, slots=True)
class JobShape:
    """What differs between the Jobs."""

    role: str
    suffix: str
    module: str
    runtime: Runtime
    image: str
    template: PodTemplate | None = None
    backoff_limit: int = BACKOFF_LIMIT
    queue_name: str | None = None
    suspend: bool = False
    parallelism: Parallelism = field(default_factory=Parallelism)
    keys: Mapping[str, SecretRef | None] = field(default_factory=dict)
    """Environment variables that come from keys of the same names in Secrets."""
    engine: Engine | None = None
    """One that serves the target beside the Job's process."""


def dataset_job(obj: SpeculatorDataset, runtimes: Runtimes) -> Json:
    """Job that builds the dataset; `status.resolved` must be there."""
    resolved, asks = obj.status.resolved, obj.spec.regenerate
    assert resolved is not None
    storage = resolve_storage(runtimes.storage, obj.spec.storage)
    windows = {window.source: window for window in resolved.windows}
    datasets = {found.source: Weights(digest=found.digest, uri=found.uri) for found in resolved.datasets}
    sources, storages = [], [storage]
    for source in obj.spec.sources:
        own = resolve_storage(runtimes.storage, source.storage, obj.spec.storage) if source.storage else None
        storages += [own] if own else []
        log = source.request_log
        sources.append(
            SourceConfig(
                name=source.name,
                weight=source.weight,
                max_conversations=source.max_conversations,
                repeat=source.repeat,
                objects=source.objects or _uploaded(obj, source, resolved.output),
                window=windows.get(source.name),
                seeds=source.seeds,
                dataset=datasets.get(source.name),
                min_requests=log.min_requests if log else 1,
                filter=source.filter,
                exclude_periods=source.exclude_periods,
                store=own.store_config() if own else None,
            )
        )
    config = DatasetConfig(
        **_run(obj, resolved.output, storage, obj.spec.target.uri),
        sources=sources,
        holdout=obj.spec.holdout,
        transform=obj.spec.transform,
        consent=obj.spec.consent,
        privacy=obj.spec.privacy,
        quality=obj.spec.quality,
        regenerate=_regenerate(obj),
        engine=obj.spec.engine,
    )
    shape = JobShape(
        role="dataset",
        suffix="dataset",
        module="specop.data",
        runtime=runtimes.data,
        image=resolved.image or runtimes.data.image,
        template=obj.spec.pod_template,
        keys={
            KEY_ENV: obj.spec.privacy.key_secret_ref,
            TARGET_KEY_ENV: asks.key_secret_ref if asks else None,
        },
        engine=asks.engine if asks else None,
    )
    return _job(obj, shape, config, storages, runtimes)


def _regenerate(obj: SpeculatorDataset) -> RegenerateConfig | None:
    spec, resolved = obj.spec.regenerate, obj.status.resolved
    if spec is None or resolved is None or resolved.regenerate is None:
        return None
    found = resolved.regenerate
    return RegenerateConfig(
        mode=spec.mode,
        url=found.url,
        model=found.model,
        target_names=found.target_names,
        concurrency=spec.concurrency,
        max_tokens=spec.max_tokens,
    )


def _uploaded(obj: SpeculatorDataset, source: Source, output: str) -> ObjectsSource | None:
    if source.upload is None:
        return None
    folder = upload_prefix(output, obj.metadata.namespace, obj.metadata.name)
    return ObjectsSource(uri=f"{folder}/*", format=source.upload.format)


def training_job(obj: SpeculatorTrainingJob, runtimes: Runtimes, preset_template: PodTemplate | None) -> Json:
    """Job that trains; `status.resolved` must be there."""
    resolved = obj.status.resolved
    assert resolved is not None
    storage = resolve_storage(runtimes.storage, obj.spec.storage)
    parent, parallelism, cache = resolved.warm_start, obj.spec.parallelism or Parallelism(), obj.spec.state_cache
    config = TrainingConfig(
        **_run(obj, resolved.output, storage, obj.spec.target.uri),
        dataset=Weights(digest=resolved.dataset_digest, uri=resolved.dataset_uri),
        hyperparameters=resolved.hyperparameters,
        sharding="Full" if parallelism.sharding == "Full" else None,
        state_cache_bytes=int(amount(cache)) if cache is not None else None,
        warm_start=Weights(digest=parent.digest, uri=parent.uri) if parent else None,
    )
    shape = JobShape(
        role="training",
        suffix="training",
        module="specop.trainer",
        runtime=runtimes.trainer,
        image=resolved.image or runtimes.trainer.image,
        template=common.merge_templates(obj.spec.pod_template, preset_template),
        backoff_limit=obj.spec.backoff_limit,
        queue_name=obj.spec.queue_name,
        suspend=obj.spec.suspend or obj.spec.queue_name is not None,
        parallelism=parallelism,
    )
    body = _job(obj, shape, config, [storage], runtimes)
    if processes := _processes(obj):
        body["metadata"]["annotations"][ANNOTATION_INPUTS] = processes
    return body


def made_for_other_processes(job: Json, obj: SpeculatorTrainingJob) -> bool:
    """Whether the spec's parallelism has changed since this Job was made."""
    return (job["metadata"].get("annotations") or {}).get(ANNOTATION_INPUTS) != _processes(obj)


def _processes(obj: SpeculatorTrainingJob) -> str | None:
    return digest(obj.spec.parallelism.to_json()) if obj.spec.parallelism else None


def rendezvous_service(obj: SpeculatorTrainingJob) -> Json:
    """Headless Service by whose names the pods of several nodes find the first of them."""
    name = job_name(obj, "training")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": common.child_metadata(obj, name, common.labels(obj, "training")),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # they meet before any of them is ready
            "selector": {LABEL_JOB: name},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "protocol": "TCP"}],
        },
    }


def inspect_drafter_job(obj: Drafter, runtimes: Runtimes, output: str) -> Json:
    """Job that reads imported weights and their target."""
    storage = resolve_storage(runtimes.storage, obj.spec.storage)
    config = InspectConfig(
        **_run(obj, output, storage, obj.spec.target.uri),
        weights=obj.spec.weights.uri,
        expected_digest=obj.spec.weights.digest,
    )
    shape = _inspect_shape("inspect", runtimes, obj.spec.pod_template)
    return _job(obj, shape, config, [storage], runtimes)


def inspect_target_job(obj: DraftedEndpoint, runtimes: Runtimes, output: str) -> Json:
    """Job that reads an endpoint's target. Its run is named by uid and URI, so that another target is another run.

    The endpoint's pod patch stays out: it is for pods with a GPU, and this one needs none.
    """
    storage = resolve_storage(runtimes.storage, obj.spec.storage)
    run = _run(obj, output, storage, obj.spec.target.uri)
    config = InspectConfig(**{**run, "uid": f"{obj.metadata.uid}-{short(digest(obj.spec.target.uri))}"})
    return _job(obj, _inspect_shape("target", runtimes, None), config, [storage], runtimes)


def job_name(owner: Resource, suffix: str) -> str:
    """Name of the owner's Job: one a suffix, so that a repeated create is refused."""
    return child_name(owner.metadata.name, suffix)


def _inspect_shape(suffix: str, runtimes: Runtimes, template: PodTemplate | None) -> JobShape:
    return JobShape(
        role="inspect",
        suffix=suffix,
        module="specop.serving.inspect",
        runtime=runtimes.data,
        image=runtimes.data.image,
        template=template,
    )


def _run(obj: Resource, output: str, storage: ResolvedStorage, target: str) -> Json:
    """Fields of RunConfig."""
    meta = obj.metadata
    return {
        "uid": meta.uid,
        "namespace": meta.namespace,
        "name": meta.name,
        "output": output,
        "store": storage.store_config(),
        "target": target,
    }


def _job(
    owner: Resource, shape: JobShape, config: RunConfig, storages: list[ResolvedStorage], runtimes: Runtimes
) -> Json:
    job_labels = common.labels(owner, shape.role)
    metadata = common.child_metadata(owner, job_name(owner, shape.suffix), job_labels)
    metadata["annotations"] = {ANNOTATION_GENERATION: str(owner.metadata.generation)}
    if shape.queue_name:
        metadata["labels"][QUEUE_LABEL] = shape.queue_name
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "suspend": shape.suspend,
            "backoffLimit": shape.backoff_limit,
            "ttlSecondsAfterFinished": runtimes.job_ttl_seconds,
            "podReplacementPolicy": "Failed",  # two attempts never run side by side
            **_indexed(shape),
            "podFailurePolicy": {
                "rules": [
                    _exit_code("FailJob", EXIT_USER_ERROR),
                    *([_exit_code("FailJob", EXIT_USER_ERROR, FETCH)] if shape.engine else []),
                    _exit_code("Ignore", EXIT_PREEMPTED),
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {
                "metadata": common.pod_metadata(job_labels, shape.template),
                "spec": _job_pod(shape, config, storages, metadata["name"], runtimes),
            },
        },
    }


def _indexed(shape: JobShape) -> Json:
    """Several pods that all have to end well, each with a number; index 0 speaks for them."""
    nodes = shape.parallelism.nodes
    return {"completionMode": "Indexed", "completions": nodes, "parallelism": nodes} if nodes > 1 else {}


def _launch(shape: JobShape, name: str) -> tuple[str, list[str]]:
    """Name the module that a pod runs, and its arguments: with several processes, what starts them."""
    several = shape.parallelism
    if several.processes == 1:
        return shape.module, []
    arguments = [f"--nodes={several.nodes}", f"--processes={several.processes_per_node}"]
    if several.nodes > 1:
        arguments.append(f"--rendezvous={name}-0.{name}:{RENDEZVOUS_PORT}")
    return f"{shape.module}.launch", arguments


def _resources(shape: JobShape) -> Json:
    """Resources of a pod, with as many GPUs as processes where it has any."""
    found, processes = common.resources(shape.template, shape.runtime), shape.parallelism.processes_per_node
    if processes > 1:
        for amounts in found.values():
            amounts.update({name: str(processes) for name in amounts if name.endswith("/gpu")})
    return found


def _exit_code(action: str, code: int, container: str = MAIN) -> Json:
    return {"action": action, "onExitCodes": {"containerName": container, "operator": "In", "values": [code]}}


def _keys_env(keys: Mapping[str, SecretRef | None]) -> list[Json]:
    """Give the pod keys; the operator never sees them."""
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": name}}}
        for name, ref in keys.items()
        if ref
    ]


def _job_pod(
    shape: JobShape, config: RunConfig, storages: list[ResolvedStorage], name: str, runtimes: Runtimes
) -> Json:
    runtime, storage = shape.runtime, storages[0]
    ca, ca_mounts = ca_volumes(*storages)
    module, arguments = _launch(shape, name)
    main = common.container(MAIN, runtime, module, image=shape.image)
    if arguments:
        main["args"] = arguments
    several = shape.parallelism
    shared: list[Json] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}] if several.processes_per_node > 1 else []
    shared_mounts: list[Json] = [{"name": volume["name"], "mountPath": "/dev/shm"} for volume in shared]  # noqa: S108
    main |= {
        "env": common.env_list(
            runtime.env, common.user_env(shape.template), common.SCRATCH_ENV, common.config_env(config.to_json())
        )
        + _keys_env(shape.keys),
        "envFrom": storage.env_from(),
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"}],
        "resources": _resources(shape),
        "volumeMounts": [
            WORK_MOUNT,
            *shared_mounts,
            *ca_mounts,
            *common.claim_mounts(runtime),
        ],
    }
    scratch = VOLUMES if shape.engine else ({"name": "work", "emptyDir": {}}, *shared)
    beside = (runtimes.companion, runtimes.serving) if shape.engine else ()
    spec = common.pod_spec(
        shape.template,
        containers=[main],
        volumes=[*scratch, *ca, *common.claim_volumes(runtime, *beside)],
        service_account=storage.credentials.service_account_name,
    )
    if several.nodes > 1:
        spec["subdomain"] = name  # pod names resolve in the Service of this name
    if shape.engine:
        spec["initContainers"] = _beside(shape.engine, config, runtimes, storage, ca_mounts)
    return {**spec, "restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE_SECONDS}


def _beside(
    engine: Engine, config: RunConfig, runtimes: Runtimes, storage: ResolvedStorage, ca_mounts: list[Json]
) -> list[Json]:
    """Build an engine beside the Job's process: a native sidecar, which the kubelet ends when that process has ended.

    No probe holds the process back: while the engine starts, the first pass runs.
    """
    fetch = FetchConfig(target=config.target, store=config.store)
    serving, companion = runtimes.serving, runtimes.companion
    args = [*target_args(engine, ENGINE_MODEL), *engine.args]
    return [
        fetch_container(fetch, companion, companion.image, storage, ca_mounts),
        {**engine_container(engine, serving, engine_image(engine, serving), args), "restartPolicy": "Always"},
    ]
