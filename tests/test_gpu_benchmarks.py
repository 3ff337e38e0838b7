"""The benchmarks for a GPU, as far as a CPU can tell: what they decide, read and write down."""

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
from jaxseg import data, train
from jaxseg.train import epoch
from jaxseg.typing import Output

FOLDER = Path(__file__).parents[1] / "experiments" / "benchmarks"
CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"
NAMES = ("gpu", "gpu_sides", "gpu_trials", "gpu_profile", "gpu_camvid", "gpu_camvid_programs")
# JAX 0.12 reads traces with a type whose first use warns; as an error it would end the process.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")


@pytest.fixture(scope="module")
def files():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})


def test_examples(files):
    tried = 0
    for name in NAMES:
        result = doctest.testmod(getattr(files, name))
        assert not result.failed
        tried += result.attempted
    assert tried >= 5


def test_nothing_but_the_standard_library_and_numpy_is_imported_at_once():
    """A side says how much memory it may have before it imports jax; the rest need not be installed."""
    forbidden = ("jax", "torch", "tyro", "grain", "tensorflow_datasets", "albumentations")
    code = f"import sys, {', '.join(NAMES)}\nprint([n for n in {forbidden} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


def of_images(files, batch, images):
    return files.gpu_trials.Trial(batch, images, 1.0, 2**30, "GPU", 5e9)


@pytest.mark.parametrize(
    ("speeds", "last", "tried", "best"),
    [
        ({2: 10, 4: 18, 8: 17, 16: 40}, 64, [2, 4, 8], 4),  # throughput falls
        ({2: 10, 4: 18}, 64, [2, 4, 8], 4),  # memory ends
        ({2: 10, 4: 18, 8: 30}, 4, [2, 4], 4),
        ({2: 10, 4: RuntimeError("killed"), 8: 30}, 64, [2, 4], 2),
        ({}, 64, [2], None),
    ],
)
def test_the_best_batch(files, speeds, last, tried, best):
    asked = []

    def measure(batch):
        asked.append(batch)
        speed = speeds.get(batch)
        if isinstance(speed, Exception):
            raise speed
        return None if speed is None else of_images(files, batch, speed)

    found = files.gpu_trials.best_batch(measure, 2, last)
    assert asked == tried
    assert (files.gpu_trials.fastest(found).batch if found else None) == best


def test_a_side_that_never_runs_says_why(files):
    def measure(batch):
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        files.gpu_trials.best_batch(measure, 2, 4)


def test_a_cheaper_search_ends_in_a_trial_of_what_is_measured(files, monkeypatch):
    """Else the time to compile, and whether memory holds it, would be those of another program."""
    asked = []

    def apart(fn, side, case, batch):
        asked.append((side, case.mode, batch))
        return of_images(files, batch, {1: 1, 2: 3, 4: 2}[batch])

    monkeypatch.setattr(files.gpu, "apart", apart)
    given = files.gpu.arguments().parse_args(["--first=1", "--search-mode=default"])
    case = files.gpu.Case("unet_resnet34", "train")
    (found,) = files.gpu.search("torch", case, given)
    assert found.batch == 2
    sought = [("torch", "default", batch) for batch in (1, 2, 4)]
    assert asked == [*sought, ("torch", "max-autotune", 2)]
    files.gpu.search("jaxseg", case, given)
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


def test_what_an_instruction_is(files):
    kinds = files.gpu_profile.kinds_of(PROGRAM)
    known = {
        "cudnn_conv_1": "convolution",
        "loop_multiply_fusion": "normalisation",
        "relu_3": "other elementwise",
        "transpose_fusion": "copy",
        "add_7": "optimizer",
        "custom_call_2": "matrix product",
        "while_1": "",
    }
    assert {name: kinds[name] for name in known} == known


def xspace(*planes):
    """A trace as text: planes of (name, lines of (name, events of (name, instruction, start, microseconds)))."""
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


def microseconds(files, profile):
    found = files.gpu_profile.events(profile, files.gpu_profile.kinds_of(PROGRAM))
    return {kind: ns / 1e3 for kind, ns in files.gpu_profile.divided(found).items() if ns}


