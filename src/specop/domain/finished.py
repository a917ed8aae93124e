"""Whether a dataset that something is made of is finished, and what its user is told while it is not.

PURE. What it waits for is said in the words of its own condition, unless that waits for a dataset, too: two that name
each other would quote each other for ever.
"""

from specop.api import reasons
from specop.api.dataset import DatasetFacts, SpeculatorDataset
from specop.domain.conditions import Verdict, find, stalled, waiting


def unfinished(dataset: SpeculatorDataset | None, name: str) -> Verdict | None:
    """Object where there is no such dataset, where it failed, and where it is not finished."""
    if dataset is None:
        return waiting(reasons.WAITING_FOR_DATASET, f"waits for SpeculatorDataset {name}, which does not exist")
    if facts(dataset) is not None:
        return None
    succeeded = find(dataset.status.conditions, reasons.SUCCEEDED)
    why = f": {succeeded.reason}" if succeeded else ""
    if succeeded and succeeded.reason != reasons.WAITING_FOR_DATASET:
        why += f": {succeeded.message}"
    if succeeded and succeeded.status == "False":
        return stalled(reasons.DATASET_FAILED, f"SpeculatorDataset {name} failed{why}")
    return waiting(reasons.WAITING_FOR_DATASET, f"waits for SpeculatorDataset {name}{why}")


def facts(dataset: SpeculatorDataset) -> DatasetFacts | None:
    """Return what a finished dataset is; None while it is not."""
    succeeded = find(dataset.status.conditions, reasons.SUCCEEDED)
    return dataset.status.result if succeeded and succeeded.status == "True" else None
