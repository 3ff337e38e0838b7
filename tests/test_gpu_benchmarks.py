"""Tests the benchmarks for a GPU on a CPU: searches, promodules, records and short runs."""

import doctest
import importlib
import itertools
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

import jaxseg
from jaxseg import data
from jaxseg.parallel import Parallel
from jaxseg.train import multi_step
from jaxseg.typing import Output

FOLDER = Path(__file__).parents[1] / "experiments" / "benchmarks"
CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"
NAMES = ("gpu", "gpu_sides", "gpu_trials", "gpu_profile", "gpu_camvid", "gpu_camvid_programs")
# In JAX 0.12 the first read of a trace warns; as an error that would end the process.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})


def test_examples(modules):
    tried = 0
    for name in NAMES:
        result = doctest.testmod(getattr(modules, name))
        assert not result.failed
        tried += result.attempted
    assert tried >= 5


def test_modules_import_only_numpy_and_the_standard_library():
    """A side sets its limit of memory before it imports jax, and the rest need not be installed."""
    forbidden = ("jax", "torch", "tyro", "grain", "tensorflow_datasets", "albumentations")
    code = f"import sys, {', '.join(NAMES)}\nprint([n for n in {forbidden} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


def make_trial(modules, batch, images):
    return modules.gpu_trials.Trial(batch, images, 1.0, 2**30, "GPU", 5e9)


@pytest.mark.parametrize(
    ("speeds", "last", "batches", "best"),
    [
        ({2: 10, 4: 18, 8: 17, 16: 40}, 64, [2, 4, 8], 4),  # throughput falls
        ({2: 10, 4: 18}, 64, [2, 4, 8], 4),  # out of memory
        ({2: 10, 4: 18, 8: 30}, 4, [2, 4], 4),
        ({2: 10, 4: RuntimeError("killed"), 8: 30}, 64, [2, 4], 2),
        ({}, 64, [2], None),
    ],
)
def test_best_batch_stops_where_throughput_falls(modules, speeds, last, batches, best):
    asked = []

    def measure(batch):
        asked.append(batch)
        speed = speeds.get(batch)
        if isinstance(speed, Exception):
            raise speed
        return None if speed is None else make_trial(modules, batch, speed)

    found = modules.gpu_trials.best_batch(measure, 2, last)
    assert asked == batches
    assert (modules.gpu_trials.fastest(found).batch if found else None) == best


def test_best_batch_with_a_failing_first_size_raises(modules):
    def measure(batch):
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        modules.gpu_trials.best_batch(measure, 2, 4)


def test_search_in_another_mode_ends_in_a_trial_of_the_case(modules, monkeypatch):
    """Otherwise compile time and memory would be those of another program."""
    asked = []

    def in_new_process(fn, side, case, batch):
        asked.append((side, case.mode, batch))
        return make_trial(modules, batch, {1: 1, 2: 3, 4: 2}[batch])

    monkeypatch.setattr(modules.gpu, "in_new_process", in_new_process)
    options = modules.gpu.arguments().parse_args(["--first=1", "--search-mode=default"])
    case = modules.gpu.Case("unet_resnet34", "train")
    (found,) = modules.gpu.search("torch", case, options)
    assert found.batch == 2
    searched = [("torch", "default", batch) for batch in (1, 2, 4)]
    assert asked == [*searched, ("torch", "max-autotune", 2)]
    modules.gpu.search("jaxseg", case, options)
    assert {mode for side, mode, _ in asked if side == "jaxseg"} == {"max-autotune"}


