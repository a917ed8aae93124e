"""Objects for tests of the pure core, as a user writes them and as the API server gives them back."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from specop.api.dataset import DatasetFacts, SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.jobs import InspectFacts, Outcome, TrainingFacts
from specop.api.shared import Contract, Evaluation, Json, TargetFacts, Weights
from specop.api.training_job import SpeculatorTrainingJob, TrainingSummary
from specop.manifests.runtime import Mount, Runtime, Runtimes, StorageDefaults

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACE = "team-a"
TARGET_URI = "s3://models/smollm2-135m-instruct"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def sha(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def runtimes(version: str = "1", *, output: str | None = "s3://team-a/specop") -> Runtimes:
    return Runtimes(
        data=Runtime(image=f"specop/data:{version}"),
        trainer=Runtime(image=f"specop/trainer:{version}", resources={"limits": {"nvidia.com/gpu": "1"}}),
        serving=Runtime(
            image=f"vllm/vllm-openai:{version}",
            env={"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": "/env/lib"},
            mounts=[Mount(claim_name="python.env", mount_path="/env")],
            resources={"limits": {"memory": "4Gi"}},
        ),
        companion=Runtime(image=f"specop/companion:{version}"),
        storage=StorageDefaults(output=output, endpoint_url="http://s3.local:7070", region="eu-central-1"),
    )


def facts(name: str = "smollm2", **changes: Any) -> TargetFacts:
    known = TargetFacts(
        fingerprint=sha(name),
        tokenizer_hash=sha("tokenizer"),
        chat_template_hash=sha("template"),
        vocab_size=49152,
        hidden_size=576,
        num_layers=30,
        architecture="LlamaForCausalLM",
    )
    return known.model_copy(update=changes)


def contract(**changes: Any) -> Contract:
    made = Contract(
        target=facts(), draft_vocab_size=4096, aux_layers=[2, 15, 27], decoding_heads=3, trained_length=1024
    )
    return made.model_copy(update=changes)


def evaluation(length: str = "2.89") -> Evaluation:
    return Evaluation(acceptance_length=length, per_position=["0.8", "0.6", "0.5"], positions=600)


def weights(name: str) -> Weights:
    return Weights(digest=sha(name), uri=f"s3://team-a/specop/drafters/{sha(name)[7:]}/manifest.json")


def dataset_outcome(rows: int = 400) -> Outcome:
    result = DatasetFacts(
        digest=sha("data"), uri="s3://team-a/specop/datasets/d/manifest.json", rows=rows, target=facts()
    )
    return Outcome(kind="dataset", ok=True, dataset=result)


def training_outcome(name: str = "agent-v1") -> Outcome:
    summary = TrainingSummary(steps=100, seconds=200, evaluation=evaluation())
    return Outcome(
        kind="training",
        ok=True,
        training=TrainingFacts(drafter=weights(name), contract=contract(), summary=summary),
    )


def inspect_outcome(name: str | None = None, target: TargetFacts | None = None) -> Outcome:
    found = InspectFacts(
        target=target or facts(),
        weights=weights(name) if name else None,
        contract=contract() if name else None,
    )
    return Outcome(kind="inspect", ok=True, inspect=found)


def refused(kind: str, reason: str, message: str = "why") -> Outcome:
    return Outcome.model_validate({"kind": kind, "ok": False, "reason": reason, "message": message})


def meta(name: str, *, generation: int = 1, created: float = 0, **more: Any) -> Json:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-{name}",
        "generation": generation,
        "creationTimestamp": at(created).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **more,
    }


def endpoint(name: str = "agent", *, status: Json | None = None, generation: int = 1, **spec: Any) -> DraftedEndpoint:
    body = {
        "metadata": meta(name, generation=generation),
        "spec": {"target": {"uri": TARGET_URI}, "servedName": name, "capture": {"uri": "s3://team-a/captured"}, **spec},
        **({"status": status} if status else {}),
    }
    return DraftedEndpoint.model_validate(body)


def asks_for(job: str = "agent-v1", *approved: Json, **approval: Any) -> Json:
    """`spec.drafter` of an endpoint that follows a job's lineage."""
    return {"from": {"trainingJobRef": {"name": job}}, "approval": {"approvals": list(approved), **approval}}


def approve(name: str, **more: Any) -> Json:
    return {"digest": sha(name), "by": "ada@example.com", **more}


def dataset(
    name: str = "agent-v1", *, status: Json | None = None, generation: int = 1, **spec: Any
) -> SpeculatorDataset:
    log = {"endpointRef": {"name": "agent"}, "lastSeconds": 3600, "minRequests": 200}
    sources = [
        {"name": "logs", "weight": 3, "requestLog": log},
        {"name": "seeds", "objects": {"uri": "s3://seeds/function-calling/*.jsonl"}},
    ]
    return SpeculatorDataset.model_validate(
        {
            "metadata": meta(name, generation=generation),
            "spec": {"target": {"uri": TARGET_URI}, "sources": sources, **spec},
            **({"status": status} if status else {}),
        }
    )


def training(
    name: str = "agent-v1", *, status: Json | None = None, generation: int = 1, **spec: Any
) -> SpeculatorTrainingJob:
    return SpeculatorTrainingJob.model_validate(
        {
            "metadata": meta(name, generation=generation),
            "spec": {"target": {"uri": TARGET_URI}, "datasetRef": {"name": "agent-v1"}, **spec},
            **({"status": status} if status else {}),
        }
    )


def drafter(
    name: str = "agent-v1", *, parent: str | None = None, job: str | None = "", created: float = 0, **status: Any
) -> Drafter:
    """A drafter that is ready; `job=None` for an import, `digest=None` for one that is not ready."""
    lineage = {"trainingJob": {"name": job or name, "uid": f"uid-{job or name}"}} if job is not None else {}
    if parent:
        lineage["parent"] = {"name": parent, "uid": f"uid-{parent}"}
    ready = {"type": "Ready", "status": "True", "reason": "Available", "message": "imported"}
    known = {
        "conditions": [ready],
        "digest": sha(name),
        "uri": weights(name).uri,
        "contract": contract().to_json(),
        "evaluation": evaluation().to_json(),
    }
    return Drafter.model_validate(
        {
            "metadata": meta(name, created=created),
            "spec": {
                "target": {"uri": TARGET_URI},
                "weights": {"uri": weights(name).uri, "digest": sha(name)},
                **({"lineage": lineage} if lineage else {}),
            },
            "status": {} if status.get("digest", "") is None else {**known, **status},
        }
    )


def mixed_dataset(name: str = "agent-v1", of: str = "seeds", **spec: Any) -> SpeculatorDataset:
    """A dataset made of another one and of new traffic."""
    log = {"endpointRef": {"name": "agent"}, "lastSeconds": 3600, "minRequests": 200}
    sources = [{"name": "before", "datasetRef": {"name": of}}, {"name": "logs", "requestLog": log}]
    return dataset(name, sources=sources, **spec)


def finished_dataset(name: str = "agent-v1") -> SpeculatorDataset:
    done = {
        "type": "Succeeded",
        "status": "True",
        "reason": "Completed",
        "message": "400 rows",
        "observedGeneration": 1,
    }
    found = dataset_outcome().dataset
    assert found is not None
    return dataset(name, status={"conditions": [done], "result": found.to_json()})
