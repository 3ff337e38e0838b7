"""Semantic segmentation: one class for every pixel, or independent probabilities of K classes."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import collective, losses, metrics
from jaxseg.data.targets import Targets
from jaxseg.data.targets import labels as label_targets
from jaxseg.errors import InputError
from jaxseg.metrics import ConfusionMatrix
from jaxseg.models.averaging import PROBABILITIES, Averaging
from jaxseg.tasks.task import Headline, Inspection, ReportParts, Section, Table
from jaxseg.typing import Array, Batch, LossFn, Output


@flax.struct.dataclass
class SemanticTotals:
    """Sums over a data set.

    Attributes:
        counts: The confusion matrix of all pixels that are not ignored.
        loss_sum: `[2]`, the sum over batches of loss times counted pixels, and the part that rounding removed from it.

    >>> totals = SemanticTotals.zero(3)
    >>> totals.counts.to_numpy().sum(), totals.loss
    (np.int64(0), Array(nan, dtype=float32))
    """

    counts: ConfusionMatrix
    loss_sum: Array

    @classmethod
    def zero(cls, num_classes: int) -> "SemanticTotals":
        """Returns the totals of an empty data set, for K classes (1 for one sigmoid)."""
        return cls(ConfusionMatrix.zero(num_classes), jnp.zeros(2))

    @property
    def weight(self) -> Array:
        """The number of counted pixels, a scalar rounded once to floating point."""
        return self.counts.to_float().sum()

    @property
    def loss(self) -> Array:
        """The mean loss over all counted pixels, a scalar; nan without any.

        For losses that are means over pixels (cross-entropy without class weights) it does not depend on how the data
        set is divided into batches. For others (Dice, class weights) it is the mean of the batches' losses, weighted by
        their counted pixels.
        """
        weight = self.weight
        return jnp.where(
            weight == 0, jnp.nan, self.loss_sum.sum() / jnp.where(weight == 0, 1, weight)
        )


@dataclass(frozen=True)
class Semantic:
    """Semantic segmentation of K classes.

    Attributes:
        num_classes: K; 1 stands for one sigmoid, whose labels are 0 and 1.
        classes: The `max(K, 2)` names; `class 0`, ... where empty.
        palette: RGB colours of the classes; distinct ones where empty.
        ignore_index: The label of pixels that are not counted anywhere.

    >>> task = Semantic(2)
    >>> batch = {"image": jnp.zeros((1, 1, 3, 3)), "label": jnp.array([[[0, 1, 255]]])}
    >>> output = Output(jnp.array([[[[2.0, 0.0], [0.0, 2.0], [9.0, 0.0]]]]))
    >>> totals = task.update(task.zero(), output, batch, jnp.float32(0.1))
    >>> task.summary(task.scores(totals, []))
    'loss 0.10000000149011612  mIoU 1.0  pixel accuracy 1.0'
    """

    num_classes: int
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    ignore_index: int = 255

    @classmethod
    def from_source(cls, source: Any) -> "Semantic":
        """Returns the task for a source with `num_classes`, `classes`, `palette` and `ignore_index`.

        Raises:
            InputError: The source lacks one of them.
        """
        missing = [
            name
            for name in ("num_classes", "classes", "palette", "ignore_index")
            if not hasattr(source, name)
        ]
        if missing:
            raise InputError(
                f"a source of {type(source).__name__} has no {', '.join(missing)}, which the task 'semantic' needs: name "
                "another --task"
            )
        return cls(
            num_classes=source.num_classes,
            classes=tuple(source.classes),
            palette=tuple(map(tuple, np.asarray(source.palette).tolist())),
            ignore_index=source.ignore_index,
        )

    @property
    def headline(self) -> Headline:
        """Mean IoU, higher is better."""
        return Headline("mean_iou", "mIoU")

    @property
    def targets(self) -> Targets:
        """One mask of class ids."""
        return label_targets(self.ignore_index)

    @property
    def model_options(self) -> Mapping[str, Any]:
        """The number of classes."""
        return {"num_classes": self.num_classes}

    @property
    def averaging(self) -> Averaging:
        """The mean of probabilities."""
        return PROBABILITIES

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Cross-entropy and Dice in equal parts."""
        return {"cross_entropy": 1.0, "dice": 1.0}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The `max(K, 2)` names."""
        return self.classes or tuple(f"class {k}" for k in range(max(self.num_classes, 2)))

    @property
    def colors(self) -> np.ndarray:
        """The palette as uint8 `[max(K, 2), 3]`."""
        from jaxseg.data.labels import palette  # the host's part alone needs it

        if self.palette:
            return np.asarray(self.palette, np.uint8)
        return np.asarray(palette(max(self.num_classes, 2)), np.uint8)

    def make_loss(
        self,
        weights: Mapping[str, float],
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        class_weights: Sequence[float] | None = None,
        aux_weight: float = 0.4,
        aux_weights: Sequence[float] | None = None,
    ) -> LossFn:
        """Returns `jaxseg.losses.make_loss_fn` for this task's classes and ignored label.

        Raises:
            InputError: Class weights of another number than classes, or what `make_loss_fn` refuses.
        """
        count = max(self.num_classes, 2)
        if class_weights is not None and len(class_weights) != count:
            raise InputError(f"{len(class_weights)} class weights for {count} classes")
        return losses.make_loss_fn(
            weights,
            ignore_index=self.ignore_index,
            class_weights=class_weights,
            aux_weight=aux_weight,
            aux_weights=aux_weights,
            options=options,
        )

    def zero(self) -> SemanticTotals:
        """Returns empty totals."""
        return SemanticTotals.zero(self.num_classes)

    def update(
        self, totals: SemanticTotals, output: Output, batch: Batch, loss: Array
    ) -> SemanticTotals:
        """Adds the confusion counts and the loss of one batch.

        Raises:
            InputError: When traced: the model has another number of classes.
        """
        classes = max(output.logits.shape[-1], 2)
        if classes != totals.counts.num_classes:
            raise InputError(
                f"logits of {classes} classes, but totals of {totals.counts.num_classes}: Semantic(K) takes the channels "
                "of the logits"
            )
        counts = self._counts(output, batch)
        dtype = totals.loss_sum.dtype
        addend = collective.pmean(loss).astype(dtype) * counts.to_float().sum().astype(dtype)
        return SemanticTotals(totals.counts + counts, _two_sum(totals.loss_sum, addend))

    def collect(self, output: Output, batch: Batch) -> tuple[()]:
        """Returns nothing: the totals are enough."""
        return ()

    def scores(self, totals: SemanticTotals, records: Sequence[Any] = ()) -> dict[str, Any]:
        """Returns the scores of a data set, all of them from one confusion matrix.

        Returns:
            `loss`, `pixel_accuracy`, `mean_accuracy`, `mean_iou`, `mean_dice`, per class `iou`, and `counts` (rows truth,
            columns prediction) as lists.
        """
        counts = totals.counts.to_numpy()
        return {
            "loss": float(totals.loss),
            "pixel_accuracy": float(metrics.pixel_accuracy(counts)),
            "mean_accuracy": float(metrics.mean_accuracy(counts)),
            "mean_iou": float(metrics.mean_iou(counts)),
            "mean_dice": float(metrics.mean_dice(counts)),
            "iou": np.asarray(metrics.iou(counts)).tolist(),
            "counts": counts.tolist(),
        }

    def predictions(self, output: Output) -> Array:
        """Returns the class of every pixel, int32 `[N, H, W]`; for one logit 1 where it is positive."""
        return class_ids(output)

    def check_sample(self, source: Any) -> None:
        """Reads 16 records and raises an `InputError` where their labels cannot be trained on."""
        from jaxseg.data.check import check_sample

        check_sample(source)

    def inspect(self, source: Any) -> Inspection:
        """Reads all records: pixels and images per class, sizes, and mistakes."""
        from jaxseg.data.check import check

        found = check(source)
        rows = [
            (name, str(k), f"{found.pixels[k]:,}", f"{found.images[k]:,}")
            for k, name in enumerate(found.classes)
        ]
        rows.append(("ignored", str(self.ignore_index), f"{found.ignored:,}", ""))
        sizes = [(f"{h} x {w}", str(n)) for (h, w), n in list(found.sizes.items())[:12]]
        tables = (
            Table(f"{found.count} images", ("class", "id", "pixels", "images"), rows),
            Table("", ("height x width", "images"), sizes),
        )
        return Inspection(tables, found.notes, found.problems)

    def truth(self, sample: Mapping[str, Any]) -> np.ndarray:
        """Returns the labels `[H, W]`."""
        return np.asarray(sample["label"])

    def draw(self, image: np.ndarray, annotation: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the classes' colours, and the colours over the image."""
        from jaxseg.report.overlay import colorize, overlay

        shown = image if image.shape[-1] in (1, 3) else image[..., :1]
        labels = np.asarray(annotation)
        return (
            colorize(labels, self.colors, ignore_index=self.ignore_index),
            overlay(shown, labels, self.colors, ignore_index=self.ignore_index),
        )

    def image_score(self, truth: np.ndarray, prediction: np.ndarray) -> float:
        """Returns the mean IoU of one image."""
        size = max(self.num_classes, 2)
        counted = truth != self.ignore_index
        pairs = truth[counted].astype(np.int64) * size + prediction[counted]
        counts = np.bincount(pairs, minlength=size * size).reshape(size, size)
        return float(metrics.mean_iou(counts))

    def save(self, image: np.ndarray, prediction: np.ndarray, path: Path) -> list[Path]:
        """Writes `path.index.png` (class ids), `path.colour.png` and `path.overlay.png`."""
        from PIL import Image  # training needs none

        kind = np.uint8 if len(self.class_names) <= 256 else np.uint16
        colors, over = self.draw(image, prediction)
        pictures = {"index": prediction.astype(kind), "colour": colors, "overlay": over}
        files = []
        for name, picture in pictures.items():
            files.append(path.with_name(f"{path.name}.{name}.png"))
            Image.fromarray(picture).save(files[-1])
        return files

    def summary(self, scores: Mapping[str, Any]) -> str:
        """Returns loss, mIoU and pixel accuracy with every digit."""
        return (
            f"loss {scores['loss']!r}  mIoU {scores['mean_iou']!r}  "
            f"pixel accuracy {scores['pixel_accuracy']!r}"
        )

    def table(self, scores: Mapping[str, Any]) -> Table:
        """Returns the IoU of each class."""
        rows = [
            (name, "absent" if not _is_finite(iou) else f"{iou:.4f}")
            for name, iou in zip(self.class_names, scores["iou"], strict=True)
        ]
        return Table("", ("class", "IoU"), rows)

    def report(self, scores: Mapping[str, Any]) -> ReportParts:
        """Returns key figures, score curves, the table of classes and the confusion matrix."""
        from jaxseg.report import semantic as sections
        from jaxseg.report.tables import swatch

        counts = np.asarray(scores["counts"], np.int64)
        legend = "".join(
            f"<li>{swatch(color)}{html.escape(name)}</li>"
            for name, color in zip(self.class_names, self.colors, strict=True)
        )
        return ReportParts(
            cards=sections.cards(counts),
            curves={"mean IoU": "mean_iou", "pixel accuracy": "pixel_accuracy"},
            legend=f'<ul class="legend">{legend}</ul>',
            sections=[
                Section(heading, text)
                for heading, text in sections.sections(counts, self.class_names, self.colors)
            ],
        )

    def _counts(self, output: Output, batch: Batch) -> ConfusionMatrix:
        return ConfusionMatrix.zero(self.num_classes).update(
            labels=batch["label"],
            predictions=metrics.labels_from_logits(output.logits),
            ignore_index=self.ignore_index,
        )

    def with_counts(self, loss_fn: LossFn) -> LossFn:
        """Returns the loss with `"counts"` among its logs: the confusion matrix of the batch, over all devices.

        The counts belong to the predictions that the gradient is taken of: with augmentation and batch statistics, before
        the update. Where many steps run as one program they have a first axis of steps, and
        `logs["counts"].to_numpy().sum(0)` gives an epoch's counts.

        Args:
            loss_fn: `(output, batch) -> (scalar, logs)`.

        >>> loss_fn = Semantic(2).with_counts(losses.make_loss_fn({"cross_entropy": 1.0}))
        >>> output = Output(jnp.array([[[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]]]))
        >>> loss_fn(output, {"label": jnp.array([[[0, 1, 255]]])})[1]["counts"].to_numpy().tolist()
        [[1, 0], [0, 1]]
        """

        def counted(output: Output, batch: Batch) -> tuple[Array, dict[str, Any]]:
            loss, logs = loss_fn(output, batch)
            return loss, {**logs, "counts": self._counts(output, batch)}

        return counted


TASKS: dict[str, Callable[..., Any]] = {"semantic": Semantic}


def class_ids(output: Output) -> Array:
    """Returns the most probable class of every pixel, int32 `[N, H, W]`; for one logit 1 where it is positive.

    >>> class_ids(Output(jnp.array([[[[0.1, 0.2], [3.0, -1.0]]]]))).tolist()
    [[[1, 0]]]
    """
    return metrics.labels_from_logits(output.logits).astype(jnp.int32)


def probabilities(output: Output) -> Array:
    """Returns the probability of every class at every pixel, `[N, H, W, K]`: the softmax, or the sigmoid for `K = 1`.

    >>> probabilities(Output(jnp.zeros((1, 1, 1, 4)))).tolist()
    [[[[0.25, 0.25, 0.25, 0.25]]]]
    """
    logits = output.logits
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits, axis=-1)


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _two_sum(total: Array, addend: Array) -> Array:
    """Adds to a compensated sum; the second term holds what rounding removes from the first (Knuth's two-sum)."""
    high, low = total
    new = high + addend
    part = new - high
    lost = (high - (new - part)) + (addend - part)
    return jnp.stack([new, low + lost])
