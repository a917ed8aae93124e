"""What a training run will cost and give, before a pod exists.

PURE: from sizes of the target, counts of the dataset, complete hyperparameters, devices and disk. Work is counted by
`common/flops.py`; what a device delivers of its peak is a prior, until it was measured by a run of the same lineage or
by a calibration: then that takes the prior's place. All figures are rounded: they are right to a third or so.

Rules, where a figure is not arithmetic:
- GPUs deliver 40 % of dense bfloat16 at a hidden size of 4096, and less by the square root below it: narrow drafters
  are bound by launches and memory. (Best published for trainers of this class: 44 %.) A CPU core delivers 50 GFLOP/s.
- Memory: 16 bytes a trained parameter (float32 weight, gradient, two moments), the target's embedding and head,
  activations of one pack of 4096 tokens; or, if that is more, what the target's own pass takes; and a quarter on top,
  which allocators hold. Without GPUs files that are being read and checkpoints that are being written lie in the same
  memory. (A run for SmolLM2-135M on two cores: 2.1 GiB measured, 1.9 estimated.)
- The target's pass: once a node over what has room on its disk, the holdout first; what has none, and rows that no
  node reads twice, in every pass over them (`trainer/cache.py`).
- Acceptance: each draft is accepted with a probability that rises with the text there is to learn from; ends of the
  range are what public drafters and narrow workloads show.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specop.api.dataset import DatasetFacts
from specop.api.hyperparameters import Hyperparameters
from specop.api.shared import TargetFacts, TargetSizes
from specop.api.training_job import Estimate, Parallelism, TrainingSpec
from specop.common.devices import DENSE_BFLOAT16, known_gpu
from specop.common.flops import DrafterShape, TargetShape, Work, judging_flops, teacher_flops, training_flops
from specop.common.quantity import amount

CAPTURED = 3
"""Layers of the target that a drafter reads."""
WIDE = 4096
GPU_SHARE = 0.4
CORE_FLOPS = 50e9
PACK_TOKENS = 4096
TEACHER_ROWS = 1 << 24
"""Logits that the target's pass holds at once."""
LOSS_ROWS = 1 << 22
"""Logits that the loss holds at once."""
STATE_BYTES, FLOAT = 16, 4
STARTUP_SECONDS = 45
"""Imports, and files of a target, whatever its size."""
DOWNLOAD_BYTES = 200e6
"""A second, from object storage."""
CHECKPOINTS = 3
"""On disk at once: two that are kept, one that is written; each with the best weights beside the newest."""
GIBIBYTE = 1 << 30
BASE_BYTES = 0.7 * GIBIBYTE
"""A process with torch that does nothing."""
SLACK = 1.25
"""What an allocator holds for what is in use."""
ODDS = ((1e6, 0.45, 0.75), (1e8, 0.55, 0.80), (math.inf, 0.65, 0.86))
"""Up to so many supervised tokens: lowest and highest probability that a draft is accepted."""
AROUND = 0.1
"""How far from its ancestor's acceptance length a drafter is expected."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What a run computes on."""

    count: int
    name: str
    peak: float | None
    """FLOP/s of one; None for CPU cores."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How processes share a run, and what disk each of its pods has."""

    nodes: int = 1
    processes: int = 1
    """Of all nodes together."""
    sharded: bool = False
    """Weights, gradients and optimiser state are cut over all processes."""
    state_bytes: int | None = None
    """Most that the target's states may take on a node."""
    disk_bytes: int | None = None
    """A pod's scratch space, where that has a limit."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a finished run of the same lineage says, or a calibration."""

    name: str
    flops: float | None = None
    """FLOP/s of the drafter's matrix products, on one device of the kind that is asked about."""
    capture_flops: float | None = None
    """The same of the target's; None: as of the drafter's."""
    acceptance_length: float | None = None
    steps: int = 0
    """Draft steps that this length is for."""


def devices_of(limits: Mapping[str, str], node_selector: Mapping[str, str], pods: int) -> Devices:
    """Read from a pod's limits, and from what its node is labelled with, what a run has; H100 where nothing says."""
    gpus = next((int(count) for name, count in limits.items() if name.endswith("/gpu")), 0)
    if not gpus:
        return Devices(max(1, math.ceil(amount(limits.get("cpu", "1")) * pods)), "CPU cores", None)
    found = next(filter(None, map(known_gpu, node_selector.values())), None)
    return Devices(gpus * pods, found or "H100 (assumed)", DENSE_BFLOAT16[found or "H100"])


