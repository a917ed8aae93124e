"""What must hold for every pod, and the rules of builders one by one."""

import json
from typing import Any

import pytest

from specop.api.endpoint import EndpointSpec
from specop.api.shared import Json, Storage
from specop.common.quantity import amount
from specop.manifests.common import merge_templates
from specop.manifests.engine import engine_args
from specop.manifests.runtime import StorageDefaults
from specop.manifests.serving import ArmSpec, default_images, inputs, live_images
from specop.manifests.storage import resolve_storage
from tests.domain import build
from tests.manifests.test_golden import CASES, arm, endpoint, training

PODS = [name for name in sorted(CASES) if name.startswith(("job-", "deployment-"))]


def pod_of(body: Json) -> Json:
    pod: Json = body["spec"]["template"]["spec"]
    return pod


def containers_of(pod: Json) -> list[Json]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("name", PODS)
def test_every_pod_passes_pod_security_restricted_and_has_no_api_access(name: str) -> None:
    pod = pod_of(CASES[name]())
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any("hostPath" in volume for volume in pod["volumes"])
    for container in containers_of(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert container["terminationMessagePolicy"] == "File"


@pytest.mark.parametrize("name", PODS)
def test_every_mount_has_its_volume(name: str) -> None:
    pod = pod_of(CASES[name]())
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert len(set(volumes)) == len(volumes)
    assert {mount["name"] for item in containers_of(pod) for mount in item["volumeMounts"]} <= set(volumes)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"scale"}))
def test_every_child_goes_with_its_owner_without_blocking_it(name: str) -> None:
    (owner,) = CASES[name]()["metadata"]["ownerReferences"]
    assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, False)


def test_arms_differ_in_the_speculative_configuration_only() -> None:
    base, drafted = (containers_of(pod_of(arm(drafted=drafted)))[-1] for drafted in (False, True))
    extra = [flag for flag in drafted["args"] if flag not in base["args"]]
    assert extra == [
        '--speculative-config={"method":"eagle3","model":"/models/drafter","num_speculative_tokens":3}',
    ]
    assert [flag for flag in drafted["args"] if flag not in extra] == base["args"]
    arms = [{item["name"]: item["value"] for item in engine["env"]} for engine in (base, drafted)]
    assert {name for name in arms[0] if arms[0][name] != arms[1][name]} == {"SPECOP_ARM"}


def engine_spec(**engine: Any) -> EndpointSpec:
    return build.endpoint(engine=engine, capture=None).spec


@pytest.mark.parametrize(
    ("engine", "flag"),
    [
        pytest.param({"dtype": "BFloat16"}, "--dtype=bfloat16", id="dtype"),
        pytest.param({}, "--dtype=auto", id="default dtype"),
        pytest.param({"maxModelLength": 2048}, "--max-model-len=2048", id="length"),
        pytest.param({"tensorParallel": 4}, "--tensor-parallel-size=4", id="tensor parallel"),
    ],
)
def test_engine_flags(engine: Json, flag: str) -> None:
    assert flag in engine_args(engine_spec(**engine), None)


def test_the_users_flags_come_last() -> None:
    flags = engine_args(engine_spec(args=["--dtype=float16"]), build.contract())
    assert flags[-1] == "--dtype=float16"
    assert not any(flag.startswith("--middleware") for flag in flags)


@pytest.mark.parametrize(
    ("architecture", "flags"),
    [("Gemma3ForCausalLM", ["--model-impl=transformers"]), ("LlamaForCausalLM", []), ("Unheard", [])],
)
def test_a_family_whose_own_class_does_not_capture_layers_takes_another(architecture: str, flags: list[str]) -> None:
    contract = build.contract(target=build.facts(architecture=architecture))
    assert [flag for flag in engine_args(engine_spec(), contract) if flag.startswith("--model-impl")] == flags


def test_probabilistic_drafting_is_said() -> None:
    flags = engine_args(engine_spec(), build.contract(draft_sample_method="probabilistic"))
    config = json.loads(flags[-1].partition("=")[2])
    assert config["draft_sample_method"] == "probabilistic"


