"""`jaxseg train` in several processes on loopback logs what one process logs; they stop, fail and resume together."""

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
from jaxseg.cli.main import main
from jaxseg.errors import InputError
from jaxseg.parallel.processes import raise_failures
from jaxseg.recipe import Recipe, TrainRecipe
from jaxseg.runs.build import build
from jaxseg.runs.devices import make_parallel
from jaxseg.runs.folder import RunFolder
from jaxseg.runs.log import read_rows

TIMES = ("seconds", "images_per_second", "loader_wait_seconds")
# Rounding of float32, in an order that depends on the number of devices, over 18 steps of AdamW; the losses are 2 to 3. Two
# devices differ from one by 1e-4 after six steps, in one process or in two.
ROUNDING = 5e-3


def rows(run):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(run)]


def best(run):
    """Returns the variables and scores of the best checkpoint."""
    folder = RunFolder(run)
    return folder.best.restore(build(folder.recipe, folder.info).variables_like)


def same_up_to_rounding(run, other):
    assert [(row["kind"], row["step"]) for row in rows(run)] == [
        (row["kind"], row["step"]) for row in rows(other)
    ]
    for row, expected in zip(rows(run), rows(other), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], abs=ROUNDING)


def by_hand(count):
    """Returns the options and the environment of each process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = ["--coordinator", f"localhost:{port}", "--num-processes", count, "--process-id"]
    return [([*shared, index], {}) for index in range(count)]


def by_slurm(count):
    """Returns the same for processes that `srun` starts on this machine."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    job["SLURM_NTASKS"] = str(count)
    return [
        (["--distributed"], job | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)})
        for index in range(count)
    ]


