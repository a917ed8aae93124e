"""The command line. Commands read and write through `Cluster`; what they show or change is computed by pure functions.

Exit codes: 0 done, 1 refused, 2 usage, 3 no cluster (`errors`). Output is for people, or YAML and JSON with `-o`.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live

from specop import __version__
from specop.api.dataset import SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.preset import BUILT_IN, SpeculatorPreset
from specop.api.training_job import SpeculatorTrainingJob
from specop.cli import approval, estimate, lineage, loop, models, report, retrain
from specop.cli.cluster import Cluster
from specop.cli.errors import EXIT_OK, EXIT_USAGE, CliError
from specop.cli.render import page
from specop.common.clock import parse_time
from specop.common.hashing import canonical_json, short
from specop.common.names import tenant_hash

_INTERRUPTED = 130
_WATCH_SECONDS = 2.0
_JOB_PREFIXES = ("job", "jobs", "speculatortrainingjob", "speculatortrainingjobs")
_DATASET_PREFIXES = ("dataset", "datasets", "speculatordataset", "speculatordatasets")
_DRAFTERS = ("drafter", "drafters")
_ENDPOINT_PREFIXES = ("endpoint", "endpoints", "draftedendpoint", "draftedendpoints", "dep")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace], None] = arguments.run
        run(arguments)
    except CliError as error:
        print(f"specop: {error}", file=sys.stderr)  # noqa: T201 - a command line speaks
        return error.code
    except KeyboardInterrupt:
        return _INTERRUPTED
    return EXIT_OK


def _status(arguments: argparse.Namespace) -> None:
    cluster = _cluster(arguments)
    if not arguments.watch:
        _show(_loop_page(_loop(cluster)))
        return
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            live.update(page(_loop_page(_loop(cluster))), refresh=True)
            time.sleep(_WATCH_SECONDS)


def _approve(arguments: argparse.Namespace) -> None:
    cluster = _cluster(arguments)
    by = arguments.by or cluster.user()
    _decide(
        cluster, arguments, "approved", lambda endpoint, digest: approval.approve(endpoint, digest, by), f" by {by}"
    )


def _reject(arguments: argparse.Namespace) -> None:
    _decide(_cluster(arguments), arguments, "rejected", approval.reject)


def _decide(
    cluster: Cluster, arguments: argparse.Namespace, done: str, patch_of: Callable[..., Any], tail: str = ""
) -> None:
    """Print the patch, or send it. The digest is fixed first: a candidate that appears meanwhile was not looked at."""
    seen = cluster.get(DraftedEndpoint, arguments.endpoint)
    digest = approval.chosen(seen, arguments.digest)
    if arguments.dry_run or arguments.output == "yaml":
        _print_yaml(patch_of(seen, digest))
        return
    cluster.change(DraftedEndpoint, arguments.endpoint, lambda endpoint: patch_of(endpoint, digest))
    _say(f"{short(digest)} {done} for endpoint/{arguments.endpoint}{tail}")


def _retrain(arguments: argparse.Namespace) -> None:
    cluster = _cluster(arguments)
    endpoint = cluster.get(DraftedEndpoint, arguments.endpoint)
    made = retrain.next_generation(endpoint, _loop(cluster), since=arguments.since, min_requests=arguments.min_requests)
    if arguments.dry_run or arguments.output == "yaml":
        _print_yaml(made.dataset, made.job)
        return
    cluster.create(SpeculatorDataset, made.dataset)
    cluster.create(SpeculatorTrainingJob, made.job)
    _say(f"{made.job['metadata']['name']} made: dataset and training job; follow it with `specop status --watch`")


def _report(arguments: argparse.Namespace) -> None:
    content = report.build(_loop(_cluster(arguments)), arguments.endpoint)
    if arguments.output == "json":
        _say(canonical_json(content).decode())
    else:
        _show(report.tables(content))


def _estimate(arguments: argparse.Namespace) -> None:
    if (arguments.job is None) == (arguments.file is None):
        raise CliError("name either job/NAME or a file", EXIT_USAGE)
    cluster = _cluster(arguments)
    if arguments.file is not None:
        job = estimate.read_job(arguments.file, cluster.namespace)
    else:
        job = cluster.get(SpeculatorTrainingJob, arguments.job)
    preset = None if job.spec.preset in BUILT_IN else cluster.get(SpeculatorPreset, job.spec.preset)
    found = estimate.make(job, cluster.list(SpeculatorDataset), preset, cluster.list(SpeculatorTrainingJob))
    if arguments.output == "json":
        _say(canonical_json(found.to_json()).decode())
    else:
        _show([estimate.table(job.metadata.name, found)])


def _models(arguments: argparse.Namespace) -> None:
    if arguments.output == "json":
        _say(canonical_json(models.content()).decode())
    else:
        _show([models.table()])


def _lineage(arguments: argparse.Namespace) -> None:
    narrowed = (arguments.object, arguments.tenant, arguments.since, arguments.until)
    if (arguments.of is None) == (not any(narrowed)):
        raise CliError(
            "name an object, such as endpoint/NAME, or say which rows: --object, --tenant, --since", EXIT_USAGE
        )
    cluster = _cluster(arguments)
    read = partial(_storage().read_made, endpoint_url=arguments.endpoint_url)
    if arguments.of is not None:
        answer = lineage.behind(_loop(cluster), arguments.of[0], arguments.of[1], read)
        laid_out = lineage.behind_tables(answer)
    else:
        tenant = tenant_hash(arguments.tenant) if arguments.tenant else None
        question = lineage.Question(arguments.object, tenant, arguments.since, arguments.until)
        answer = lineage.touched(_loop(cluster), question, read)
        laid_out = lineage.touched_tables(answer)
    if arguments.output == "json":
        _say(canonical_json(answer).decode())
    else:
        _show(laid_out)


def _upload(arguments: argparse.Namespace) -> None:
    cluster = _cluster(arguments)
    spec, output = None, arguments.to
    if output is None:
        dataset = cluster.get(SpeculatorDataset, arguments.dataset)
        spec, resolved = dataset.spec.storage, dataset.status.resolved
        output = resolved.output if resolved else spec.output if spec else None
    if output is None:
        raise CliError("the dataset does not say where it is written: give --to, the operator's storage.output")
    config = _storage().store_config(spec, arguments.endpoint_url)
    for uri in _storage().upload(output, cluster.namespace, arguments.dataset, arguments.files, config):
        _say(uri)


def _storage() -> ModuleType:
    """Import what needs a client of object storage; other commands do without."""
    try:
        return importlib.import_module("specop.cli.storage")
    except ImportError as error:
        raise CliError("this command reaches object storage: pip install 'specop[data]'") from error


def _loop(cluster: Cluster) -> loop.Loop:
    return loop.Loop(
        namespace=cluster.namespace,
        endpoints=cluster.list(DraftedEndpoint),
        datasets=cluster.list(SpeculatorDataset),
        jobs=cluster.list(SpeculatorTrainingJob),
        drafters=cluster.list(Drafter),
    )


def _loop_page(found: loop.Loop) -> list[loop.Table]:
    shown = loop.tables(found)
    if not shown:
        return [loop.Table((f"nothing of specop in namespace {found.namespace}",), ())]
    waiting = loop.waits(found)
    return [*shown, *([waiting] if waiting.rows else [])]


def _cluster(arguments: argparse.Namespace) -> Cluster:
    return Cluster(arguments.kubeconfig, arguments.context, arguments.namespace)


def _show(tables: list[loop.Table]) -> None:
    # Piped output is as wide as its content: scripts and pagers cut better than we do.
    console = Console() if sys.stdout.isatty() else Console(width=400, no_color=True)
    console.print(page(tables))


def _print_yaml(*documents: Any) -> None:
    _say(yaml.safe_dump_all(documents, sort_keys=False).rstrip())


def _say(text: str) -> None:
    print(text)  # noqa: T201 - a command line speaks


def _endpoint_name(text: str) -> str:
    """`endpoint/NAME`, or the name alone."""
    kind, slash, name = text.rpartition("/")
    if (slash and kind not in _ENDPOINT_PREFIXES) or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not endpoint/NAME")
    return name


def _dataset_name(text: str) -> str:
    """`dataset/NAME`, or the name alone."""
    kind, slash, name = text.rpartition("/")
    if (slash and kind not in _DATASET_PREFIXES) or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not dataset/NAME")
    return name


def _any_name(text: str) -> tuple[str, str]:
    """Kind and name of `endpoint/NAME`, `dataset/NAME`, `job/NAME`, `drafter/NAME`."""
    kind, _, name = text.partition("/")
    kinds = {"endpoint": _ENDPOINT_PREFIXES, "dataset": _DATASET_PREFIXES, "job": _JOB_PREFIXES, "drafter": _DRAFTERS}
    found = next((known for known, names in kinds.items() if kind in names), None)
    if found is None or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is none of dataset/NAME, job/NAME, drafter/NAME, endpoint/NAME")
    return found, name


def _job_name(text: str) -> str:
    """`job/NAME`, or the name alone."""
    kind, slash, name = text.rpartition("/")
    if (slash and kind not in _JOB_PREFIXES) or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not job/NAME")
    return name


def _time(text: str) -> str:
    try:
        parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2026-01-31T12:00:00Z") from error
    return text


def _parser() -> argparse.ArgumentParser:
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("-n", "--namespace", help="default: the context's")
    where.add_argument("--context", help="of the kubeconfig; default: the current one")
    where.add_argument("--kubeconfig", help="default: $KUBECONFIG, else ~/.kube/config")
    target = argparse.ArgumentParser(add_help=False, parents=[where])
    target.add_argument("endpoint", type=_endpoint_name, metavar="endpoint/NAME")
    change = argparse.ArgumentParser(add_help=False, parents=[target])
    change.add_argument("--dry-run", action="store_true", help="print what would be sent, as YAML for Git")
    change.add_argument("-o", "--output", choices=["yaml"], help="the same as --dry-run")
    digest = argparse.ArgumentParser(add_help=False)
    digest.add_argument("--digest", help="a digest or its first digits; default: the candidate's")

    parser = argparse.ArgumentParser(prog="specop", description=sys.modules["specop.cli"].__doc__)
    parser.add_argument("--version", action="version", version=f"specop {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = commands.add_parser("status", parents=[where], help="the loop of a namespace at a glance")
    status.add_argument("-w", "--watch", action="store_true", help="stay and show changes")
    status.set_defaults(run=_status)
    approve = commands.add_parser("approve", parents=[change, digest], help="say yes to a drafter's bytes")
    approve.add_argument("--by", help="who approves; default: the user of the kubeconfig")
    approve.set_defaults(run=_approve)
    reject = commands.add_parser("reject", parents=[change, digest], help="say no to a drafter's bytes")
    reject.set_defaults(run=_reject)
    again = commands.add_parser("retrain", parents=[change], help="make the next generation from newer traffic")
    again.add_argument("--since", type=_time, help="start of the traffic; default: where the last generation ended")
    again.add_argument(
        "--min-requests", type=int, metavar="N", help="wait for this many; default: as the last generation"
    )
    again.set_defaults(run=_retrain)
    one = commands.add_parser("report", parents=[target], help="one endpoint on one page")
    one.add_argument("-o", "--output", choices=["json"], help="for programs")
    one.set_defaults(run=_report)
    cost = commands.add_parser("estimate", parents=[where], help="what a training job will cost and give")
    cost.add_argument("job", type=_job_name, nargs="?", metavar="job/NAME")
    cost.add_argument("-f", "--file", type=Path, help="a job that is not applied yet")
    cost.add_argument("-o", "--output", choices=["json"], help="for programs")
    cost.set_defaults(run=_estimate)
    _data_commands(commands, where)
    proven = commands.add_parser("models", help="families of targets that are proven")
    proven.add_argument("-o", "--output", choices=["json"], help="for programs")
    proven.set_defaults(run=_models)
    return parser


def _data_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", where: argparse.ArgumentParser
) -> None:
    """Add what reads or writes storage with the user's own credentials."""
    origin = commands.add_parser("lineage", parents=[where], help="whose data is in what, and what holds whose data")
    origin.add_argument("of", type=_any_name, nargs="?", metavar="KIND/NAME", help="what this was made of")
    origin.add_argument("--object", metavar="URI", help="what holds conversations of this object, or of this prefix")
    origin.add_argument("--tenant", help="what holds conversations of this tenant")
    origin.add_argument("--since", type=_time, help="what holds conversations from this time on")
    origin.add_argument("--until", type=_time, help="… and before this one")
    origin.add_argument("--endpoint-url", help="of the object store, as this machine reaches it")
    origin.add_argument("-o", "--output", choices=["json"], help="for programs")
    origin.set_defaults(run=_lineage)
    files = commands.add_parser("upload", parents=[where], help="put files where a dataset's upload source reads them")
    files.add_argument("files", type=Path, nargs="+", metavar="FILE")
    files.add_argument("dataset", type=_dataset_name, metavar="dataset/NAME")
    files.add_argument("--to", metavar="URI", help="where the dataset is written; default: as the dataset says")
    files.add_argument("--endpoint-url", help="of the object store, as this machine reaches it")
    files.set_defaults(run=_upload)


if __name__ == "__main__":
    sys.exit(main())