PROGRAM = """HloModule jit_train_step

%fused_computation (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %mul.0 = f32[8]{0} multiply(%p, %p), metadata={op_name="jit(train_step)/jvp(Net)/norm/mul"}
}

%fused_move (q: f32[2,4]) -> f32[4,2] {
  %q = f32[2,4]{1,0} parameter(0)
  ROOT %transpose.9 = f32[4,2]{1,0} transpose(%q), dimensions={1,0}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %cudnn-conv.1 = (f32[8]{0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$convForward", metadata={op_name="jit(train_step)/jvp(Net)/conv/conv_general_dilated"}
  %loop_multiply_fusion = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(train_step)/jvp(Net)/norm/mul"}
  %relu.3 = f32[8]{0} maximum(%x, %x), metadata={op_name="jit(train_step)/transpose(jvp(Net))/relu/max"}
  %transpose_fusion = f32[4,2]{1,0} fusion(%x), kind=kLoop, calls=%fused_move
  %add.7 = f32[8]{0} add(%x, %x), metadata={op_name="jit(train_step)/add"}
  %custom-call.2 = f32[8]{0} custom-call(%x), custom_call_target="__cublas$gemm"
  ROOT %while.1 = f32[8]{0} while(%x), condition=%c, body=%b, metadata={op_name="jit(train_step)/jvp(Net)/while"}
}
"""


def test_kinds_of_names_the_operation_of_instructions(modules):
    kinds = modules.gpu_profile.kinds_of(PROGRAM)
    known = {
        "cudnn_conv_1": "convolution",
        "loop_multiply_fusion": "normalization",
        "relu_3": "other elementwise",
        "transpose_fusion": "copy",
        "add_7": "optimizer",
        "custom_call_2": "matrix product",
        "while_1": "",
    }
    assert {name: kinds[name] for name in known} == known


def xspace(*planes):
    """Builds a profile of planes (name, lines), lines (name, events), events (name, instruction, start, microseconds)."""
    text = []
    for plane, lines in planes:
        text.append(
            f'planes {{ name: "{plane}" stat_metadata {{ key: 1 value {{ name: "hlo_op" }} }}'
        )
        number = 0
        for line, events in lines:
            text.append(f'lines {{ name: "{line}"')
            body = []
            for name, instruction, start, length in events:
                number += 1
                stat = (
                    f'stats {{ metadata_id: 1 str_value: "{instruction}" }}' if instruction else ""
                )
                text.append(
                    f"events {{ metadata_id: {number} offset_ps: {start * 10**6} duration_ps: {length * 10**6} {stat} }}"
                )
                body.append(f'event_metadata {{ key: {number} value {{ name: "{name}" }} }}')
            text += ["}", *body]
        text.append("}")
    return jax.profiler.ProfileData.from_text_proto(" ".join(text))


def microseconds(modules, profile):
    found = modules.gpu_profile.events(profile, modules.gpu_profile.kinds_of(PROGRAM))
    return {kind: ns / 1e3 for kind, ns in modules.gpu_profile.divided(found).items() if ns}


def test_profile_of_a_gpu_is_divided_among_kinds(modules):
    kernels = [
        ("sm90_some_kernel", "cudnn-conv.1", 0, 40),
        ("sm90_xmma_wgrad_implicit_gemm_bf16", "", 40, 20),  # a CUDA graph names no instruction
        ("nvjet_hsh_128x256", "", 60, 10),
        ("loop_convert_fusion_5", "", 70, 5),
        ("loop_multiply_fusion", "", 80, 5),
        ("add_7", "", 85, 5),
    ]
    profile = xspace(
        (
            "/device:GPU:0",
            [
                ("Stream #7(Compute)", kernels),
                ("Stream #8(MemcpyD2D)", [("MemcpyD2D", "", 90, 10)]),
                ("XLA Ops", kernels),  # repeated
                ("XLA Modules", [("jit_train_step", "", 0, 100)]),
            ],
        ),
        ("/host:CPU", [("python", [("cudnn-conv.1", "cudnn-conv.1", 0, 500)])]),
    )
    assert microseconds(modules, profile) == {
        "convolution": 60,
        "matrix product": 10,
        "normalization": 5,
        "other elementwise": 5,
        "copy": 10,
        "optimizer": 5,
        "idle": 5,
    }


def test_profile_of_a_cpu_divides_time_among_threads(modules):
    profile = xspace(
        (
            "/host:CPU",
            [
                ("tf_XLAEigen/1", [("cudnn-conv.1", "cudnn-conv.1", 0, 10), ("wait", "", 0, 90)]),
                ("tf_XLAEigen/2", [("add.7", "add.7", 4, 10), ("while.1", "while.1", 0, 50)]),
            ],
        )
    )
    assert microseconds(modules, profile) == {"convolution": 7, "optimizer": 7}


