"""What the real API server accepts, fills in and refuses, with the words that a user reads."""

from typing import Any

import pytest

from specop.api.endpoint import EndpointSpec
from specop.api.kinds import KINDS
from specop.api.shared import Contract
from specop.manifests.engine import engine_args
from tests.api.conftest import Api, Refused
from tests.api.manifests import DIGEST, REMOVED, TARGET_FACTS, edited, full, loop

pytestmark = pytest.mark.control_plane

DATASET, JOB, DRAFTER, ENDPOINT, PRESET = (kind.model.KIND for kind in KINDS)
LOGS = "spec.sources.0.requestLog"
SEEDS = "spec.sources.1"
POD = "spec.podTemplate"
ARGS = "spec.engine.args"
APPROVAL = "spec.drafter.approval"

AN_OBJECT = {"uri": "s3://seeds/a.jsonl"}
TWICE = [{"name": "a", "objects": AN_OBJECT}, {"name": "a", "objects": AN_OBJECT}]
SAME_APPROVAL = {"digest": DIGEST, "by": "ana"}

# name: (kind, edits of the loop's manifest, part of the message)
BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    # names, whole objects
    "name too long": (DATASET, {"metadata.name": "a" * 41}, "must be at most 40 characters"),
    "name with a dot": (ENDPOINT, {"metadata.name": "agent.v1"}, "names of pods and Services are made from it"),
    "name begins with a digit": (DRAFTER, {"metadata.name": "7b-drafter"}, "beginning with a letter"),
    "no spec": (JOB, {"spec": REMOVED}, "spec: Required value"),
    "unknown field": (DATASET, {"spec.source": []}, 'unknown field "spec.source"'),
    "snake case": (
        JOB,
        {"spec.hyperparameters.learning_rate": "1e-3"},
        'unknown field "spec.hyperparameters.learning_rate"',
    ),
    "a spec of another kind": (DRAFTER, {"spec.servedName": "x"}, 'unknown field "spec.servedName"'),
    "built-in preset redefined": (PRESET, {"metadata.name": "balanced"}, "ship with the operator"),
    # where things lie
    "no target": (DATASET, {"spec.target": REMOVED}, "spec.target: Required value"),
    "hub id as target": (ENDPOINT, {"spec.target.uri": "Qwen/Qwen3-8B"}, "must be s3://bucket/key, or file:///path"),
    "https target": (JOB, {"spec.target.uri": "https://host/model"}, "must be s3://bucket/key"),
    "no bucket": (ENDPOINT, {"spec.target.uri": "s3:///model"}, "must be s3://bucket/key"),
    "relative file": (ENDPOINT, {"spec.target.uri": "file://models/base"}, "or file:///path on one machine"),
    "pattern as target": (JOB, {"spec.target.uri": "s3://models/*"}, "without spaces or patterns"),
    "space in a URI": (JOB, {"spec.target.uri": "s3://models/my model"}, "without spaces"),
    "a weights file as target": (
        JOB,
        {"spec.target.uri": "s3://models/base/model.safetensors"},
        "must be the folder of the model",
    ),
    "config file as target": (DATASET, {"spec.target.uri": "s3://models/base/config.json"}, "not one file of it"),
    "very long URI": (DATASET, {"spec.target.uri": "s3://models/" + "a" * 1100}, "Too long"),
    "objects without a key": (DATASET, {f"{SEEDS}.objects.uri": "s3://seeds"}, "must name objects in a bucket"),
    "objects with an empty key": (
        DATASET,
        {f"{SEEDS}.objects.uri": "s3://seeds/"},
        "such as s3://bucket/folder/*.jsonl",
    ),
    "pattern in the bucket": (DATASET, {f"{SEEDS}.objects.uri": "s3://se*ds/a.jsonl"}, "must name objects in a bucket"),
    "unknown format": (
        DATASET,
        {f"{SEEDS}.objects.format": "Alpaca"},
        'supported values: "Auto", "OpenAIChat", "Capture", "RequestResponse"',
    ),
    # storage
    "both credentials": (
        DATASET,
        {"spec.storage.credentials": {"secretRef": {"name": "a"}, "serviceAccountName": "b"}},
        "set exactly one of: secretRef, serviceAccountName",
    ),
    "no credentials inside": (
        JOB,
        {"spec.storage.credentials": {}},
        "set exactly one of: secretRef, serviceAccountName",
    ),
    "key in the endpoint URL": (
        DRAFTER,
        {"spec.storage.endpointUrl": "https://key:secret@minio"},
        "credentials go to a Secret",
    ),
    "endpoint URL without scheme": (ENDPOINT, {"spec.storage.endpointUrl": "minio:9000"}, "must be an http(s) URL"),
    "secret name": (JOB, {"spec.storage.credentials.secretRef.name": "My_Secret"}, "must be the name of an object"),
    "output of a source": (DATASET, {f"{SEEDS}.storage.output": "s3://x"}, "set output in spec.storage"),
    "output of captures": (ENDPOINT, {"spec.capture.storage.output": "s3://x"}, "set output in spec.storage"),
    # datasets
    "no sources": (DATASET, {"spec.sources": []}, "should have at least 1 items"),
    "source of two kinds": (
        DATASET,
        {"spec.sources.0.objects": AN_OBJECT},
        "set exactly one of: objects, requestLog, upload, seeds, datasetRef",
    ),
    "source of no kind": (
        DATASET,
        {"spec.sources.0.requestLog": REMOVED},
        "set exactly one of: objects, requestLog, upload, seeds, datasetRef",
    ),
    "source twice": (DATASET, {"spec.sources": TWICE}, "spec.sources[1]: Duplicate value"),
    "source name": (DATASET, {"spec.sources.0.name": "Prod Logs"}, "must be lower-case letters, digits and -"),
    "weight 0": (DATASET, {"spec.sources.0.weight": 0}, "should be greater than or equal to 1"),
    "Ray without a port": (DATASET, {"spec.engine": {"ray": {"address": "ray://head"}}}, "must be ray://host:port"),
    "no such language": (DATASET, {"spec.quality.languages": ["en", "jp"]}, "must be a code of ISO 639-1"),
    "language twice": (DATASET, {"spec.quality.languages": ["en", "en"]}, "Duplicate value"),
    "cap 0": (DATASET, {"spec.sources.0.maxConversations": 0}, "should be greater than or equal to 1"),
    "repeat 11": (DATASET, {"spec.sources.0.repeat": 11}, "should be less than or equal to 10"),
    "fractional weight": (DATASET, {"spec.sources.0.weight": 0.5}, "must be of type integer"),
    "lastSeconds and since": (DATASET, {f"{LOGS}.since": "2026-01-01T00:00:00Z"}, "set lastSeconds or since, not both"),
    "lastSeconds and until": (DATASET, {f"{LOGS}.until": "2026-01-01T00:00:00Z"}, "with until, set since instead"),
    "until before since": (
        DATASET,
        {
            f"{LOGS}.lastSeconds": REMOVED,
            f"{LOGS}.since": "2026-02-01T00:00:00Z",
            f"{LOGS}.until": "2026-02-01T00:30:00+01:00",
        },
        "until must be after since",
    ),
    "since is no time": (
        DATASET,
        {f"{LOGS}.lastSeconds": REMOVED, f"{LOGS}.since": "yesterday"},
        "must be of type date-time",
    ),
    "window of a second": (DATASET, {f"{LOGS}.lastSeconds": 1}, "should be greater than or equal to 60"),
    "window as a duration": (DATASET, {f"{LOGS}.lastSeconds": "7d"}, "must be of type integer"),
    "endpoint not named": (DATASET, {f"{LOGS}.endpointRef": {}}, "endpointRef.name: Required value"),
    "excluded period backwards": (
        DATASET,
        {"spec.sources.0.excludePeriods": [{"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}]},
        "until must be after since",
    ),
    "uploaded files elsewhere": (
        DATASET,
        {"spec.sources": [{"name": "mine", "upload": {}, "storage": {"region": "eu-1"}}]},
        "uploaded files lie in the dataset's own output",
    ),
    "seeds that nobody completes": (
        DATASET,
        {"spec.sources": [{"name": "code", "seeds": {"set": "code"}}]},
        "seeds have no answers: say who completes them",
    ),
    "a set that does not exist": (
        DATASET,
        {"spec.sources": [{"name": "code", "seeds": {"set": "poems"}}]},
        'supported values: "code", "function-calling"',
    ),
    "nobody to ask": (DATASET, {"spec.regenerate": {}}, "set exactly one of: endpointRef, url, engine"),
    "a url without the model's name": (
        DATASET,
        {"spec.regenerate": {"url": "http://h/v1"}},
        "say by which name the target is served there",
    ),
    "a url that is none": (
        DATASET,
        {"spec.regenerate": {"url": "h", "model": "m"}},
        "must be the base of an OpenAI API",
    ),
    "an endpoint's target by name": (
        DATASET,
        {"spec.regenerate": {"endpointRef": {"name": "agent"}, "model": "m"}},
        "it goes with url alone",
    ),
    "a key for an engine": (
        DATASET,
        {"spec.regenerate": {"engine": {}, "keySecretRef": {"name": "k"}}},
        "endpoints and engines ask for no key",
    ),
    "an endpoint and an engine": (
        DATASET,
        {"spec.regenerate": {"endpointRef": {"name": "agent"}, "engine": {}}},
        "set exactly one of: endpointRef, url, engine",
    ),
    "a flag of the job's engine that is ours": (
        DATASET,
        {"spec.regenerate": {"engine": {"args": ["--port=80"]}}},
        "is set by specop",
    ),
    "a dataset made from itself": (
        DATASET,
        {"spec.sources.0": {"name": "before", "datasetRef": {"name": "agent-v1"}}},
        "a dataset cannot be made from itself",
    ),
    "filter of a dataset's rows": (
        DATASET,
        {"spec.sources.0": {"name": "before", "datasetRef": {"name": "seeds"}, "filter": {"models": ["agent"]}}},
        "rows of a dataset know no model, status, route or tenant",
    ),
    "dataset of a source not named": (
        DATASET,
        {"spec.sources.0": {"name": "before", "datasetRef": {}}},
        "datasetRef.name: Required value",
    ),
    "surrogates without a key": (DATASET, {"spec.privacy": {"action": "Surrogate"}}, "surrogates need a key"),
    "surrogates of one entity without a key": (
        DATASET,
        {"spec.privacy": {"entities": [{"type": "Email", "action": "Surrogate"}]}},
        "surrogates need a key",
    ),
    "surrogates of an own pattern without a key": (
        DATASET,
        {"spec.privacy": {"patterns": [{"name": "Room", "regex": "x", "action": "Surrogate"}]}},
        "name a Secret with SPECOP_PRIVACY_KEY",
    ),
    "unknown entity": (DATASET, {"spec.privacy": {"entities": [{"type": "Name"}]}}, 'Unsupported value: "Name"'),
    "entity twice": (
        DATASET,
        {"spec.privacy": {"entities": [{"type": "Email"}, {"type": "Email"}]}},
        "Duplicate value",
    ),
    "name of a pattern": (
        DATASET,
        {"spec.privacy": {"patterns": [{"name": "room no", "regex": "x"}]}},
        "must be a CamelCase word",
    ),
    "path of a mark": (DATASET, {"spec.consent": {"noTrainFields": ["$.a[0]"]}}, "must be a path of keys"),
    "all held out": (DATASET, {"spec.holdout.percent": 100}, "should be less than or equal to 50"),
    "tiny rows": (DATASET, {"spec.transform.maxLength": 8}, "should be greater than or equal to 64"),
    # training jobs
    "no nodes": (JOB, {"spec.parallelism": {"nodes": 0}}, "should be greater than or equal to 1"),
    "sharding of one process": (JOB, {"spec.parallelism": {"sharding": "Full"}}, "set nodes or processesPerNode"),
    "fewer GPUs than processes": (
        JOB,
        {"spec.parallelism": {"processesPerNode": 4}, f"{POD}.resources.limits": {"nvidia.com/gpu": 2}},
        "set as many as parallelism.processesPerNode",
    ),
    "cache in words": (JOB, {"spec.stateCache": "half"}, "must be a Kubernetes quantity"),
    "no dataset": (JOB, {"spec.datasetRef": REMOVED}, "spec.datasetRef: Required value"),
    "dataset by digest": (JOB, {"spec.datasetRef.name": DIGEST[:30]}, "must be the name of an object"),
    "float learning rate": (JOB, {"spec.hyperparameters.learningRate": 0.001}, "must be of type string"),
    "learning rate in words": (JOB, {"spec.hyperparameters.learningRate": "fast"}, "must be a number in quotes"),
    "negative decay": (JOB, {"spec.hyperparameters.weightDecay": "-0.1"}, "that is not negative"),
    "learning rate 0": (JOB, {"spec.hyperparameters.learningRate": "0"}, "must be greater than 0"),
    "early stop that cannot act": (
        JOB,
        {"spec.hyperparameters": {"evaluations": 4, "earlyStopEvaluations": 4}},
        "spec.hyperparameters.earlyStopEvaluations: Invalid value: must be less than evaluations",
    ),
    "rate that rises and falls at once": (
        JOB,
        {"spec.hyperparameters": {"scheduler": "WSD", "warmupPercent": 60, "decayPercent": 50}},
        "spec.hyperparameters.decayPercent: Invalid value: with warmupPercent must be at most 100",
    ),
    "decay that nothing reads": (
        JOB,
        {"spec.hyperparameters": {"scheduler": "Cosine", "decayPercent": 20}},
        "spec.hyperparameters.decayPercent: Invalid value: is read by scheduler WSD alone",
    ),
    "eta that nothing reads": (
        JOB,
        {"spec.hyperparameters": {"loss": [{"name": "KL"}], "lkEta": "3"}},
        "spec.hyperparameters.lkEta: Invalid value: is read by the loss LKHybrid alone",
    ),
    "average that forgets nothing": (JOB, {"spec.hyperparameters.emaDecay": "1"}, "must be above 0 and below 1"),
    "step decay over 1": (JOB, {"spec.hyperparameters.stepDecay": "1.5"}, "must be above 0 and at most 1"),
    "loss that does not exist": (JOB, {"spec.hyperparameters.loss": [{"name": "MSE"}]}, "Unsupported value"),
    "loss twice": (JOB, {"spec.hyperparameters.loss": [{"name": "KL"}, {"name": "KL"}]}, "Duplicate value"),
    "losses of weight 0": (
        JOB,
        {"spec.hyperparameters.loss": [{"name": "KL", "weight": "0"}]},
        "at least one term needs a weight above 0",
    ),
    "too many heads": (JOB, {"spec.hyperparameters.decodingHeads": 64}, "should be less than or equal to 16"),
    "suspend beside a queue": (JOB, {"spec.queueName": "gpus", "spec.suspend": True}, "Kueue decides over suspend"),
    "queue name": (JOB, {"spec.queueName": "GPU queue"}, "must be the name of a Kueue LocalQueue"),
    "warm start from itself": (
        JOB,
        {"spec.warmStart.drafterRef.name": "agent-v1"},
        "the drafter that this job itself makes",
    ),
    "empty warm start": (JOB, {"spec.warmStart": {}}, "drafterRef: Required value"),
    # drafters
    "no weights": (DRAFTER, {"spec.weights": REMOVED}, "spec.weights: Required value"),
    "weights file": (DRAFTER, {"spec.weights.uri": "s3://w/model.safetensors"}, "must be the folder with config.json"),
    "short digest": (DRAFTER, {"spec.weights.digest": "sha256:0123"}, "sha256: and 64 hex digits"),
    "digest of another hash": (DRAFTER, {"spec.weights.digest": "md5:" + "0" * 32}, "must be a whole digest"),
    # endpoints: the engine
    "model flag": (ENDPOINT, {ARGS: ["--model", "x"]}, "has a field of its own"),
    "served name flag with _": (ENDPOINT, {ARGS: ["--served_model_name=x"]}, "has a field of its own"),
    "abbreviated flag": (ENDPOINT, {ARGS: ["--served", "x"]}, "has a field of its own"),
    "dtype flag": (ENDPOINT, {ARGS: ["--dtype=half"]}, "engine.dtype"),
    "speculative flag": (ENDPOINT, {ARGS: ["--speculative-config", "{}"]}, "the drafter is chosen by spec.drafter"),
    "speculative flag with a key": (ENDPOINT, {ARGS: ["--speculative-config.method=ngram"]}, "chosen by spec.drafter"),
    "template flag": (ENDPOINT, {ARGS: ["--chat-template=x.jinja"]}, "belong to the target"),
    "port flag": (ENDPOINT, {ARGS: ["--max-num-seqs=8", "--port", "9000"]}, "spec.engine.args[1]"),
    "middleware flag": (ENDPOINT, {ARGS: ["--middleware", "x.Y"]}, "is set by specop"),
    "key in a manifest": (ENDPOINT, {ARGS: ["--api-key=secret"]}, "keys do not belong in a manifest"),
    "requests in logs": (ENDPOINT, {ARGS: ["--enable-log-requests"]}, "would write what users say into logs"),
    "short flag": (ENDPOINT, {ARGS: ["-tp", "2"]}, "write the flag out"),
    "flag and value in one": (ENDPOINT, {ARGS: ["--max-num-seqs 8"]}, "a flag and its value are two items"),
    "value first": (ENDPOINT, {ARGS: ["serve", "--max-num-seqs"]}, "must begin with a flag"),
    "version and image": (
        ENDPOINT,
        {"spec.engine": {"version": "v1", "image": "x/y:z"}},
        "set version or image, not both",
    ),
    "fewer GPUs than shards": (
        ENDPOINT,
        {"spec.engine.tensorParallel": 4, "spec.engine.resources.limits": {"nvidia.com/gpu": 2}},
        "tensorParallel needs as many GPUs",
    ),
    "resources twice": (
        ENDPOINT,
        {"spec.engine.resources.limits": {"cpu": 1}, f"{POD}.resources.limits": {"cpu": 2}},
        "set engine.resources or podTemplate.resources, not both",
    ),
    # endpoints: the gate and the loop
    "no served name": (ENDPOINT, {"spec.servedName": REMOVED}, "spec.servedName: Required value"),
    "served name with a space": (ENDPOINT, {"spec.servedName": "my model"}, "must be a model name as clients send it"),
    "negative replicas": (ENDPOINT, {"spec.replicas": -1}, "should be greater than or equal to 0"),
    "sample over 100": (ENDPOINT, {"spec.capture.samplePercent": 150}, "should be less than or equal to 100"),
    "kept for no day": (ENDPOINT, {"spec.capture.retentionDays": 0}, "should be greater than or equal to 1"),
    "from two places": (
        ENDPOINT,
        {"spec.drafter.from.drafterRef.name": "x"},
        "set exactly one of: trainingJobRef, drafterRef",
    ),
    "from nowhere": (ENDPOINT, {"spec.drafter.from": {}}, "set exactly one of: trainingJobRef, drafterRef"),
    "too many drafted tokens": (ENDPOINT, {"spec.drafter.speculativeTokens": 17}, "should be less than or equal to 16"),
    "no drafted tokens": (ENDPOINT, {"spec.drafter.speculativeTokens": 0}, "should be greater than or equal to 1"),
    "policy": (ENDPOINT, {f"{APPROVAL}.policy": "Never"}, 'supported values: "Required", "Automatic"'),
    "approval of a short digest": (
        ENDPOINT,
        {f"{APPROVAL}.approvals": [{"digest": "sha256:01", "by": "ana"}]},
        "must be a whole digest",
    ),
    "approval by nobody": (ENDPOINT, {f"{APPROVAL}.approvals": [{"digest": DIGEST}]}, "by: Required value"),
    "approval by an empty name": (
        ENDPOINT,
        {f"{APPROVAL}.approvals": [{"digest": DIGEST, "by": ""}]},
        "at least 1 chars long",
    ),
    "approval twice": (
        ENDPOINT,
        {f"{APPROVAL}.approvals": [SAME_APPROVAL, SAME_APPROVAL]},
        "approvals[1]: Duplicate value",
    ),
    "expiry is no time": (
        ENDPOINT,
        {f"{APPROVAL}.approvals": [{**SAME_APPROVAL, "expiresAt": "next week"}]},
        "must be of type date-time",
    ),
    "rejection twice": (
        ENDPOINT,
        {f"{APPROVAL}.rejectedDigests": [DIGEST, DIGEST]},
        "rejectedDigests[1]: Duplicate value",
    ),
    "attempt 0": (
        ENDPOINT,
        {f"{APPROVAL}.approvals": [{**SAME_APPROVAL, "attempt": 0}]},
        "should be greater than or equal to 1",
    ),
    "retraining without capture": (ENDPOINT, {"spec.capture": REMOVED}, "retraining reads captured requests"),
    "retraining without a lineage": (
        ENDPOINT,
        {"spec.drafter.from": {"drafterRef": {"name": "imported"}}},
        "retraining repeats that job's recipe",
    ),
    "retraining that nothing starts": (
        ENDPOINT,
        {"spec.retrain": {"cooldownSeconds": 60}},
        "such as when: {drift: {}}",
    ),
    "surge": (ENDPOINT, {"spec.rollout.surge": "Always"}, 'supported values: "IfPossible", "Never"'),
    # pods
    "reserved variable": (DATASET, {f"{POD}.env": [{"name": "SPECOP_CONFIG"}]}, "SPECOP_* and AWS_* are set by specop"),
    "credentials as variables": (
        JOB,
        {f"{POD}.env": [{"name": "AWS_SECRET_ACCESS_KEY"}]},
        "configure storage with spec.storage",
    ),
    "home": (
        JOB,
        {f"{POD}.env": [{"name": "HOME", "value": "/root"}]},
        "HOME and TMPDIR lie on the pod's scratch volume",
    ),
    "module path": (ENDPOINT, {f"{POD}.env": [{"name": "PYTHONPATH"}]}, "PYTHONPATH is set by specop"),
    "variable name": (JOB, {f"{POD}.env": [{"name": "MY-VAR"}]}, "must be the name of an environment variable"),
    "variable twice": (PRESET, {f"{POD}.env": [{"name": "A"}, {"name": "A"}]}, "Duplicate value"),
    "our labels": (
        ENDPOINT,
        {f"{POD}.labels": {"specop.dev/arm": "base"}},
        "labels by which specop, Kubernetes and Kueue find pods",
    ),
    "label key": (JOB, {f"{POD}.labels": {"a b": "c"}}, "keys must be label keys"),
    "label value": (JOB, {f"{POD}.labels": {"a": "b c"}}, "must be a label value"),
    "quantity": (JOB, {f"{POD}.resources.limits": {"memory": "16 GB"}}, "must be a Kubernetes quantity"),
    "request over limit": (
        JOB,
        {f"{POD}.resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1025Mi"}}},
        "a request may not be higher than its limit",
    ),
    "GPU as a request only": (JOB, {f"{POD}.resources.requests": {"nvidia.com/gpu": 1}}, "are set as limits"),
    "toleration with Exists and a value": (
        DATASET,
        {f"{POD}.tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "operator Exists takes no value",
    ),
    "toleration of nothing": (DATASET, {f"{POD}.tolerations": [{"value": "b"}]}, "operator must be Exists"),
    "toleration seconds": (
        DATASET,
        {f"{POD}.tolerations": [{"key": "a", "tolerationSeconds": 5}]},
        "tolerationSeconds needs effect NoExecute",
    ),
    "a container of one's own": (ENDPOINT, {f"{POD}.containers": []}, 'unknown field "spec.podTemplate.containers"'),
}

BASES = {**full(), **loop()}


@pytest.mark.parametrize("case", BAD)
def test_refused_with_words_that_help(api: Api, case: str) -> None:
    kind, edits, message = BAD[case]
    with pytest.raises(Refused) as refusal:
        api.create(edited(BASES[kind], edits))
    assert message in str(refusal.value)
    assert refusal.value.status in (400, 422)


def test_there_are_enough_bad_manifests() -> None:
    assert len(BAD) >= 60


def test_flags_that_specop_sets_are_not_for_users(api: Api) -> None:
    spec = EndpointSpec.model_validate(edited(full()[ENDPOINT], {ARGS: []})["spec"])
    contract = Contract.model_validate(
        {
            "target": TARGET_FACTS,
            "draftVocabSize": 32000,
            "auxLayers": [2, 15, 27],
            "decodingHeads": 3,
            "trainedLength": 1,
        }
    )
    flags = engine_args(spec, contract)
    assert len(flags) == 8
    for flag in flags:
        with pytest.raises(Refused, match=r"spec\.engine\.args\[0\]"):
            api.create(edited(full()[ENDPOINT], {ARGS: [flag]}))


@pytest.mark.parametrize("kind", loop())
def test_loop_is_accepted_as_written(api: Api, kind: str) -> None:
    manifest = loop()[kind]
    created = api.create(manifest)
    assert created["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize("kind", full())
def test_every_field_is_accepted(api: Api, kind: str) -> None:
    manifest = full()[kind]
    created = api.create(manifest)
    assert _without_stored_defaults(created["spec"], manifest["spec"]) == manifest["spec"]


def test_another_dataset_is_a_source_and_an_empty_filter_is_none(api: Api) -> None:
    empty = {"models": [], "statuses": [], "routes": [], "tenants": []}
    sources = [
        {"name": "before", "weight": 2, "datasetRef": {"name": "seeds"}, "filter": empty},
        {"name": "another", "datasetRef": {"name": "more"}, "storage": {"endpointUrl": "http://other:9000"}},
    ]
    created = api.create(edited(loop()[DATASET], {"spec.sources": sources}))
    assert created["spec"]["sources"] == sources


def test_defaults_that_users_must_see_are_stored(api: Api) -> None:
    endpoint = {"target": {"uri": "s3://models/base"}, "servedName": "base", "drafter": {}}
    job = {"target": {"uri": "s3://models/base"}, "datasetRef": {"name": "a"}}
    dataset = {"target": {"uri": "s3://models/base"}, "sources": [{"name": "a", "objects": AN_OBJECT}]}
    specs = {
        kind: api.create({**BASES[kind], "spec": spec})["spec"]
        for kind, spec in ((ENDPOINT, endpoint), (JOB, job), (DATASET, dataset))
    }
    assert specs == {
        ENDPOINT: {
            **endpoint,
            "replicas": 1,
            "rollout": {"surge": "IfPossible"},
            "drafter": {"approval": {"policy": "Required"}},
        },
        JOB: {**job, "preset": "balanced", "suspend": False},
        DATASET: {**dataset, "suspend": False},
    }


def _without_stored_defaults(stored: Any, given: Any) -> Any:
    """What is left of a stored value when what the user did not write is left out."""
    if isinstance(stored, dict):
        return {key: _without_stored_defaults(value, given[key]) for key, value in stored.items() if key in given}
    if isinstance(stored, list):
        return [_without_stored_defaults(*pair) for pair in zip(stored, given, strict=True)]
    return stored