class Processes:
    """The processes of one run, whose output is read while they run."""

    def __init__(self, launch, count, *arguments, extra=None, slurm=False):
        start = by_slurm if slurm else by_hand
        self.processes = [
            launch("train", *several, *arguments, *(extra or {}).get(index, ()), **variables)
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
        """Waits until the first process, which alone shows progress, has printed a text."""
        deadline = time.monotonic() + 300
        while not any(text in line for line in self.printed[0]):
            assert time.monotonic() < deadline, self.text
            assert self.processes[0].poll() is None, self.text
            time.sleep(0.01)

    @property
    def text(self):
        """The output of all processes."""
        return "\n".join("".join(printed) for printed in self.printed)

    def codes(self, timeout=300):
        """Waits for all processes and returns their exit codes."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.wait(timeout=max(1, deadline - time.monotonic()))
        for reader in self._readers:
            reader.join()
        return [process.returncode for process in self.processes]


@pytest.fixture
def together(launch, fields):
    """Starts the processes of a short run; the test ends them."""
    runs = []

    def start(count, *arguments, **options):
        runs.append(Processes(launch, count, *fields, *arguments, **options))
        return runs[-1]

    yield start
    for process in [process for run in runs for process in run.processes]:
        process.kill()


@pytest.mark.slow
def test_two_processes_log_what_one_logs(together, finished, fields, tmp_path):
    """Bit for bit the log of one process with two devices, and up to rounding that of one device."""
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
def test_two_processes_with_data_on_device_log_what_one_logs(together, fields, tmp_path):
    """With a sharded data set and mixed images, bit for bit the log of one process with two devices."""
    options = ["--data.on-device", "--augment.rotate=10", "--augment.cutmix=0.5"]
    running = together(2, "--run", tmp_path / "two", *options)
    assert running.codes() == [0, 0], running.text
    one = ["train", "--run", str(tmp_path / "one"), *fields, *options, "--train.devices=2"]
    assert main(one) == 0
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    chex.assert_trees_all_equal(best(tmp_path / "two")[0], best(tmp_path / "one")[0])


@pytest.mark.slow
def test_killed_processes_end_a_run_that_fewer_resume(together, fields, tmp_path):
    """Four start and lose one, two resume and lose one, one finishes, with the results of one process."""
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
    assert main(["train", "--run", str(tmp_path / "uninterrupted"), *fields, *options]) == 0
    same_up_to_rounding(run, tmp_path / "uninterrupted")
    assert max(Counter((row["kind"], row["step"]) for row in rows(run)).values()) == 1
    assert not list(run.rglob("*.unfinished"))


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [(1,), (0, 1)])
def test_signal_to_any_process_stops_all_with_a_saved_state(together, tmp_path, signalled):
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


def damage_an_image_of_the_second_process(root):
    """Damages an image that the second of two processes reads in the second step, and returns its name."""
    source = data.folder(root, "train", num_classes=3)
    with data.train_batches(source, None, batch_size=8, seed=0, shard=(1, 2)) as batches:
        next(batches)
        name = next(batches)["names"][0]
    file = root / "images" / "train" / f"{name}.png"
    file.write_bytes(file.read_bytes()[:200])
    return file.name


@pytest.mark.slow
def test_unreadable_image_of_one_process_ends_all(together, folder, tmp_path):
    """It becomes unreadable during the run, and any process may read it first."""
    root, options = folder
    running = together(2, "--run", tmp_path / "run", *options, "--train.epochs=99")
    running.wait_for_line("epoch 2  validation")
    (root / "images" / "train" / "5.png").write_bytes(b"")
    assert running.codes() == [2, 2], running.text
    step = RunFolder(tmp_path / "run").last.step
    assert step >= 4
    errors = ["".join(printed).partition("error: ")[2] for printed in running.printed]
    assert errors[0] == errors[1]
    assert errors[0].startswith(("process 0: ", "process 1: "))
    assert "5.png is empty" in errors[0]
    assert f"The state of step {step} is saved" in errors[0]


@pytest.mark.slow
def test_unreadable_image_of_one_process_is_logged(together, folder, fields, tmp_path):
    root, options = folder
    name = damage_an_image_of_the_second_process(root)
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
def test_skipped_updates_name_the_global_batch(together, fields, tmp_path, capsys):
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
def test_wrong_input_of_one_process_ends_all_first(together, tmp_path):
    run = tmp_path / "run"
    running = together(2, "--run", run, extra={1: ["--optimizer.learning-rate=7.0"]})
    assert running.codes() == [2, 2], running.text
    for printed in running.printed:
        assert "process 1 has another recipe" in "".join(printed)
        assert "optimizer.learning_rate: " in "".join(printed)
    running = together(2, "--run", run, extra={1: ["--data.source=camvid", f"--data.root={run}"]})
    assert running.codes() == [2, 2], running.text
    assert all("error: process 1: " in "".join(printed) for printed in running.printed)
    running = together(2, "--run", run, "--train.batch-size=7", slurm=True)
    assert running.codes() == [2, 2], running.text
    for printed in running.printed:
        assert "a batch of 7 cannot be divided over 2 devices in 2 processes" in "".join(printed)
    assert not run.exists()


@pytest.mark.slow
def test_distributed_without_a_cluster_raises(launch, fields, tmp_path):
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
def test_conflicting_options_raise_input_errors(options, message, tmp_path, capsys):
    assert main(["train", "--run", str(tmp_path / "run"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_indivisible_batch_raises_an_input_error(monkeypatch):
    devices = jax.devices()
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(
        jax, "local_devices", lambda process_index: devices[: 2 + (process_index == 1)]
    )
    with pytest.raises(InputError, match=r"processes have 2 to 3 devices.*--train.devices 2"):
        make_parallel(Recipe())
    with pytest.raises(InputError, match=r"train.devices is 3, but there are 2 in process 0"):
        make_parallel(Recipe(train=TrainRecipe(devices=3)))
    with pytest.raises(InputError, match="a batch of 16 cannot be divided over 6 devices in 3 pro"):
        make_parallel(Recipe(train=TrainRecipe(devices=2)))


def test_failure_of_all_processes_is_raised_once():
    with pytest.raises(InputError, match=r"^process 1: gone$"):
        raise_failures([None, "gone", None])
    with pytest.raises(InputError, match=r"^gone$"):
        raise_failures(["gone", "gone"])
