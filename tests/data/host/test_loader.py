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

from jaxseg.data import Folder, TrainAugment, eval_batches, train_batches
from jaxseg.data.host import prefetch
from jaxseg.data.sources.shapes import Shapes
from jaxseg.data.targets import labels
from jaxseg.errors import InputError


class Numbers:
    """Records of given sizes whose pixels are their index."""

    def __init__(self, sizes, ignore_index=255):
        self.sizes, self.targets = sizes, labels(ignore_index)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        size = self.sizes[index]
        image, label = np.full((*size, 3), index, np.uint8), np.full(size, index, np.uint8)
        return {"image": image, "label": label, "name": f"n{index}"}


# Worker processes cannot import this module, so its objects are pickled by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def numbers(count, size=(4, 4)):
    return Numbers([size] * count)


def jitter(record, rng):
    """Adds the random number of a record to its labels."""
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


def test_train_batches_permute_each_epoch_differently():
    order = list(
        itertools.chain(*ids(take(train_batches(numbers(20), None, batch_size=5, seed=0), 12)))
    )
    epochs = [order[i : i + 20] for i in range(0, 60, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != list(range(20))


def test_train_batches_seeds_do_not_share_orders():
    orders = set()
    for seed in range(4):
        order = ids(take(train_batches(numbers(10), None, batch_size=10, seed=seed), 4))
        orders |= {tuple(epoch) for epoch in order}
    assert len(orders) == 16


def test_train_batches_span_epochs():
    order = list(
        itertools.chain(*ids(take(train_batches(numbers(3), None, batch_size=8, seed=0), 3)))
    )
    assert all(sorted(order[i : i + 3]) == [0, 1, 2] for i in range(0, 24, 3))


@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_train_batches_one_image_per_process(shard):
    """The number of batches without end exceeds the largest length of a sequence."""
    count = shard[1]
    batches = take(
        train_batches(numbers(6), None, batch_size=count, seed=0, shard=shard), 6 // count
    )
    assert {np.shape(batch["image"]) for batch in batches} == {(1, 4, 4, 3)}
    assert len({tuple(row) for row in ids(batches)}) == 6 // count


def test_train_batches_resume_exactly():
    def batches(start):
        return train_batches(numbers(7), jitter, batch_size=4, seed=3, start_step=start)

    all_rows = take(batches(0), 8)
    assert same(take(batches(0), 8), all_rows)
    for start in (1, 3, 6):
        assert same(take(batches(start), 8 - start), all_rows[start:])


def test_train_batches_augment_epochs_differently():
    batches = take(train_batches(numbers(4), jitter, batch_size=4, seed=0), 3)
    numbers_of_epochs = [np.sort(batch["label"][:, 0, 0] // 100).tolist() for batch in batches]
    assert len({tuple(row) for row in numbers_of_epochs}) == 3
    assert all(len(set(row)) == 4 for row in numbers_of_epochs)


@pytest.mark.parametrize("count", [2, 4])
def test_train_batches_processes_share_the_global_batch(count):
    options = {"batch_size": 8, "seed": 0, "start_step": 2}
    all_rows = take(train_batches(numbers(13), jitter, **options), 4)
    parts = [
        take(train_batches(numbers(13), jitter, **options, shard=(index, count)), 4)
        for index in range(count)
    ]
    for step, batch in enumerate(all_rows):
        for index in range(count):
            assert parts[index][step]["image"].shape[0] == 8 // count
            mine = slice(index * 8 // count, (index + 1) * 8 // count)
            rows = {key: batch[key][mine] for key in ("image", "label")}
            assert same([parts[index][step]], [rows])


@pytest.mark.parametrize(
    ("num_workers", "source", "augment"),
    [(1, Shapes(10, (24, 32), seed=0), TrainAugment((16, 16))), (4, numbers(10), jitter)],
)
@pytest.mark.sample(1)
def test_train_batches_any_worker_count_equal(num_workers, source, augment):
    options = {"batch_size": 4, "seed": 5}
    alone = take(train_batches(source, augment, **options), 6)
    assert same(take(train_batches(source, augment, **options, num_workers=num_workers), 6), alone)
    assert not multiprocessing.active_children()


@pytest.fixture
def damaged(pairs):
    """A folder whose third image is an empty file."""
    root = pairs(count=4)
    (root / "images" / "2.png").write_bytes(b"")
    return Folder(root / "images", root / "masks", num_classes=3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_eval_batches_raise_the_error_of_the_source(damaged, num_workers):
    batches = eval_batches(damaged, batch_size=1, num_workers=num_workers)
    assert [next(batches)["names"] for _ in range(2)] == [["0"], ["1"]]
    with pytest.raises(InputError, match=r"2\.png is empty"):
        next(batches)
    assert not multiprocessing.active_children()
    if not num_workers:
        with pytest.raises(InputError, match=r"2\.png is empty"):
            take(train_batches(damaged, None, batch_size=4, seed=0), 1)


def test_train_batches_without_shared_memory_use_threads(monkeypatch, caplog, tmp_path):
    usage = prefetch.shutil._ntuple_diskusage(total=1, used=0, free=2**10)
    monkeypatch.setattr(prefetch.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(prefetch, "_SHARED_MEMORY", tmp_path)
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
def test_batches_invalid_numbers_raise(source, options, message):
    with pytest.raises(InputError, match=message):
        eval_batches(source, **{"batch_size": 4, **options})
    with pytest.raises(InputError, match=message):
        train_batches(source, None, **{"batch_size": 4, "seed": 0, **options})


@pytest.mark.parametrize("options", [{"start_step": -1}, {"seed": -1}])
def test_train_batches_negative_start_or_seed_raises(options):
    with pytest.raises(InputError, match="must not be negative"):
        train_batches(numbers(4), None, **{"batch_size": 2, "seed": 0, **options})


def test_train_batches_unequal_sizes_raise():
    source = Numbers([(4, 4), (4, 5)])
    with pytest.raises(InputError, match=r"n0 is .*n1 is|n1 is .*n0 is"):
        take(train_batches(source, None, batch_size=2, seed=0), 1)


def gather(batches, ignore_index=255):
    """Returns the real images of batches by name, and checks that all other pixels are padding."""
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
def test_eval_batches_return_every_image_once(batch_size):
    source = numbers(7, (5, 6))
    batches = list(eval_batches(source, batch_size=batch_size))
    assert len(batches) == -(-7 // batch_size)
    assert {batch["image"].shape for batch in batches} == {(batch_size, 5, 6, 3)}
    found = gather(batches)
    assert list(found) == [f"n{i}" for i in range(7)]
    assert all((image == i).all() for i, (image, _) in enumerate(found.values()))


def test_eval_batches_pad_from_the_ninth_size_on():
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


def test_eval_batches_negative_fill_widens_labels():
    batch = next(eval_batches(Numbers([(4, 4)], ignore_index=-1), batch_size=2))
    assert batch["label"].dtype == np.int32
    assert (batch["label"][1] == -1).all()


def test_eval_batches_processes_share_batches():
    sizes = [(5, 6), (7, 8), (5, 6), (5, 6), (5, 6), (7, 8), (5, 6)]
    all_rows = list(eval_batches(Numbers(sizes), batch_size=4))
    parts = [list(eval_batches(Numbers(sizes), batch_size=4, shard=(i, 2))) for i in range(2)]
    assert [len(part) for part in parts] == [len(all_rows)] * 2
    for step, batch in enumerate(all_rows):
        for key in ("image", "label"):
            both = np.concatenate([part[step][key] for part in parts])
            assert np.array_equal(both, batch[key])
        assert parts[0][step]["names"] + parts[1][step]["names"] == batch["names"]


SCRIPT = """
    import multiprocessing, sys
    from jaxseg.data import train_batches
    from jaxseg.data.sources.shapes import Shapes

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
def test_workers_end_with_a_killed_parent(tmp_path):
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
