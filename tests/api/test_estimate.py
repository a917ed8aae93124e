"""Estimates against the published table of costs, against figures of real runs, and against common sense."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.api.dataset import DatasetFacts
from specop.api.estimate import Devices, Layout, Measured, devices_of, drafter_shape, estimate, layout_of, target_shape
from specop.api.preset import DEFAULTS
from specop.api.shared import TargetFacts, TargetSizes
from specop.api.training_job import Estimate, TrainingSpec
from specop.common.flops import Work, teacher_flops, training_flops

DIGEST = "sha256:" + "0" * 64
H100 = Devices(1, "H100", 989e12)


def target(hidden: int, layers: int, vocab: int, **sizes: int) -> TargetFacts:
    given_sizes = {"num_heads": hidden // 128, "num_kv_heads": 8, "head_dim": 128, "weight_mib": 16_000, **sizes}
    return TargetFacts(
        fingerprint=DIGEST,
        tokenizer_hash=DIGEST,
        chat_template_hash=DIGEST,
        vocab_size=vocab,
        hidden_size=hidden,
        num_layers=layers,
        sizes=TargetSizes.model_validate(given_sizes),
    )


LLAMA_8B = target(4096, 32, 128_256, intermediate_size=14_336)
LLAMA_70B = target(8192, 80, 128_256, intermediate_size=28_672)
QWEN3_8B = target(4096, 36, 151_936, intermediate_size=12_288)
SMOLLM2 = target(576, 30, 49_152, intermediate_size=1536, num_heads=9, num_kv_heads=3, head_dim=64, weight_mib=257)


def dataset(rows: int = 100_000, length: int = 2000, share: float = 0.5) -> DatasetFacts:
    return DatasetFacts(
        digest=DIGEST,
        uri="s3://o/manifest.json",
        rows=rows,
        holdout_rows=rows // 10,
        tokens=rows * length,
        supervised_tokens=int(rows * length * share),
        target=LLAMA_8B,
    )


@pytest.mark.parametrize(
    ("facts", "vocabulary", "parameters", "training", "capture"),
    [
        (LLAMA_8B, 32_000, 425e6, 16.7e9, 15.0e9),
        (QWEN3_8B, 32_000, 400e6, 15.7e9, 15.1e9),
        (QWEN3_8B, 151_936, 891e6, 36.3e9, 15.1e9),
        (LLAMA_70B, 32_000, 1403e6, 53.1e9, 142e9),
    ],
    ids=["8B", "8B", "8B, whole vocabulary", "70B"],
)
def test_work_of_known_targets(
    facts: TargetFacts, vocabulary: int, parameters: float, training: float, capture: float
) -> None:
    knobs = DEFAULTS.model_copy(update={"draft_vocab_size": vocabulary})
    assert facts.sizes
    shape = drafter_shape(facts, facts.sizes, knobs)
    assert shape.parameters == pytest.approx(parameters, rel=0.01)
    length = 4096
    work = Work(tokens=length, anchors=length, pairs=length * length / 2, steps=7)
    found = training_flops(shape, work)
    # The reference count makes the embedding's half of the queries anew at each step, and leaves out the keys and
    # values' later steps and the scores that are made again.
    spared = 6 * (work.steps - 1) * shape.hidden * shape.queries
    assert (found.total - found.teacher) / length == pytest.approx(training - spared, rel=0.05)
    without_head = (
        teacher_flops(target_shape(facts, facts.sizes), work) - 2 * length * facts.hidden_size * facts.vocab_size
    )
    assert without_head / length == pytest.approx(capture, rel=0.05)


def test_a_billion_tokens_on_an_8b_target() -> None:
    knobs = DEFAULTS.model_copy(update={"decoding_heads": 7, "epochs": 1, "batch_tokens": 65_536})
    found = estimate(LLAMA_8B, dataset(rows=250_000, length=4000, share=1.0), knobs, H100, None)
    assert found
    assert 18 < float(found.device_hours) < 30  # 21 at 44 % by the reference count
    assert 3000 < float(found.disk_gib) < 3300  # states of what is held out; the rest is read once and never kept
    twice = estimate(
        LLAMA_8B,
        dataset(250_000, 4000, 1.0),
        knobs.model_copy(update={"epochs": 2, "max_steps": found.steps + 1}),
        H100,
        None,
    )
    assert twice
    assert 30_000 < float(twice.disk_gib) < 36_000  # 32.8 TB of states, and as much again for a tenth held out
    assert (found.steps, found.tokens) == (math.ceil(1e9 / 65_536), 10**9)
    assert 30 < found.capture_percent < 60
    assert 20 < float(found.memory_gib) < 40
    assert (found.devices, found.device, found.basis) == (1, "H100", "usual figures")


def test_memory_of_a_run_that_was_measured() -> None:
    knobs = DEFAULTS.model_copy(update={"draft_vocab_size": 4096, "max_length": 1024})
    found = estimate(SMOLLM2, dataset(80, 280, 0.27), knobs, Devices(2, "CPU cores", None), None)
    assert found
    assert float(found.memory_gib) == pytest.approx(2176 / 1024, rel=0.2)


def test_a_run_of_the_lineage_takes_the_place_of_usual_figures() -> None:
    cores = Devices(2, "CPU cores", None)
    usual = estimate(SMOLLM2, dataset(400, 250), DEFAULTS, cores, None)
    fast = Measured("agent-v1", flops=100e9, acceptance_length=2.6, steps=3)
    found = estimate(SMOLLM2, dataset(400, 250), DEFAULTS, cores, fast)
    assert usual
    assert found
    assert float(found.device_hours) == pytest.approx(float(usual.device_hours) / 2, rel=0.1)
    assert (found.acceptance_low, found.acceptance_high, found.basis) == ("2.4", "2.8", "measured by agent-v1")
    other = estimate(SMOLLM2, dataset(400, 250), DEFAULTS, cores, Measured("a", acceptance_length=2.5, steps=5))
    assert other
    assert (other.acceptance_low, other.acceptance_high) == (usual.acceptance_low, usual.acceptance_high)


def made(layout: Layout, devices: Devices = H100, measured: Measured | None = None, **knobs: object) -> Estimate:
    found = estimate(
        LLAMA_8B, dataset(10_000), DEFAULTS.model_copy(update={"epochs": 6, **knobs}), devices, measured, layout
    )
    assert found
    return found


def test_states_that_have_no_room_are_made_in_every_pass() -> None:
    all_kept, none = made(Layout()), made(Layout(state_bytes=0))
    trainer = float(all_kept.device_hours) * (1 - all_kept.capture_percent / 100)
    once, often = float(all_kept.device_hours) - trainer, float(none.device_hours) - trainer
    holdout, passes, judgements = 1 / 10, 6, (DEFAULTS.evaluations or 0) + 1
    assert often / once == pytest.approx((passes + judgements * holdout) / (1 + holdout), rel=0.1)
    states = float(all_kept.disk_gib) - float(none.disk_gib)
    assert states == pytest.approx(2 * 4096 * 3.5 * 22e6 / 2**30, rel=0.02)
    half = made(Layout(state_bytes=int(states / 2 * 2**30)))
    assert float(all_kept.device_hours) < float(half.device_hours) < float(none.device_hours)
    assert float(half.disk_gib) == pytest.approx(float(none.disk_gib) + states / 2, rel=0.05)


def test_a_disk_that_has_a_limit_leaves_states_what_the_rest_does_not_take() -> None:
    assert made(Layout(disk_bytes=1 << 50)) == made(Layout())
    limited = made(Layout(disk_bytes=300 << 30))
    assert float(limited.disk_gib) == 300
    assert (
        float(made(Layout()).device_hours)
        < float(limited.device_hours)
        < float(made(Layout(state_bytes=0)).device_hours)
    )
    assert made(Layout(disk_bytes=1 << 30)) == made(Layout(state_bytes=0)), "what the run needs at least is told"


def test_every_node_makes_its_states_and_keeps_none_that_it_reads_once() -> None:
    one, four = made(Layout()), made(Layout(nodes=4, processes=4), Devices(4, "H100", 989e12))
    trainer = float(one.device_hours) * (1 - one.capture_percent / 100)
    assert float(four.device_hours) - trainer == pytest.approx(4 * (float(one.device_hours) - trainer), rel=0.1)
    eight = made(Layout(nodes=8, processes=8))
    assert float(eight.disk_gib) < float(one.disk_gib) / 5, "six passes over eight nodes: the holdout alone is kept"


def test_what_is_cut_over_all_processes_takes_less_of_each_and_a_moving_average_more() -> None:
    shallow = target(4096, 4, 128_256, intermediate_size=14_336, weight_mib=3000)  # whose own pass takes less
    rows = dataset(10_000).model_copy(update={"target": shallow})

    def run(layout: Layout, **knobs: object) -> Estimate:
        found = estimate(shallow, rows, DEFAULTS.model_copy(update=knobs), H100, None, layout)
        assert found
        return found

    whole, cut = run(Layout(processes=8)), run(Layout(processes=8, sharded=True))
    saved = 1.25 * (16 - 16 / 8 - 8) * whole.drafter_parameters / 2**30
    assert float(whole.memory_gib) - float(cut.memory_gib) == pytest.approx(saved, abs=1)
    averaged = run(Layout(state_bytes=0), ema_decay="0.99")
    assert float(averaged.memory_gib) - float(whole.memory_gib) == pytest.approx(1.25 * 4 * 425e6 / 2**30, abs=1)
    unkept = run(Layout(state_bytes=0))
    assert float(averaged.disk_gib) - float(unkept.disk_gib) == pytest.approx(3 * 4 * 425e6 / 2**30, abs=1)


def test_the_targets_pass_has_a_speed_of_its_own_where_it_was_measured() -> None:
    equal = made(Layout(), measured=Measured("calibration", flops=100e12, capture_flops=100e12))
    slow = made(Layout(), measured=Measured("calibration", flops=100e12, capture_flops=25e12))
    assert equal == made(Layout(), measured=Measured("calibration", flops=100e12))
    share = equal.capture_percent / 100
    assert float(slow.device_hours) == pytest.approx(float(equal.device_hours) * (1 + 3 * share), rel=0.1)
    assert slow.capture_percent > equal.capture_percent


def test_layout() -> None:
    spec = {"target": {"uri": "s3://m/t"}, "datasetRef": {"name": "d"}}
    assert layout_of(TrainingSpec.model_validate(spec), {}) == Layout()
    several = {"nodes": 2, "processesPerNode": 4, "sharding": "Full"}
    full = TrainingSpec.model_validate({**spec, "parallelism": several, "stateCache": "200Gi"})
    assert layout_of(full, {"ephemeral-storage": "1Ti"}) == Layout(2, 8, True, 200 << 30, 1 << 40)


def test_a_dataset_whose_target_has_no_sizes_has_no_estimate() -> None:
    assert estimate(LLAMA_8B.identity, dataset(), DEFAULTS, H100, None) is None


@pytest.mark.parametrize(
    ("limits", "labels", "expected"),
    [
        ({"nvidia.com/gpu": "8"}, {"nvidia.com/gpu.product": "NVIDIA-H200"}, Devices(16, "H200", 989e12)),
        ({"nvidia.com/gpu": "1"}, {"node": "NVIDIA-A100-SXM4-80GB"}, Devices(2, "A100", 312e12)),
        ({"nvidia.com/gpu": "1"}, {"pool": "fast"}, Devices(2, "H100 (assumed)", 989e12)),
        ({"cpu": "1500m", "memory": "4Gi"}, {}, Devices(3, "CPU cores", None)),
        ({}, {}, Devices(2, "CPU cores", None)),
    ],
)
def test_devices(limits: dict[str, str], labels: dict[str, str], expected: Devices) -> None:
    assert devices_of(limits, labels, pods=2) == expected


@given(
    dataset=st.builds(dataset, st.integers(1, 10**6), st.integers(3, 10**5), st.floats(0, 1)),
    epochs=st.integers(1, 100),
    heads=st.integers(1, 16),
    devices=st.builds(Devices, st.integers(1, 64), st.just("H100"), st.just(989e12)),
)
def test_more_work_never_costs_less(dataset: DatasetFacts, epochs: int, heads: int, devices: Devices) -> None:
    found, more = (
        estimate(SMOLLM2, dataset, DEFAULTS.model_copy(update={"epochs": n, "decoding_heads": heads}), devices, None)
        for n in (epochs, epochs + 1)
    )
    assert found
    assert more
    assert float(more.device_hours) >= float(found.device_hours) >= 0
    assert more.steps >= found.steps >= 1
    assert float(found.acceptance_high) >= float(found.acceptance_low) > 1
    assert 0 <= found.capture_percent <= 100
    assert found.model_validate(found.to_json()) == found
