"""Extensions as a user would write them, outside of jaxseg: an encoder, a decoder, a loss, two sources, a task."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxseg import collective
from jaxseg.data.targets import Target
from jaxseg.errors import InputError
from jaxseg.models.averaging import OUTPUTS
from jaxseg.models.segmentation_model import SegmentationModel
from jaxseg.nn import Head
from jaxseg.tasks import Headline, Inspection, ReportParts, Section, Table


class ToyEncoder(nn.Module):
    """Three strided convolutions."""

    in_channels: int = 3
    width: int = 6

    @property
    def strides(self):
        return (2, 4, 8)

    @property
    def channels(self):
        return (self.width, 2 * self.width, 2 * self.width)

    @nn.compact
    def __call__(self, images, *, train=False):
        features = []
        for channels in self.channels:
            images = nn.relu(nn.Conv(channels, (3, 3), (2, 2))(images))
            features.append(images)
        return tuple(features)


class ToyDecoder(nn.Module):
    """The finest feature, mixed once."""

    width: int = 8

    @nn.compact
    def __call__(self, features, size, *, train=False):
        return (nn.relu(nn.Conv(self.width, (1, 1))(features[0])),)


def toy_net(*, num_classes, encoder, width=8):
    """The toy decoder on any encoder."""
    return SegmentationModel(encoder, ToyDecoder(width), Head(num_classes))


def brier_loss(logits, labels, *, ignore_index=255, class_weights=None, power=2.0):
    """The mean distance of probabilities from the truth, over pixels that are not ignored."""
    valid = labels != ignore_index
    truth = nn.one_hot(jnp.where(valid, labels, 0), logits.shape[-1])
    values = (jnp.abs(nn.softmax(logits) - truth) ** power).sum(-1)
    total, count = collective.psum((jnp.where(valid, values, 0.0).sum(), valid.sum()))
    return total / jnp.maximum(count, 1).astype(values.dtype)


@dataclass(frozen=True)
class Halves:
    """Images that are dark on the left and bright on the right; the halves are the classes."""

    count: int = 16

    def open(self, split, *, root, labels):
        return HalvesSource(self.count if split == "train" else 4)


class HalvesSource:
    num_classes, classes, ignore_index = 2, ("dark", "bright"), 255
    palette = np.array([[40, 40, 60], [240, 220, 120]], np.uint8)
    targets: ClassVar = {"label": Target("mask", 255)}

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = np.zeros((16, 24), np.uint8)
        label[:, rng.integers(6, 18) :] = 1
        image = np.repeat((label * 180 + rng.integers(0, 60, label.shape))[..., None], 3, -1)
        return {"image": image.astype(np.uint8), "label": label, "name": f"half-{index}"}


@dataclass(frozen=True)
class Ramps:
    """Images whose brightness is their depth; a corner has no depth."""

    count: int = 16

    def open(self, split, *, root, labels):
        return RampsSource(self.count if split == "train" else 5)


class RampsSource:
    targets: ClassVar = {"depth": Target("map", 0.0)}

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        y, x = np.mgrid[:16, :24].astype(np.float32)
        a, b, c = rng.uniform(0.2, 1.0, 3)
        depth = (0.5 + c + (a * y / 16 + b * x / 24)).astype(np.float32)
        image = np.clip(depth[..., None] * np.array([80, 70, 60]), 0, 255).astype(np.uint8)
        depth[:3, :3] = 0.0
        return {"image": image, "depth": depth, "name": f"ramp-{index}"}


@dataclass(frozen=True)
class Depth:
    """Depth in metres for every pixel; 0 marks pixels without a measurement."""

    nearest: float
    farthest: float

    @classmethod
    def from_source(cls, source):
        depths = source[0]["depth"]
        return cls(float(depths[depths > 0].min()), float(depths.max()))

    @property
    def headline(self):
        return Headline("rmse", "RMSE", higher_is_better=False)

    @property
    def targets(self):
        return {"depth": Target("map", 0.0)}

    @property
    def model_options(self):
        return {"num_classes": 1}

    @property
    def averaging(self):
        return OUTPUTS

    @property
    def loss_weights(self):
        return {"l1": 1.0}

    def make_loss(self, weights, *, options, class_weights, aux_weight, aux_weights):
        if set(weights) != {"l1"}:
            raise InputError(f"depth knows the loss l1 alone, not {', '.join(weights)}")

        def loss_fn(output, batch):
            valid = batch["depth"] > 0
            error = jnp.abs(output.logits[..., 0] - batch["depth"])
            total, count = collective.psum((jnp.where(valid, error, 0.0).sum(), valid.sum()))
            loss = weights["l1"] * total / jnp.maximum(count, 1).astype(total.dtype)
            return loss, {"l1": loss}

        return loss_fn

    def zero(self):
        return {"squares": jnp.zeros(()), "count": jnp.zeros(()), "loss": jnp.zeros(())}

    def update(self, totals, output, batch, loss):
        valid = batch["depth"] > 0
        squares = jnp.where(valid, (output.logits[..., 0] - batch["depth"]) ** 2, 0.0)
        squares, count = collective.psum((squares.sum(), valid.sum().astype(squares.dtype)))
        batch_totals = {"squares": squares, "count": count, "loss": loss * count}
        return {name: totals[name] + batch_totals[name] for name in totals}

    def collect(self, output, batch):
        return {"mean": output.logits.mean((1, 2, 3))}

    def scores(self, totals, records):
        count = max(float(totals["count"]), 1.0)
        means = {
            name: float(mean)
            for batch, collected in records
            for name, mean in zip(batch["names"], collected["mean"], strict=False)
        }
        return {
            "loss": float(totals["loss"]) / count,
            "rmse": float(np.sqrt(float(totals["squares"]) / count)),
            "deepest": max(means, key=lambda name: means[name]),
            "images": len(means),
        }

    def predictions(self, output):
        return output.logits[..., 0]

    def check_sample(self, source):
        if not (source[0]["depth"] > 0).any():
            raise InputError(f"{source[0]['name']} holds no depth at all")

    def inspect(self, source):
        rows = [(source[i]["name"], f"{source[i]['depth'].max():.2f}") for i in range(len(source))]
        return Inspection([Table("depths", ("image", "farthest"), rows)], (), ())

    def truth(self, sample):
        return sample["depth"]

    def draw(self, image, annotation):
        scaled = (annotation - self.nearest) / max(self.farthest - self.nearest, 1e-6)
        grey = np.clip(255 * scaled, 0, 255).astype(np.uint8)
        return (np.stack([grey, grey, 255 - grey], -1),)

    def image_score(self, truth, prediction):
        valid = truth > 0
        return float(np.sqrt(np.mean((truth - prediction)[valid] ** 2))) if valid.any() else np.nan

    def save(self, image, prediction, path):
        file = path.with_name(f"{path.name}.depth.png")
        Image.fromarray(np.clip(1000 * prediction, 0, 65535).astype(np.uint16)).save(file)
        return [file]

    def summary(self, scores):
        return f"loss {scores['loss']!r}  RMSE {scores['rmse']!r}"

    def table(self, scores):
        return None

    def report(self, scores):
        return ReportParts(
            cards=[("RMSE", f"{scores['rmse']:.3f} m", f"of {scores['images']} images")],
            curves={"RMSE": "rmse"},
            legend="",
            sections=[Section("Depth", f"<p>The deepest image is {scores['deepest']}.</p>")],
        )
