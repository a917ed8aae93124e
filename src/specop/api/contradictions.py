"""What hyperparameters may not say together, once all of them are known: spec, preset, scaled and default values.

PURE. The API server refuses what one spec says against itself; here is what shows only after `preset.resolve`. The
operator asks before it makes a Job, and the trainer once more, because it can be started by hand.
"""

from specop.api.hyperparameters import Hyperparameters

OPTIONAL = ("max_steps", "early_stop_evaluations", "ema_decay")
"""What may stay unset: it is then not done."""
_ALL = 100
"""Percent."""


def contradiction(complete: Hyperparameters) -> str | None:
    """Say why these cannot be trained with, beginning with the field's path; None where they can."""
    for name in Hyperparameters.model_fields:
        if getattr(complete, name) is None and name not in OPTIONAL:
            return _at(name, "is not set; the operator resolves every field before it makes the Job")
    k = complete
    assert k.loss is not None
    assert k.evaluations is not None
    if sum(float(term.weight) for term in k.loss) <= 0:
        return _at("loss", "needs a term with a weight above 0")
    for name in ("learning_rate", "max_grad_norm", "step_decay"):
        if float(getattr(k, name)) <= 0:
            return _at(name, "must be above 0")
    if float(k.step_decay or 0) > 1:
        return _at("step_decay", "must not be above 1: later draft steps are used less often")
    if k.ema_decay is not None and not 0 < float(k.ema_decay) < 1:
        return _at("ema_decay", "must be above 0 and below 1")
    if k.early_stop_evaluations and k.early_stop_evaluations >= k.evaluations:
        return _at("early_stop_evaluations", f"must be less than evaluations ({k.evaluations}), or never ends a run")
    warmup, decay = k.warmup_percent or 0, k.decay_percent or 0
    if k.scheduler == "WSD" and warmup + decay > _ALL:
        why = f"with warmupPercent ({warmup}) must be at most {_ALL}: the learning rate cannot rise and fall at once"
        return _at("decay_percent", why)
    return None


def without_effect(spec: Hyperparameters, complete: Hyperparameters) -> str | None:
    """Name what a spec sets and a run of these complete hyperparameters would not read; None where there is none."""
    return next((_at(name, why) for name, why in _unread(complete).items() if getattr(spec, name) is not None), None)


def effective(complete: Hyperparameters) -> Hyperparameters:
    """Leave out what a run of these would not read: a recipe that another job's spec can repeat."""
    return complete.model_copy(update=dict.fromkeys(_unread(complete)))


def doubtful(complete: Hyperparameters) -> str | None:
    """Say what can be trained with, and is probably not meant; None where there is nothing.

    LKHybrid makes the share that min(p, q) takes large, which is what is accepted of drafts that are sampled; greedy
    drafts are accepted by their most likely token.
    """
    if _hybrid(complete) and complete.draft_sample_method != "Probabilistic":
        why = "has LKHybrid, which teaches for sampled drafts, and draftSampleMethod is Greedy"
        return _at("loss", f"{why}: set Probabilistic, or take another loss")
    return None


def _unread(complete: Hyperparameters) -> dict[str, str]:
    """Fields that a run of these would not read, with the reason."""
    found = {}
    if not _hybrid(complete):
        found["lk_eta"] = "is read by the loss LKHybrid alone, which is no term of loss"
    if complete.scheduler != "WSD":
        found["decay_percent"] = f"is read by scheduler WSD alone, and scheduler is {complete.scheduler}"
    return found


def _hybrid(complete: Hyperparameters) -> bool:
    return any(term.name == "LKHybrid" for term in complete.loss or ())


def _at(field: str, why: str) -> str:
    return f"hyperparameters.{Hyperparameters.model_fields[field].alias or field} {why}"
