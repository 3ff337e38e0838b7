"""The benchmarks measure what they say: the same windows, the same augmentation, no batch that was ready before."""

import importlib
import multiprocessing
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxseg
from jaxseg import data, train

FOLDER = Path(__file__).parents[1] / "experiments" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of the benchmarks, whose name does not stay behind."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = [path.stem for path in FOLDER.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def test_what_comes_before_a_run_is_not_timed(benchmark):
    turns = benchmark("turns")
    ours, theirs = multiprocessing.Pipe()

    def make():
        def run():
            time.sleep(0.05)

        run.before = lambda: time.sleep(0.5)
        return run

    thread = threading.Thread(target=turns._serve, args=(theirs, make, ()))
    thread.start()
    ours.recv()
    ours.send("run")
    assert 0.05 <= ours.recv() < 0.5
    ours.send("stop")
    assert ours.recv() > 0
    thread.join()


def test_rows_give_the_ratio_to_the_fastest_peer(benchmark):
    turns = benchmark("turns")
    seconds = {"jaxseg": 0.5, "jaxseg with more": 0.25, "torch": 1.0, "torch.compile": 2.0}
    timings = {name: turns.Timing((s,) * 3, 1.0, 2**20) for name, s in seconds.items()}
    rows = [[cell.strip() for cell in row.split("|")] for row in turns.rows("a step", timings)]
    assert [row[2] for row in rows] == list(seconds)
    assert [row[3] for row in rows] == ["500 ms", "250 ms", "1000 ms", "2000 ms"]
    assert [row[5] for row in rows] == ["2.00", "4.00", "1.00", "0.50"]


def test_rows_are_appended_below_their_heading(benchmark, monkeypatch, tmp_path):
    page = benchmark("page")
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    page.PAGE.write_text("# Page\n\n## One\n\n| a |\n|---|\n| 1 |\n\nWhy.\n\n## Two\n\ntext\n")
    page.append("## One", "", ["| 2 |"])
    page.append("## Two", "", ["", "| c |"])
    page.append("## Three", "| b |\n|---|", ["| 3 |"])
    page.append("## Four", "Text.", ["", "| d |"])
    assert page.PAGE.read_text() == (
        "# Page\n\n## One\n\n| a |\n|---|\n| 1 |\n| 2 |\n\nWhy.\n\n## Two\n\ntext\n\n| c |\n\n"
        "## Three\n\n| b |\n|---|\n| 3 |\n\n## Four\n\nText.\n\n| d |\n"
    )


def test_rows_go_below_their_own_table_where_a_section_has_others(benchmark, monkeypatch, tmp_path):
    page = benchmark("page")
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    page.PAGE.write_text("## One\n\nText.\n\n| a |\n|---|\n| 1 |\n\n| b |\n|---|\n| 2 |\n\nWhy.\n")
    page.append("## One", "Text.\n\n| a |\n|---|", ["| 3 |"])
    assert "| 1 |\n| 3 |\n\n| b |\n|---|\n| 2 |\n\nWhy." in page.PAGE.read_text()


def test_a_cost_is_flat_where_no_size_is_far_from_the_median(benchmark):
    growth, turns = benchmark("growth"), benchmark("turns")
    arguments = growth.Arguments(sizes=(64, 128, 256), pixels=128 * 128)
    cases = [growth.case(size, arguments) for size in arguments.sizes]
    assert [case.batch for case in cases] == [4, 1, 1]  # the last is larger than a batch's pixels

    def rows(factor):
        measured = {
            case.size: {
                "jaxseg": turns.Timing((f * case.batch * case.size**2 * 1e-6,) * 3, 1.0, 2**20)
            }
            for case, f in zip(cases, (1.0, 1.1, factor), strict=True)
        }
        return growth.rows(measured, arguments)

    assert "| 1100 | | **+18 %**, flat within 20 % |" in rows(1.3)[-1]
    assert "| 1100 | | **+27 %**, not flat within 20 % |" in rows(1.4)[-1]
    assert ["1000" in row for row in rows(1.3)[:3]] == [True, False, False]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
def test_windows_cover_the_image_and_lie_within_it(benchmark, overlap):
    arguments = benchmark("sliding_window").Arguments(70, 33, 32, overlap)
    covered = np.zeros((70, 33), int)
    for y, x in benchmark("sliding_window").places(arguments):
        assert 0 <= y <= 70 - 32
        assert 0 <= x <= 33 - 32
        covered[y : y + 32, x : x + 32] += 1
    assert covered.min() >= 1
    assert covered[-1, 0] >= 1


@pytest.mark.slow
def test_overlapping_windows_are_averaged(benchmark):
    """Also where a last batch is filled up."""
    sliding = benchmark("sliding_window")
    arguments = sliding.Arguments(48, 64, 32, at_once=4, classes=3)
    model = jaxseg.create("unet", encoder="resnet18", num_classes=3)
    variables = train.initialize(model, jax.random.key(0))
    apply = jax.jit(lambda tiles: model.apply(variables, tiles).logits)
    image, places = sliding.picture(arguments), sliding.places(arguments)
    assert len(places) % 4
    sums, counts = np.zeros((48, 64, 3)), np.zeros((48, 64, 1))
    for y, x in places:
        sums[y : y + 32, x : x + 32] += np.asarray(apply(image[:, y : y + 32, x : x + 32]))[0]
        counts[y : y + 32, x : x + 32] += 1
    result = np.asarray(sliding.jaxseg_side(arguments)())
    np.testing.assert_allclose(result, sums / counts, atol=1e-4)


def test_both_loaders_read_and_augment_alike(benchmark, monkeypatch, tmp_path):
    loader = benchmark("loader")
    arguments = loader.Arguments(size=(24, 32), crop=(16, 20), images=4, batch=4, batches=1)
    loader.draw(tmp_path, arguments)
    monkeypatch.setattr(loader, "taking", lambda batches, arguments: batches)
    with loader.jaxseg_side(str(tmp_path), 0, arguments) as batches:
        ours = next(batches)
    pairs = loader.Pairs(str(tmp_path), arguments.crop)
    images, masks = map(np.stack, zip(*(pairs[i] for i in range(4)), strict=True))
    for mine, theirs in ((ours["image"], images), (ours["label"], masks)):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    augment = data.TrainAugment(arguments.crop, scale=loader.SCALE)
    mine, theirs = augment._compose(3, True).transforms, pairs.transform.transforms
    assert repr(mine) == repr(theirs)