def test_the_table_of_a_trace_of_a_gpu(files):
    kernels = [
        ("sm90_some_kernel", "cudnn-conv.1", 0, 40),
        ("sm90_xmma_wgrad_implicit_gemm_bf16", "", 40, 20),  # a CUDA graph's kernels name nothing
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
                ("XLA Ops", kernels),  # the same again
                ("XLA Modules", [("jit_train_step", "", 0, 100)]),
            ],
        ),
        ("/host:CPU", [("python", [("cudnn-conv.1", "cudnn-conv.1", 0, 500)])]),
    )
    assert microseconds(files, profile) == {
        "convolution": 60,
        "matrix product": 10,
        "normalisation": 5,
        "other elementwise": 5,
        "copy": 10,
        "optimizer": 5,
        "idle": 5,
    }


def test_on_a_cpu_only_instructions_count_and_threads_share_the_time(files):
    profile = xspace(
        (
            "/host:CPU",
            [
                ("tf_XLAEigen/1", [("cudnn-conv.1", "cudnn-conv.1", 0, 10), ("wait", "", 0, 90)]),
                ("tf_XLAEigen/2", [("add.7", "add.7", 4, 10), ("while.1", "while.1", 0, 50)]),
            ],
        )
    )
    assert microseconds(files, profile) == {"convolution": 7, "optimizer": 7}


