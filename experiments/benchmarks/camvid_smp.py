"""Trains U-Net with ResNet-18 on CamVid in jaxseg and in segmentation_models.pytorch, and compares the runs.

Both start from the same weights (those of smp, converted), see the same crops in the same order and follow the same
learning rate; they alternate step by step in one process. Compared are the loss of every step and the mIoU over the test
images (11 classes, void ignored), from jaxseg's confusion matrix for both.

    python experiments/benchmarks/camvid_smp.py --root DIR     # two seeds; 22 minutes on 2 CPU cores

Needs torch and segmentation_models_pytorch (tests/parity/install.sh). Writes docs/benchmarks/camvid_smp.json and
.svg, and prints the rows for docs/benchmarks.md.
"""

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import peers
import torch
import tyro
from PIL import Image

import jaxseg
from jaxseg.data import CamVid
from jaxseg.data.normalization import IMAGENET_MEAN, IMAGENET_STD, normalize

SIZE, CROP, BATCH, CLASSES, VOID = (180, 240), (160, 224), 8, 11, 255
PEAK, WARMUP, DECAY = 2e-3, 0.1, 1e-2
OUT = Path(__file__).parents[2] / "docs" / "benchmarks"


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    root: Path
    """CamVid in SegNet's layout."""
    steps: int = 300
    """Optimizer steps."""
    seeds: int = 2
    """Runs of each side."""


def load(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of a split at half their size."""
    images, labels = [], []
    for record in CamVid(root, split):
        width_height = SIZE[::-1]
        image = Image.fromarray(record["image"]).resize(width_height, Image.Resampling.BILINEAR)
        label = Image.fromarray(record["label"]).resize(width_height, Image.Resampling.NEAREST)
        images.append(np.asarray(image))
        labels.append(np.asarray(label))
    return np.stack(images), np.stack(labels)


def crops(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
    """Returns a batch of random crops of random images, flipped with probability 0.5."""
    batch_image, batch_label = [], []
    for index in rng.integers(len(images), size=BATCH):
        y, x = (int(rng.integers(size - crop + 1)) for size, crop in zip(SIZE, CROP, strict=True))
        window = np.s_[y : y + CROP[0], x : x + CROP[1]]
        flip = np.s_[:, ::-1] if rng.random() < 0.5 else np.s_[:, :]
        batch_image.append(images[index][window][flip])
        batch_label.append(labels[index][window][flip])
    return np.stack(batch_image), np.stack(batch_label)


class JaxsegSide:
    """A compiled train step of jaxseg."""

    def __init__(self, model, variables, schedule):
        optimizer = optax.adamw(schedule, weight_decay=DECAY)
        loss = jaxseg.losses.make_loss_fn({"cross_entropy": 1.0}, ignore_index=VOID)
        preprocess = normalize()
        self.parallel = jaxseg.parallel.Parallel("jit", jax.devices()[:1])
        step = jaxseg.train.make_train_step(model, optimizer, loss, preprocess=preprocess)
        self._task = jaxseg.tasks.Semantic(CLASSES)
        evaluate = jaxseg.train.make_eval_step(model, self._task, loss, preprocess=preprocess)
        self._step = self.parallel.compile(step)
        self._evaluate = self.parallel.compile(evaluate, donate=(2,))
        self.state = self.parallel.replicate(jaxseg.train.create_state(variables, optimizer))

    def step(self, image: np.ndarray, label: np.ndarray) -> float:
        """Takes an optimizer step and returns the loss."""
        batch = self.parallel.shard({"image": image, "label": label})
        self.state, logs = self._step(self.state, batch, jax.random.key(0))
        return float(logs["loss"])

    def counts(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Returns the confusion counts of a batch, `[K, K]`."""
        totals = self.parallel.replicate(self._task.zero())
        batch = self.parallel.shard({"image": image, "label": label})
        totals, _ = self._evaluate(self.state, batch, totals)
        return totals.counts.to_numpy()


class SmpSide:
    """smp on torch, channels last."""

    def __init__(self, model, schedule):
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=DECAY)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: float(schedule(step))
        )
        self.loss = torch.nn.CrossEntropyLoss(ignore_index=VOID)

    def _logits(self, image: np.ndarray) -> torch.Tensor:
        pixels = (image / 255 - np.asarray(IMAGENET_MEAN)) / np.asarray(IMAGENET_STD)
        x = torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2))
        return self.model(x.contiguous(memory_format=torch.channels_last))

    def step(self, image: np.ndarray, label: np.ndarray) -> float:
        """Takes an optimizer step and returns the loss."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self._logits(image), torch.from_numpy(label.astype(np.int64)))
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss.item()

    @torch.no_grad()
    def counts(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Returns the confusion counts of a batch, `[K, K]`."""
        self.model.eval()
        predictions = self._logits(image).argmax(1).numpy().astype(np.int32)
        zero = jaxseg.metrics.ConfusionMatrix.zero(CLASSES)
        counted = zero.update(labels=jnp.asarray(label), predictions=jnp.asarray(predictions))
        return counted.to_numpy()


