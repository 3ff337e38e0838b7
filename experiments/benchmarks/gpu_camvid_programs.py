"""Builds the programs of `gpu_camvid.py`: training on images stored on the device, and the evaluation."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

CLASSES, VOID = 11, 255
Chunk = Callable[[Any, float], tuple[Any, float]]
Evaluate = Callable[[Any], tuple[np.ndarray, np.ndarray]]


class Resized:
    """Resizes the samples of another source: images bilinear, labels nearest."""

    def __init__(self, source: Any, size: Sequence[int], images: int | None):
        self._source, self._size, self._images = source, tuple(size), images
        self.num_classes, self.classes = source.num_classes, source.classes
        self.targets = source.targets

    def __len__(self) -> int:
        return len(self._source) if self._images is None else min(self._images, len(self._source))

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._source[index]
        if record["label"].shape == self._size:
            return record
        from PIL import Image

        def resize(array: np.ndarray, method: Any) -> np.ndarray:
            return np.asarray(Image.fromarray(array).resize(self._size[::-1], method))

        return record | {
            "image": resize(record["image"], Image.Resampling.BILINEAR),
            "label": resize(record["label"], Image.Resampling.NEAREST),
        }


def make_evaluation(
    model: Any, preprocess: Any, parallel: Any, dataset: Any, batch: int
) -> Evaluate:
    """Returns `evaluate(variables) -> (counts, counts)`, int64 `[K, K]`, without and with a horizontal flip.

    Args:
        model: A Linen module.
        preprocess: Normalizes its images.
        parallel: The device.
        dataset: A data set for the device, still on the host.
        batch: Images per batch.
    """
    import jax
    import jax.numpy as jnp

    from jaxseg import inference, metrics

    probabilities = inference.make_predict(
        model, lambda output: jax.nn.softmax(output.logits), preprocess=preprocess
    )
    images, labels = (np.asarray(dataset.arrays[name]) for name in ("image", "label"))
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
    options: argparse.Namespace, source: Any, model: Any, preprocess: Any, parallel: Any
) -> tuple[Any, Chunk, int]:
    """Builds the training.

    Args:
        options: Options of the command line.
        source: The training images.
        model: A Linen module.
        preprocess: Normalizes its images.
        parallel: The device.

    Returns:
        A state, `chunk(state, rate) -> (state, loss)`, which runs all steps of a program with one learning rate, and the
        number of these steps.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from jaxseg import data, losses, train
    from jaxseg.data.device import augment

    optimizer = optax.inject_hyperparams(train.adamw, static_args=("clip_norm", "weight_decay"))(
        learning_rate=0.0, weight_decay=options.decay, clip_norm=1.0
    )
    step = train.make_train_step(
        model,
        optimizer,
        losses.make_loss_fn({"cross_entropy": 1.0, "dice": 1.0}, ignore_index=VOID),
        preprocess=preprocess,
        ema_decay=options.average,
    )
    feed = data.make_feed(
        augment.compose(
            augment.random_view(
                tuple(options.size), scale=(0.5, 2.0), rotate=10.0, targets=source.targets
            ),
            augment.random_colour(),
        )
    )
    weights = data.rare_class_weights(data.class_pixels(source), options.temperature)
    sampler = data.make_sampler(len(source), options.batch, order=data.weighted(weights))
    dataset = parallel.put(data.load(source).dataset)
    steps = options.chunk or max(1, len(source) // options.batch)
    epoch = train.make_epoch(train.make_multi_step(step, feed, parallel), sampler, steps=steps)
    key = parallel.replicate(jax.random.key(options.seed))
    variables = train.init(model, jax.random.key(options.seed))
    state = parallel.replicate(train.create_state(variables, optimizer, ema=True))

    def chunk(state: Any, rate: float) -> tuple[Any, float]:
        hyperparams = state.opt_state.hyperparams | {"learning_rate": jnp.float32(rate)}
        state = state.replace(opt_state=state.opt_state._replace(hyperparams=hyperparams))
        state, logs = epoch(state, dataset, key)
        return state, float(logs["loss"].mean())

    return state, chunk, steps
