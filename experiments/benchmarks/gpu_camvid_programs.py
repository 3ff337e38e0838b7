"""What `gpu_camvid.py` compiles: training whose images lie on the device, and the evaluation."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

CLASSES, VOID = 11, 255
Chunk = Callable[[Any, float], tuple[Any, float]]
Evaluate = Callable[[Any], tuple[np.ndarray, np.ndarray]]


class Resized:
    """Records of another source at one size: images bilinear, labels nearest."""

    def __init__(self, source: Any, size: Sequence[int], images: int | None):
        self._source, self._size, self._images = source, tuple(size), images
        self.num_classes, self.ignore_index = source.num_classes, source.ignore_index
        self.classes = source.classes

    def __len__(self) -> int:
        return len(self._source) if self._images is None else min(self._images, len(self._source))

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._source[index]
        if record["label"].shape == self._size:
            return record
        from PIL import Image

        def resized(array: np.ndarray, how: Any) -> np.ndarray:
            return np.asarray(Image.fromarray(array).resize(self._size[::-1], how))

        return record | {
            "image": resized(record["image"], Image.Resampling.BILINEAR),
            "label": resized(record["label"], Image.Resampling.NEAREST),
        }


def make_evaluation(
    model: Any, preprocess: Any, parallel: Any, dataset: Any, batch: int
) -> Evaluate:
    """`evaluate(variables) -> (counts, counts)`, int64 `[K, K]`: as it is, and with the mirror image's probabilities.

    Args:
        model: A Linen module.
        preprocess: Of its images.
        parallel: The device.
        dataset: A `data.OnDevice`, on the host.
        batch: Images of a batch.
    """
    import jax
    import jax.numpy as jnp

    from jaxseg import inference, metrics

    probabilities = inference.make_probabilities(model, preprocess=preprocess)
    images, labels = np.asarray(dataset.image), np.asarray(dataset.label)
    fill = -len(images) % batch
    images = np.pad(images, [(0, fill), (0, 0), (0, 0), (0, 0)])
    labels = np.pad(labels, [(0, fill), (0, 0), (0, 0)], constant_values=VOID)
    batches = [
        parallel.shard({"image": images[rows], "label": labels[rows]})
        for rows in (slice(start, start + batch) for start in range(0, len(images), batch))
    ]

    def counted(variables: Any, batch: Any, totals: Any) -> Any:
        plain = probabilities(variables, batch["image"])
        mirrored = probabilities(variables, batch["image"][:, :, ::-1])[:, :, ::-1]
        return tuple(
            total.update(
                labels=batch["label"],
                predictions=jnp.argmax(shown, -1).astype(jnp.int32),
                ignore_index=VOID,
            )
            for total, shown in zip(totals, (plain, plain + mirrored), strict=True)
        )

    program = parallel.compile(counted, donate=(2,))

    def evaluate(variables: Any) -> tuple[np.ndarray, np.ndarray]:
        totals = parallel.replicate((metrics.ConfusionMatrix.zero(CLASSES),) * 2)
        for shown in batches:
            totals = program(variables, shown, totals)
        plain, both = jax.device_get(totals)
        return plain.to_numpy(), both.to_numpy()

    return evaluate


def make_training(
    given: argparse.Namespace, source: Any, model: Any, preprocess: Any, parallel: Any
) -> tuple[Any, Chunk, int]:
    """What trains.

    Args:
        given: The command line's `size`, `rate` and so on.
        source: The training images.
        model: A Linen module.
        preprocess: Of its images.
        parallel: The device.

    Returns:
        A state; `chunk(state, rate) -> (state, loss)`, which takes all steps of a program with one learning rate; and how
        many these are.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from jaxseg import data, losses, train
    from jaxseg.data import device_augment

    optimizer = optax.inject_hyperparams(train.adamw, static_args=("clip_norm", "weight_decay"))(
        learning_rate=0.0, weight_decay=given.decay, clip_norm=1.0
    )
    step = train.make_train_step(
        model,
        optimizer,
        losses.make_loss_fn({"cross_entropy": 1.0, "dice": 1.0}, ignore_index=VOID),
        preprocess=preprocess,
        ema_decay=given.average,
    )
    feed = data.make_feed(
        device_augment.compose(
            device_augment.random_view(
                tuple(given.size), scale=(0.5, 2.0), rotate=10.0, ignore_index=VOID
            ),
            device_augment.random_colour(),
        )
    )
    weights = data.rare_class_weights(data.class_pixels(source), given.temperature)
    places = data.make_places(len(source), given.batch, order=data.drawn(weights))
    dataset = parallel.keep(data.load(source).dataset)
    steps = given.chunk or max(1, len(source) // given.batch)
    epoch = train.make_epoch(train.make_run(step, feed, parallel), places, steps=steps)
    key = parallel.replicate(jax.random.key(given.seed))
    variables = train.initialize(model, jax.random.key(given.seed))
    state = parallel.replicate(train.create_state(variables, optimizer, ema=True))

    def chunk(state: Any, rate: float) -> tuple[Any, float]:
        hyperparams = state.opt_state.hyperparams | {"learning_rate": jnp.float32(rate)}
        state = state.replace(opt_state=state.opt_state._replace(hyperparams=hyperparams))
        state, logs = epoch(state, dataset, key)
        return state, float(logs["loss"].mean())

    return state, chunk, steps
