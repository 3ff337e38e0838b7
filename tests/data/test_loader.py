import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from jaxseg.data import Folder, TrainAugment, eval_batches, train_batches, workers
from jaxseg.data.shapes import Shapes
from jaxseg.errors import InputError


class Numbers:
    """Records whose every pixel is their index, of given sizes."""

    num_classes, classes, ignore_index = 100, tuple(map(str, range(100))), 255

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        size = self.sizes[index]
        image, label = np.full((*size, 3), index, np.uint8), np.full(size, index, np.uint8)
        return {"image": image, "label": label, "name": f"n{index}"}


# Workers cannot import this module: they get what they need of it by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def numbers(count, size=(4, 4)):
    return Numbers([size] * count)


def jitter(record, rng):
    """An augmentation that shows its random number."""
    return {**record, "label": record["label"].astype(np.int32) + rng.integers(0, 2**20) * 100}


def take(batches, count):
    with batches:
        return [next(batches) for _ in range(count)]


def ids(batches):
    return [batch["image"][:, 0, 0, 0].tolist() for batch in batches]


def same(a, b):
    return all(
        np.array_equal(x["image"], y["image"]) and np.array_equal(x["label"], y["label"])
        for x, y in zip(a, b, strict=True)
    )


def test_every_epoch_is_another_order_of_all_records():
    order = list(
        itertools.chain(*ids(take(train_batches(numbers(20), None, batch_size=5, seed=0), 12)))
    )
    epochs = [order[i : i + 20] for i in range(0, 60, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != list(range(20))


def test_seeds_do_not_share_orders():
    orders = set()
    for seed in range(4):
        order = ids(take(train_batches(numbers(10), None, batch_size=10, seed=seed), 4))
        orders |= {tuple(epoch) for epoch in order}
    assert len(orders) == 16


def test_batches_go_over_the_end_of_an_epoch():
    order = list(
        itertools.chain(*ids(take(train_batches(numbers(3), None, batch_size=8, seed=0), 3)))
    )
    assert all(sorted(order[i : i + 3]) == [0, 1, 2] for i in range(0, 24, 3))


@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_a_process_may_have_one_image_of_a_batch(shard):
    """Without a last batch there are more of them than a length may say."""
    count = shard[1]
    batches = take(
        train_batches(numbers(6), None, batch_size=count, seed=0, shard=shard), 6 // count
    )
    assert {np.shape(batch["image"]) for batch in batches} == {(1, 4, 4, 3)}
    assert len({tuple(row) for row in ids(batches)}) == 6 // count


def test_going_on_is_the_same_as_not_having_stopped():
    def batches(start):
        return train_batches(numbers(7), jitter, batch_size=4, seed=3, start_step=start)

    whole = take(batches(0), 8)
    assert same(take(batches(0), 8), whole)
    for start in (1, 3, 6):
        assert same(take(batches(start), 8 - start), whole[start:])


def test_augmentations_differ_between_epochs():
    batches = take(train_batches(numbers(4), jitter, batch_size=4, seed=0), 3)
    drawn = [np.sort(batch["label"][:, 0, 0] // 100).tolist() for batch in batches]
    assert len({tuple(row) for row in drawn}) == 3
    assert all(len(set(row)) == 4 for row in drawn)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_global_batch(count):
    options = {"batch_size": 8, "seed": 0, "start_step": 2}
    whole = take(train_batches(numbers(13), jitter, **options), 4)
    parts = [
        take(train_batches(numbers(13), jitter, **options, shard=(index, count)), 4)
        for index in range(count)
    ]
    for step, batch in enumerate(whole):
        for index in range(count):
            assert parts[index][step]["image"].shape[0] == 8 // count
            mine = slice(index * 8 // count, (index + 1) * 8 // count)
            rows = {key: batch[key][mine] for key in ("image", "label")}
            assert same([parts[index][step]], [rows])


@pytest.mark.parametrize(
    ("num_workers", "source", "augment"),
    [(1, Shapes(10, (24, 32), seed=0), TrainAugment((16, 16))), (4, numbers(10), jitter)],
)
def test_the_number_of_workers_changes_nothing(num_workers, source, augment):
    options = {"batch_size": 4, "seed": 5}
    alone = take(train_batches(source, augment, **options), 6)
    assert same(take(train_batches(source, augment, **options, num_workers=num_workers), 6), alone)
    assert not multiprocessing.active_children()


@pytest.fixture
def spoilt(pairs):
    """A folder in which the image of index 2 is empty."""
    root = pairs(count=4)
    (root / "images" / "2.png").write_bytes(b"")
    return Folder(root / "images", root / "masks", num_classes=3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_worker_is_that_of_the_source(spoilt, num_workers):
    batches = eval_batches(spoilt, batch_size=1, num_workers=num_workers)
    assert [next(batches)["names"] for _ in range(2)] == [["0"], ["1"]]
    with pytest.raises(InputError, match=r"2\.png is empty"):
        next(batches)
    assert not multiprocessing.active_children()
    if not num_workers:
        with pytest.raises(InputError, match=r"2\.png is empty"):
            take(train_batches(spoilt, None, batch_size=4, seed=0), 1)


def test_without_shared_memory_threads_read(monkeypatch, caplog, tmp_path):
    usage = workers.shutil._ntuple_diskusage(total=1, used=0, free=2**10)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path)
    source = numbers(6, (16, 16))
    batches = train_batches(source, None, batch_size=4, seed=0, num_workers=2)
    assert same(take(batches, 2), take(train_batches(source, None, batch_size=4, seed=0), 2))
    assert "2 workers may need" in caplog.text


def test_closing_ends_the_iterator():
    batches = train_batches(numbers(4), None, batch_size=2, seed=0)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(Exception, match="closed"):
        next(batches)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (numbers(0), {}, "empty"),
        (numbers(4), {"batch_size": 0}, "at least 1"),
        (numbers(4), {"num_workers": -1}, "not be negative"),
        (numbers(4), {"shard": (2, 2)}, "shard"),
        (numbers(4), {"shard": (0, 3)}, "cannot be divided by 3"),
    ],
)
def test_numbers_that_do_not_fit(source, options, message):
    with pytest.raises(InputError, match=message):
        eval_batches(source, **{"batch_size": 4, **options})
    with pytest.raises(InputError, match=message):
        train_batches(source, None, **{"batch_size": 4, "seed": 0, **options})


@pytest.mark.parametrize("options", [{"start_step": -1}, {"seed": -1}])
def test_start_and_seed_are_not_negative(options):
    with pytest.raises(InputError, match="must not be negative"):
        train_batches(numbers(4), None, **{"batch_size": 2, "seed": 0, **options})


def test_images_of_unequal_sizes_need_an_augmentation():
    source = Numbers([(4, 4), (4, 5)])
    with pytest.raises(InputError, match=r"n0 is .*n1 is|n1 is .*n0 is"):
        take(train_batches(source, None, batch_size=2, seed=0), 1)


def gather(batches, ignore_index=255):
    """The real images of batches by name; checks that all else is padding."""
    found = {}
    for batch in batches:
        assert len(batch["names"]) == len(batch["sizes"]) <= len(batch["image"])
        for i, label in enumerate(batch["label"]):
            h, w = batch["sizes"][i] if i < len(batch["sizes"]) else (0, 0)
            padding = np.ones(label.shape, bool)
            padding[:h, :w] = False
            assert (label[padding] == ignore_index).all()
            assert not batch["image"][i][padding].any()
            if i < len(batch["names"]):
                assert batch["names"][i] not in found
                found[batch["names"][i]] = (batch["image"][i, :h, :w], label[:h, :w])
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_evaluation_sees_every_image_once(batch_size):
    source = numbers(7, (5, 6))
    batches = list(eval_batches(source, batch_size=batch_size))
    assert len(batches) == -(-7 // batch_size)
    assert {batch["image"].shape for batch in batches} == {(batch_size, 5, 6, 3)}
    found = gather(batches)
    assert list(found) == [f"n{i}" for i in range(7)]
    assert all((image == i).all() for i, (image, _) in enumerate(found.values()))


def test_eight_sizes_stay_exact_and_others_are_padded():
    sizes = [(10 + i % 12, 70) for i in range(36)]
    batches = list(eval_batches(Numbers(sizes), batch_size=2))
    found = gather(batches)
    assert len(found) == 36
    for i, size in enumerate(sizes):
        image, label = found[f"n{i}"]
        assert label.shape == size
        assert (image == i).all()
        assert (label == i).all()
    shapes = {batch["image"].shape for batch in batches}
    assert shapes == {(2, 10 + i, 70, 3) for i in range(8)} | {(2, 64, 128, 3)}
    again = list(eval_batches(Numbers(sizes), batch_size=2))
    assert [batch["names"] for batch in again] == [batch["names"] for batch in batches]


def test_padding_may_be_labelled_minus_one():
    batch = next(eval_batches(numbers(1), batch_size=2, ignore_index=-1))
    assert batch["label"].dtype == np.int32
    assert (batch["label"][1] == -1).all()


def test_processes_share_the_batches_of_an_evaluation():
    sizes = [(5, 6), (7, 8), (5, 6), (5, 6), (5, 6), (7, 8), (5, 6)]
    whole = list(eval_batches(Numbers(sizes), batch_size=4))
    parts = [list(eval_batches(Numbers(sizes), batch_size=4, shard=(i, 2))) for i in range(2)]
    assert [len(part) for part in parts] == [len(whole)] * 2
    for step, batch in enumerate(whole):
        for key in ("image", "label"):
            both = np.concatenate([part[step][key] for part in parts])
            assert np.array_equal(both, batch[key])
        assert parts[0][step]["names"] + parts[1][step]["names"] == batch["names"]


SCRIPT = """
    import multiprocessing, sys
    from jaxseg.data import train_batches
    from jaxseg.data.shapes import Shapes

    if __name__ == "__main__":
        source = Shapes(8, (16, 16), seed=0)
        batches = train_batches(source, None, batch_size=2, seed=0, num_workers=2)
        next(batches)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        while True:
            next(batches)
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        children = [int(pid) for pid in process.stdout.readline().split()]
        assert len(children) == 2
        assert all(map(alive, children))
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, children))