def test_profile_of_a_convolution_finds_it(modules):
    x, kernel = jnp.ones((1, 64, 64, 8)), jnp.ones((3, 3, 8, 8))
    convolve = jax.jit(
        lambda x, kernel: jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    program = convolve.lower(x, kernel).compile()
    spent = modules.gpu_profile.profiled(
        lambda: jax.block_until_ready([program(x, kernel) for _ in range(3)]), program.as_text()
    )
    assert spent["convolution"] > 0.5 * (sum(spent.values()) - spent["idle"])


def test_results_hold_ratio_and_matrix_rate(modules):
    gpu = modules.gpu
    case = gpu.Case("unet_resnet34", "train", steps=2)
    trials = {"jaxseg": make_trial(modules, 32, 1.0), "torch": make_trial(modules, 16, 1.0)}
    timings = {side: gpu.Timing((1.0, 1.0, 1.0), 0.0, 0) for side in trials}
    ours, theirs = gpu.results(case, trials, timings, 1e12)
    expected = {"batch": 32, "images_per_s": 64.0, "spread": 0, "ratio": 2, "matrix_rate": 0.32}
    assert expected.items() <= ours.items()
    assert {"ready_s": 1.0, "peak_mib": 1024}.items() <= ours.items()
    assert ours["machine"].startswith("GPU; ")
    assert theirs["side"] == "torch, max-autotune"
    assert {
        "batch": 16,
        "images_per_s": 32.0,
        "ratio": 1,
        "matrix_rate": 0.16,
    }.items() <= theirs.items()
    (alone,) = gpu.results(case, trials, {"jaxseg": timings["jaxseg"]}, 1e12)
    assert "ratio" not in alone


def test_profile_records_fill_every_cell(modules):
    gpu, fractions = modules.gpu, dict.fromkeys(modules.gpu_profile.KINDS, 1 / 7)
    trial = make_trial(modules, 32, 1.0)
    record = gpu.profile(gpu.Case("unet_resnet34", "train"), trial, 0.1, fractions)
    (row,) = gpu.rows("gpu_profile", [record])
    assert "|  |" not in row
    assert row.count("14.3%") == len(fractions)


class Brightness(nn.Module):
    """Predicts class 1 for bright pixels and class 0 for dark ones."""

    @nn.compact
    def __call__(self, images, train=False):
        score = images[..., :1] - 100.0
        return Output(jnp.concatenate([-score, score, *[score * 0 - 1e3] * 9], -1))


def test_evaluation_counts_each_labelled_pixel_once(modules):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
    labels = rng.choice(np.array([0, 1, 255], np.uint8), (5, 4, 6))
    evaluate = modules.gpu_camvid_programs.make_evaluation(
        Brightness(),
        lambda x: x.astype(jnp.float32),
        Parallel("jit", jax.devices()[:1]),
        data.DeviceDataset({"image": images, "label": labels}),
        batch=2,
    )
    bright = images[..., 0] > 100
    known = [[int(((labels == i) & (bright == j)).sum()) for j in (0, 1)] for i in (0, 1)]
    for counts in evaluate({}):
        assert counts[:2, :2].tolist() == known
        assert counts.sum() == (labels != 255).sum()


def test_resized_labels_hold_only_known_classes(modules):
    source = data.Shapes(2, (32, 48))
    resized = modules.gpu_camvid_programs.Resized(source, (16, 20), 1)
    record = resized[0]
    assert len(resized) == 1
    assert (record["image"].shape, record["label"].shape) == ((16, 20, 3), (16, 20))
    assert set(np.unique(record["label"])) <= set(np.unique(source[0]["label"]))


def write_scenes(root, count):
    """Writes a data set in CamVid's layout in which the colour of a pixel determines its class; the top row is void."""
    rng, colours = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, (12, 3))
    for split in ("train", "test"):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for index in range(count):
            label = np.kron(rng.integers(0, 11, (4, 4)), np.ones((8, 8), int)).astype(np.uint8)
            label[0] = 11
            Image.fromarray(colours[label].astype(np.uint8)).save(root / split / f"{index}.png")
            Image.fromarray(label).save(root / f"{split}annot" / f"{index}.png")


