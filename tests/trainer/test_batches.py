"""Labels, packs and the plan of a run: rules that hold for any rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.api import reasons
from specop.api.preset import DEFAULTS
from specop.api.training_job import TrainingRows
from specop.common.errors import UserError
from specop.trainer.batches import PACK_TOKENS, Plan, Row, epoch_batches, read_counted, read_rows
from specop.trainer.config import recipe
from tests.trainer.tiny_run import SCHEMA, World


@st.composite
def rows(draw: st.DrawFn) -> Row:
    edges = sorted(draw(st.sets(st.integers(0, 40), max_size=8)))
    spans = tuple(zip(edges[0::2], edges[1::2], strict=False))
    length = max([end for _, end in spans], default=0) + draw(st.integers(0, 5))
    return Row("k", tuple(range(length)), spans, constrained=False, temperature=0.0)


@given(rows(), st.integers(1, 5))
def test_a_label_and_all_before_it_lie_in_one_span(row: Row, steps: int) -> None:
    def inside(first: int, last: int) -> bool:
        return any(start <= first and last < end for start, end in row.spans)

    allowed = [{i for i in range(len(row.ids)) if inside(i + 1, i + 2 + k)} for k in range(steps)]
    anchors = {i for start, end in row.anchors for i in range(start, end)}
    assert anchors == allowed[0]
    assert row.labels(steps) == [len(found) for found in allowed]
    assert row.length == max(anchors, default=-1) + 1


@given(st.lists(st.integers(1, 6000), min_size=1, max_size=60), st.integers(64, 20_000), st.integers(0, 3))
def test_an_epoch_has_every_row_once_and_packs_within_their_limits(lengths: list[int], limit: int, epoch: int) -> None:
    batches = epoch_batches(lengths, "sha256:0", 0, epoch, limit)
    assert sorted(row for batch in batches for pack in batch for row in pack) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[row] for pack in batch for row in pack) <= limit
        for pack in batch:
            assert len(pack) == 1 or sum(lengths[row] for row in pack) <= min(PACK_TOKENS, limit)


def test_a_plan_is_its_epochs_one_after_another_in_any_order_of_asking() -> None:
    lengths = [7 * i % 50 + 1 for i in range(40)]
    knobs = recipe(DEFAULTS.model_copy(update={"epochs": 3, "batch_tokens": 128}))
    plan = Plan(lengths, "sha256:0", knobs)
    steps = [batch for epoch in range(3) for batch in epoch_batches(lengths, "sha256:0", knobs.seed, epoch, 128)]
    assert plan.total == len(steps)
    assert [plan.batch(step) for step in reversed(range(plan.total))] == steps[::-1]
    assert Plan(lengths, "sha256:0", recipe(DEFAULTS.model_copy(update={"max_steps": 2}))).total == 2


def test_rows_are_cut_at_the_right_end(world: World) -> None:
    whole, _ = world.rows()
    cut = read_rows([world.root / "train-00000.parquet"], 16, 259)
    by_key = {row.key: row for row in whole}
    assert cut
    for row in cut:
        assert row.ids == by_key[row.key].ids[:16]
        assert all(end <= 16 for _, end in row.spans)


def test_rows_are_cut_or_dropped_and_all_of_them_counted(tmp_path: Path) -> None:
    row = {"input_ids": [1] * 20, "spans": [{"start": 3, "end": 20}], "constrained": False}
    table = [
        {**row, "key": "long"},
        {**row, "key": "late", "spans": [{"start": 14, "end": 20}]},
        {**row, "key": "fits", "input_ids": [1] * 10, "spans": [{"start": 3, "end": 10}]},
        {**row, "key": "mute", "input_ids": [1] * 10, "spans": []},
    ]
    file = tmp_path / "train-00000.parquet"
    pq.write_table(pa.Table.from_pylist(table, schema=SCHEMA), file)
    rows, counts = read_counted([file], 10, 259, drop=False)
    assert [row.key for row in rows] == ["long", "fits"]
    assert counts == TrainingRows(learned=2, cut=1, unlabelled=2)
    rows, counts = read_counted([file], 10, 259, drop=True)
    assert [row.key for row in rows] == ["fits"]
    assert counts == TrainingRows(learned=1, dropped=2, unlabelled=1)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"spans": [{"start": 3, "end": 99}]}, "spans are out of order or beyond its tokens"),
        ({"spans": [{"start": 4, "end": 8}, {"start": 2, "end": 3}]}, "spans are out of order"),
        ({"input_ids": [1] * 9 + [259]}, "token ids that the target's vocabulary does not have"),
    ],
    ids=["beyond", "order", "vocabulary"],
)
def test_rows_that_break_the_contract_are_refused(changed: dict[str, object], says: str, tmp_path: Path) -> None:
    row = {"key": "a", "input_ids": [1] * 10, "spans": [{"start": 3, "end": 9}], "constrained": False}
    pq.write_table(pa.Table.from_pylist([{**row, **changed}], schema=SCHEMA), tmp_path / "train-00000.parquet")
    with pytest.raises(UserError, match=says) as raised:
        read_rows([tmp_path / "train-00000.parquet"], 100, 259)
    assert raised.value.reason == reasons.DATASET_CORRUPT


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"key": ["a"], "source": ["logs"], "input_ids": [[1, 2]]}), "has no column spans: build the dataset"),
        (pa.table({"key": ["a"], "source": ["logs"], "input_ids": [["1"]]}), "input_ids is list<.*string>, but holds"),
        (pa.table({"key": ["a"], "source": ["logs"], "input_ids": [[1.0]]}), "input_ids is list<.*double>, but holds"),
    ],
    ids=["missing", "text", "decimals"],
)
def test_columns_that_are_not_a_datasets_are_refused(table: pa.Table, says: str, tmp_path: Path) -> None:
    pq.write_table(table, tmp_path / "train-00000.parquet")
    with pytest.raises(UserError, match=says) as raised:
        read_rows([tmp_path / "train-00000.parquet"], 100, 259)
    assert raised.value.reason == reasons.DATASET_CORRUPT


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train-00000.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError) as raised:
        read_rows([tmp_path / "train-00000.parquet"], 100, 259)
    assert raised.value.reason == reasons.DATASET_CORRUPT
