"""Trains on CamVid from scratch in ten minutes on one GPU: 360 x 480, 11 classes, void ignored, no pretrained weights.

    PYTHONPATH=. python experiments/benchmarks/gpu_camvid.py --root DIR
    PYTHONPATH=. python experiments/benchmarks/gpu_camvid.py --root DIR --split val --seed 1       # to select options
    PYTHONPATH=. python experiments/benchmarks/gpu_camvid.py --root DIR --minutes 1 --size 96 128 \\
        --encoder resnet18 --dtype float32 --batch 8 --chunk 10 --average 0.9                      # a trial on a CPU

DIR holds CamVid in SegNet's layout (train/, trainannot/, test/, testannot/, ...). Training uses the 367 training images,
which are stored on the device as uint8 and augmented there; on a GPU each epoch is one program. The ten minutes include
start, reading, compilation, training and the evaluation of the 233 test images: the run compiles, times an epoch and the
evaluation, and then fits the cosine of its learning rate to the number of epochs that remain. Images with rare classes are
sampled more often, and the loss is cross-entropy plus Dice, which weighs all classes equally. The evaluation uses an
exponential moving average of the parameters, once without and once with test-time augmentation by a horizontal flip.

Meant for one idle data-centre GPU (A100, H100). Needs jax, flax, optax and Pillow, but neither tyro, grain, TFDS nor
albumentations.

It has only run on CPUs so far, with smaller images, so there is no score of a GPU yet. Published test mIoU from scratch at
this size: ENet 51.3, SegNet 55.6, FC-DenseNet103 66.9. The goal of this run is 60 or more.

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
"""The fraction of the time reserved for epochs slower than the one that was timed."""


def arguments() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the folder of CamVid in SegNet's layout")
    add("--minutes", type=float, default=10.0, help="total time")
    add("--size", type=int, nargs=2, default=(360, 480), help="height and width; files are resized")
    add("--split", choices=("val", "test"), default="test", help="the split to evaluate")
    add("--network", default="unet")
    add("--encoder", default="resnet34")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add("--batch", type=int, default=16)
    add("--chunk", type=int, help="steps per program; those of an epoch by default")
    add("--rate", type=float, default=2e-3, help="the highest learning rate, of AdamW")
    add("--warmup", type=float, default=0.05, help="the fraction of the run in which it rises")
    add("--decay", type=float, default=0.05, help="weight decay")
    add("--average", type=float, default=0.998, help="decay of the averaged parameters per step")
    add("--temperature", type=float, default=0.1, help="temperature of rare class sampling")
    add("--images", type=int, help="use only this many images of each split")
    add("--seed", type=int, default=0)
    return parser


def chunks_that_fit(left: float, each: float) -> int:
    """Returns how many chunks fit into the remaining seconds, less a reserve, and at least one.

    >>> chunks_that_fit(100.0, 2.0), chunks_that_fit(-5.0, 2.0)
    (49, 1)
    """
    return max(1, math.floor((1 - SPARE) * left / each))


def rate_at(done: float, peak: float, warmup: float) -> float:
    """Returns the learning rate at a fraction of the run: a linear rise, then half a cosine down to 0.

    >>> [round(rate_at(done, 1.0, 0.2), 2) for done in (0.1, 0.2, 0.6, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if done < warmup:
        return peak * done / warmup
    return peak * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def run(options: argparse.Namespace, log: Callable[[str], None], began: float) -> dict[str, Any]:
    """Trains for the chosen time and evaluates.

    Returns:
        `"counts"` and `"mirrored_counts"`, int64 `[K, K]`, `"classes"`, and the number of steps, images and minutes.
    """
    import jax
    import jax.numpy as jnp

    import jaxseg
    from jaxseg import data
    from jaxseg.parallel import Parallel

    def elapsed() -> float:
        return time.perf_counter() - began

    device = jax.devices()[0]
    parallel = Parallel("jit", [device])
    model = jaxseg.create(
        options.network,
        encoder=options.encoder,
        num_classes=CLASSES,
        dtype=jnp.dtype(options.dtype),
    )
    preprocess = data.normalize()
    training, held_out = (
        Resized(data.CamVid(options.root, split), options.size, options.images)
        for split in ("train", options.split)
    )
    state, chunk, steps = make_training(options, training, model, preprocess, parallel)
    log(f"{elapsed():.0f} s: {len(training)} training images on {device.device_kind}")
    evaluate = make_evaluation(
        model, preprocess, parallel, data.load(held_out).dataset, options.batch
    )
    evaluate(state.ema_variables)
    at = elapsed()
    evaluate(state.ema_variables)
    reserve = elapsed() - at
    log(f"{elapsed():.0f} s: an evaluation takes {reserve:.1f} s")

    first_rate = rate_at(0.1 * options.warmup, options.rate, options.warmup)
    state, _ = chunk(state, first_rate)
    at = elapsed()
    state, _ = chunk(state, first_rate)
    each = elapsed() - at
    chunks = chunks_that_fit(60 * options.minutes - elapsed() - reserve, each)
    images = steps * options.batch / each
    log(
        f"{elapsed():.0f} s: {each:.2f} s for {steps} steps of {options.batch}, {images:.0f} images/s; {chunks} more such chunks"
    )

    for index in range(chunks):
        if index and elapsed() + each + reserve > 60 * options.minutes:
            log(f"{elapsed():.0f} s: slower than timed, stopped {chunks - index} chunks early")
            break
        state, loss = chunk(state, rate_at((index + 0.5) / chunks, options.rate, options.warmup))
        if index % max(1, chunks // 20) == 0:
            log(f"{elapsed():.0f} s: {100 * index / chunks:.0f} %, loss {loss:.4f}")
    counts, mirrored = evaluate(state.ema_variables)
    return {
        "counts": counts,
        "mirrored_counts": mirrored,
        "classes": training.classes,
        "steps": int(state.step),
        "images": len(held_out),
        "minutes": elapsed() / 60,
        "device": device.device_kind,
    }


def report(options: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """Returns the scores as lines of markdown: mIoU, then IoU of each class, without and with the flip."""
    import jax

    from jaxseg import metrics

    def of(name: str) -> tuple[float, list[float]]:
        counts = result[name]
        each = [100 * float(value) for value in metrics.iou(counts)]
        return 100 * float(metrics.mean_iou(counts)), each

    (plain, each), (mirrored, each_mirrored) = of("counts"), of("mirrored_counts")
    marks = ", ".join(f"{name} {mark}" for name, mark in MARKS.items())
    lines = [
        f"{options.network} on {options.encoder}, {options.size[0]} x {options.size[1]}, {options.dtype}, batch {options.batch}, "
        f"seed {options.seed}: {result['steps']} steps, {result['minutes']:.2f} minutes on {result['device']}, "
        f"JAX {jax.__version__}",
        f"published from scratch at 360 x 480: {marks}",
        "",
        f"| {options.split}, {result['images']} images | IoU | with horizontal flip |",
        "|---|---|---|",
        f"| **mean of {CLASSES}** | **{plain:.2f}** | {mirrored:.2f} |",
    ]
    for name, one, other in zip(result["classes"], each, each_mirrored, strict=True):
        lines.append(f"| {name} | {one:.1f} | {other:.1f} |")
    return lines


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Trains, evaluates and prints."""
    began = time.perf_counter()
    options = arguments().parse_args(words)
    result = run(options, lambda line: print(line, flush=True), began)
    print("\n".join(report(options, result)), flush=True)
    return result


if __name__ == "__main__":
    main()
