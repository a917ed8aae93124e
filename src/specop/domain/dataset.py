"""Plan of a SpeculatorDataset: wait for its sources, freeze what it is made of, make one Job, keep what that found.

PURE. The order is what matters: `status.resolved` is written first, and only a later reconcile makes the Job, from what
is stored. So a window is never computed twice, whatever is killed in between. A conclusion is final for its generation:
`Succeeded=True` for ever, `Succeeded=False` until the object is changed.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from specop.api import reasons
from specop.api.dataset import (
    DatasetResolved,
    DatasetStatus,
    RequestLogSource,
    ResolvedDataset,
    ResolvedWindow,
    SpeculatorDataset,
)
from specop.api.endpoint import DraftedEndpoint
from specop.api.regenerate import ENGINE_MODEL, ENGINE_URL, ResolvedRegenerate
from specop.common.clock import format_time, parse_time
from specop.common.hashing import short
from specop.domain import jobs, pods
from specop.domain.conclude import SHORT_DIGEST, conclude
from specop.domain.conditions import Verdict, find, is_true, stalled, waiting
from specop.domain.finished import facts, unfinished
from specop.domain.observed import DatasetObserved
from specop.domain.plan import Create, Plan
from specop.manifests.job import dataset_job, job_name
from specop.manifests.storage import resolve_storage

Check = Callable[[DatasetObserved], Verdict | None]
BEGINNING = "1970-01-01T00:00:00Z"


def plan(observed: DatasetObserved, now: datetime) -> Plan:
    """Decide what to do about one dataset."""
    if observed.obj.metadata.deletion_timestamp:
        return Plan()
    status, generation = observed.obj.status, observed.obj.metadata.generation
    concluded = find(status.conditions, reasons.SUCCEEDED)
    if concluded and concluded.status == "True":
        return conclude(observed.obj, now, Verdict("True", concluded.reason, concluded.message), status)
    if concluded and concluded.status == "False" and concluded.observed_generation == generation:
        return Plan(status=status.to_json())
    view = jobs.view(observed.obj, observed.children, job_name(observed.obj, "dataset"))
    if view.state == "absent":
        return _without_job(observed, now)
    return _with_job(observed, view, now)


# --- before the Job


def _no_output(observed: DatasetObserved) -> Verdict | None:
    if resolve_storage(observed.runtimes.storage, observed.obj.spec.storage).output:
        return None
    return stalled(
        reasons.NO_OUTPUT_STORAGE,
        "there is no place for the dataset: make a new one with spec.storage.output, or set the operator's default",
    )


def _foreign_credentials(observed: DatasetObserved) -> Verdict | None:
    defaults, spec = observed.runtimes.storage, observed.obj.spec
    own = resolve_storage(defaults, spec.storage).credentials
    for source in spec.sources:
        if resolve_storage(defaults, source.storage, spec.storage).credentials != own:
            return stalled(
                reasons.INVALID_SPEC,
                f"source {source.name} has credentials of its own, but a dataset's pod has one identity: "
                "use one Secret or ServiceAccount that may read all sources",
            )
    return None


def _endpoint_missing(observed: DatasetObserved) -> Verdict | None:
    for _, log in _logs(observed):
        if log.endpoint_ref.name not in observed.endpoints:
            return waiting(
                reasons.WAITING_FOR_ENDPOINT, f"waits for DraftedEndpoint {log.endpoint_ref.name}, which does not exist"
            )
    return None


def _asks_in_vain(observed: DatasetObserved) -> Verdict | None:
    """Answers are asked anew of an endpoint that is not there, or serves another model."""
    asked = _asked(observed)
    if asked is None:
        return None
    name, endpoint = asked
    if endpoint is None:
        return waiting(reasons.WAITING_FOR_ENDPOINT, f"waits for DraftedEndpoint {name}, which does not exist")
    if endpoint.spec.target.uri != observed.obj.spec.target.uri:
        return stalled(
            reasons.TARGET_MISMATCH,
            f"spec.regenerate asks DraftedEndpoint {name}, which serves {endpoint.spec.target.uri}: "
            "name one that serves the dataset's target",
        )
    if not is_true(endpoint.status.conditions, reasons.READY):
        return waiting(reasons.WAITING_FOR_ENDPOINT, f"waits until DraftedEndpoint {name} is ready")
    return None


def _no_capture(observed: DatasetObserved) -> Verdict | None:
    for _, log in _logs(observed):
        if observed.endpoints[log.endpoint_ref.name].spec.capture is None:
            return stalled(
                reasons.NO_CAPTURE,
                f"DraftedEndpoint {log.endpoint_ref.name} captures nothing: set its spec.capture.uri",
            )
    return None


def _too_few_requests(observed: DatasetObserved) -> Verdict | None:
    for _, log in _logs(observed):
        endpoint = observed.endpoints[log.endpoint_ref.name]
        capture = endpoint.status.capture
        shipped = capture.requests if capture else 0
        if shipped < log.min_requests:
            return waiting(
                reasons.WAITING_FOR_REQUESTS,
                f"{shipped} of {log.min_requests} requests of DraftedEndpoint {log.endpoint_ref.name} are shipped",
            )
        until = (capture.shipped_until if capture else None) or BEGINNING
        if until == BEGINNING or (log.until and parse_time(until) < parse_time(log.until)):
            return waiting(
                reasons.WAITING_FOR_REQUESTS,
                f"waits until DraftedEndpoint {log.endpoint_ref.name} has shipped its requests up to the window's end",
            )
    wanted, shipped = observed.obj.status.retry_at_requests, _shipped(observed)
    # Fewer than when it began to wait: an endpoint was made anew, and its count says nothing about the old one's.
    if wanted is not None and wanted - _retry_step(observed) <= shipped < wanted:
        return waiting(
            reasons.WAITING_FOR_REQUESTS,
            f"the window holds too few requests: looks again when {wanted} are shipped, {shipped} are now",
        )
    return None


def _dataset_unfinished(observed: DatasetObserved) -> Verdict | None:
    objections = (unfinished(observed.datasets.get(name), name) for _, name in _references(observed))
    return next((objection for objection in objections if objection is not None), None)


def _past_retention(observed: DatasetObserved, now: datetime) -> Verdict | None:
    for source, log in _logs(observed):
        endpoint = observed.endpoints[log.endpoint_ref.name]
        window = _window(source, log, endpoint, now)
        if parse_time(window.until) > parse_time(_kept_since(endpoint, now)):
            continue
        gone = f"captures of DraftedEndpoint {log.endpoint_ref.name} up to {window.until} are past its retentionDays"
        if log.until is None:
            return waiting(reasons.WAITING_FOR_REQUESTS, f"{gone}: waits for newer ones")
        return stalled(reasons.WINDOW_PAST_RETENTION, f"{gone}: make a new dataset with a later window")
    return None


def _suspended(observed: DatasetObserved) -> Verdict | None:
    if observed.obj.spec.suspend:
        return waiting(reasons.SUSPENDED, "spec.suspend is true: no Job is made until it is false")
    return None


CHECKS: tuple[Check, ...] = (
    _no_output,
    _foreign_credentials,
    _endpoint_missing,
    _asks_in_vain,
    _no_capture,
    _too_few_requests,
    _dataset_unfinished,
    _suspended,
)
"""Until one Job can be made; the first that objects wins."""


def _without_job(observed: DatasetObserved, now: datetime) -> Plan:
    status = observed.obj.status
    if status.resolved is not None:
        held = _suspended(observed)
        verdict = held or Verdict("Unknown", reasons.PENDING, "its Job is being made", reconciling=True)
        create = () if held else (Create(dataset_job(observed.obj, observed.runtimes)),)
        return conclude(observed.obj, now, verdict, status, creates=create)
    checks: tuple[Check, ...] = (*CHECKS, partial(_past_retention, now=now))
    for check in checks:
        objection = check(observed)
        if objection is not None:
            return conclude(observed.obj, now, objection, status)
    verdict = Verdict("Unknown", reasons.PENDING, "its sources are resolved", reconciling=True)
    resolved = status.model_copy(update={"resolved": _resolve(observed, now), "retry_at_requests": None})
    return conclude(observed.obj, now, verdict, resolved, requeue_after=0.0)


def _resolve(observed: DatasetObserved, now: datetime) -> DatasetResolved:
    output = resolve_storage(observed.runtimes.storage, observed.obj.spec.storage).output
    assert output is not None
    windows = [_window(source, log, observed.endpoints[log.endpoint_ref.name], now) for source, log in _logs(observed)]
    return DatasetResolved(
        output=output,
        image=observed.runtimes.data.image,
        windows=windows,
        datasets=[_reference(source, observed.datasets[name]) for source, name in _references(observed)],
        regenerate=_regenerate(observed),
    )


def _regenerate(observed: DatasetObserved) -> ResolvedRegenerate | None:
    """Say whom to ask, and by which names logs call the target: those of endpoints that serve it among them."""
    spec = observed.obj.spec.regenerate
    if spec is None:
        return None
    asked = _asked(observed)
    endpoint = asked[1] if asked else None
    url, model = (ENGINE_URL, ENGINE_MODEL) if spec.engine else (spec.url, spec.model)
    if endpoint:
        url, model = endpoint.status.url, endpoint.spec.served_name
    served = [
        other.spec.served_name
        for other in observed.endpoints.values()
        if other.spec.target.uri == observed.obj.spec.target.uri
    ]
    assert url is not None
    assert model is not None
    names = dict.fromkeys([model, *spec.target_names, *sorted(served)])
    return ResolvedRegenerate(url=url, model=model, target_names=list(names))


def _asked(observed: DatasetObserved) -> tuple[str, DraftedEndpoint | None] | None:
    """Return the name of the endpoint that is asked for answers, and the endpoint if it is there."""
    spec = observed.obj.spec.regenerate
    if spec is None or spec.endpoint_ref is None:
        return None
    return spec.endpoint_ref.name, observed.endpoints.get(spec.endpoint_ref.name)


def _reference(source: str, dataset: SpeculatorDataset) -> ResolvedDataset:
    """Name a finished dataset by its content, so that a later namesake changes nothing."""
    made = facts(dataset)
    assert made is not None
    return ResolvedDataset(
        source=source, name=dataset.metadata.name, uid=dataset.metadata.uid, uri=made.uri, digest=made.digest
    )


def _window(source: str, log: RequestLogSource, endpoint: DraftedEndpoint, now: datetime) -> ResolvedWindow:
    """Make a window absolute: up to its end, else up to the shipping watermark; never from before what is kept."""
    capture, shipped = endpoint.spec.capture, endpoint.status.capture
    assert capture is not None
    assert shipped is not None
    assert shipped.shipped_until is not None
    until = parse_time(log.until or shipped.shipped_until)
    since = log.since or BEGINNING
    if log.last_seconds is not None:
        since = format_time(until - timedelta(seconds=log.last_seconds))
    return ResolvedWindow(
        source=source,
        since=max(since, _kept_since(endpoint, now), key=parse_time),
        until=log.until or shipped.shipped_until,
        prefix=f"{capture.uri.rstrip('/')}/{endpoint.metadata.namespace}/{endpoint.metadata.name}",
    )


def _kept_since(endpoint: DraftedEndpoint, now: datetime) -> str:
    """From when on an endpoint's captures lie there: what is older is deleted, or about to be."""
    days = endpoint.spec.capture.retention_days if endpoint.spec.capture else None
    return BEGINNING if days is None else format_time(now - timedelta(days=days))


