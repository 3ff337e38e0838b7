"""CamVid from scratch in ten minutes on one GPU: 360 x 480, 11 classes, void ignored, nothing pretrained.

    PYTHONPATH=. python experiments/benchmarks/gpu_camvid.py --root DIR
    PYTHONPATH=. python experiments/benchmarks/gpu_camvid.py --root DIR --split val --seed 1       # to choose by
    PYTHONPATH=. python experiments/benchmarks/gpu_camvid.py --root DIR --minutes 1 --size 96 128 \\
        --encoder resnet18 --dtype float32 --batch 8 --chunk 10 --average 0.9                      # tries it on a CPU

DIR holds SegNet's layout (train/, trainannot/, test/, testannot/, ...). Training sees the 367 training images alone; they lie
on the device as uint8 and are augmented there, and on a GPU each epoch is one program. The ten minutes are all of it:
start, reading, compiling, training, the evaluation of the 233 test images. So the run compiles, measures what an epoch and
the evaluation take, and lays the cosine of its learning rate over the epochs that fit. Images are drawn by the rare classes
that they hold, and the loss is cross-entropy and Dice, which counts every class alike. Evaluated is an average of the
parameters: as it is, and, said apart, with the mean of each image's probabilities and its mirror image's.

Meant for one data-centre GPU (A100, H100) that nobody else uses. Needs jax, flax, optax and Pillow; neither tyro, grain,
TFDS nor albumentations.

It has run on CPUs alone so far, with smaller images: no score of a GPU is known yet. To compare with, test mIoU from scratch
at this size: ENet 51.3, SegNet 55.6, FC-DenseNet103 66.9. What this run is for is 60 at least.

References:
    Paszke et al., ENet, 2016, https://arxiv.org/abs/1606.02147; Badrinarayanan et al., SegNet, 2017,
    https://arxiv.org/abs/1511.00561; Jegou et al., The One Hundred Layers Tiramisu, 2017,
    https://arxiv.org/abs/1611.09326.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_camvid_programs import CLASSES, Resized, make_evaluation, make_training

MARKS = {"ENet": 51.3, "SegNet": 55.6, "FC-DenseNet103": 66.9}
SPARE = 0.02
"""The part of the time that is left for epochs slower than those that were measured."""


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder of CamVid in SegNet's layout")
    add("--minutes", type=float, default=10.0, help="for everything")
    add("--size", type=int, nargs=2, default=(360, 480), help="height and width; files are resized")
    add("--split", choices=("val", "test"), default="test", help="what is evaluated")
    add("--network", default="unet")
    add("--encoder", default="resnet34")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add("--batch", type=int, default=16)
    add("--chunk", type=int, help="steps of one program; those of an epoch if left out")
    add("--rate", type=float, default=2e-3, help="the highest learning rate, of AdamW")
    add("--warmup", type=float, default=0.05, help="the part of the run in which it rises")
    add("--decay", type=float, default=0.05, help="of the weights")
    add("--average", type=float, default=0.998, help="what a step keeps of the averaged parameters")
    add(
        "--temperature", type=float, default=0.1, help="of rare class sampling; the lower the rarer"
    )
    add("--images", type=int, help="the first so many of each split alone")
    add("--seed", type=int, default=0)
    return parser


def chunks_that_fit(left: float, each: float) -> int:
    """How many chunks fit into the seconds that are left, some spared; one at least, for a network to evaluate.

    >>> chunks_that_fit(100.0, 2.0), chunks_that_fit(-5.0, 2.0)
    (49, 1)
    """
    return max(1, math.floor((1 - SPARE) * left / each))


def rate_at(done: float, peak: float, warmup: float) -> float:
    """The learning rate when a part of the run is done: a linear rise, then half a cosine down to 0.

    >>> [round(rate_at(done, 1.0, 0.2), 2) for done in (0.1, 0.2, 0.6, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if done < warmup:
        return peak * done / warmup
    return peak * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def run(given: argparse.Namespace, say: Callable[[str], None], began: float) -> dict[str, Any]:
    """Trains for the time given and evaluates.

    Returns:
        `"counts"` and `"mirrored_counts"`, int64 `[K, K]`, `"classes"`, and what it took.
    """
    import jax
    import jax.numpy as jnp

    import jaxseg
    from jaxseg import data, train

    def passed() -> float:
        return time.perf_counter() - began

    device = jax.devices()[0]
    parallel = train.Parallel("jit", [device])
    model = jaxseg.create(
        given.network, encoder=given.encoder, num_classes=CLASSES, dtype=jnp.dtype(given.dtype)
    )
    preprocess = data.normalize()
    shown, held_out = (
        Resized(data.CamVid(given.root, split), given.size, given.images)
        for split in ("train", given.split)
    )
    state, chunk, steps = make_training(given, shown, model, preprocess, parallel)
    say(f"{passed():.0f} s: {len(shown)} training images on {device.device_kind}")
    evaluate = make_evaluation(
        model, preprocess, parallel, data.load(held_out).dataset, given.batch
    )
    evaluate(state.ema_variables)
    at = passed()
    evaluate(state.ema_variables)
    reserve = passed() - at
    say(f"{passed():.0f} s: an evaluation takes {reserve:.1f} s")

    first_rate = rate_at(0.1 * given.warmup, given.rate, given.warmup)
    state, _ = chunk(state, first_rate)
    at = passed()
    state, _ = chunk(state, first_rate)
    each = passed() - at
    chunks = chunks_that_fit(60 * given.minutes - passed() - reserve, each)
    images = steps * given.batch / each
    say(
        f"{passed():.0f} s: {each:.2f} s for {steps} steps of {given.batch}, {images:.0f} images/s; {chunks} times more"
    )

    for index in range(chunks):
        if index and passed() + each + reserve > 60 * given.minutes:
            say(f"{passed():.0f} s: slower than measured, stopped {chunks - index} short")
            break
        state, loss = chunk(state, rate_at((index + 0.5) / chunks, given.rate, given.warmup))
        if index % max(1, chunks // 20) == 0:
            say(f"{passed():.0f} s: {100 * index / chunks:.0f} %, loss {loss:.4f}")
    counts, mirrored = evaluate(state.ema_variables)
    return {
        "counts": counts,
        "mirrored_counts": mirrored,
        "classes": shown.classes,
        "steps": int(state.step),
        "images": len(held_out),
        "minutes": passed() / 60,
        "device": device.device_kind,
    }


def report(given: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """The scores as markdown: mIoU of both, then each class."""
    import jax

    from jaxseg import metrics

    def of(name: str) -> tuple[float, list[float]]:
        counts = result[name]
        each = [100 * float(value) for value in metrics.iou(counts)]
        return 100 * float(metrics.mean_iou(counts)), each

    (plain, each), (mirrored, each_mirrored) = of("counts"), of("mirrored_counts")
    marks = ", ".join(f"{name} {mark}" for name, mark in MARKS.items())
    lines = [
        f"{given.network} on {given.encoder}, {given.size[0]} x {given.size[1]}, {given.dtype}, batch {given.batch}, "
        f"seed {given.seed}: {result['steps']} steps, {result['minutes']:.2f} minutes in all on {result['device']}, "
        f"JAX {jax.__version__}",
        f"published from scratch at 360 x 480: {marks}",
        "",
        f"| {given.split}, {result['images']} images | IoU | with the mirror image |",
        "|---|---|---|",
        f"| **mean of {CLASSES}** | **{plain:.2f}** | {mirrored:.2f} |",
    ]
    for name, one, other in zip(result["classes"], each, each_mirrored, strict=True):
        lines.append(f"| {name} | {one:.1f} | {other:.1f} |")
    return lines


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Trains, evaluates and prints."""
    began = time.perf_counter()
    given = arguments().parse_args(words)
    result = run(given, lambda line: print(line, flush=True), began)
    print("\n".join(report(given, result)), flush=True)
    return result


if __name__ == "__main__":
    main()