def layout_of(spec: TrainingSpec, limits: Mapping[str, str]) -> Layout:
    """Read from a job's spec, and from what its pods may take, how it is laid out."""
    parallelism, disk = spec.parallelism or Parallelism(), limits.get("ephemeral-storage")
    return Layout(
        nodes=parallelism.nodes,
        processes=parallelism.processes,
        sharded=parallelism.sharding == "Full",
        state_bytes=int(amount(spec.state_cache)) if spec.state_cache is not None else None,
        disk_bytes=int(amount(disk)) if disk is not None else None,
    )


def estimate(  # noqa: PLR0917 - all that a run depends on
    facts: TargetFacts,
    dataset: DatasetFacts,
    knobs: Hyperparameters,
    devices: Devices,
    measured: Measured | None,
    layout: Layout = Layout(),
) -> Estimate | None:
    """Estimate a run; None where the target's sizes are not known. `knobs` are complete."""
    if facts.sizes is None or not dataset.tokens or not dataset.rows:
        return None
    assert knobs.epochs
    assert knobs.batch_tokens
    assert knobs.decoding_heads
    shape, target = drafter_shape(facts, facts.sizes, knobs), target_shape(facts, facts.sizes)
    epoch, holdout = _work(dataset, dataset.rows, knobs), _work(dataset, dataset.holdout_rows, knobs)
    steps = max(1, math.ceil(knobs.epochs * epoch.tokens / knobs.batch_tokens))
    steps = min(steps, knobs.max_steps or steps)
    trained = min(knobs.epochs * epoch.tokens, float(steps * knobs.batch_tokens))
    training = training_flops(shape, epoch).total * trained / epoch.tokens
    judgements = (knobs.evaluations or 1) + 1
    judging = judging_flops(shape, holdout) * judgements
    weights = facts.sizes.weight_mib << 20
    files = weights + CHECKPOINTS * checkpoint_bytes(shape.parameters, averaged=knobs.ema_decay is not None) + GIBIBYTE
    reads = ((holdout, judgements), (epoch, trained / epoch.tokens))
    passes, states = _capture(target, reads, files, layout)
    capture = sum(times * teacher_flops(target, work) for times, (work, _) in zip(passes, reads, strict=True))
    delivered = _delivered(devices, shape, measured)
    capturing = capture / ((measured and measured.capture_flops) or delivered)
    busy = (training + judging) / delivered + capturing
    loading = STARTUP_SECONDS + weights / DOWNLOAD_BYTES
    low, high = _acceptance(dataset, knobs.decoding_heads, measured)
    return Estimate(
        device_hours=_digits(busy / 3600),
        wall_seconds=round(float(_digits(busy / devices.count + loading))),
        memory_gib=_digits(_memory(shape, target, weights, epoch, knobs, devices, layout) / GIBIBYTE),
        disk_gib=_digits((files + states) / GIBIBYTE),
        steps=steps,
        tokens=round(trained),
        drafter_parameters=shape.parameters,
        capture_percent=round(100 * capturing / busy),
        acceptance_low=f"{low:.1f}",
        acceptance_high=f"{high:.1f}",
        devices=devices.count,
        device=devices.name,
        basis=f"measured by {measured.name}" if measured else "usual figures",
    )


def drafter_shape(facts: TargetFacts, sizes: TargetSizes, knobs: Hyperparameters) -> DrafterShape:
    """Shape of the drafter that a run makes."""
    return DrafterShape(
        hidden=facts.hidden_size,
        intermediate=sizes.intermediate_size,
        queries=sizes.num_heads * sizes.head_dim,
        keys=sizes.num_kv_heads * sizes.head_dim,
        captured=CAPTURED,
        draft_vocab=min(knobs.draft_vocab_size or facts.vocab_size, facts.vocab_size),
        normed_states=knobs.architecture == "Eagle31",
    )


def target_shape(facts: TargetFacts, sizes: TargetSizes) -> TargetShape:
    """Shape of the target, as far as a token passes it."""
    return TargetShape(
        hidden=facts.hidden_size,
        intermediate=sizes.intermediate_size,
        queries=sizes.num_heads * sizes.head_dim,
        keys=sizes.num_kv_heads * sizes.head_dim,
        layers=facts.num_layers,
        vocab=facts.vocab_size,
    )


