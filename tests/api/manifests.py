"""Manifests of the tests: the whole loop as a user would write it, one full object of each kind, and edits of both."""

import copy
from typing import Any

import yaml

Manifest = dict[str, Any]

LOOP = """
apiVersion: specop.dev/v1alpha1
kind: DraftedEndpoint
metadata: {name: agent}
spec:
  target: {uri: "s3://models/smollm2-135m-instruct"}
  servedName: agent
  capture: {uri: "s3://team-a/captured", samplePercent: 100}
  drafter:
    from: {trainingJobRef: {name: agent-v1}}      # that job's drafter, and every later generation of its lineage
    approval: {policy: Required, approvals: []}   # approving = adding {digest, by} here, in Git
  retrain: {when: {drift: {}}, cooldownSeconds: 86400}
---
apiVersion: specop.dev/v1alpha1
kind: SpeculatorDataset
metadata: {name: agent-v1}
spec:
  target: {uri: "s3://models/smollm2-135m-instruct"}
  sources:
  - {name: logs, weight: 3, requestLog: {endpointRef: {name: agent}, lastSeconds: 604800, minRequests: 200}}
  - {name: seeds, weight: 1, objects: {uri: "s3://seeds/function-calling/*.jsonl"}}
---
apiVersion: specop.dev/v1alpha1
kind: SpeculatorTrainingJob
metadata: {name: agent-v1}
spec:
  target: {uri: "s3://models/smollm2-135m-instruct"}
  datasetRef: {name: agent-v1}
  preset: balanced
  hyperparameters: {}          # every knob of the trainer, all optional
"""

DIGEST = "sha256:" + "0123456789abcdef" * 4

TARGET_FACTS = {
    "fingerprint": DIGEST,
    "tokenizerHash": DIGEST,
    "chatTemplateHash": DIGEST,
    "vocabSize": 49152,
    "hiddenSize": 576,
    "numLayers": 30,
}

_POD_TEMPLATE = """
    nodeSelector: {kubernetes.io/arch: amd64, node.kubernetes.io/instance-type: p5.48xlarge}
    tolerations:
    - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
    - {operator: Exists, effect: NoExecute, tolerationSeconds: 300}
    resources: {requests: {cpu: 2, memory: 16Gi}, limits: {memory: 16Gi, nvidia.com/gpu: 1}}
    labels: {team: search, example.com/cost-centre: "42"}
    env: [{name: NCCL_DEBUG, value: WARN}]
    runtimeClassName: nvidia
    priorityClassName: batch-low
"""

_STORAGE = """
    output: s3://team-a/specop
    endpointUrl: https://minio.storage.svc:9000
    region: eu-central-1
    caBundleRef: {name: storage-ca, key: ca.crt}
    credentials: {secretRef: {name: minio-team-a}}
"""

