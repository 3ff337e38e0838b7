"""Tests that both sides of a benchmark do the same work, and that results are recorded and shown correctly."""

import doctest
import importlib
import json
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
    """Imports a module of the benchmarks and removes its name afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = [path.stem for path in FOLDER.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def test_run_with_before_times_the_run_only(benchmark):
    interleave = benchmark("interleave")
    ours, theirs = multiprocessing.Pipe()

    def make():
        def run():
            time.sleep(0.05)

        run.before = lambda: time.sleep(0.5)
        return run

    thread = threading.Thread(target=interleave._serve, args=(theirs, make, ()))
    thread.start()
    ours.recv()
    ours.send("run")
    assert 0.05 <= ours.recv() < 0.5
    ours.send("stop")
    assert ours.recv() > 0
    thread.join()


def test_records_hold_the_ratio_to_the_fastest_peer(benchmark):
    interleave = benchmark("interleave")
    seconds = {"jaxseg": 0.5, "jaxseg, folded": 0.25, "torch": 1.0, "torch.compile": 2.0}
    timings = {name: interleave.Timing((s,) * 3, 1.0, 2**20) for name, s in seconds.items()}
    found = interleave.records("a step", timings)
    assert [record["side"] for record in found] == list(seconds)
    assert [record["median_ms"] for record in found] == [500, 250, 1000, 2000]
    assert [record["ratio"] for record in found] == [2.0, 4.0, 1.0, 0.5]
    assert {"date", "machine", "versions"} <= found[0].keys()


@pytest.fixture
def page(benchmark, monkeypatch, tmp_path):
    """The module that writes the page of benchmarks, in an empty folder."""
    module = benchmark("append_table")
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    monkeypatch.setitem(module.TABLES, "a", {"what": "{what}", "time": "{ms:g} ms"})
    return module


def test_append_shows_the_last_run_and_keeps_all(page):
    page.PAGE.write_text("## A\n\n<!-- a.jsonl -->\n\nText.\n\n## B\n")
    record = {"what": "a step", "date": "2026-01-01", "ms": 2.5}
    page.append("a", [record, record | {"what": "an epoch"}])
    page.append("a", [record | {"date": "2026-02-01", "ms": 1}])
    table = "| what | time |\n|---|---|\n| a step | 1 ms |\n| an epoch | 2.5 ms |\n"
    expected = f"## A\n\n<!-- a.jsonl -->\n\n{table}\nText.\n\n## B\n"
    assert page.PAGE.read_text() == expected
    lines = (page.PAGE.parent / "benchmarks" / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["ms"] for line in lines] == [2.5, 2.5, 1]


def test_append_without_a_mark_adds_a_section(page):
    page.PAGE.write_text("# Page\n")
    page.append("a", [{"what": "a step", "date": "2026-01-01"}])
    assert page.PAGE.read_text().endswith(
        "## a\n\n<!-- a.jsonl -->\n\n| what | time |\n|---|---|\n| a step |  |\n"
    )


def test_the_page_shows_the_latest_records(benchmark):
    page = benchmark("append_table")
    text = page.PAGE.read_text()
    histories = [path.stem for path in (page.PAGE.parent / "benchmarks").glob("*.jsonl")]
    assert len(histories) >= 8
    for name in histories:
        assert page.render(text, name) == text, f"{name}: run append_table.py"


def test_doctests_of_benchmarks(benchmark):
    for name in ("append_table", "interleave", "regression_guard"):
        result = doctest.testmod(benchmark(name))
        assert result.attempted
        assert not result.failed


@pytest.mark.parametrize(("factor", "deviation", "flat"), [(1.3, 0.182, True), (1.4, 0.273, False)])
def test_cost_per_pixel_reports_the_largest_deviation(benchmark, factor, deviation, flat):
    pixel_cost, interleave = benchmark("pixel_cost"), benchmark("interleave")
    arguments = pixel_cost.Arguments(sizes=(64, 128, 256), pixels=128 * 128)
    cases = [pixel_cost.case(size, arguments) for size in arguments.sizes]
    assert [case.batch for case in cases] == [4, 1, 1]  # the last image exceeds the pixels
    measured = {
        case.size: {
            "jaxseg": interleave.Timing((f * case.batch * case.size**2 * 1e-6,) * 3, 1.0, 2**20)
        }
        for case, f in zip(cases, (1.0, 1.1, factor), strict=True)
    }
    found = pixel_cost.results(measured, arguments)
    assert [record["ns_per_pixel"] for record in found] == [1000, 1100, 1000 * factor, 1100]
    assert found[-1]["deviation"] == deviation
    assert pixel_cost.flatness(found) == {"jaxseg": flat}


GUARDED = ["unet_resnet34, infer, 1 x 128", "unet_resnet34, train, 2 x 128"]


@pytest.mark.parametrize(("committed", "fails"), [(1.0, False), (1.2, True), (None, False)])
def test_guard_fails_only_below_a_record(benchmark, monkeypatch, tmp_path, committed, fails):
    guard = benchmark("regression_guard")
    record = (
        {} if committed is None else {guard.this_processor(): dict.fromkeys(GUARDED, committed)}
    )
    (tmp_path / "guard.json").write_text(json.dumps({"another": {}} | record))
    monkeypatch.setattr(guard, "RECORD", tmp_path / "guard.json")
    monkeypatch.setattr(guard, "ratio", lambda case, rounds: 0.9)
    if fails:
        with pytest.raises(SystemExit, match="more than 15 % slower"):
            guard.main(guard.Arguments())
    else:
        guard.main(guard.Arguments())


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
def test_windows_cover_the_image_and_lie_inside(benchmark, overlap):
    arguments = benchmark("sliding_window").Arguments(70, 33, 32, overlap)
    covered = np.zeros((70, 33), int)
    for y, x in benchmark("sliding_window").origins(arguments):
        assert 0 <= y <= 70 - 32
        assert 0 <= x <= 33 - 32
        covered[y : y + 32, x : x + 32] += 1
    assert covered.min() >= 1
    assert covered[-1, 0] >= 1


@pytest.mark.slow
def test_overlapping_windows_average_the_logits(benchmark):
    """Also if the last batch is padded."""
    sliding = benchmark("sliding_window")
    arguments = sliding.Arguments(48, 64, 32, at_once=4, classes=3)
    model = jaxseg.create("unet", encoder="resnet18", num_classes=3)
    variables = train.init(model, jax.random.key(0))
    apply = jax.jit(lambda tiles: model.apply(variables, tiles).logits)
    image, origins = sliding.random_image(arguments), sliding.origins(arguments)
    assert len(origins) % 4
    sums, counts = np.zeros((48, 64, 3)), np.zeros((48, 64, 1))
    for y, x in origins:
        sums[y : y + 32, x : x + 32] += np.asarray(apply(image[:, y : y + 32, x : x + 32]))[0]
        counts[y : y + 32, x : x + 32] += 1
    result = np.asarray(sliding.jaxseg_side(arguments)())
    np.testing.assert_allclose(result, sums / counts, atol=1e-4)


def test_both_loaders_read_and_augment_the_same(benchmark, monkeypatch, tmp_path):
    loader = benchmark("loader")
    arguments = loader.Arguments(size=(24, 32), crop=(16, 20), images=4, batch=4, batches=1)
    loader.generate(tmp_path, arguments)
    monkeypatch.setattr(loader, "reader", lambda batches, arguments: batches)
    with loader.jaxseg_side(str(tmp_path), 0, arguments) as batches:
        ours = next(batches)
    pairs = loader.Pairs(str(tmp_path), arguments.crop)
    images, masks = map(np.stack, zip(*(pairs[i] for i in range(4)), strict=True))
    for mine, theirs in ((ours["image"], images), (ours["label"], masks)):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    augment = data.TrainAugment(arguments.crop, scale=loader.SCALE)
    mine = augment._compose((3,), True, augment.targets["label"]).transforms
    theirs = pairs.transform.transforms
    assert repr(mine) == repr(theirs)