@pytest.mark.parametrize(
    ("engine", "image"),
    [
        pytest.param({}, "vllm/vllm-openai:1", id="operator's"),
        pytest.param({"version": "v0.32.0"}, "vllm/vllm-openai:v0.32.0", id="another tag"),
        pytest.param({"image": "team/vllm:7", "version": "x"}, "team/vllm:7", id="another image"),
    ],
)
def test_images(engine: Json, image: str) -> None:
    assert default_images(endpoint(engine=engine), build.runtimes()).engine == image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param("local:5000/vllm", "local:5000/vllm:v2", id="port, no tag"),
        pytest.param("local:5000/a/vllm:v1", "local:5000/a/vllm:v2", id="port and tag"),
        pytest.param(f"vllm@sha256:{'0' * 64}", "vllm:v2", id="digest"),
    ],
)
def test_a_version_replaces_the_tag_and_nothing_else(image: str, expected: str) -> None:
    runtimes = build.runtimes()
    serving = runtimes.serving.model_copy(update={"image": image})
    obj = endpoint(engine={"version": "v2"})
    assert default_images(obj, runtimes.model_copy(update={"serving": serving})).engine == expected


@pytest.mark.parametrize(
    ("spec", "same_base", "same_drafted"),
    [
        pytest.param({"replicas": 7}, True, True, id="replicas"),
        pytest.param({"retrain": {"cooldownSeconds": 60}}, True, True, id="retraining"),
        pytest.param({"drafter": build.asks_for("agent-v1", build.approve("x"))}, True, True, id="approval"),
        pytest.param({"drafter": {**build.asks_for(), "speculativeTokens": 2}}, True, False, id="tokens drafted"),
        pytest.param({"engine": {"maxModelLength": 64}}, False, False, id="engine"),
        pytest.param({"engine": {"tensorParallel": 1, "dtype": "Auto"}}, True, True, id="defaults written out"),
    ],
)
def test_what_makes_new_pods(spec: Json, same_base: bool, same_drafted: bool) -> None:
    drafted = ArmSpec(build.weights("agent-v1"), build.contract())
    old = build.endpoint(drafter=build.asks_for())
    new = build.endpoint(**{"drafter": build.asks_for(), **spec})
    assert (inputs(old, ArmSpec()) == inputs(new, ArmSpec())) is same_base
    assert (inputs(old, drafted) == inputs(new, drafted)) is same_drafted


def test_images_are_read_back_from_what_runs() -> None:
    obj = endpoint()
    assert live_images(arm()) == default_images(obj, build.runtimes())
    assert live_images({}) is None


def test_storage_comes_from_the_most_special_place() -> None:
    source = Storage.model_validate({"endpointUrl": "http://source"})
    own = Storage.model_validate({"endpointUrl": "http://own", "region": "own", "output": "s3://own/x"})
    defaults = StorageDefaults(output="s3://default/x", endpoint_url="http://default", region="default")
    found = resolve_storage(defaults, source, None, own)
    assert (found.endpoint_url, found.region, found.output) == ("http://source", "own", "s3://own/x")
    assert found.env_from() == [{"secretRef": {"name": "specop-storage"}}]
    assert found.store_config().to_json() == {"endpointUrl": "http://source", "region": "own"}


def test_the_users_pod_patch_goes_before_the_presets() -> None:
    job = pod_of(training())
    assert (job["runtimeClassName"], job["priorityClassName"]) == ("nvidia", "low")
    assert job["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    assert merge_templates(None, None) is None


def test_a_training_job_survives_disruption_and_stops_at_a_users_error() -> None:
    spec = training()["spec"]
    assert (spec["suspend"], spec["backoffLimit"], spec["template"]["spec"]["restartPolicy"]) == (True, 5, "Never")
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["FailJob", "Ignore", "Ignore"]
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [64]
    assert "activeDeadlineSeconds" not in spec


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [("0", 0), ("200Gi", 200 << 30), ("1.5G", 1_500_000_000), ("2e3", 2000), ("1E", 10**18), ("1500m", 1)],
)
def test_quantities_are_numbers(quantity: str, expected: int) -> None:
    assert int(amount(quantity)) == expected
