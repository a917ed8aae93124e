"""States: a block that is damaged or gone is made again, what has no room is made with its packs, ahead of its use."""

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch

from specop.api import reasons
from specop.api.training_job import TrainingRows
from specop.common.errors import UserError
from specop.trainer.batches import Row
from specop.trainer.cache import passes
from specop.trainer.feed import AHEAD, feed
from specop.trainer.inputs import Inputs
from specop.trainer.states import NAMES, Sizes, States
from specop.trainer.teacher import RowStates
from specop.trainer.tensors import read_tensors
from tests.trainer.tiny_run import World, loop, parts

CPU = torch.device("cpu")
SIZES = Sizes(hidden=4, captured=3)


class Counting:
    """A source that counts what it is asked for; a row's states say which row it is."""

    def __init__(self, value: float = 1.0) -> None:
        self.asked: list[str] = []
        self._value = value

    def states(self, rows: Sequence[Row]) -> list[RowStates]:
        self.asked += [row.key for row in rows]
        found = []
        for row in rows:
            a = row.labels(1)[0]
            value = self._value * (int(row.key) + 1)
            found.append(
                RowStates(
                    torch.full((row.length, 3, 4), value, dtype=torch.bfloat16),
                    torch.full((a, 4), value, dtype=torch.bfloat16),
                    *(torch.ones(a) for _ in NAMES[2:]),
                )
            )
        return found


def rows(count: int = 8) -> list[Row]:
    return [
        Row(str(i), tuple(range(300 + i)), ((2, 300 + i),), constrained=False, temperature=0.0) for i in range(count)
    ]


def made(folder: Path, source: Counting, room: int = 1 << 30) -> States:
    states = States(folder, rows(), source, SIZES)
    states.fit(room)
    states.make(states.missing(), lambda _: None)
    return states


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specop.trainer.states.BLOCK_TOKENS", 700)


def test_what_is_kept_is_asked_for_once_and_found_by_another_process(tmp_path: Path) -> None:
    source = Counting()
    states = made(tmp_path, source)
    assert (states.blocks, states.kept, states.complete) == (4, 4, True)
    assert sorted(source.asked) == [row.key for row in rows()]
    for _ in range(2):
        pack = states.pack([5, 0], CPU)
        assert pack.aux_NCH[0, 0, 0] == 6
        assert pack.aux_NCH[-1, 0, 0] == 1
    assert len(source.asked) == 8
    again = Counting()
    assert made(tmp_path, again).complete
    assert again.asked == []


@pytest.mark.parametrize("damage", ["changed", "gone", "cut"])
def test_a_damaged_block_is_made_again(damage: str, tmp_path: Path) -> None:
    made(tmp_path, Counting())
    file = tmp_path / "block-000001.safetensors"
    before = read_tensors(file)
    assert before
    data = file.read_bytes()
    file.unlink()  # what was read is mapped from it
    if damage != "gone":
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else data[:-5] + b"wrong")
    source = Counting()
    made(tmp_path, source)
    assert sorted(source.asked) == ["2", "3"]
    after = read_tensors(file)
    assert after
    assert all(torch.equal(tensor, after[0][name]) for name, tensor in before[0].items())


def test_where_the_room_ends_the_rest_is_made_with_its_packs(tmp_path: Path) -> None:
    source = Counting()
    room = 2 * sum(SIZES.of(row) for row in rows()[2:4])
    states = made(tmp_path, source, room)
    assert (states.kept, states.complete) == (2, False)
    assert sorted(source.asked) == ["0", "1", "2", "3"]
    source.asked.clear()
    for _ in range(2):
        pack = states.pack([7, 1, 4], CPU)
        assert pack.aux_NCH[[0, 310, -1], 0, 0].tolist() == [8, 2, 5]
    assert source.asked == ["4", "7"] * 2
    nothing = Counting()
    assert made(tmp_path / "online", nothing, 0).kept == 0
    assert nothing.asked == []


def test_processes_of_a_node_make_a_part_each_and_open_the_others(tmp_path: Path) -> None:
    sources, states = (Counting(), Counting()), []
    for source in sources:
        states.append(States(tmp_path, rows(), source, SIZES))
        states[-1].fit(1 << 30)
    for rank, each in enumerate(states):
        each.make(each.missing(slice(rank, None, 2)), lambda _: None)
    (tmp_path / "block-000003.safetensors").unlink()
    for each in states:
        each.load()
    assert [len(source.asked) for source in sources] == [4, 4]
    assert [each.complete for each in states] == [False, True]
    assert states[0].pack([7], CPU).aux_NCH[0, 0, 0] == 8  # lost, so it is made anew


def test_states_that_are_not_finite_have_their_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        made(tmp_path, Counting(float("nan")))
    assert raised.value.reason == reasons.TARGET_NOT_FINITE
    states = made(tmp_path / "online", Counting(float("inf")), 0)
    with pytest.raises(UserError) as raised, closing(feed(states, [[0]], CPU)) as packs:
        next(packs)
    assert raised.value.reason == reasons.TARGET_NOT_FINITE


def test_packs_are_assembled_ahead_in_order_and_no_further(tmp_path: Path) -> None:
    source = Counting()
    states = made(tmp_path, source, 0)
    with closing(feed(states, [[row] for row in range(8)], CPU)) as packs:
        for row in range(3):
            assert next(packs).aux_NCH[0, 0, 0] == row + 1
        for _ in range(200):
            if len(source.asked) == 3 + AHEAD:
                break
            time.sleep(0.01)
        assert source.asked == ["0", "1", "2", "3", "4"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_a_run_that_keeps_nothing_learns_what_one_that_keeps_all_learns(world: World, tmp_path: Path) -> None:
    ends = []
    for name, room in (("all", 1 << 40), ("nothing", 0)):
        model, course, _ = parts(world, tmp_path / name, room, max_steps=5, evaluations=1)
        assert course.train.complete == (name == "all")
        training = loop(model, course, tmp_path / name)
        training.run(lambda *_: None)
        ends.append(training.progress)
    assert ends[0].loss == pytest.approx(ends[1].loss, rel=1e-2)  # rows run in other company: bfloat16's last bit
    assert ends[0].tokens == ends[1].tokens


def test_passes_count_what_the_run_reads(world: World, tmp_path: Path) -> None:
    _, course, _ = parts(world, tmp_path, 0, epochs=4, max_steps=None)
    inputs = Inputs(None, tmp_path, list(course.train.rows), [], None, TrainingRows())  # type: ignore[arg-type]
    assert passes(inputs, course.recipe) == 4
    _, few, _ = parts(world, tmp_path, 0, epochs=4, max_steps=1, batch_tokens=128)
    assert passes(inputs, few.recipe) < 0.5
