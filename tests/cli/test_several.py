"""`jaxseg train` as several processes on loopback: what one logs they log, and they stop, fail and go on together."""

import os
import signal
import socket
import threading
import time
from collections import Counter

import chex
import jax
import numpy as np
import pytest

from jaxseg import data
from jaxseg.cli import assemble
from jaxseg.cli.folder import RunFolder
from jaxseg.cli.main import main
from jaxseg.errors import InputError
from jaxseg.recipe import Recipe, TrainRecipe
from jaxseg.train.log import read_rows
from jaxseg.train.processes import fail_together

TIMES = ("seconds", "images_per_second", "stall_seconds")
# Float32's rounding, in another order for each number of devices, through 18 steps of AdamW; the losses are 2 to 3. Two
# devices differ from one by 1e-4 after six steps, whether or not they are of one process.
ROUNDING = 5e-3


def rows(run):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(run)]


def best(run):
    """The best checkpoint's variables and scores."""
    folder = RunFolder(run)
    return folder.best.restore(assemble.network(folder.recipe.model, folder.facts).shapes())


def same_up_to_rounding(run, other):
    assert [(row["kind"], row["step"]) for row in rows(run)] == [
        (row["kind"], row["step"]) for row in rows(other)
    ]
    for row, expected in zip(rows(run), rows(other), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], abs=ROUNDING)


def by_hand(count):
    """The options of each process, and its environment."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = ["--coordinator", f"localhost:{port}", "--num-processes", count, "--process-id"]
    return [([*shared, index], {}) for index in range(count)]


def by_slurm(count):
    """The same, as `srun` would start them on this machine."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    job["SLURM_NTASKS"] = str(count)
    return [
        (["--distributed"], job | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)})
        for index in range(count)
    ]