FULL = f"""
kind: SpeculatorDataset
metadata: {{name: full}}
spec:
  target: {{uri: s3://models/base}}
  sources:
  - name: window
    requestLog: {{endpointRef: {{name: agent}}, since: 2026-01-01T00:00:00Z, until: 2026-02-01T00:00:00Z}}
    filter: {{models: [agent], statuses: [200], routes: [/v1/chat/completions], tenants: [team-a]}}
    excludePeriods: [{{since: 2026-01-05T00:00:00Z, until: 2026-01-06T00:00:00Z}}]
    maxConversations: 1000
  - name: elsewhere
    objects: {{uri: s3://seeds/a.jsonl, format: OpenAIChat}}
    storage: {{endpointUrl: http://other:9000, credentials: {{serviceAccountName: reader}}}}
  - {{name: before, datasetRef: {{name: earlier}}, repeat: 2}}
  holdout: {{percent: 20, maxConversations: 500}}
  transform: {{maxLength: 4096, maxBadPercent: 1}}
  consent: {{noTrainFields: [legal.optOut]}}
  privacy:
    action: Surrogate
    entities: [{{type: Email}}, {{type: UkNhs, action: Drop}}, {{type: IpAddress, action: Keep}}]
    patterns: [{{name: EmployeeNumber, regex: "E-[0-9]+", action: Mask}}]
    allow: ["*@example.com"]
    keySecretRef: {{name: privacy}}
  quality:
    truncatedAnswers: Drop
    minAnswerCharacters: 2
    maxCharacters: 100000
    nearDuplicates: {{action: Drop, maxPerShape: 3}}
  regenerate: {{url: "http://asked/v1", model: base, targetNames: [alias], keySecretRef: {{name: asked}}}}
  engine: {{ray: {{address: "ray://head:10001", workers: 4}}}}
  storage: {_STORAGE}
  suspend: true
  podTemplate: {_POD_TEMPLATE}
---
kind: SpeculatorTrainingJob
metadata: {{name: full}}
spec:
  target: {{uri: file:///models/base}}
  datasetRef: {{name: full}}
  preset: quality
  hyperparameters:
    architecture: Eagle31
    decodingHeads: 3
    draftVocabSize: 32000
    loss: [{{name: LKHybrid, weight: "1"}}, {{name: CE, weight: "0.5"}}]
    lkEta: "3"
    stepDecay: "0.8"
    learningRate: "1e-3"
    scheduler: Cosine
    warmupPercent: 4
    weightDecay: "0"
    maxGradNorm: "0.5"
    epochs: 4
    maxSteps: 1000
    batchTokens: 4096
    maxLength: 2048
    evaluations: 8
    checkpointSeconds: 60
    seed: 1
    computeDtype: BFloat16
  warmStart: {{drafterRef: {{name: earlier}}}}
  stateCache: 200Gi
  storage: {_STORAGE}
  backoffLimit: 5
  queueName: gpus
  podTemplate: {_POD_TEMPLATE}
---
kind: Drafter
metadata: {{name: full}}
spec:
  target: {{uri: s3://models/base}}
  weights: {{uri: s3://imports/eagle3, digest: "{DIGEST}"}}
  lineage:
    trainingJob: {{name: full, uid: 8f14e45f-ceea-467f-a8f6-0d2c1c9f0b11}}
    dataset: {{name: full, digest: "{DIGEST}"}}
    parent: {{name: earlier}}
  storage: {_STORAGE}
  podTemplate: {_POD_TEMPLATE}
---
kind: DraftedEndpoint
metadata: {{name: full}}
spec:
  target: {{uri: s3://models/base}}
  servedName: org/base-8b
  engine:
    version: v0.32.0
    args: [--max-num-seqs, "64", --tool-call-parser=hermes, --model-impl=vllm, --tokenizer-mode=auto]
    tensorParallel: 2
    dtype: BFloat16
    maxModelLength: 8192
    resources: {{limits: {{nvidia.com/gpu: 2}}}}
  replicas: 0
  podTemplate:
    nodeSelector: {{pool: gpu}}
  storage: {_STORAGE}
  capture: {{uri: s3://team-a/captured, samplePercent: 10, storage: {{region: us-east-1}}}}
  drafter:
    from: {{drafterRef: {{name: full}}}}
    speculativeTokens: 3
    approval:
      policy: Required
      approvals:
      - {{digest: "{DIGEST}", by: ana, attempt: 2, expiresAt: 2027-01-01T00:00:00Z}}
      - {{digest: "{DIGEST}", by: ben}}
      rejectedDigests: ["{DIGEST.replace("0", "f")}"]
  rollout: {{surge: Never, readyDeadlineSeconds: 60}}
---
kind: SpeculatorPreset
metadata: {{name: team-default}}
spec:
  description: What the search team uses.
  hyperparameters: {{epochs: 8}}
  podTemplate: {_POD_TEMPLATE}
"""


def _documents(text: str) -> dict[str, Manifest]:
    # Times stay text, as in any manifest that arrives as JSON.
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    documents = yaml.load_all(text, Loader=loader)
    return {document["kind"]: {"apiVersion": "specop.dev/v1alpha1", **document} for document in documents}


def loop() -> dict[str, Manifest]:
    """The three manifests of the loop, by kind."""
    return _documents(LOOP)


def full() -> dict[str, Manifest]:
    """One object of every kind with (almost) every field set, by kind."""
    return _documents(FULL)


REMOVED = object()
"""Value of an edit that removes a field."""


def edited(manifest: Manifest, edits: dict[str, Any]) -> Manifest:
    """Set fields by path, as in `spec.sources.0.weight`; blocks on the way are made."""
    result = copy.deepcopy(manifest)
    for path, value in edits.items():
        *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        node: Any = result
        for step in way:
            node = node[step] if isinstance(step, int) else node.setdefault(step, {})
        if value is REMOVED:
            del node[last]
        elif isinstance(last, int) and last == len(node):
            node.append(copy.deepcopy(value))
        else:
            node[last] = copy.deepcopy(value)
    return result
