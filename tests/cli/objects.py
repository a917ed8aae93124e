"""Objects of a loop at its different moments, as the API server returns them."""

from typing import Any

from specop.api.dataset import SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.training_job import SpeculatorTrainingJob
from specop.common.names import API_VERSION

TARGET = {"uri": "s3://models/small"}
ONE = "sha256:" + "1a" * 32
TWO = "sha256:" + "2b" * 32
FACTS = {
    "fingerprint": ONE,
    "tokenizerHash": ONE,
    "chatTemplateHash": ONE,
    "vocabSize": 512,
    "hiddenSize": 64,
    "numLayers": 4,
}
CONTRACT = {"target": FACTS, "draftVocabSize": 256, "auxLayers": [1, 2, 3], "decodingHeads": 3, "trainedLength": 256}
RECIPE = {"epochs": 3, "learningRate": "0.001"}


def _object(kind: str, name: str, spec: dict[str, Any], status: dict[str, Any] | None) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team-a", "uid": f"uid-{name}", "resourceVersion": "7"}
    metadata["creationTimestamp"] = f"2026-01-0{name[-1] if name[-1].isdigit() else 1}T00:00:00Z"
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec, "status": status or {}}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def dataset(
    name: str, *, done: bool = True, sources: list[dict[str, Any]] | None = None, of: dict[str, str] | None = None
) -> SpeculatorDataset:
    """`of`: what it is made of, by name and uid."""
    log = {"name": "logs", "weight": 3, "requestLog": {"endpointRef": {"name": "agent"}, "lastSeconds": 3600}}
    seeds = {"name": "seeds", "objects": {"uri": "s3://seeds/*.jsonl"}}
    spec = {"target": TARGET, "sources": sources or [log, seeds]}
    window = {"source": "logs", "since": "2026-01-01T00:00:00Z", "until": "2026-01-01T01:00:00Z", "prefix": "s3://c/x"}
    datasets = [
        {"source": f"of-{index}", "name": name, "uid": uid, "uri": "s3://o/m", "digest": TWO}
        for index, (name, uid) in enumerate((of or {}).items())
    ]
    result = {"digest": ONE, "uri": "s3://o/m", "rows": 360, "holdoutRows": 40, "tokens": 90000}
    status = {
        "conditions": [condition("Succeeded", "True", "Completed")],
        "resolved": {"output": "s3://o", "windows": [window], "datasets": datasets},
        "result": {**result, "supervisedTokens": 30000, "target": FACTS},
    }
    waiting = {"conditions": [condition("Succeeded", "Unknown", "WaitingForRequests", "82 of 100 requests shipped")]}
    return SpeculatorDataset.model_validate(_object("SpeculatorDataset", name, spec, status if done else waiting))


def job(name: str, state: str = "done", **spec: Any) -> SpeculatorTrainingJob:
    body = {"target": TARGET, "datasetRef": {"name": name}, "preset": "balanced", **spec}
    resolved = {
        "output": "s3://o",
        "preset": "balanced",
        "hyperparameters": {**RECIPE, "draftVocabSize": 32_000},  # of a child: the parent's
        "datasetDigest": ONE,
        "datasetUri": "s3://o/m",
    }
    evaluation = {"acceptanceLength": "2.81", "perPosition": ["0.80", "0.60", "0.41"]}
    result = {"steps": 330, "seconds": 198, "tokens": 470000, "tokensPerSecond": 2374, "evaluation": evaluation}
    progress = {"stage": "training", "step": 120, "totalSteps": 330, "tokensPerSecond": 2400, "loss": "1.93"}
    status: dict[str, dict[str, Any]] = {
        "done": {
            "conditions": [condition("Succeeded", "True", "Completed")],
            "resolved": resolved,
            "result": result,
            "drafter": {"name": name, "digest": ONE, "uri": "s3://o/d"},
        },
        "running": {
            "conditions": [condition("Succeeded", "Unknown", "Running")],
            "resolved": resolved,
            "progress": {**progress, "acceptanceLength": "2.10", "etaSeconds": 140},
        },
        "failed": {"conditions": [condition("Succeeded", "False", "TrainingDiverged")], "resolved": resolved},
        "new": {},
    }
    return SpeculatorTrainingJob.model_validate(_object("SpeculatorTrainingJob", name, body, status[state]))


def drafter(name: str, digest: str = ONE, *, parent: str | None = None, by: str | None = None) -> Drafter:
    lineage: dict[str, Any] = {"trainingJob": {"name": name}, "dataset": {"name": name}}
    if parent:
        lineage["parent"] = {"name": parent, "uid": f"uid-{parent}", "digest": ONE}
    spec = {"target": TARGET, "weights": {"uri": "s3://o/d", "digest": digest}, "lineage": lineage}
    status = {
        "conditions": [condition("Ready", "True", "Available")],
        "digest": digest,
        "uri": "s3://o/d",
        "contract": {**CONTRACT},
        "evaluation": {"acceptanceLength": "2.81", "perPosition": ["0.80", "0.60", "0.41"]},
        **({"approvedBy": by} if by else {}),
    }
    return Drafter.model_validate(_object("Drafter", name, spec, status))


def endpoint(
    *, drafter_spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None, asks: bool = True
) -> DraftedEndpoint:
    spec: dict[str, Any] = {"target": TARGET, "servedName": "agent"}
    if asks:
        spec["drafter"] = {"from": {"trainingJobRef": {"name": "agent-v1"}}, **(drafter_spec or {})}
    default = {"conditions": [condition("Ready", "True", "ServingBase")]}
    return DraftedEndpoint.model_validate(_object("DraftedEndpoint", "agent", spec, status or default))


def serving(digest: str = ONE, name: str = "agent-v1") -> dict[str, Any]:
    return {"name": name, "digest": digest, "uri": "s3://o/d", "contract": CONTRACT, "since": "2026-01-01T01:10:00Z"}


def candidate(digest: str = TWO, name: str = "agent-v2", state: str = "AwaitingApproval") -> dict[str, Any]:
    return {"name": name, "digest": digest, "uri": "s3://o/d", "acceptanceLength": "2.95", "state": state}


MEASURED = {
    "windowSeconds": 60,
    "requests": 24,
    "acceptanceRate": "0.63",
    "acceptanceLength": "2.89",
    "perPosition": ["0.80", "0.63", "0.45"],
    "tokensPerSecond": "51.8",
    "ttftP50Ms": 210,
    "e2eP50Ms": 1400,
    "e2eP90Ms": 1900,
}