class Together:
    """Processes of one run, whose output is read as it comes."""

    def __init__(self, launch, count, *arguments, own=None, slurm=False):
        start = by_slurm if slurm else by_hand
        self.processes = [
            launch("train", *several, *arguments, *(own or {}).get(index, ()), **variables)
            for index, (several, variables) in enumerate(start(count))
        ]
        self.printed = [[] for _ in range(count)]
        self._readers = [
            threading.Thread(target=self._read, args=(index,), daemon=True)
            for index in range(count)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, index):
        for line in self.processes[index].stdout:
            self.printed[index].append(line)

    def wait_for_line(self, text):
        """Waits until the first process, which alone shows progress, has printed it."""
        deadline = time.monotonic() + 300
        while not any(text in line for line in self.printed[0]):
            assert time.monotonic() < deadline, self.text
            assert self.processes[0].poll() is None, self.text
            time.sleep(0.01)

    @property
    def text(self):
        """Everything that was printed."""
        return "\n".join("".join(printed) for printed in self.printed)

    def codes(self, timeout=300):
        """The exit codes, once all have ended."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.wait(timeout=max(1, deadline - time.monotonic()))
        for reader in self._readers:
            reader.join()
        return [process.returncode for process in self.processes]


@pytest.fixture
def together(launch, fields):
    """Starts processes of one run on the options of a short one; none of them outlives its test."""
    runs = []

    def start(count, *arguments, **options):
        runs.append(Together(launch, count, *fields, *arguments, **options))
        return runs[-1]

    yield start
    for process in [process for run in runs for process in run.processes]:
        process.kill()


@pytest.mark.slow
def test_two_processes_log_what_one_logs(together, finished, fields, tmp_path):
    """Bit for bit what one process logs on two devices, and up to rounding what it logs on one."""
    options = ["--data.test-split=test"]
    running = together(2, "--run", tmp_path / "two", *options)
    assert running.codes() == [0, 0], running.text
    assert (
        main(["train", "--run", str(tmp_path / "one"), *fields, *options, "--train.devices=2"]) == 0
    )
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    (variables, scores), (expected, same) = best(tmp_path / "two"), best(tmp_path / "one")
    chex.assert_trees_all_equal(variables, expected)
    assert scores == same
    assert np.sum(scores["counts"]) == 7 * 24 * 32  # each image once
    losses = [row["loss"] for row in rows(finished)]
    assert [row["loss"] for row in rows(tmp_path / "two")][:-1] == pytest.approx(losses, abs=1e-3)
    assert (tmp_path / "two" / "report.html").exists()
    assert len((tmp_path / "two" / "starts.jsonl").read_text().splitlines()) == 1
    assert not [line for line in running.printed[1] if "epoch" in line or "report" in line]


@pytest.mark.slow
def test_two_processes_with_images_on_their_devices_log_what_one_logs(together, fields, tmp_path):
    """The data set cut over both, its batches gathered, augmented and mixed: bit for bit as on two devices of one."""
    options = ["--data.on-device", "--augment.rotate=10", "--augment.cutmix=0.5"]
    running = together(2, "--run", tmp_path / "two", *options)
    assert running.codes() == [0, 0], running.text
    one = ["train", "--run", str(tmp_path / "one"), *fields, *options, "--train.devices=2"]
    assert main(one) == 0
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    chex.assert_trees_all_equal(best(tmp_path / "two")[0], best(tmp_path / "one")[0])


@pytest.mark.slow
def test_one_of_four_is_killed_and_fewer_go_on(together, fields, tmp_path):
    """To the run of one process: four begin, two go on and lose one as well, one ends."""
    run, options = tmp_path / "run", ["--train.epochs=6"]
    running = together(4, "--run", run, *options)
    running.wait_for_line("epoch 2  validation")
    running.processes[2].kill()
    codes = running.codes(timeout=60)
    assert codes[2] == -signal.SIGKILL
    assert 0 not in codes, running.text
    assert any("start all of them again" in line or "error:" in line for line in running.printed[1])
    reached = RunFolder(run).last.step
    assert reached >= 3
    running = together(2, "--resume", run, *options)
    running.wait_for_line("epoch 4  validation")
    running.processes[0].kill()
    assert 0 not in running.codes(timeout=60), running.text
    assert any(f"18 steps from {reached};" in line for line in running.printed[0])
    assert main(["train", "--resume", str(run)]) == 0
    assert main(["train", "--run", str(tmp_path / "whole"), *fields, *options]) == 0
    same_up_to_rounding(run, tmp_path / "whole")
    assert max(Counter((row["kind"], row["step"]) for row in rows(run)).values()) == 1
    assert not list(run.rglob("*.unfinished"))


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [(1,), (0, 1)])
def test_a_signal_stops_all_of_them_with_the_state_saved(together, tmp_path, signalled):
    run = tmp_path / "run"
    running = together(2, "--run", run, "--train.epochs=500")
    running.wait_for_line("epoch 2  validation")
    sent = time.monotonic()
    for index in signalled:
        os.kill(running.processes[index].pid, signal.SIGTERM)
    assert running.codes(timeout=60) == [0, 0], running.text
    assert time.monotonic() - sent < 30
    step = RunFolder(run).last.step
    assert any(f"stopped at step {step}, saved" in line for line in running.printed[0])
    assert max(row["step"] for row in rows(run)) <= step


def spoil_one_of_the_second_process(root):
    """Breaks an image that the second of two processes reads in the second step; its name."""
    source = data.sources.folder(root, "train", num_classes=3)
    with data.train_batches(source, None, batch_size=8, seed=0, shard=(1, 2)) as batches:
        next(batches)
        name = next(batches)["names"][0]
    file = root / "images" / "train" / f"{name}.png"
    file.write_bytes(file.read_bytes()[:200])
    return file.name


@pytest.mark.slow
def test_an_image_that_one_process_cannot_read_ends_all_of_them(together, folder, tmp_path):
    """It stops decoding in the midst of the run; whichever process is the first to come by it."""
    root, options = folder
    running = together(2, "--run", tmp_path / "run", *options, "--train.epochs=99")
    running.wait_for_line("epoch 2  validation")
    (root / "images" / "train" / "5.png").write_bytes(b"")
    assert running.codes() == [2, 2], running.text
    step = RunFolder(tmp_path / "run").last.step
    assert step >= 4
    told = ["".join(printed).partition("error: ")[2] for printed in running.printed]
    assert told[0] == told[1]
    assert told[0].startswith(("process 0: ", "process 1: "))
    assert "5.png is empty" in told[0]
    assert f"The state of step {step} is saved" in told[0]


@pytest.mark.slow
def test_an_image_that_one_process_cannot_read_is_skipped_and_listed(
    together, folder, fields, tmp_path
):
    root, options = folder
    name = spoil_one_of_the_second_process(root)
    (root / "images" / "val" / "3.png").write_bytes(b"")
    options = [*options, "--data.unreadable=skip"]
    running = together(2, "--run", tmp_path / "two", *options)
    assert running.codes() == [0, 0], running.text
    listed = [row for row in rows(tmp_path / "two") if row["kind"] == "unreadable"]
    assert f"{name} does not decode" in listed[0]["problems"][0]
    assert (
        main(["train", "--run", str(tmp_path / "one"), *fields, *options, "--train.devices=2"]) == 0
    )
    assert rows(tmp_path / "two") == rows(tmp_path / "one")


@pytest.mark.slow
def test_updates_that_are_not_finite_are_skipped_in_all_and_name_the_whole_batch(
    together, fields, tmp_path, capsys
):
    options = ["--optimizer.learning-rate=1e38", "--optimizer.warmup=0", "--train.max-skipped=3"]
    options += ["--train.epochs=9"]
    running = together(2, "--run", tmp_path / "two", *options)
    assert running.codes() == [2, 2], running.text
    assert (
        main(["train", "--run", str(tmp_path / "one"), *fields, *options, "--train.devices=2"]) == 2
    )
    error = capsys.readouterr().err
    assert "was not finite 3 times in a row" in error
    skipped = [row for row in rows(tmp_path / "two") if row["kind"] == "skipped"]
    assert skipped == [row for row in rows(tmp_path / "one") if row["kind"] == "skipped"]
    assert all(len(row["names"]) == 8 for row in skipped)
    for printed in running.printed:
        assert error.splitlines()[-2] in "".join(printed)


@pytest.mark.slow
def test_what_one_process_was_given_wrong_ends_all_before_anything_is_written(together, tmp_path):
    run = tmp_path / "run"
    running = together(2, "--run", run, own={1: ["--optimizer.learning-rate=7.0"]})
    assert running.codes() == [2, 2], running.text
    for printed in running.printed:
        assert "process 1 has another recipe" in "".join(printed)
        assert "optimizer.learning_rate: " in "".join(printed)
    running = together(2, "--run", run, own={1: ["--data.source=camvid", f"--data.root={run}"]})
    assert running.codes() == [2, 2], running.text
    assert all("error: process 1: " in "".join(printed) for printed in running.printed)
    running = together(2, "--run", run, "--train.batch-size=7", slurm=True)
    assert running.codes() == [2, 2], running.text
    for printed in running.printed:
        assert "a batch of 7 cannot be divided over 2 devices in 2 processes" in "".join(printed)
    assert not run.exists()


@pytest.mark.slow
def test_without_a_cluster_there_is_nothing_to_find(launch, fields, tmp_path):
    process = launch("train", "--run", tmp_path / "run", *fields, "--distributed")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "outside of SLURM, GKE and TPU pods" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coordinator=a:1"], "go together, this lacks --num-processes and --process-id"),
        (["--num-processes=2", "--process-id=0"], "go together, this lacks --coordinator"),
        (["--distributed", "--process-id=0"], "--distributed finds the other processes by itself"),
        (["--coordinator=a", "--num-processes=2", "--process-id=0"], "first process's HOST:PORT"),
        (["--coordinator=a:x", "--num-processes=2", "--process-id=0"], "such as node0:1234"),
        (["--coordinator=a:1", "--num-processes=2", "--process-id=2"], "count from 0 on"),
        (["--coordinator=a:1", "--num-processes=0", "--process-id=0"], "one at least"),
    ],
)
def test_options_that_do_not_fit_together_are_named(options, message, tmp_path, capsys):
    assert main(["train", "--run", str(tmp_path / "run"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_processes_cannot_divide(monkeypatch):
    devices = jax.devices()
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(
        jax, "local_devices", lambda process_index: devices[: 2 + (process_index == 1)]
    )
    with pytest.raises(InputError, match=r"processes have 2 to 3 devices.*--train.devices 2"):
        assemble.parallel(Recipe())
    with pytest.raises(InputError, match=r"train.devices is 3, but there are 2 in process 0"):
        assemble.parallel(Recipe(train=TrainRecipe(devices=3)))
    with pytest.raises(InputError, match="a batch of 16 cannot be divided over 6 devices in 3 pro"):
        assemble.parallel(Recipe(train=TrainRecipe(devices=2)))


def test_a_failure_of_all_processes_is_told_once():
    with pytest.raises(InputError, match=r"^process 1: gone$"):
        fail_together([None, "gone", None])
    with pytest.raises(InputError, match=r"^gone$"):
        fail_together(["gone", "gone"])