def _logs(observed: DatasetObserved) -> list[tuple[str, RequestLogSource]]:
    return [(source.name, source.request_log) for source in observed.obj.spec.sources if source.request_log]


def _shipped(observed: DatasetObserved) -> int:
    """Count what the endpoints of the logs have shipped, all together, since they were made."""
    names = {log.endpoint_ref.name for _, log in _logs(observed)}
    captures = (observed.endpoints[name].status.capture for name in names if name in observed.endpoints)
    return sum(capture.requests for capture in captures if capture)


def _references(observed: DatasetObserved) -> list[tuple[str, str]]:
    """Names of sources and of the datasets that these are."""
    return [(source.name, source.dataset_ref.name) for source in observed.obj.spec.sources if source.dataset_ref]


# --- with the Job


def _with_job(observed: DatasetObserved, view: jobs.JobView, now: datetime) -> Plan:
    status = observed.obj.status.model_copy(update={"job": view.named_uid})
    if view.state == "spent":
        assert view.job is not None
        verdict = Verdict("Unknown", reasons.PENDING, "its Job is made again", reconciling=True)
        return conclude(observed.obj, now, verdict, status, deletes=(jobs.delete(view.job),))
    if view.state == "failed" and view.reason == reasons.TOO_FEW_REQUESTS and _grows(observed):
        return _wait_for_more(observed, view, now)
    if view.state == "failed":
        return conclude(observed.obj, now, stalled(view.reason, view.message, "False"), _ended(status))
    if view.state == "succeeded":
        result = view.outcome.dataset if view.outcome else None
        if result is None:
            verdict = stalled(reasons.JOB_FAILED, "its Job gave a result of another kind: check its image", "False")
            return conclude(observed.obj, now, verdict, _ended(status))
        message = f"{result.rows} rows and {result.supervised_tokens} supervised tokens"
        done = _ended(status).model_copy(update={"result": result, "short_digest": short(result.digest, SHORT_DIGEST)})
        return conclude(observed.obj, now, Verdict("True", reasons.COMPLETED, message), done)
    if view.state in {"running", "ending"}:
        verdict = waiting(reasons.RUNNING, _running(observed, view))
    else:
        verdict = waiting(reasons.QUEUED, "its Job waits for a place to run")
    status = status.model_copy(update={"progress": observed.progress or status.progress})
    after = jobs.LOOK_AGAIN_SECONDS if view.state == "ending" else None
    return conclude(observed.obj, now, verdict, status, requeue_after=after)


