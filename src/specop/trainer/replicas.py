"""Where weights, gradients and the optimiser's state lie when several processes train one drafter.

`Replicas`: whole on every rank. Gradients are views of one flat tensor, so that their sum over all ranks is one
collective an optimiser step, with nothing copied. DistributedDataParallel would reduce in buckets during the backward
pass; with accumulation only the last of many packs could hide that, and a drafter's gradients take milliseconds.

`Shards`: cut over the ranks by FSDP2, one group for the whole objective: a drafter is one layer, so there is no next
layer to gather ahead. Weights are gathered once an optimiser step and gradients reduced once; the optimiser, and all
that lies between steps, sees 1/N of each.

In both, a rank without a pack takes part: its gradients are zero. Sums over ranks, never means: the weights of the
losses already divide by the count of labels of all ranks.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from specop.trainer.batches import Pack
from specop.trainer.group import Group, watching
from specop.trainer.losses import StepWeights
from specop.trainer.objective import Objective


class Replicas:
    """An objective that every rank holds as a whole."""

    def __init__(self, objective: Objective, group: Group) -> None:
        self._objective = objective
        self._group = group
        self._flat: Tensor | None = None
        if not group.alone:
            parameters = list(objective.parameters())
            self._flat = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters))
            pieces = torch.split(self._flat, [parameter.numel() for parameter in parameters])
            for parameter, piece in zip(parameters, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)

    def begin(self) -> None:
        """Begin an optimiser step: no gradient yet."""
        if self._flat is None:
            self._objective.zero_grad()
        else:
            self._flat.zero_()

    def add(self, pack: Pack, weights: Sequence[StepWeights]) -> tuple[Tensor, Tensor]:
        """Add a pack's gradients; returns its loss and sums of alpha, detached."""
        loss, alpha_K = self._objective(pack, weights)
        loss.backward()
        return loss.detach(), alpha_K

    def reduce(self) -> None:
        """Sum the gradients over all ranks. Collective."""
        if self._flat is not None:
            self._group.sum(self._flat)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Hold the whole weights inside the block, for forward passes. Collective."""
        yield


class Shards:
    """An objective that is cut over all ranks; makes its parameters DTensors, before an optimiser sees them."""

    def __init__(self, objective: Objective, group: Group) -> None:
        mesh = init_device_mesh(objective.drafter.embedding_VH.device.type, (group.place.size,))
        self._objective = objective
        self._fsdp = fully_shard(objective, mesh=mesh)
        self._fsdp.set_gradient_divide_factor(1.0)
        self._fsdp.set_force_sum_reduction_for_comms(True)

    def begin(self) -> None:
        """Begin an optimiser step: no gradient yet, and none is reduced before `reduce`. Collective.

        Weights are gathered here and not by the first pack, because a rank may have none.
        """
        self._objective.zero_grad()
        self._between(packs=True)
        with watching():
            self._fsdp.unshard()

    def add(self, pack: Pack, weights: Sequence[StepWeights]) -> tuple[Tensor, Tensor]:
        """Add a pack's gradients; returns its loss and sums of alpha, detached."""
        loss, alpha_K = self._objective(pack, weights)
        loss.backward()
        return loss.detach(), alpha_K

    def reduce(self) -> None:
        """Sum the gradients over all ranks, each keeping its part. Collective.

        A pass without a pack does it, whose gradients are zero, so that it is the same for ranks with and without one.
        """
        self._between(packs=False)
        with watching():  # arguments: without any, FSDP2 of torch before 2.13 moves them on CUDA
            loss, _ = self._objective(None, None)
            loss.backward()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Hold the whole weights inside the block, for forward passes. Collective."""
        with watching():
            self._fsdp.unshard()
        try:
            yield
        finally:
            self._fsdp.reshard()

    def _between(self, *, packs: bool) -> None:
        self._fsdp.set_requires_gradient_sync(not packs)
        self._fsdp.set_reshard_after_backward(not packs)


def gathered(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that may be cut. Collective where it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    with watching():
        return tensor.full_tensor()


def copies(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, copied; nothing where they are not to be kept. Collective where they are cut."""
    found = {}
    for name, tensor in tensors.items():
        whole = gathered(tensor.detach())
        if keep:
            found[name] = whole.cpu().clone()
    return found


def placed(whole: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor, which all ranks have, laid out as another of its shape; scalars stay as they are."""
    if isinstance(like, DTensor) and whole.shape == like.shape:
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return whole
