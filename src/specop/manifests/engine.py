"""vLLM's OpenAI server as a container, what is fetched for it, and its flags.

PURE. It serves an endpoint's arms, and beside a dataset Job the target that is asked for answers. Two arms of an
endpoint differ in `--speculative-config` and in nothing else: that is what makes their figures comparable. The user's
flags come last, so that they win.

One exception: where vLLM's own class of a family does not capture layers, the drafted arm takes its transformers
backend. The base arm keeps the class, for it comes up before the target is known; whoever compares the two arms of such
a family compares the implementations as well, unless `engine.args` says `--model-impl=transformers` for both.
"""

from specop.api.endpoint import EndpointSpec
from specop.api.engine import Engine
from specop.api.families import family_of
from specop.api.jobs import WORK_DIR, FetchConfig
from specop.api.shared import Contract, Json, PodTemplate
from specop.common.hashing import canonical_json
from specop.manifests import common
from specop.manifests.runtime import Runtime
from specop.manifests.storage import ResolvedStorage

ENGINE, FETCH = "engine", "fetch"
"""Names of the containers."""
ENGINE_MODULE = "vllm.entrypoints.openai.api_server"
ENGINE_PORT = 8000
TARGET_PATH = "/models/target"
DRAFTER_PATH = "/models/drafter"
PLUGIN_PATH = "/models/plugin"
CAPTURE_MIDDLEWARE = "specop_capture.Capture"
DTYPES = {"Auto": "auto", "Float32": "float32", "Float16": "float16", "BFloat16": "bfloat16"}
WORK_MOUNT: Json = {"name": "work", "mountPath": WORK_DIR}
VOLUMES: tuple[Json, ...] = (
    {"name": "models", "emptyDir": {}},
    {"name": "work", "emptyDir": {}},
    {"name": "shm", "emptyDir": {"medium": "Memory"}},
)
"""Of a pod with an engine."""
_DEFAULTS = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def engine_image(engine: Engine, runtime: Runtime) -> str:
    """Image of an engine that is started now: its own, or the operator's at the tag that it asks for."""
    if engine.image:
        return engine.image
    if engine.version:
        folder, slash, name = runtime.image.partition("@")[0].rpartition("/")
        return f"{folder}{slash}{name.partition(':')[0]}:{engine.version}"
    return runtime.image


def fetch_container(
    config: FetchConfig, runtime: Runtime, image: str, storage: ResolvedStorage, ca_mounts: list[Json]
) -> Json:
    """Init container: downloads and verifies what the engine reads."""
    return {
        **common.container(FETCH, runtime, "specop.serving.fetch", image=image),
        "env": common.env_list(runtime.env, common.SCRATCH_ENV, common.config_env(config.to_json())),
        "envFrom": storage.env_from(),
        "resources": common.resources(None, runtime),
        "volumeMounts": [
            {"name": "models", "mountPath": "/models"},
            WORK_MOUNT,
            *ca_mounts,
            *common.claim_mounts(runtime),
        ],
    }


def engine_container(
    engine: Engine,
    runtime: Runtime,
    image: str,
    args: list[str],
    *,
    template: PodTemplate | None = None,
    env: dict[str, str] | None = None,
    mounts: tuple[Json, ...] = (),
) -> Json:
    """Build the engine; `template` is of a pod whose main container it is."""
    if engine.resources:
        template = (template or PodTemplate()).model_copy(update={"resources": engine.resources})
    return {
        **common.container(ENGINE, runtime, ENGINE_MODULE, image=image),
        "args": args,
        "env": common.env_list(_DEFAULTS, runtime.env, common.user_env(template), env or {}, common.SCRATCH_ENV),
        "ports": [{"name": "http", "containerPort": ENGINE_PORT, "protocol": "TCP"}],
        "resources": common.resources(template, runtime),
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "readOnly": True},
            *mounts,
            WORK_MOUNT,
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the pod's own volume
            *common.claim_mounts(runtime),
        ],
    }


def target_args(engine: Engine, served_name: str) -> list[str]:
    """Write the flags of an engine that serves the target, without the user's."""
    args = [
        f"--model={TARGET_PATH}",
        f"--served-model-name={served_name}",
        f"--port={ENGINE_PORT}",
        f"--dtype={DTYPES[engine.dtype]}",
        f"--tensor-parallel-size={engine.tensor_parallel}",
    ]
    if engine.max_model_length is not None:
        args.append(f"--max-model-len={engine.max_model_length}")
    return args


def engine_args(spec: EndpointSpec, contract: Contract | None) -> list[str]:
    """All flags of an arm; `contract` is the drafter's, or None for the base arm."""
    args = target_args(spec.engine, spec.served_name)
    if spec.capture is not None:
        args.append(f"--middleware={CAPTURE_MIDDLEWARE}")
    if contract is not None:
        family = family_of(contract.target.architecture)
        if family is not None and family.model_impl != "auto":
            args.append(f"--model-impl={family.model_impl}")
        args.append(f"--speculative-config={speculative_config(spec, contract)}")
    return [*args, *spec.engine.args]


def speculative_tokens(spec: EndpointSpec, contract: Contract) -> int:
    """Tokens drafted a step: what the user says, else the depth that the drafter was trained for."""
    wanted = spec.drafter.speculative_tokens if spec.drafter else None
    return wanted or contract.decoding_heads


def speculative_config(spec: EndpointSpec, contract: Contract) -> str:
    """Write the speculative configuration as canonical JSON. Greedy drafting, the default, stays unsaid."""
    config: dict[str, object] = {
        "method": contract.algorithm,
        "model": DRAFTER_PATH,
        "num_speculative_tokens": speculative_tokens(spec, contract),
    }
    if contract.draft_sample_method == "probabilistic":
        config["draft_sample_method"] = contract.draft_sample_method
    return canonical_json(config).decode()
