"""vLLM's render server, which speculators' prepare_data asks for token ids: run by `benchmarks.data_prepared`.

It is what `vllm launch render` runs. That command asks for the metadata of a package named vllm, which a build for CPUs
does not have.
"""

import uvloop
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.render.entry import run_launch_fastapi
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    args = make_arg_parser(FlexibleArgumentParser()).parse_args()
    validate_parsed_serve_args(args)
    uvloop.run(run_launch_fastapi(args))
