"""The flags of vLLM's OpenAI server.

PURE. Two arms of an endpoint differ in `--speculative-config` and in nothing else: that is what makes their figures
comparable. The user's flags come last, so that they win.

One exception: where vLLM's own class of a family does not capture layers, the drafted arm takes its transformers
backend. The base arm keeps the class, for it comes up before the target is known; whoever compares the two arms of such
a family compares the implementations as well, unless `engine.args` says `--model-impl=transformers` for both.
"""

from specop.api.endpoint import EndpointSpec
from specop.api.families import family_of
from specop.api.shared import Contract
from specop.common.hashing import canonical_json

ENGINE_MODULE = "vllm.entrypoints.openai.api_server"
ENGINE_PORT = 8000
TARGET_PATH = "/models/target"
DRAFTER_PATH = "/models/drafter"
PLUGIN_PATH = "/models/plugin"
CAPTURE_MIDDLEWARE = "specop_capture.Capture"
DTYPES = {"Auto": "auto", "Float32": "float32", "Float16": "float16", "BFloat16": "bfloat16"}


def engine_args(spec: EndpointSpec, contract: Contract | None) -> list[str]:
    """All flags of an arm; `contract` is the drafter's, or None for the base arm."""
    engine = spec.engine
    args = [
        f"--model={TARGET_PATH}",
        f"--served-model-name={spec.served_name}",
        f"--port={ENGINE_PORT}",
        f"--dtype={DTYPES[engine.dtype]}",
        f"--tensor-parallel-size={engine.tensor_parallel}",
    ]
    if engine.max_model_length is not None:
        args.append(f"--max-model-len={engine.max_model_length}")
    if spec.capture is not None:
        args.append(f"--middleware={CAPTURE_MIDDLEWARE}")
    if contract is not None:
        family = family_of(contract.target.architecture)
        if family is not None and family.model_impl != "auto":
            args.append(f"--model-impl={family.model_impl}")
        args.append(f"--speculative-config={speculative_config(spec, contract)}")
    return [*args, *engine.args]


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
