"""Approving and refusing a drafter: the change of an endpoint's spec, as data. Pure.

An approval binds a person to bytes: `{digest, by, attempt}` in `spec.drafter.approval.approvals`. Git users commit the
same lines.
"""

from specop.api.base import Digest
from specop.api.endpoint import Approval, ApprovalPolicy, DraftedEndpoint
from specop.api.shared import Json
from specop.cli.errors import CliError


def chosen(endpoint: DraftedEndpoint, prefix: str | None) -> Digest:
    """Return the digest that is meant: the candidate's, or the known one that begins with `prefix`.

    A complete digest is taken as it is, even if no drafter has it yet. Raises CliError when nothing or several fit.
    """
    drafter = endpoint.status.drafter
    if prefix is None:
        if drafter.candidate is None:
            raise CliError(
                f"endpoint {endpoint.metadata.name} has no candidate: nothing to decide; see `specop status`"
            )
        return drafter.candidate.digest
    wanted = "sha256:" + prefix.removeprefix("sha256:")
    if len(wanted) == len("sha256:") + 64:
        return wanted
    known = {named.digest for named in (drafter.serving, drafter.candidate, *drafter.failed) if named is not None}
    fitting = [digest for digest in known if digest.startswith(wanted)]
    if len(fitting) != 1:
        said = "no drafter" if not fitting else "more than one drafter"
        raise CliError(f"{said} of endpoint {endpoint.metadata.name} has a digest that begins with {prefix}")
    return fitting[0]


def approve(endpoint: DraftedEndpoint, digest: Digest, by: str) -> Json:
    """Return the merge patch that approves `digest`; a digest that failed is approved for one more attempt."""
    policy = _policy(endpoint)
    failed = next((item for item in endpoint.status.drafter.failed if item.digest == digest), None)
    approval = Approval(digest=digest, by=by, attempt=failed.attempt + 1 if failed else 1)
    others = [item for item in policy.approvals if (item.digest, item.by) != (digest, by)]
    patch: Json = {"approvals": [item.to_json() for item in (*others, approval)]}
    if digest in policy.rejected_digests:
        patch["rejectedDigests"] = [item for item in policy.rejected_digests if item != digest]
    return _patch(patch)


def reject(endpoint: DraftedEndpoint, digest: Digest) -> Json:
    """Return the merge patch that refuses `digest`: it is not served, whoever approved it."""
    rejected = _policy(endpoint).rejected_digests
    return _patch({"rejectedDigests": [*(item for item in rejected if item != digest), digest]})


def _policy(endpoint: DraftedEndpoint) -> ApprovalPolicy:
    if endpoint.spec.drafter is None:
        raise CliError(f"endpoint {endpoint.metadata.name} asks for no drafter: set spec.drafter.from")
    return endpoint.spec.drafter.approval


def _patch(approval: Json) -> Json:
    return {"spec": {"drafter": {"approval": approval}}}