def checkpoint_bytes(parameters: int, *, averaged: bool) -> int:
    """Bytes of a checkpoint: weight, best weight and two moments a parameter, and its moving average if there is."""
    return (STATE_BYTES + (FLOAT if averaged else 0)) * parameters


def _capture(
    target: TargetShape, reads: Sequence[tuple[Work, float]], files: int, layout: Layout
) -> tuple[list[float], float]:
    """How often the target passes over each work, which is read so many times; and the bytes that are kept of it.

    The work that comes first is kept first. `files`: bytes of a node's disk that everything else takes.
    """
    room = math.inf if layout.disk_bytes is None else max(0.0, layout.disk_bytes - files)
    room = min(room, math.inf if layout.state_bytes is None else layout.state_bytes)
    passes, states = [], 0.0
    for work, times in reads:
        whole = 2 * target.hidden * (CAPTURED * work.tokens + work.anchors) + 12 * work.anchors
        kept = min(whole, room - states) if times > layout.nodes else 0.0
        share = kept / whole if whole else 1.0
        passes.append(layout.nodes * share + times * (1 - share))
        states += kept
    return passes, states


def _work(dataset: DatasetFacts, rows: int, knobs: Hyperparameters) -> Work:
    """One pass over so many rows of the mean length, their supervised tokens at the end."""
    length = min(dataset.tokens / dataset.rows, float(knobs.max_length or math.inf))
    share = min(1.0, dataset.supervised_tokens / dataset.tokens) if dataset.supervised_tokens else 1.0
    anchors = rows * length * share
    return Work(rows * length, anchors, anchors * length * (1 - share / 2), knobs.decoding_heads or 1)


def _delivered(devices: Devices, shape: DrafterShape, measured: Measured | None) -> float:
    """FLOP/s of one device."""
    if measured and measured.flops:
        return measured.flops
    if devices.peak is None:
        return CORE_FLOPS
    return devices.peak * GPU_SHARE * min(1.0, math.sqrt(shape.hidden / WIDE))


def _memory(  # noqa: PLR0917 - all that takes memory
    shape: DrafterShape,
    target: TargetShape,
    weights: int,
    epoch: Work,
    knobs: Hyperparameters,
    devices: Devices,
    layout: Layout,
) -> float:
    """Bytes on one device, or of the process where there is no GPU, at the worst moment.

    What is cut over processes is whole in none of them, but for weights and gradients while a step's packs are done.
    """
    width = 2 if knobs.compute_dtype == "BFloat16" else 4
    copies = 2 if devices.peak is None else 1
    frozen = width * target.hidden * (2 * target.vocab + shape.draft_vocab)
    share = epoch.anchors / epoch.tokens
    once = 2 * shape.hidden * (shape.captured + 3) * 4 + 2 * shape.keys * 4
    step = 4 * (8 * shape.hidden + 3 * shape.queries + 2 * shape.keys) + width * 4 * shape.intermediate
    activations = PACK_TOKENS * (once + share * epoch.steps * step) + 5 * 4 * LOSS_ROWS
    state = STATE_BYTES + (FLOAT if knobs.ema_decay is not None else 0)
    held = state / layout.processes + 2 * FLOAT if layout.sharded else state
    training = (held + (copies - 1) * state + width) * shape.parameters + frozen + activations
    states = width * PACK_TOKENS * target.hidden * (target.layers + 1)
    capturing = copies * max(weights, width * target.layer_parameters) + frozen + states + 3 * 4 * TEACHER_ROWS
    return BASE_BYTES + SLACK * max(training, capturing)


def _acceptance(dataset: DatasetFacts, steps: int, measured: Measured | None) -> tuple[float, float]:
    """Lowest and highest mean tokens a target step to expect."""
    if measured and measured.acceptance_length and measured.steps == steps:
        drafted = measured.acceptance_length - 1
        return 1 + drafted * (1 - AROUND), 1 + drafted * (1 + AROUND)
    odds = next((low, high) for most, low, high in ODDS if dataset.supervised_tokens <= most)
    low, high = (1 + sum(p**k for k in range(1, steps + 1)) for p in odds)
    return low, high


def _digits(value: float) -> str:
    """Two significant digits, without an exponent."""
    if value <= 0:
        return "0"
    places = max(0, 1 - math.floor(math.log10(value)))
    rounded = round(value, 1 - math.floor(math.log10(value)))
    return f"{rounded:.{min(places, 4)}f}"