def test_miou(side, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mIoU over the test images, padded at bottom and right to a multiple of 32 as smp requires."""
    pad = [(0, 0), (0, -SIZE[0] % 32), (0, -SIZE[1] % 32)]
    images = np.pad(images, [*pad, (0, 0)])
    labels = np.pad(labels, pad, constant_values=VOID)
    total = np.zeros((CLASSES, CLASSES), np.int64)
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        fill = BATCH - len(images[rows])
        image = np.pad(images[rows], [(0, fill)] + [(0, 0)] * 3)
        label = np.pad(labels[rows], [(0, fill)] + [(0, 0)] * 2, constant_values=VOID)
        total += side.counts(image, label)
    return float(jaxseg.metrics.mean_iou(total))


def compare(seed: int, steps: int, train, test) -> dict:
    """Trains both sides alternately from one seed."""
    torch.manual_seed(seed)
    theirs = peers.segmentation_models_pytorch().Unet(
        "resnet18", encoder_weights=None, classes=CLASSES
    )
    state_dict = {name: tensor.numpy().copy() for name, tensor in theirs.state_dict().items()}
    model = jaxseg.create("unet", encoder="resnet18", num_classes=CLASSES)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    variables = jaxseg.pretrained.from_torch(model, shapes, state_dict, source="smp")
    schedule = optax.warmup_cosine_decay_schedule(0.0, PEAK, round(WARMUP * steps), steps)
    sides = {"jaxseg": JaxsegSide(model, variables, schedule), "smp": SmpSide(theirs, schedule)}
    losses = {name: [] for name in sides}
    seconds = {name: [] for name in sides}
    rng = np.random.default_rng(seed)
    for step in range(steps):
        image, label = crops(*train, rng)
        for name, side in sides.items():
            began = time.perf_counter()
            losses[name].append(side.step(image, label))
            seconds[name].append(time.perf_counter() - began)
        if step % 20 == 0:
            print(
                f"seed {seed}  step {step}  "
                + "  ".join(f"{n} {v[-1]:.4f}" for n, v in losses.items())
            )
    scores = {name: test_miou(side, *test) for name, side in sides.items()}
    medians = {name: statistics.median(times[5:] or times) for name, times in seconds.items()}
    print(f"seed {seed}  test mIoU {scores}  median seconds a step {medians}")
    return {"seed": seed, "losses": losses, "test_mean_iou": scores, "seconds_per_step": medians}


def plot(runs: list[dict], path: Path) -> None:
    """Plots both loss curves of each seed, smoothed over 9 steps."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(runs), figsize=(5 * len(runs), 3), sharey=True, squeeze=False
    )
    for axis, run in zip(axes[0], runs, strict=True):
        for name, style in (("smp", "-"), ("jaxseg", "--")):
            smooth = np.convolve(run["losses"][name], np.ones(9) / 9, mode="valid")
            axis.plot(np.arange(len(smooth)) + 5, smooth, style, label=name, linewidth=1.2)
        axis.set(title=f"seed {run['seed']}", xlabel="step", yscale="log")
        axis.set_yticks([0.5, 1, 2], ["0.5", "1", "2"])
        axis.minorticks_off()
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("cross-entropy")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Arguments) -> None:
    """Runs every seed and writes the results."""
    train, test = load(arguments.root, "train"), load(arguments.root, "test")
    runs = [compare(seed, arguments.steps, train, test) for seed in range(arguments.seeds)]
    OUT.mkdir(parents=True, exist_ok=True)
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    result = {"steps": arguments.steps, "versions": versions, "runs": runs}
    (OUT / "camvid_smp.json").write_text(json.dumps(result) + "\n")
    plot(runs, OUT / "camvid_smp.svg")
    for run in runs:
        scores, seconds = run["test_mean_iou"], run["seconds_per_step"]
        first, last = (
            np.mean(np.abs(np.subtract(*(run["losses"][n][part] for n in ("jaxseg", "smp")))))
            for part in (np.s_[:10], np.s_[-50:])
        )
        print(
            f"| {run['seed']} | {scores['jaxseg']:.4f} | {scores['smp']:.4f} | {first:.4f} | {last:.4f} "
            f"| {seconds['jaxseg'] / seconds['smp']:.2f} |"
        )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