def test_a_real_trace(files):
    x, kernel = jnp.ones((1, 64, 64, 8)), jnp.ones((3, 3, 8, 8))
    convolve = jax.jit(
        lambda x, kernel: jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    program = convolve.lower(x, kernel).compile()
    spent = files.gpu_profile.profiled(
        lambda: jax.block_until_ready([program(x, kernel) for _ in range(3)]), program.as_text()
    )
    assert spent["convolution"] > 0.5 * (sum(spent.values()) - spent["idle"])


def test_rows_compare_with_torch_and_with_the_matrix_rate(files):
    gpu = files.gpu
    case = gpu.Case("unet_resnet34", "train", steps=2)
    trials = {"jaxseg": of_images(files, 32, 1.0), "torch": of_images(files, 16, 1.0)}
    timings = {side: gpu.Timing((1.0, 1.0, 1.0), 0.0, 0) for side in trials}
    ours, theirs = gpu.rows(case, trials, timings, 1e12)
    assert " | 32 | 64.0 | 0 % | 2.00 | 32.0 % | 1.0 s | 1024 MiB | GPU; " in ours
    assert " | torch, max-autotune | 16 | 32.0 | 0 % | 1.00 | 16.0 % | " in theirs
    (alone,) = gpu.rows(case, trials, {"jaxseg": timings["jaxseg"]}, 1e12)
    assert " | 64.0 | 0 % | - | " in alone
    heads = [gpu.INTRODUCTION, gpu.PROFILE_INTRODUCTION]
    shares = dict.fromkeys(files.gpu_profile.KINDS, 1 / 7)
    made = [ours, gpu.profile_row(case, trials["jaxseg"], 0.1, shares)]
    for head, row in zip(heads, made, strict=True):
        assert {line.count("|") for line in head.splitlines()[-2:]} == {row.count("|")}


class Brightness(nn.Module):
    """Class 1 where a pixel is bright, else class 0: as it is, and in the mirror."""

    @nn.compact
    def __call__(self, images, train=False):
        score = images[..., :1] - 100.0
        return Output(jnp.concatenate([-score, score, *[score * 0 - 1e3] * 9], -1))


def test_the_evaluation_counts_each_labelled_pixel_once(files):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
    labels = rng.choice(np.array([0, 1, 255], np.uint8), (5, 4, 6))
    evaluate = files.gpu_camvid_programs.make_evaluation(
        Brightness(),
        lambda x: x.astype(jnp.float32),
        train.Parallel("jit", jax.devices()[:1]),
        data.OnDevice(images, labels),
        batch=2,
    )
    bright = images[..., 0] > 100
    known = [[int(((labels == i) & (bright == j)).sum()) for j in (0, 1)] for i in (0, 1)]
    for counts in evaluate({}):
        assert counts[:2, :2].tolist() == known
        assert counts.sum() == (labels != 255).sum()


def test_labels_keep_their_classes_when_resized(files):
    source = data.Shapes(2, (32, 48))
    resized = files.gpu_camvid_programs.Resized(source, (16, 20), 1)
    record = resized[0]
    assert len(resized) == 1
    assert (record["image"].shape, record["label"].shape) == ((16, 20, 3), (16, 20))
    assert set(np.unique(record["label"])) <= set(np.unique(source[0]["label"]))


def scenes(root, count):
    """CamVid's layout, where a pixel's colour says its class; the rim is void."""
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
    """Words of a run that compiles quickly."""
    (tmp_path / "jaxseg_tests_tiny_gpu.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(tmp_path)
    encoder = "--encoder=jaxseg_tests_tiny_gpu:Tiny"
    return [encoder, "--dtype=float32", "--batch=4", "--chunk=4", "--average=0.8"]


@pytest.fixture
def clock(files, monkeypatch):
    """Passes a second each time that it is read, so that the machine's load decides nothing."""
    ticks = itertools.count()
    fake = types.SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr(files.gpu_camvid, "time", fake)


@pytest.mark.slow
@pytest.mark.usefixtures("clock")
def test_a_run_keeps_to_its_time_and_learns_what_there_is_to_learn(files, tmp_path, small, capsys):
    scenes(tmp_path, 16)
    words = [f"--root={tmp_path}", "--minutes=2", "--size", "32", "32", "--rate=0.01", *small]
    result = files.gpu_camvid.main(words)
    said = capsys.readouterr().out
    scores = re.search(r"\*\*mean of 11\*\* \| \*\*([\d.]+)\*\* \| ([\d.]+) \|", said)
    assert scores, said
    assert min(map(float, scores.groups())) > 40  # chance is below 10
    assert result["counts"].sum() == result["mirrored_counts"].sum() == 16 * 31 * 32
    assert 1.9 < result["minutes"] <= 2 + 2 / 60  # the clock is read twice after the last decision
    assert result["steps"] > 300


@pytest.mark.slow
@pytest.mark.usefixtures("clock")
def test_a_run_as_on_a_gpu(files, tmp_path, small, monkeypatch):
    """The steps of a chunk are one program there."""
    monkeypatch.setattr(epoch, "runs_in_python", lambda parallel: False)
    scenes(tmp_path, 4)
    words = [f"--root={tmp_path}", "--minutes=0.2", "--size", "16", "16", *small, "--chunk=2"]
    result = files.gpu_camvid.main(words)
    assert result["steps"] >= 6
    assert result["counts"].sum() > 0


@pytest.mark.slow
@pytest.mark.usefixtures("clock")
@pytest.mark.skipif(not CAMVID.exists(), reason="../shared/data/camvid is not there")
def test_a_run_on_camvid(files, small, capsys):
    words = [f"--root={CAMVID}", "--minutes=1", "--size", "36", "48", "--images=24", *small]
    result = files.gpu_camvid.main([*words, "--split=val"])
    said = capsys.readouterr().out
    assert result["images"] == 24
    assert float(jaxseg.metrics.mean_iou(result["counts"])) > 0.1, said
    assert len(re.findall(r"^\| \w+ \| [\d.na]+ \| [\d.na]+ \|$", said, re.MULTILINE)) == 11


@pytest.mark.slow
def test_throughput_and_profile_from_the_command_line():
    """Both sides where PyTorch is there, jaxseg alone where it is not."""
    command = "gpu.py --networks unet_resnet34 --tasks infer --size 32 --first 1 --last 1"
    options = "--rounds 2 --steps 1 --mode eager --dtype float32 --matrix 64 128"
    words = [*command.split(), *options.split()]
    run = subprocess.run(
        [sys.executable, *words], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert not run.returncode, run.stdout + run.stderr
    missing = "no twin" in run.stdout
    rows = [line for line in run.stdout.splitlines() if line.startswith("| unet_resnet34, infer")]
    assert len(rows) == (2 if missing else 3)
    assert len(re.findall(r"jaxseg, batch \d: [\d.]+ images/s", run.stdout)) == 1
    assert "product of 128 x 128" in run.stdout