ENCODER = """
import flax.linen as nn

class Tiny(nn.Module):
    strides, channels, in_channels = (2, 4), (16, 32), 3

    @nn.compact
    def __call__(self, images, *, train=False):
        features = []
        for channels in self.channels:
            images = nn.relu(nn.Conv(channels, (3, 3), (2, 2))(images))
            features.append(images)
        return tuple(features)
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Options of a run that compiles quickly."""
    (tmp_path / "jaxseg_tests_tiny_gpu.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(tmp_path)
    encoder = "--encoder=jaxseg_tests_tiny_gpu:Tiny"
    return [encoder, "--dtype=float32", "--batch=4", "--chunk=4", "--average=0.8"]


@pytest.fixture
def clock(modules, monkeypatch):
    """Replaces the clock by one that advances a second per reading, independent of the machine's load."""
    ticks = itertools.count()
    fake = types.SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr(modules.gpu_camvid, "time", fake)


@pytest.mark.slow
@pytest.mark.usefixtures("clock")
def test_camvid_run_keeps_its_time_and_learns(modules, tmp_path, small, capsys):
    write_scenes(tmp_path, 16)
    words = [f"--root={tmp_path}", "--minutes=2", "--size", "32", "32", "--rate=0.01", *small]
    result = modules.gpu_camvid.main(words)
    printed = capsys.readouterr().out
    scores = re.search(r"\*\*mean of 11\*\* \| \*\*([\d.]+)\*\* \| ([\d.]+) \|", printed)
    assert scores, printed
    assert min(map(float, scores.groups())) > 40  # chance is below 10
    assert result["counts"].sum() == result["mirrored_counts"].sum() == 16 * 31 * 32
    assert 1.9 < result["minutes"] <= 2 + 2 / 60  # the clock is read twice after the last check
    assert result["steps"] > 300


@pytest.mark.slow
@pytest.mark.usefixtures("clock")
def test_camvid_run_with_chunks_as_one_program(modules, tmp_path, small, monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(multi_step, "loops_on_host", lambda parallel: False)
    write_scenes(tmp_path, 4)
    words = [f"--root={tmp_path}", "--minutes=0.2", "--size", "16", "16", *small, "--chunk=2"]
    result = modules.gpu_camvid.main(words)
    assert result["steps"] >= 6
    assert result["counts"].sum() > 0


@pytest.mark.slow
@pytest.mark.usefixtures("clock")
@pytest.mark.skipif(not CAMVID.exists(), reason="needs ../shared/data/camvid")
def test_camvid_run_on_real_images(modules, small, capsys):
    words = [f"--root={CAMVID}", "--minutes=1", "--size", "36", "48", "--images=24", *small]
    result = modules.gpu_camvid.main([*words, "--split=val"])
    printed = capsys.readouterr().out
    assert result["images"] == 24
    assert float(jaxseg.metrics.mean_iou(result["counts"])) > 0.1, printed
    assert len(re.findall(r"^\| \w+ \| [\d.na]+ \| [\d.na]+ \|$", printed, re.MULTILINE)) == 11


@pytest.mark.slow
def test_gpu_command_measures_every_installed_side():
    """Both sides if PyTorch is installed, otherwise jaxseg."""
    command = "gpu.py --networks unet_resnet34 --tasks infer --size 32 --first 1 --last 1"
    options = "--rounds 2 --steps 1 --mode eager --dtype float32 --matrix 64 128"
    words = [*command.split(), *options.split()]
    run = subprocess.run(
        [sys.executable, *words], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert not run.returncode, run.stdout + run.stderr
    missing = "no peer" in run.stdout
    rows = [line for line in run.stdout.splitlines() if line.startswith("| unet_resnet34, infer")]
    assert len(rows) == (2 if missing else 3)
    assert len(re.findall(r"jaxseg, batch \d: [\d.]+ images/s", run.stdout)) == 1
    assert "product of 128 x 128" in run.stdout
