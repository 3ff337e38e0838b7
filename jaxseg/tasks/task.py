"""The interface of a task: everything that is particular to semantic segmentation, depth, or whatever is predicted.

Loader, augmentation, trainer, checkpoints, reports and the command line know a task by this interface alone. A task is a
frozen dataclass of plain values, so that a run folder can store it and read it back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxseg.data.targets import Targets
from jaxseg.models.averaging import Averaging
from jaxseg.typing import Array, Batch, LossFn


@dataclass(frozen=True)
class Headline:
    """The score that decides which checkpoint is the best.

    Attributes:
        name: Its key among the scores, such as `"mean_iou"`.
        title: Its name for people, such as `"mIoU"`.
        higher_is_better: Its direction.
    """

    name: str
    title: str
    higher_is_better: bool = True

    def is_better(self, score: float, other: float) -> bool:
        """Returns whether one score is better than another; nan is never better.

        >>> Headline("rmse", "RMSE", higher_is_better=False).is_better(0.5, 0.7)
        True
        """
        return score > other if self.higher_is_better else score < other


class Table(NamedTuple):
    """A table of text, to be printed or written as HTML."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Inspection(NamedTuple):
    """The result of reading a data set before training.

    Attributes:
        tables: Statistics, such as pixels per class.
        notes: Observations that may be intended.
        problems: Mistakes that prevent training, each naming its file.
    """

    tables: Sequence[Table]
    notes: Sequence[str]
    problems: Sequence[str]


class Example(NamedTuple):
    """One evaluated image of a report.

    Attributes:
        name: Its name in the data set.
        image: uint8 `[H, W, C]`.
        truth: The annotation, as returned by `Task.truth`.
        prediction: The prediction for this image, as returned by `Task.predictions`, without the batch axis.
        score: The task's score of this image alone; nan where it has none.
    """

    name: str
    image: np.ndarray
    truth: Any
    prediction: Any
    score: float


class Section(NamedTuple):
    """A section of a report: a heading and trusted HTML below it."""

    heading: str
    html: str


class ReportParts(NamedTuple):
    """The parts of a report that a task provides.

    Attributes:
        cards: Key figures at the top: name, value and a short remark.
        curves: Scores to plot over the steps, by their name for people; all of them share one chart.
        legend: Trusted HTML that explains the colours of the example images, or an empty string.
        sections: Further sections in their order.
    """

    cards: Sequence[tuple[str, str, str]]
    curves: Mapping[str, str]
    legend: str
    sections: Sequence[Section]


class Task(Protocol):
    """A task. Methods are pure; those marked "device" are traced by JAX, the others run on the host."""

    @property
    def headline(self) -> Headline:
        """The score that selects checkpoints."""
        ...

    @property
    def targets(self) -> Targets:
        """Names and kinds of the arrays that accompany each image."""
        ...

    @property
    def model_options(self) -> Mapping[str, Any]:
        """Options that every model of this task is built with, such as `{"num_classes": 12}`."""
        ...

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The losses and their weights where a recipe names none."""
        ...

    @property
    def averaging(self) -> Averaging:
        """The mean of outputs for the same images, such as flipped ones: `models.averaging.OUTPUTS` fits numbers."""
        ...

    @classmethod
    def from_source(cls, source: Any) -> "Task":
        """Returns the task for a data source; raises an `InputError` where the source lacks something."""
        ...

    def make_loss(
        self,
        weights: Mapping[str, float],
        *,
        options: Mapping[str, Mapping[str, Any]],
        class_weights: Sequence[float] | None,
        aux_weight: float,
        aux_weights: Sequence[float] | None,
    ) -> LossFn:
        """Returns the weighted sum of losses that a recipe names: `(output, batch) -> (scalar, logs)`."""
        ...

    def zero(self) -> Any:
        """Returns the totals of an empty data set: a pytree of arrays."""
        ...

    def update(self, totals: Any, output: Any, batch: Batch, loss: Array) -> Any:
        """Device: adds one batch to the totals; the result must be the same on every device."""
        ...

    def collect(self, output: Any, batch: Batch) -> Any:
        """Device: returns arrays `[N, ...]` to be sent to the host for each batch; `()` for none."""
        ...

    def scores(self, totals: Any, records: Sequence[Any]) -> dict[str, Any]:
        """Returns the scores of a data set as plain values, `"loss"` and the headline among them.

        Args:
            totals: The totals on the host.
            records: For each batch a pair of the batch and what `collect` returned for it.
        """
        ...

    def predictions(self, output: Any) -> Any:
        """Device: returns the prediction for each image, a pytree of arrays `[N, ...]`."""
        ...

    def check_sample(self, source: Any) -> None:
        """Reads a few records and raises an `InputError` where training on them would be in vain."""
        ...

    def inspect(self, source: Any) -> Inspection:
        """Reads every record of a data set and returns statistics and mistakes."""
        ...

    def truth(self, sample: Mapping[str, Any]) -> Any:
        """Returns a sample's annotation in the form of a prediction."""
        ...

    def draw(self, image: np.ndarray, annotation: Any) -> tuple[np.ndarray, ...]:
        """Returns pictures uint8 `[H, W, 3]` of a truth or a prediction; the first one is shown in reports."""
        ...

    def image_score(self, truth: Any, prediction: Any) -> float:
        """Returns the score of one image in the headline's direction; nan where it has none."""
        ...

    def save(self, image: np.ndarray, prediction: Any, path: Path) -> list[Path]:
        """Writes a prediction to files whose names begin with `path`, and returns them."""
        ...

    def summary(self, scores: Mapping[str, Any]) -> str:
        """Returns the most important scores in one line."""
        ...

    def table(self, scores: Mapping[str, Any]) -> Table | None:
        """Returns detailed scores, such as one row per class; None for none."""
        ...

    def report(self, scores: Mapping[str, Any]) -> ReportParts:
        """Returns the task's parts of the report, from the scores of the best checkpoint."""
        ...