def _grows(observed: DatasetObserved) -> bool:
    """Whether more traffic brings more into the windows: none has an end of its own."""
    return all(log.until is None for _, log in _logs(observed))


def _retry_step(observed: DatasetObserved) -> int:
    """How many more requests a window that held too few is looked at again for."""
    return max(1, min(log.min_requests for _, log in _logs(observed)) // 10)


def _wait_for_more(observed: DatasetObserved, view: jobs.JobView, now: datetime) -> Plan:
    """Give a window up that held too few, and wait: the endpoint counts since it was made, the Job in the window.

    How many are missing is the Job's knowledge, so it looks again every tenth of what is wanted.
    """
    assert view.job is not None
    retry_at = _shipped(observed) + _retry_step(observed)
    waits = {"resolved": None, "job": None, "progress": None, "retry_at_requests": retry_at}
    verdict = waiting(
        reasons.WAITING_FOR_REQUESTS, f"{view.message} Looks again when {retry_at} requests are shipped in all."
    )
    status = observed.obj.status.model_copy(update=waits)
    return conclude(observed.obj, now, verdict, status, deletes=(jobs.delete(view.job),))


def _running(observed: DatasetObserved, view: jobs.JobView) -> str:
    """Say that the Job runs, or why it gets no answers: the engine beside it has troubles of its own."""
    trouble = pods.trouble(jobs.pods_of(view.job, observed.children)) if view.job else None
    return trouble.message if trouble else "its Job runs"


def _ended(status: DatasetStatus) -> DatasetStatus:
    return status.model_copy(update={"progress": None})
